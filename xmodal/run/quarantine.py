"""The rows a run could not deliver: records in, `quarantine.parquet` out; and the account that nothing vanished."""

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
LONGEST_DETAIL = 500  # characters; a caption of a megabyte does not belong into a report

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
    """One bad row: where it lies (`row` in the corpus, `offset` in bytes of the shard), what is wrong, when it came."""

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
    """Collects records and writes them to `<run_uri>/quarantine.parquet` at every `sync`; one process, rank 0.

    A run that continues after `after_step` drops the records of later steps, which come again; None drops all. Memory
    grows with the number of bad rows, which `max_bad_fraction` bounds.
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
        """Take records of any step; they are stored by the next `sync`."""
        self._new.extend(records)

    def table(self) -> pa.Table:
        """Everything so far, in the order it came."""
        if self._new:
            columns = {name: [_clean(getattr(record, name)) for record in self._new] for name in SCHEMA.names}
            self._table = pa.concat_tables([self._table, pa.table(columns, schema=SCHEMA)])
            self._new = []
        return self._table

    def write(self, path: Path) -> None:
        """A copy of the table in a local file, for a checkpoint."""
        pq.write_table(self.table(), path)

    def sync(self) -> None:
        """Store the table in the run's directory, whole."""
        sink = io.BytesIO()
        pq.write_table(self.table(), sink)
        storage.write(self._uri, sink.getvalue(), options=self._options)


def read_quarantine(run_uri: str, *, options: StorageOptions = DEFAULT) -> pa.Table:
    """The table of a run, empty if nothing was quarantined; CheckpointError if the file is damaged."""
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
class Ledger:
    """What became of the rows of a plan, in rows: every planned one is delivered or quarantined.

    `padding` counts masked rows that were never planned: they fill the last batch of an epoch.
    """

    planned: int = 0
    delivered: int = 0
    quarantined: int = 0
    padding: int = 0

    def __add__(self, other: "Ledger") -> "Ledger":
        mine, theirs = asdict(self), asdict(other)
        return Ledger(**{name: mine[name] + theirs[name] for name in mine})

    @property
    def bad_fraction(self) -> float:
        """Quarantined rows per planned row, in [0, 1]."""
        return self.quarantined / self.planned if self.planned else 0.0

    def check(self) -> None:
        """XmodalError if rows vanished or came twice."""
        accounted = self.delivered + self.quarantined
        if self.planned != accounted:
            what = "vanished" if accounted < self.planned else "too many"
            raise XmodalError(
                f"{abs(self.planned - accounted)} rows {what}: {self.planned} planned, {self.delivered} delivered, "
                f"{self.quarantined} quarantined; this is a mistake in xmodal, please report it"
            )


def _clean(value: int | str) -> int | str:
    """Text that Arrow can hold, of bounded length: names in a tar need not be UTF-8."""
    if not isinstance(value, str):
        return value
    return value[:LONGEST_DETAIL].encode("utf-8", "backslashreplace").decode()
