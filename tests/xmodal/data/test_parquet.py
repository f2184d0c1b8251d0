"""Parquet shards: rows come in order with plain values, a damaged file or page is reported, nothing is unpickled."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmodal import storage
from xmodal.data.formats import extent_reader, parquet
from xmodal.data.formats.byte_source import MemorySource, RangeFile
from xmodal.data.formats.parquet import column_kind, index_parquet
from xmodal.data.formats.shard_writer import parquet_shard
from xmodal.data.index.corpus import Corpus, RawSample, open_corpus, read_extent
from xmodal.errors import CorpusError, StorageError


def rows_of(corpus: Corpus, columns=None) -> list[RawSample]:
    samples = []
    for extent in range(len(corpus.extents)):
        samples += read_extent(corpus, extent, columns=columns)
    assert len(samples) == corpus.rows
    return samples


def write(path: Path, columns: dict | pa.Table, **options) -> None:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, **options)


VALUES = {
    "image": st.none() | st.binary(max_size=300),
    "caption": st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    "captions": st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=10), max_size=3),
    "label": st.integers(-(2**40), 2**40),
    "score": st.floats(allow_nan=False, width=64),
}


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=20), st.booleans())
def test_the_writer_round_trips(tmp_path, rows, as_files):
    rows[0] |= {"image": b"", "caption": "", "captions": ["x"]}  # so that no column is entirely null
    samples = [(f"schlüssel/{i}", row) for i, row in enumerate(rows)]
    data = parquet_shard(samples, file_columns=["image"] if as_files else ())
    assert data == parquet_shard(samples, file_columns=["image"] if as_files else ())
    (tmp_path / "c").mkdir(exist_ok=True)
    (tmp_path / "c" / "0.parquet").write_bytes(data)
    delivered = rows_of(open_corpus(str(tmp_path / "c"), rebuild=True))
    assert [(s.key, {k: v for k, v in s.members.items() if k != "key"}) for s in delivered] == samples
    assert [s.offset for s in delivered] == list(range(len(rows)))


def test_hugging_face_files_become_bytes(tmp_path):
    layout = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    values = [{"bytes": b"one", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None]
    write(tmp_path / "0.parquet", {"image": pa.array(values, layout), "label": [1, 2, 3]})
    delivered = rows_of(open_corpus(str(tmp_path)))
    assert [s.members for s in delivered] == [
        {"image": b"one", "label": 1}, {"image": None, "label": 2}, {"image": None, "label": 3},
    ]  # fmt: skip
    assert [s.key for s in delivered] == ["0", "1", "2"] and all(s.fault is None for s in delivered)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["ä", None], pa.large_string()), ["ä", None]),
        (pa.array([b"1", b"2"], pa.large_binary()), [b"1", b"2"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), [b"ab", b"cd"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([["a", "b"], []], pa.list_(pa.string())), [["a", "b"], []]),
        (pa.array([True, None]), [True, None]),
        (pa.array([{"title": "t"}, None]), [{"title": "t"}, None]),
        (pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string()), ["ok", b"\xff\xfe"]),
        (pa.array([None, None]), [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_kind_of_column_arrives_as_python_values(tmp_path, values, expected):
    write(tmp_path / "0.parquet", {"column": values})
    assert [s.members["column"] for s in rows_of(open_corpus(str(tmp_path)))] == expected


def test_failed_downloads_of_img2dataset_are_faults_with_their_cause(tmp_path):
    write(
        tmp_path / "00000.parquet",
        {
            "key": ["000000000", "000000001", "000000002"],
            "jpg": pa.array([b"\xff\xd8", None, b"\xff"], pa.binary()),
            "caption": ["a", "b", None],
            "status": ["success", "failed_to_download", "success"],
            "error_message": [None, "HTTP Error 404", None],
        },
    )
    good, bad, without_caption = rows_of(open_corpus(str(tmp_path)), columns=("jpg", "caption"))
    assert good.key == "000000000" and good.members == {"jpg": b"\xff\xd8", "caption": "a"}
    assert without_caption.fault is None and without_caption.members == {"jpg": b"\xff", "caption": None}
    assert bad.key == "000000001" and bad.members is None
    assert bad.fault.reason == "missing_member" and "404" in bad.fault.detail


def test_row_groups_are_split_into_extents_that_cover_every_row(tmp_path):
    write(tmp_path / "0.parquet", {"n": np.arange(3000)}, row_group_size=1400)
    corpus = open_corpus(str(tmp_path))
    assert corpus.extents.rows.tolist() == [512, 512, 376, 512, 512, 376, 200]
    assert [s.members["n"] for s in rows_of(corpus)] == list(range(3000))


def test_a_large_row_group_stays_whole_and_a_huge_one_is_rejected(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", {"n": np.arange(5000)}, compression="none", use_dictionary=False)
    monkeypatch.setattr(parquet, "MAX_SPLIT_GROUP_BYTES", 10_000)
    assert open_corpus(str(tmp_path), rebuild=True).extents.rows.tolist() == [5000]
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 30_000)
    with pytest.raises(CorpusError, match=r"row_group_too_large.*write row groups of at most"):
        open_corpus(str(tmp_path), rebuild=True)


def test_only_the_selected_columns_are_read(tmp_path, monkeypatch):
    write(
        tmp_path / "0.parquet",
        {"large": [bytes(200_000)] * 4, "small": ["a"] * 4},
        compression="none",
        use_dictionary=False,
    )
    corpus = open_corpus(str(tmp_path))
    real, lengths = storage.read, []
    monkeypatch.setattr(
        storage, "read", lambda uri, offset, length, **o: lengths.append(length) or real(uri, offset, length, **o)
    )
    assert rows_of(corpus, columns=("small", "absent"))[0].members == {"small": "a"}
    assert sum(lengths) < 100_000


def test_extents_of_one_row_group_decode_it_once(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", {"n": np.arange(2000)})
    corpus = open_corpus(str(tmp_path))
    real, calls = extent_reader.read_row_group, []
    monkeypatch.setattr(extent_reader, "read_row_group", lambda *a: calls.append(1) or real(*a))
    assert len(corpus.extents) == 4 and len(rows_of(corpus)) == 2000 and len(calls) == 1


def _file(**columns) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns or {"image": [bytes([i]) * 500 for i in range(9)]}), out, row_group_size=3)
    return out.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: data[:-4] + b"PAR9",
        lambda data: b"PAR1", lambda data: data[:-8] + struct.pack("<I", 1 << 31) + b"PAR1",
        lambda data: b"<html>" * 50, lambda data: data[:-60] + bytes(52) + data[-8:],
    ],
    ids=["cut", "half", "no magic", "only magic", "absurd footer length", "html", "zeros in the footer"],
)  # fmt: skip
def test_a_broken_footer_is_reported_and_the_other_files_stay_usable(tmp_path, damage):
    (tmp_path / "bad.parquet").write_bytes(damage(_file()))
    (tmp_path / "good.parquet").write_bytes(_file())
    (tmp_path / "none.parquet").write_bytes(b"")
    corpus = open_corpus(str(tmp_path))
    assert [(d.shard, d.reason) for d in corpus.damage] == [
        ("bad.parquet", "bad_footer"),
        ("none.parquet", "empty_shard"),
    ]
    assert len([s for s in rows_of(corpus) if s.fault is None]) == 9


def test_a_damaged_page_affects_only_its_row_group(tmp_path):
    data = _file()
    begin = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0).data_page_offset
    (tmp_path / "0.parquet").write_bytes(data[:begin] + b"\xff" * 40 + data[begin + 40 :])
    samples = rows_of(open_corpus(str(tmp_path)))
    assert [s.fault and s.fault.reason for s in samples] == [None] * 3 + ["bad_page"] * 3 + [None] * 3
    assert [s.members["image"][0] for s in samples if s.members] == [0, 1, 2, 6, 7, 8]


def test_no_flipped_byte_crashes_the_reader_or_loses_count(tmp_path):
    data = _file()
    for at in range(0, len(data), 173):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "0.parquet").write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        try:
            corpus = open_corpus(str(folder))
        except CorpusError:
            continue
        assert corpus.rows in (9, 6) or corpus.damage
        rows_of(corpus)


class _Group:
    """A row group with false numbers in its footer."""

    __class__ = pq.RowGroupMetaData

    def __init__(self, real, **overrides):
        self.real, self.overrides = real, overrides

    def __getattr__(self, name):
        return self.overrides.get(name, getattr(self.real, name))


@pytest.mark.parametrize(
    "overrides", [{"num_rows": 10**9}, {"num_rows": -4}, {"num_rows": 4}, {"total_byte_size": 1 << 50}]
)
def test_a_row_group_with_absurd_numbers_is_reported(overrides):
    data = _file()
    group = _Group(pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0), **overrides)
    fault = parquet._group_fault(group, *parquet.group_span(group), len(data))
    assert fault is not None and fault.reason in ("bad_row_group", "row_group_too_large")


class Canary:
    def __reduce__(self):
        return (Path.touch, (Path("canary-was-here"),))


def test_a_pickled_extension_type_is_read_as_its_storage_and_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Canary()),
    }
    field = pa.field("image", pa.binary(), metadata=extension)
    write(tmp_path / "0.parquet", pa.table([pa.array([b"plain"])], schema=pa.schema([field])))
    assert rows_of(open_corpus(str(tmp_path)))[0].members == {"image": b"plain"}
    assert not (tmp_path / "canary-was-here").exists()


def test_known_extension_types_are_read_as_their_storage(tmp_path):
    values = pa.array([b"0123456789abcdef"], pa.binary(16))
    write(tmp_path / "0.parquet", {"id": pa.ExtensionArray.from_storage(pa.uuid(), values)})
    assert rows_of(open_corpus(str(tmp_path)))[0].members == {"id": b"0123456789abcdef"}


@pytest.mark.parametrize(
    "other",
    [pa.array(["x"], pa.large_string()), pa.array([b"x"]), pa.array([["x", "y"]]), pa.array([None])],
    ids=lambda a: str(a.type),
)
def test_schemas_that_differ_without_loss_form_one_corpus(tmp_path, other):
    write(tmp_path / "0.parquet", {"text": ["x"], "only_here": [1]})
    write(tmp_path / "1.parquet", {"text": other})
    messages: list[str] = []
    corpus = open_corpus(str(tmp_path), notify=messages.append)
    assert corpus.rows == 2 and corpus.fields == ("only_here", "text")
    assert any("'only_here' is missing in 1 shard: 1.parquet" in m for m in messages)


def test_the_error_for_incompatible_schemas_names_both(tmp_path):
    write(tmp_path / "0.parquet", {"text": ["x"]})
    write(tmp_path / "1.parquet", {"text": [7]})
    with pytest.raises(
        CorpusError, match=r"'text' differs between 0\.parquet \(text: text\) and 1\.parquet \(text: number\)"
    ):
        open_corpus(str(tmp_path))


def test_column_kinds():
    assert column_kind(pa.struct({"bytes": pa.binary(), "path": pa.string()})) == "bytes"
    assert column_kind(pa.list_(pa.large_string())) == "texts" and column_kind(pa.float16()) == "number"
    assert column_kind(pa.dictionary(pa.int8(), pa.string())) == "text" and column_kind(pa.list_(pa.int8())).startswith(
        "list"
    )


def test_a_hostile_key_is_escaped(tmp_path):
    write(tmp_path / "0.parquet", {"key": ["../../x", "\x1b[31m"], "text": ["a", "b"]})
    assert [s.key for s in rows_of(open_corpus(str(tmp_path)))] == ["'../../x'", "'\\x1b[31m'"]


def test_a_storage_outage_is_raised(tmp_path, monkeypatch):
    write(tmp_path / "0.parquet", {"text": ["a", "b"]})
    corpus = open_corpus(str(tmp_path))

    def outage(*args, **options):
        raise StorageError("the endpoint does not answer")

    monkeypatch.setattr(storage, "read", outage)
    with pytest.raises(StorageError, match="does not answer"):
        read_extent(corpus, 0)


@pytest.mark.parametrize("error", [storage.NotFound, storage.FileChanged, storage.ShortRead])
def test_a_shard_that_disappears_between_footer_and_pages_is_not_reported_as_damaged(tmp_path, monkeypatch, error):
    write(tmp_path / "0.parquet", {"text": ["a", "b"]})
    corpus = open_corpus(str(tmp_path))
    real = storage.read

    def fail(uri, offset, length, **options):
        if offset < 50:
            raise error("gone")
        return real(uri, offset, length, **options)

    monkeypatch.setattr(storage, "read", fail)
    expected = {"NotFound": "shard_missing", "FileChanged": "shard_changed", "ShortRead": "extent_short"}[
        error.__name__
    ]
    assert [s.fault.reason for s in read_extent(corpus, 0)] == [expected] * 2


def test_indexing_reads_the_footer_only():
    data = _file(image=[bytes(100_000)] * 30)

    class Counting(MemorySource):
        bytes_read = 0

        def read(self, offset, length):
            self.bytes_read += length
            return super().read(offset, length)

    source = Counting(data)
    assert index_parquet(RangeFile(source), source.size, "0.parquet").rows == 30
    assert source.bytes_read <= 70_000
