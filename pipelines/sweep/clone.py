"""Copy a run's checkpoint into a new run with another configuration, which continues from there.

The weights, the optimizer's moments and the cursor are the parent's; the schedule is a function of the step, so that
the copy goes on where the parent stood. A copy with the parent's own configuration ends with the parent's weights, bit
for bit.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xmodal import checkpoint, storage
from xmodal.checkpoint.listing import scan
from xmodal.errors import CheckpointError, ConfigError, nearest
from xmodal.run import create_run, open_run, read_metrics
from xmodal.storage import NotFound, StorageOptions

MAY_DIFFER = (  # fields that take effect from any step on; the others belong to what a checkpoint holds
    "optim.learning_rate", "optim.final_learning_rate", "optim.max_grad_norm", "domain.strength", "domain.gamma",
    "domain.smoothing", "domain.penalty", "domain.temperature", "balance.rescale", "target.consistency",
    "target.pseudo_pairs", "target.threshold", "augment.",
)  # fmt: skip


def check_may_differ(paths: Any) -> None:
    """Raise ConfigError for a field that cannot change within a run."""
    for path in paths:
        if not any(path == name or (name.endswith(".") and path.startswith(name)) for name in MAY_DIFFER):
            raise ConfigError(
                f"--search {path} with --scheduler pbt: a copy goes on from another trial's checkpoint, and this field "
                f"cannot change within a run ({nearest(path, MAY_DIFFER)}); take --scheduler asha"
            )


def newest_committed(run_uri: str, limit: int, options: StorageOptions) -> int:
    """Return the step of the newest complete checkpoint of a run, at most `limit`; 0 where there is none."""
    checkpoints = scan(storage.join(run_uri, "checkpoints"), options=options)
    return max((saved.step for saved in checkpoints if saved.step <= limit), default=0)


def clone(parent: str, step: int, config: Any, options: StorageOptions) -> None:
    """Make the run that `config` names, with the parent's checkpoint of `step` and its metrics up to there.

    A copy that was cut short is made anew. CheckpointError where the parent has no such checkpoint.
    """
    uri = storage.join(config.run.runs, config.run.name)
    if storage.exists(uri, options=options):
        if newest_committed(uri, step, options) == step:
            return
        storage.delete_tree(uri, options=options)
    folder, _, name = parent.rpartition("/")
    run = create_run(
        config.run.runs,
        config.run.name,
        config=config,
        corpora=open_run(folder, name, options=options).corpora,
        options=options,
    )
    saved = next((f for f in scan(storage.join(parent, "checkpoints"), options=options) if f.step == step), None)
    if saved is None:
        raise CheckpointError(f"{parent} has no finished checkpoint of step {step} to copy")
    with TemporaryDirectory(prefix="xmodal-clone-") as scratch:
        files = checkpoint.fetch(saved, Path(scratch), options=options)
        checkpoint.commit(
            files, run.checkpoints_uri, run_id=run.id, attempt=1, step=step, corpora=run.corpora, options=options
        )
    _copy_metrics(parent, uri, step, options)


def _copy_metrics(parent: str, uri: str, step: int, options: StorageOptions) -> None:
    try:
        lines = [line for line in read_metrics(parent, options=options) if line["step"] <= step]
    except NotFound:
        return
    text = "".join(json.dumps(line) + "\n" for line in lines)
    storage.write(storage.join(uri, "metrics.jsonl"), text.encode(), options=options)
