"""The rows that a run could not decode (`quarantine.parquet`), and counts which prove that no row was lost."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xmodal import storage
from xmodal.errors import CheckpointError, XmodalError
from xmodal.storage import NotFound, StorageOptions

DEFAULT = StorageOptions()
FILE = "quarantine.parquet"
MAX_DETAIL_CHARS = 500  # a caption of a megabyte does not belong in a report

SCHEMA = pa.schema(
    {
        "corpus": pa.string(),
        "shard": pa.string(),
        "key": pa.string(),
        "row": pa.int64(),
        "offset": pa.int64(),
        "field": pa.string(),
        "reason": pa.string(),
        "detail": pa.string(),
        "step": pa.int64(),
        "epoch": pa.int64(),
    }
)


@dataclass(frozen=True, kw_only=True)
class QuarantineRecord:
    """One bad row: its position (`row` in the corpus, byte `offset` in the shard), what is wrong, and when it came."""

    corpus: str
    shard: str
    key: str
    row: int
    offset: int
    field: str
    reason: str
    detail: str
    step: int
    epoch: int


class Quarantine:
    """Collects records and writes them to `<run_uri>/quarantine.parquet` at every `sync`; used by rank 0 only.

    A run that resumes after `after_step` drops the records of later steps, which will be added again; None drops all.
    Memory grows with the number of bad rows, which `max_bad_fraction` limits.
    """

    def __init__(self, run_uri: str, *, after_step: int | None = None, options: StorageOptions = DEFAULT) -> None:
        self._uri = storage.join(run_uri, FILE)
        self._options = options
        self._new: list[QuarantineRecord] = []
        self._table = SCHEMA.empty_table()
        if after_step is not None:
            stored = read_quarantine(run_uri, options=options)
            self._table = stored.filter(pc.less_equal(stored["step"], after_step))

    def __len__(self) -> int:
        return len(self._table) + len(self._new)

    def add(self, records: Iterable[QuarantineRecord]) -> None:
        """Add records of any step; the next `sync` stores them."""
        self._new.extend(records)

    def table(self) -> pa.Table:
        """Return all records so far, in the order in which they were added."""
        if self._new:
            columns = {name: [_clean(getattr(record, name)) for record in self._new] for name in SCHEMA.names}
            self._table = pa.concat_tables([self._table, pa.table(columns, schema=SCHEMA)])
            self._new = []
        return self._table

    def write(self, path: Path) -> None:
        """Write the table to a local file, for a checkpoint."""
        pq.write_table(self.table(), path)

    def sync(self) -> None:
        """Store the whole table in the run's directory."""
        buffer = io.BytesIO()
        pq.write_table(self.table(), buffer)
        storage.write(self._uri, buffer.getvalue(), options=self._options)


def read_quarantine(run_uri: str, *, options: StorageOptions = DEFAULT) -> pa.Table:
    """Return the table of a run, empty if nothing was quarantined; CheckpointError if the file is damaged."""
    uri = storage.join(run_uri, FILE)
    try:
        return pq.read_table(io.BytesIO(storage.read(uri, options=options)), schema=SCHEMA)
    except NotFound:
        return SCHEMA.empty_table()
    except pa.ArrowException as error:
        raise CheckpointError(
            f"{uri} is damaged ({error}); move it away to continue without the old records"
        ) from error


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """Counts of rows: every planned row is either delivered or quarantined.

    `padding` counts masked rows that were never planned; they fill the last batch of an epoch.

    >>> counts = RowCounts(planned=60, delivered=58, quarantined=2) + RowCounts(planned=40, delivered=40)
    >>> counts.check()
    >>> counts.bad_fraction
    0.02
    """

    planned: int = 0
    delivered: int = 0
    quarantined: int = 0
    padding: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        left, right = asdict(self), asdict(other)
        return RowCounts(**{name: left[name] + right[name] for name in left})

    @property
    def bad_fraction(self) -> float:
        """Return the fraction of planned rows that are quarantined, in [0, 1]."""
        return self.quarantined / self.planned if self.planned else 0.0

    def check(self) -> None:
        """Raise XmodalError if rows were lost or came twice."""
        counted = self.delivered + self.quarantined
        if self.planned != counted:
            problem = "were lost" if counted < self.planned else "came twice"
            raise XmodalError(
                f"{abs(self.planned - counted)} rows {problem}: {self.planned} planned, {self.delivered} delivered, "
                f"{self.quarantined} quarantined; this is a mistake in xmodal, please report it"
            )


def _clean(value: int | str) -> int | str:
    """Convert text to valid UTF-8 of limited length for Arrow; names in a tar may be invalid."""
    if not isinstance(value, str):
        return value
    return value[:MAX_DETAIL_CHARS].encode("utf-8", "backslashreplace").decode()
