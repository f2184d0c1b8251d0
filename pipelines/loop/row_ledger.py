"""Account for every row of a run on one rank: each planned row is delivered, or quarantined with its reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipelines.runtime.rank import Rank
from pipelines.stream.ingest import StepBatch
from pipelines.stream.source import Stream
from xmodal.errors import TooManyBadRows
from xmodal.run import QuarantineRecord, RowCounts

MIN_PLANNED_ROWS = 1000  # before the bad share can stop a run: a few bad rows at the start say little


class RowLedger:
    """Counts the rows of all ranks (alike on every rank) and collects this rank's quarantine records."""

    def __init__(self, streams: Sequence[Stream], rank: Rank, max_bad_fraction: float) -> None:
        self.counts = RowCounts()
        self._streams = streams
        self._rank = rank
        self._limit = max_bad_fraction
        self._pending: list[QuarantineRecord] = []
        self._reasons: Counter[str] = Counter()

    def record(self, step: int, step_batch: StepBatch, metrics: Mapping[str, float]) -> None:
        """Count the rows of the step that has just been taken; `metrics` are those of the step, over all ranks."""
        good, bad = int(metrics["n_valid"]), int(metrics["n_bad"])
        padding = len(step_batch.batch) * self._rank.world_size - good - bad
        self.counts += RowCounts(planned=good + bad, delivered=good, quarantined=bad, padding=padding)
        records = [self._quarantine_record(step, fault) for fault in step_batch.faults]
        self._reasons.update(f"{record.reason} ({record.field or 'sample'})" for record in records)
        self._pending += records

    @property
    def too_bad(self) -> bool:
        """Whether more of the rows than allowed were bad; alike on all ranks."""
        enough = min(MIN_PLANNED_ROWS, sum(stream.corpus.rows for stream in self._streams))
        return self.counts.planned >= enough and self.counts.bad_fraction > self._limit

    def raise_if_too_bad(self) -> None:
        """Raise TooManyBadRows, with the reasons on this rank and the fix, where too many rows were bad."""
        if not self.too_bad:
            return
        reasons = ", ".join(f"{n} {reason}" for reason, n in self._reasons.most_common(4)) or "on other ranks"
        raise TooManyBadRows(
            f"{self.counts.quarantined} of {self.counts.planned} rows ({self.counts.bad_fraction:.1%}) could not be "
            f"delivered, more than max_bad_fraction={self._limit:g}: {reasons}; the run's quarantine.parquet names "
            "each. Fix the corpus, or raise --max-bad-fraction and --resume"
        )

    def gather(self) -> list[QuarantineRecord]:
        """Return the records of all ranks since the last call; all ranks call it at the same step."""
        self.counts.check()
        pending, self._pending = self._pending, []
        return self._rank.gather(pending)

    def as_metrics(self) -> dict[str, float]:
        """Return the counts since the start of the run, as metrics `rows/...`."""
        return {f"rows/{name}": n for name, n in asdict(self.counts).items()}

    def _quarantine_record(self, step: int, fault: Mapping[str, Any]) -> QuarantineRecord:
        corpus = self._streams[fault["corpus"]].corpus
        extent = int(np.searchsorted(corpus.row_start, fault["row"], side="right")) - 1
        return QuarantineRecord(
            corpus=corpus.uri,
            shard=corpus.shards[corpus.extents.shard[extent]].path,
            key=fault["key"],
            row=fault["row"],
            offset=fault["offset"],
            field=fault["field"],
            reason=fault["reason"],
            detail=fault["detail"],
            step=step,
            epoch=fault["epoch"],
        )
