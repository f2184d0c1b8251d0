"""Preview the preparation of a corpus: the source is listed, no image is opened."""

import os
from collections import Counter

from pipelines.corpus import prepare
from xmodal.run.plain_config import to_plain


def preview_preparation(config: prepare.PrepareConfig) -> dict[str, object]:
    """Return `config` with its defaults, and the rows, shards and processes. Raises every error of the preparation."""
    plan = prepare.make_plan(config)
    return {
        "config": to_plain(config),
        "rows": len(plan.usable),
        "refused": dict(Counter(item["reason"] for item in plan.rejected)),
        "shards": len(plan.starts),
        "resources": {"where": "this machine", "processes": config.workers or os.cpu_count() or 1},
    }
