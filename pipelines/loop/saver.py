"""What a run leaves in storage, from one rank's view: restore from it, log to it, save into it."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file

from pipelines.loop.row_ledger import Books
from pipelines.runtime.rank import Rank
from xmodal import checkpoint
from xmodal.checkpoint import CheckpointWriter, Found, Retention
from xmodal.run import Ledger, MetricsLog, Quarantine, Run, claim_attempt, newest_attempt
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_plain, state_tensors

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
Notify = Callable[[str], None]
Files = Callable[[TrainState, Path], None]


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """How a stage's model becomes files of a checkpoint, and comes back from them."""

    save: Files
    load: Files


def restore(run: Run, rank: Rank, state: TrainState, books: Books, files: ModelFiles, notify: Notify) -> Found | None:
    """Put the newest checkpoint that verifies into `state` and `books`, alike on all ranks; None at a first start."""
    with TemporaryDirectory(prefix="xmodal-restore-") as scratch:
        path = None
        if rank.first:
            newest = checkpoint.latest(
                run.checkpoints_uri, Path(scratch), run_id=run.id, notify=notify, options=run.options
            )
            path = newest.path if newest else None
        found: Found | None = rank.share(newest.found if rank.first and newest else None)
        if found is None:
            return None
        path = path or checkpoint.fetch(found, Path(scratch), options=run.options)
        files.load(state, path)
        saved = json.loads((path / STATE).read_text())
        load_state(state, load_file(path / OPTIMIZER), saved["training"])
        books.ledger = Ledger(**saved["ledger"])
        return found


class Saver:
    """Rank 0's pen: metrics, quarantine and checkpoints. On the other ranks it only takes part in collectives."""

    def __init__(
        self,
        run: Run,
        rank: Rank,
        books: Books,
        files: ModelFiles,
        *,
        found: Found | None,
        keep: int,
        sinks: tuple[str, ...],
        notify: Notify,
    ) -> None:
        self._run, self._rank, self._books, self._files, self._notify = run, rank, books, files, notify
        self._open = ExitStack()
        if not rank.first:
            return
        after = found.step if found else None
        attempt = claim_attempt(run.uri, options=run.options)
        self._quarantine = Quarantine(run.uri, after_step=after, options=run.options)
        self._log = MetricsLog(
            run.uri,
            after_step=after,
            sinks=sinks,
            run_id=run.id,
            run_name=run.name,
            config=run.config,
            notify=notify,
            options=run.options,
        )
        self._writer = CheckpointWriter(
            run.checkpoints_uri,
            run_id=run.id,
            attempt=attempt,
            retention=Retention(keep=keep),
            corpora=run.corpora,
            newest_attempt=lambda: newest_attempt(run.uri, options=run.options),
            notify=notify,
            options=run.options,
        )
        self._open.enter_context(self._writer)
        self._open.enter_context(self._log)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self._rank.first:
            self._log.log(step, metrics)

    def save(self, state: TrainState) -> None:
        """A checkpoint of this step; returns when the tensors are copied. All ranks call it at the same step."""
        records = self._books.gather()
        if not self._rank.first:
            return
        if records:
            self._quarantine.add(records)
            self._quarantine.sync()
        self._log.sync()
        self._writer.save(state.step, lambda directory: self._fill(state, directory))

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait for what is being written, also when the run stops; CheckpointError if the last one could not be."""
        self._open.__exit__(*error)

    def _fill(self, state: TrainState, directory: Path) -> None:
        self._files.save(state, directory)
        tensors = {name: x.detach().cpu().contiguous() for name, x in state_tensors(state).items()}
        save_file(tensors, directory / OPTIMIZER)
        saved = {"training": state_plain(state), "ledger": asdict(self._books.ledger)}
        (directory / STATE).write_text(json.dumps(saved, indent=1))
        (directory / "run.json").write_text(json.dumps(dict(self._run.record), indent=1))
        self._quarantine.write(directory / "quarantine.parquet")
