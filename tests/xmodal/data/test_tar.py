"""Valid tars: reading returns the samples that were written, as Python's tarfile does."""

import io
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tars import damage_reasons, index_and_read, make_members, make_tar, some_samples
from xmodal.data.formats.byte_source import MemorySource
from xmodal.data.formats.shard_writer import check_sample, tar_shard
from xmodal.data.formats.tar import BYTES_PER_EXTENT, ROWS_PER_EXTENT, index_tar, read_tar
from xmodal.data.formats.tar_header import parse_header, parse_number, pax_records
from xmodal.errors import BadSample

ALPHABET = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="./\\")
STEM = st.text(ALPHABET, min_size=1, max_size=60).filter(lambda s: not (s.startswith("__") and s.endswith("__")))
FOLDER = st.text(ALPHABET, min_size=1, max_size=12).filter(lambda s: ":" not in s)
KEY = st.builds(lambda folders, stem: "/".join([*folders, stem]), st.lists(FOLDER, max_size=3), STEM)
EXTENSION = st.sampled_from(["jpg", "txt", "json", "seg.png", "mp4", "字", "a.b.c"])
SAMPLE = st.dictionaries(EXTENSION, st.binary(max_size=1500), min_size=1, max_size=4)


def is_valid(key: str, members: dict[str, bytes]) -> bool:
    try:
        check_sample(key, members)
    except BadSample:
        return False
    return True


SAMPLES = st.dictionaries(KEY, SAMPLE, min_size=1, max_size=8).map(
    lambda samples: {key: members for key, members in samples.items() if is_valid(key, members)}
)
FORMATS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(SAMPLES, st.sampled_from(FORMATS))
def test_written_samples_are_read_in_order(samples, format):
    delivered, index = index_and_read(make_tar(samples, format=format)[0])
    assert delivered == samples and list(delivered) == list(samples)
    assert not index.damage or not samples


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(SAMPLES)
def test_the_writer_round_trips_and_its_bytes_depend_on_the_samples_alone(samples):
    data = tar_shard(samples.items())
    assert data == tar_shard(list(samples.items()))
    assert index_and_read(data)[0] == samples
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = [f"{key}.{ext}" for key, members in samples.items() for ext in members]
        assert archive.getnames() == names


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, *FORMATS])
def test_tarfile_and_the_walker_agree_on_long_names(format):
    samples = {f"{'folder' * 12}/{'n' * 60}{i}": {"jpg": b"x" * (512 * i), "txt": b"t"} for i in range(4)}
    data, _ = make_tar(samples, format=format)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        by_tarfile = {m.name: archive.extractfile(m).read() for m in archive}
    delivered, index = index_and_read(data)
    assert {f"{k}.{e}": body for k, members in delivered.items() for e, body in members.items()} == by_tarfile
    assert not index.damage


def test_keys_end_at_the_first_dot_of_the_base_name_and_extensions_are_lower_case():
    names = ["v1.0/a.b.JPG", "v1.0/a.Txt", "./c.jpg", "./c.txt", "d.seg.png", "d.txt"]
    data, _ = make_members([("", name, name.encode()) for name in names])
    assert index_and_read(data)[0] == {
        "v1.0/a": {"b.jpg": b"v1.0/a.b.JPG", "txt": b"v1.0/a.Txt"},
        "c": {"jpg": b"./c.jpg", "txt": b"./c.txt"},
        "d": {"seg.png": b"d.seg.png", "txt": b"d.txt"},
    }


def test_an_archive_of_old_format_without_magic_is_read():
    data = bytearray(make_tar(some_samples(3))[0])
    for at in range(0, len(data) - 511, 512):
        if parse_header(bytes(data[at : at + 512])):
            data[at + 257 : at + 265] = bytes(8)
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    delivered, index = index_and_read(bytes(data))
    assert delivered == some_samples(3) and not index.damage


def test_members_that_belong_to_no_sample_are_reported_and_skipped():
    members = [
        ("", "README", b"x"),
        ("", "a.jpg", b"1"),
        ("", ".DS_Store", b"y"),
        ("", "a.txt", b"2"),
        ("", "b.jpg", b"3"),
    ]
    delivered, index = index_and_read(make_members([*members, ("", "b.txt", b"4")])[0])
    assert delivered == {"a": {"jpg": b"1", "txt": b"2"}, "b": {"jpg": b"3", "txt": b"4"}}
    assert [d.reason for d in index.damage] == ["not_a_sample"] * 2 and len(index.spans) == 1


def test_directories_are_not_damage():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("train")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        info = tarfile.TarInfo("train/a.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
    delivered, index = index_and_read(out.getvalue())
    assert delivered == {"train/a": {"txt": b"a"}} and not index.damage


def test_extents_hold_bounded_runs_that_cover_every_row():
    many, _ = make_tar({f"{i:05d}": {"txt": b"x"} for i in range(2 * ROWS_PER_EXTENT + 1)})
    assert [rows for _, rows, _, _ in index_and_read(many)[1].spans] == [ROWS_PER_EXTENT, ROWS_PER_EXTENT, 1]
    third = bytes([7]) * (BYTES_PER_EXTENT // 3)
    large, _ = make_tar({f"{i}": {"bin": third} for i in range(5)} | {"huge": {"bin": third * 4}})
    assert [rows for _, rows, _, _ in index_and_read(large)[1].spans] == [2, 2, 1, 1]


def test_only_the_selected_members_are_returned():
    data, _ = make_tar(some_samples(2))
    index = index_tar(MemorySource(data), "0.tar")
    ((_, rows, offset, length),) = index.spans
    raw = read_tar(MemorySource(data), offset, offset + length, rows, {"txt"})
    assert [sample.members for sample in raw] == [{"txt": b"caption 0"}, {"txt": b"caption 1"}]
    assert index.fields == ("jpg", "txt")


def test_an_extent_with_another_number_of_samples_is_shard_changed():
    data, places = make_tar(some_samples(4))
    for rows in (1, 3):
        with pytest.raises(BadSample, match="shard_changed"):
            read_tar(MemorySource(data), 0, places[3].end, rows, None)


def test_numbers_are_octal_or_base_256_and_never_negative():
    assert parse_number(b"0000755\0") == 0o755 and parse_number(b"       \0") == 0
    assert parse_number(b"\x80" + bytes(7) + b"\x01\x00\x00\x00") == 1 << 24
    assert parse_number(b"\xff" * 12) is None and parse_number(b"-1\0") is None and parse_number(b"0x12\0") is None


def test_pax_records_are_parsed_strictly():
    assert pax_records(b"12 path=abc\n10 size=1\n") == {b"path": b"abc", b"size": b"1"}
    assert pax_records(b"11 path=\na\n\0\0") == {b"path": b"\na"}
    for bad in (b"0 a=b\n", b"99 path=a\n", b"8 a=b\n", b"-6 a=b\n", b"6 a=bc", b"6 abc\n", b"x"):
        assert pax_records(bad) is None


def test_a_pax_size_overrides_the_header():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size, info.pax_headers = 3, {"size": "3"}
        archive.addfile(info, io.BytesIO(b"abc"))
    assert index_and_read(out.getvalue())[0] == {"a": {"txt": b"abc"}}
    assert damage_reasons(index_and_read(out.getvalue())[1]) == set()
