"""Damaged tars: lost samples are reported, partial or altered samples are never delivered, intact ones always are."""

import gzip
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tars import MemberSpan, Samples, damage_reasons, index_and_read, make_members, make_tar, some_samples
from xmodal.data.formats import tar_samples, tar_walk
from xmodal.data.formats.byte_source import MemorySource
from xmodal.data.formats.tar import index_tar, read_tar
from xmodal.data.formats.tar_header import parse_header

KEYS = list(some_samples())
Damaged = tuple[bytes, set[str], set[str]]  # bytes, keys that are lost, reasons that must be reported


def _overwrite(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _with_size(data: bytes, at: int, size: bytes) -> bytes:
    """Replace the size field and correct the checksum, as a hostile or broken writer would."""
    block = bytearray(_overwrite(data, at + 124, size)[at : at + 512])
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return _overwrite(data, at, bytes(block))


def _member(spans: list[MemberSpan], key: str, which: int) -> MemberSpan:
    """Return the bytes of the jpg (0) or txt (1) of a sample."""
    return [place for place in spans if place.key == key][which]


def cut_at_a_sample(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data[: _member(spans, KEYS[3], 1).end], set(KEYS[4:]), {"missing_end"}


def cut_between_members(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data[: _member(spans, KEYS[3], 0).end], set(KEYS[3:]), {"missing_end", "incomplete_sample"}


def cut_in_a_header(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data[: _member(spans, KEYS[3], 1).begin + 100], set(KEYS[3:]), {"cut_in_header", "incomplete_sample"}


def cut_in_data(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data[: _member(spans, KEYS[3], 0).data + 100], set(KEYS[3:]), {"cut_in_data"}


def cut_in_padding(data: bytes, spans: list[MemberSpan]) -> Damaged:
    last = _member(spans, KEYS[3], 1)
    return data[: last.data + last.size + 3], set(KEYS[4:]), {"missing_end"}


def cut_in_the_end_marker(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data[: spans[-1].end + 512], set(), {"missing_end"}


def bad_checksum(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return (
        _overwrite(data, _member(spans, KEYS[2], 0).begin + 150, b"9"),
        {KEYS[2]},
        {"bad_header", "incomplete_sample"},
    )


def bad_checksum_of_a_caption(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return (
        _overwrite(data, _member(spans, KEYS[2], 1).begin + 110, b"\xee"),
        {KEYS[2]},
        {"bad_header", "incomplete_sample"},
    )


def bad_checksum_of_the_first_header(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return _overwrite(data, 150, b"9"), {KEYS[0]}, {"bad_header", "incomplete_sample"}


def garbage_over_a_header(data: bytes, spans: list[MemberSpan]) -> Damaged:
    at = _member(spans, KEYS[2], 1).begin
    return _overwrite(data, at, b"\xa5\x01garbage!" * 51), {KEYS[2]}, {"bad_header", "bad_end"}


def size_field_of_letters(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return _with_size(data, _member(spans, KEYS[2], 0).begin, b"not a number"), {KEYS[2]}, {"bad_size"}


def negative_size(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return _with_size(data, _member(spans, KEYS[2], 0).begin, b"\xff" * 12), {KEYS[2]}, {"bad_size"}


def huge_size(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return _with_size(data, _member(spans, KEYS[2], 0).begin, b"\x80\x7f" + b"\xff" * 10), {KEYS[2]}, {"bad_size"}


def size_too_small(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return _with_size(data, _member(spans, KEYS[4], 0).begin, b"00000000012\0"), {KEYS[4]}, {"bad_end", "bad_header"}


def size_too_large(data: bytes, spans: list[MemberSpan]) -> Damaged:
    place = _member(spans, KEYS[2], 0)
    size = _member(spans, KEYS[3], 0).data + 100 - place.data
    return _with_size(data, place.begin, b"%011o\0" % size), {KEYS[2]}, {"bad_size"}


def hole_over_a_header(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return (
        _overwrite(data, _member(spans, KEYS[2], 0).begin, bytes(1024)),
        {KEYS[2]},
        {"zero_hole", "incomplete_sample"},
    )


def hole_over_a_caption(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return (
        _overwrite(data, _member(spans, KEYS[2], 1).begin, bytes(1024)),
        {KEYS[2]},
        {"data_after_end", "incomplete_sample"},
    )


def hole_that_begins_in_the_body_before(data: bytes, spans: list[MemberSpan]) -> Damaged:
    jpg, txt = _member(spans, KEYS[2], 0), _member(spans, KEYS[2], 1)
    at = jpg.data + jpg.size - 5
    return _overwrite(data, at, bytes(txt.begin + 300 - at)), {KEYS[2]}, {"zero_hole", "bad_end"}


def two_archives_joined(data: bytes, spans: list[MemberSpan]) -> Damaged:
    more, _ = make_tar({"second": {"jpg": b"j", "txt": b"t"}})
    return data + more, set(), {"data_after_end"}


def bytes_lost_so_that_the_last_image_contains_its_caption(data: bytes, spans: list[MemberSpan]) -> Damaged:
    jpg, txt = spans[-2:]
    lost = txt.data + txt.size - txt.begin
    return data[: jpg.data] + data[jpg.data + lost :], {KEYS[-1]}, {"bad_size"}


def trailing_garbage(data: bytes, spans: list[MemberSpan]) -> Damaged:
    return data + b"<!-- appended -->" * 60, set(), {"zero_hole"}


DAMAGES: list[Callable[[bytes, list[MemberSpan]], Damaged]] = [
    cut_at_a_sample, cut_between_members, cut_in_a_header, cut_in_data, cut_in_padding, cut_in_the_end_marker,
    bad_checksum, bad_checksum_of_a_caption, bad_checksum_of_the_first_header, garbage_over_a_header,
    size_field_of_letters, negative_size, huge_size, size_too_small, size_too_large, hole_over_a_header,
    hole_over_a_caption, hole_that_begins_in_the_body_before, two_archives_joined, trailing_garbage,
    bytes_lost_so_that_the_last_image_contains_its_caption,
]  # fmt: skip


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_reported_and_only_damaged_samples_are_lost(damage, format):
    data, spans = make_tar(some_samples(), format=format)
    damaged, lost, expected = damage(data, spans)
    delivered, index = index_and_read(damaged)
    delivered.pop("second", None)
    assert delivered == {key: members for key, members in some_samples().items() if key not in lost}
    assert expected <= damage_reasons(index)


def test_an_appended_second_archive_is_indexed():
    data, spans = make_tar(some_samples())
    assert "second" in index_and_read(two_archives_joined(data, spans)[0])[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_shard"),
        (bytes(512), "only_zeros"),
        (bytes(10240), "only_zeros"),
        (b"<html><body>503 Slow Down</body></html>" * 40, "not_a_tar"),
        (b"<Error>", "not_a_tar"),
        (b"\xff\xd8\xff\xe0" + bytes(4000), "not_a_tar"),
    ],
    ids=["empty", "one zero block", "zeros", "html", "short", "jpeg"],
)
def test_a_shard_without_samples_is_described(data, reason):
    index = index_tar(MemorySource(data), "0.tar")
    assert not index.spans and index.damage[0].reason == reason


def test_the_damage_of_a_web_page_shows_its_start_escaped():
    (damage,) = index_tar(MemorySource(b"<html>\x1b[31m" + b"x" * 2000), "0.tar").damage
    assert "<html>" in damage.detail and "\x1b" not in damage.detail


def test_a_cut_at_any_byte_delivers_the_whole_samples_before_it_and_is_reported():
    samples = some_samples(3)
    data, spans = make_tar(samples)
    whole_at = {key: max(p.data + p.size for p in spans if p.key == key) for key in samples}
    borders = {at + d for p in spans for at in (p.begin, p.data, p.data + p.size, p.end) for d in (-1, 0, 1)}
    for cut in sorted((borders | set(range(1, spans[-1].end + 1024, 61))) - {-1, 0}):
        delivered, index = index_and_read(data[:cut])
        whole = {key: members for key, members in samples.items() if whole_at[key] <= cut}
        if cut > spans[-1].end and cut % 512:  # the last one may be damaged: lost bytes in it would look the same
            whole.popitem()
        # an incomplete sample may be delivered only if it is the only one
        half = {key: {e: b for e, b in m.items() if e in delivered.get(key, {})} for key, m in samples.items()}
        extra = delivered.keys() - whole.keys()
        assert {key: delivered[key] for key in whole} == whole and index.damage
        assert all(delivered[key] == half[key] for key in extra) and (not extra or len(delivered) == 1)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_overwriting_any_region_alters_no_sample_outside_it(data):
    samples = some_samples(5)
    sound, spans = make_tar(samples)
    begin = data.draw(st.integers(0, spans[-1].end - 1))
    length = data.draw(st.integers(1, 3000))
    filler = data.draw(st.sampled_from([b"\0", b"\xa5", b"ustar\x00", b"7"]))
    end = min(begin + length, spans[-1].end)
    damaged = _overwrite(sound, begin, (filler * length)[: end - begin])
    delivered, index = index_and_read(damaged)
    inside = {p.key for p in spans if p.begin < end and begin < p.end}
    beside = {p.key for p in spans if p.begin == end or p.end == begin}
    for key in samples:
        if key in delivered and key not in inside:
            assert delivered[key] == samples[key]
        if key in delivered and end < spans[-1].end:  # zeros up to the end look like the end of a shorter archive
            assert delivered[key].keys() == samples[key].keys()
        if key not in inside | beside:
            neighbours = [KEYS.index(other) for other in inside]
            assert key in delivered or min(abs(KEYS.index(key) - n) for n in neighbours) == 1
    assert index.damage or len(delivered) == len(samples) or end == spans[-1].end


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_lost_bytes_in_the_middle_alter_no_sample(data):
    samples = some_samples(5)
    sound, spans = make_tar(samples)
    begin = data.draw(st.integers(0, spans[-1].end - 600))
    length = data.draw(st.integers(1, 2500).filter(lambda n: n % 512))
    delivered, index = index_and_read(sound[:begin] + sound[begin + length :])
    hit = {p.key for p in spans if p.begin < begin + length and begin < p.end}
    for key, members in delivered.items():
        assert key in hit or members == samples[key], key
        assert members.keys() == samples[key].keys()
    outside = {key: members for key, members in samples.items() if key not in hit}
    assert index.damage or outside.items() <= delivered.items()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary(max_size=4000), st.lists(st.tuples(st.integers(0, 9000), st.binary(min_size=1, max_size=40)), max_size=6)
)
def test_no_bytes_crash_the_walker(tail, patches):
    data = make_tar(some_samples(4))[0] + tail
    for at, patch in patches:
        data = _overwrite(data, at, patch)
    index = index_tar(MemorySource(data), "0.tar")
    for _, rows, offset, length in index.spans:
        assert len(read_tar(MemorySource(data), offset, offset + length, rows, None)) == rows


def test_a_repeated_key_is_reported_and_its_first_sample_is_delivered():
    members = [("a", n, n.encode() + c) for c in (b"1", b"2") for n in ("a.jpg", "a.txt", "b.jpg", "b.txt")]
    delivered, index = index_and_read(make_members(members)[0])
    assert delivered["a"] == {"jpg": b"a.jpg1", "txt": b"a.txt1"} and set(delivered) == {"a", "b"}
    assert [d.reason for d in index.damage] == ["duplicate_key"] * 2
    assert all("the first is at" in d.detail for d in index.damage)


def test_a_key_twice_in_succession_is_a_duplicate():
    members = [("a", n, c) for c in (b"1", b"2") for n in ("a.jpg", "a.txt")]
    delivered, index = index_and_read(make_members(members)[0])
    assert delivered == {"a": {"jpg": b"1", "txt": b"1"}} and damage_reasons(index) == {"duplicate_key"}


def test_samples_with_scattered_members_are_not_delivered():
    order = ["a.jpg", "b.jpg", "a.txt", "b.txt", "c.jpg", "c.txt"]
    delivered, index = index_and_read(make_members([("", name, b"x") for name in order])[0])
    assert set(delivered) == {"c"} and damage_reasons(index) == {"scattered_sample"}
    assert len(index.damage) == 4


def test_a_sample_written_without_a_member_is_not_damage():
    samples: Samples = some_samples(4) | {"x": {"jpg": b"only a picture"}}
    delivered, index = index_and_read(make_tar(samples)[0])
    assert delivered == samples and not index.damage


HOSTILE = [
    "../../etc/passwd.jpg", "/etc/passwd.jpg", "a/../../b.jpg", "..\\b.jpg", "C:\\b.jpg", "a\x1b[2J.jpg", "a\nb.jpg",
    "x" * 300 + ".jpg", "\x9b31m.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_sample_with_a_hostile_name_is_skipped_and_writes_nothing(name, tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    members = [("", "a.jpg", b"1"), ("", name, b"evil"), ("", "b.jpg", b"2")]
    delivered, index = index_and_read(make_members(members)[0])
    assert set(delivered) == {"a", "b"} and damage_reasons(index) in ({"bad_name"}, {"not_a_sample"})
    assert all(d.detail.isprintable() for d in index.damage)
    assert [p.name for p in tmp_path.rglob("*")] == ["cwd"]


def test_a_nul_in_a_pax_name_is_rejected():
    record = b"path=a\0b.jpg\n"
    body = b"%d %s" % (len(record) + 3, record)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    member = tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT)
    data = header.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0") + member + bytes(1024)
    assert damage_reasons(index_and_read(data)[1]) == {"bad_name"}


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=str
)
def test_links_and_devices_are_reported_and_never_created(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, type_ in (("a.jpg", tarfile.REGTYPE), ("b.jpg", kind), ("b.txt", tarfile.REGTYPE), ("c.jpg", b"0")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type_, "/etc/passwd"
            archive.addfile(info, io.BytesIO(b""))
    delivered, index = index_and_read(out.getvalue())
    assert set(delivered) == {"a", "c"} and damage_reasons(index) == {"not_a_file"} and not list(tmp_path.iterdir())


def test_a_member_above_the_limit_is_rejected_unread(monkeypatch):
    monkeypatch.setattr(tar_walk, "MAX_MEMBER_BYTES", 2000)
    samples = some_samples(3) | {"big": {"jpg": b"x" * 2001, "txt": b"t"}, "z": {"jpg": b"1", "txt": b"2"}}
    delivered, index = index_and_read(make_tar(samples)[0])
    assert set(delivered) == set(samples) - {"big"} and damage_reasons(index) == {"member_too_large"}


def test_a_sample_above_the_limit_is_rejected(monkeypatch):
    monkeypatch.setattr(tar_samples, "MAX_SAMPLE_BYTES", 4000)
    samples = {"a": {"1": b"x", "2": b"y"}, "b": {"1": b"x" * 2000, "2": b"y" * 2000}}
    delivered, index = index_and_read(make_tar(samples)[0])
    assert set(delivered) == {"a"} and damage_reasons(index) == {"sample_too_large"}


def test_members_above_the_limit_are_not_read(monkeypatch):
    monkeypatch.setattr("xmodal.data.formats.tar.MAX_MEMBERS", 7)
    delivered, index = index_and_read(make_tar(some_samples())[0])
    assert set(delivered) == set(KEYS[:3]) and damage_reasons(index) == {"too_many_members", "incomplete_sample"}


def test_damage_reports_are_limited(monkeypatch):
    monkeypatch.setattr("xmodal.data.formats.tar.MAX_DAMAGE_REPORTS", 5)
    data, _ = make_members([("", f"name{i}", b"") for i in range(40)])
    index = index_tar(MemorySource(data), "0.tar")
    assert len(index.damage) == 6 and index.damage[-1].detail == "35 more: {'not_a_sample': 35}"


def test_a_damaged_pax_header_gives_no_sample_a_wrong_name():
    samples = {f"bild-ä{i}": {"jpg": b"x" * 700, "txt": b"t"} for i in range(5)}
    data, spans = make_tar(samples)
    damaged = _overwrite(data, spans[4].begin + 150, b"9")
    delivered, index = index_and_read(damaged)
    assert delivered == {key: m for key, m in samples.items() if key != "bild-ä2"}
    assert "bad_header" in damage_reasons(index)


def test_damage_after_indexing_faults_the_rows_from_there_on():
    samples = some_samples()
    data, spans = make_tar(samples)
    index = index_tar(MemorySource(data), "0.tar")
    ((_, rows, offset, length),) = index.spans
    damaged = _overwrite(data, spans[5].begin + 150, b"9")  # the third caption
    raw = read_tar(MemorySource(damaged), offset, offset + length, rows, None)
    assert len(raw) == rows and [s.key for s in raw] == [*KEYS[:2], "", "", "", ""]
    assert all(s.fault is not None and s.fault.reason == "extent_damaged" for s in raw[2:])


def test_a_nested_tar_is_one_member():
    inner, _ = make_tar(some_samples(2))
    samples = {"a": {"tar": inner, "txt": b"x"}, "b": {"tar": inner, "txt": b"y"}}
    delivered, index = index_and_read(make_tar(samples)[0])
    assert delivered == samples and not index.damage


def test_headers_are_found_at_any_alignment_and_window():
    data, spans = make_tar(some_samples(3))
    for shift in (0, 1, 511, 300_000):
        source = MemorySource(b"j" * shift + data)
        assert tar_walk.find_header(source, 0, source.size) == shift
    assert parse_header(data[spans[2].begin : spans[2].begin + 512])


def test_gzip_bytes_are_not_a_tar():
    assert not index_tar(MemorySource(gzip.compress(make_tar(some_samples())[0])), "0.tar").spans
