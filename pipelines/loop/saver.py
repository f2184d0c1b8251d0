"""Restore a rank from a run's checkpoints, and write the run's checkpoints, metrics and quarantine."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file

from pipelines.loop.row_ledger import RowLedger
from pipelines.loop.stage_model import StageModel
from pipelines.runtime.rank import Rank
from xmodal import checkpoint
from xmodal.callbacks import Notify
from xmodal.checkpoint import CheckpointRef, CheckpointWriter, Retention
from xmodal.run import MetricsLog, Quarantine, RowCounts, Run, claim_attempt, newest_attempt
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_json, state_tensors

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


def restore(
    run: Run, rank: Rank, state: TrainState, ledger: RowLedger, model: StageModel, notify: Notify
) -> CheckpointRef | None:
    """Load the newest valid checkpoint into `state` and `ledger`, alike on all ranks; return it, None without one."""
    with TemporaryDirectory(prefix="xmodal-restore-") as scratch:
        path, newest = None, None
        if rank.first:
            newest = checkpoint.fetch_latest(
                run.checkpoints_uri, Path(scratch), run_id=run.id, notify=notify, options=run.options
            )
            path = newest.path if newest else None
        ref: CheckpointRef | None = rank.share(newest.checkpoint if newest else None)
        if ref is None:
            return None
        path = path or checkpoint.fetch(ref, Path(scratch), options=run.options)
        model.load(state, path)
        saved = json.loads((path / STATE).read_text())
        load_state(state, load_file(path / OPTIMIZER), saved["training"])
        ledger.counts = RowCounts(**saved["ledger"])
        return ref


class Saver:
    """Writes metrics, quarantine and checkpoints on rank 0; the other ranks only take part in collectives."""

    def __init__(
        self,
        run: Run,
        rank: Rank,
        ledger: RowLedger,
        model: StageModel,
        *,
        after_step: int | None,
        keep: int,
        sinks: tuple[str, ...],
        notify: Notify,
    ) -> None:
        self._run, self._rank, self._ledger, self._model = run, rank, ledger, model
        self._open = ExitStack()
        if not rank.first:
            return
        attempt = claim_attempt(run.uri, options=run.options)
        self._quarantine = Quarantine(run.uri, after_step=after_step, options=run.options)
        self._log = MetricsLog(
            run.uri,
            after_step=after_step,
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
        """Log the metrics of a step."""
        if self._rank.first:
            self._log.log(step, metrics)

    def save(self, state: TrainState) -> None:
        """Save a checkpoint of this step; returns when the tensors are copied. All ranks call it at the same step."""
        records = self._ledger.gather()
        if not self._rank.first:
            return
        if records:
            self._quarantine.add(records)
            self._quarantine.sync()
        self._log.sync()
        self._writer.save(state.step, lambda directory: self._write_files(state, directory))

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *error: Any) -> None:
        """Wait for what is being written, also when the run stops; CheckpointError if the last checkpoint failed."""
        self._open.__exit__(*error)

    def _write_files(self, state: TrainState, directory: Path) -> None:
        self._model.save_files(state, directory)
        tensors = {name: x.detach().cpu().contiguous() for name, x in state_tensors(state).items()}
        save_file(tensors, directory / OPTIMIZER)
        saved = {"training": state_json(state), "ledger": asdict(self._ledger.counts)}
        (directory / STATE).write_text(json.dumps(saved, indent=1))
        (directory / "run.json").write_text(json.dumps(dict(self._run.record), indent=1))
        self._quarantine.write(directory / "quarantine.parquet")
