"""The preview of a corpus to be prepared: the source is listed, no image is opened."""

import os
from collections import Counter
from typing import Any

from pipelines.corpus import prepare
from xmodal.run.plain_config import to_plain


def of(config: prepare.Config) -> dict[str, Any]:
    """`config` with its defaults, the rows and shards to come, and the processes. Raises what would be refused."""
    plan = prepare.plan_of(config)
    return {
        "config": to_plain(config),
        "rows": len(plan.usable),
        "refused": dict(Counter(item["reason"] for item in plan.refused)),
        "shards": len(plan.starts),
        "resources": {"where": "this machine", "processes": config.workers or os.cpu_count() or 1},
    }
