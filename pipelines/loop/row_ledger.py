"""The account of a run's rows on one rank: every planned row is delivered or quarantined with its reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from pipelines.runtime.rank import Rank
from pipelines.stream.ingest import Delivery
from pipelines.stream.source import Stream
from xmodal.errors import TooManyBadRows
from xmodal.run import Ledger, QuarantineRecord

FIRST_JUDGEMENT = 1000  # planned rows before the bad share can stop a run: a few bad rows at the start say little


class Books:
    """Counts rows of all ranks (every rank holds the same ledger) and keeps this rank's quarantine records."""

    def __init__(self, streams: Sequence[Stream], rank: Rank, max_bad_fraction: float) -> None:
        self.ledger = Ledger()
        self._streams = streams
        self._rank = rank
        self._limit = max_bad_fraction
        self._fresh: list[QuarantineRecord] = []
        self._reasons: Counter[str] = Counter()

    def enter(self, step: int, delivery: Delivery, metrics: Mapping[str, float]) -> None:
        """Book the step that has just been taken; TooManyBadRows on all ranks alike when the bad share is too large."""
        good, bad = int(metrics["n_valid"]), int(metrics["n_bad"])
        padding = len(delivery.batch) * self._rank.world_size - good - bad
        self.ledger += Ledger(planned=good + bad, delivered=good, quarantined=bad, padding=padding)
        records = [self._record(step, fault) for fault in delivery.faults]
        self._reasons.update(f"{record.reason} ({record.field or 'sample'})" for record in records)
        self._fresh += records

    @property
    def too_bad(self) -> bool:
        enough = min(FIRST_JUDGEMENT, sum(stream.corpus.rows for stream in self._streams))
        return self.ledger.planned >= enough and self.ledger.bad_fraction > self._limit

    def judge(self) -> None:
        """Raise TooManyBadRows, with the reasons on this rank and the mend."""
        reasons = ", ".join(f"{n} {reason}" for reason, n in self._reasons.most_common(4)) or "on other ranks"
        raise TooManyBadRows(
            f"{self.ledger.quarantined} of {self.ledger.planned} rows ({self.ledger.bad_fraction:.1%}) could not be "
            f"delivered, more than max_bad_fraction={self._limit:g}: {reasons}; the run's quarantine.parquet names "
            "each. Mend the corpus, or raise --max-bad-fraction and --resume"
        )

    def gather(self) -> list[QuarantineRecord]:
        """The records of all ranks since the last call; all ranks call it at the same step."""
        self.ledger.check()
        fresh, self._fresh = self._fresh, []
        return self._rank.gather(fresh)

    def as_metrics(self) -> dict[str, float]:
        return {f"rows/{name}": n for name, n in asdict(self.ledger).items()}

    def _record(self, step: int, fault: Mapping) -> QuarantineRecord:
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
