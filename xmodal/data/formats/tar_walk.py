"""Walk over a tar: yield its members and every gap between them, in order and in bounded memory.

Python's `tarfile` takes a bad or missing header for the end of the archive, so that damage looks like a smaller
archive. This walker requires the two zero blocks that end an archive, searches behind zeros and bad headers for the
next header, and reports what it skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xmodal.data.formats.byte_source import WINDOW_BYTES, ByteSource
from xmodal.data.formats.tar_header import (
    BLOCK,
    BODILESS_KINDS,
    DIRECTORY,
    EXTENSION_KINDS,
    FILE_KINDS,
    LONG_NAME,
    PAX,
    PAX_GLOBAL,
    PAX_SOLARIS,
    TarHeader,
    looks_like_header,
    parse_header,
    pax_records,
)

MAX_EXTENSION_BYTES = 1 << 20  # of a long name or pax header; real ones are below 10 KiB
MAX_MEMBER_BYTES = 256 << 20
MAX_EXTENSION_HEADERS = 16  # extension headers before one member


@dataclass(frozen=True, slots=True)
class TarMember:
    """A member of the archive; `fault` says why its bytes must not be used ("" for a valid file).

    With its extension headers and padding it spans the bytes `begin` to `end`; `data` is the position of its body.
    """

    name: bytes
    begin: int
    data: int
    size: int
    end: int
    is_directory: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class TarGap:
    """Bytes that belong to no member; without a `reason` at the proper end of an archive.

    Where `lossy`, the samples on both sides may have lost members.
    """

    begin: int
    end: int
    reason: str
    detail: str = ""
    lossy: bool = True


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why no member could be read; `at` is the position of the block in question."""

    reason: str
    at: int
    detail: str = ""


def walk_tar(source: ByteSource, begin: int, end: int, *, whole: bool) -> Iterator[TarMember | TarGap]:
    """Yield members and gaps from byte `begin` to `end`; with `whole`, the archive must end with two zero blocks."""
    at, after_gap, end_explained = begin, False, False
    previous: TarMember | None = None  # yielded only when a valid header behind it shows that its size is right
    while at < end:
        item = _read_member(source, at, end)
        if isinstance(item, TarMember):
            if previous:
                yield previous
            previous = _find_end(source, _check_name(item) if after_gap else item, end)
            at, after_gap, end_explained = previous.end, False, previous.end == end and bool(previous.fault)
            continue
        previous, gap = _resolve(source, item, at, end, previous)
        if previous:
            yield previous
        if gap.reason:
            yield gap
        previous, at, after_gap, end_explained = None, gap.end, True, gap.end == end
    if previous:
        yield previous
    if whole and not end_explained:
        yield TarGap(end, end, "missing_end", "the archive stops without its two zero blocks")


def _read_member(source: ByteSource, begin: int, end: int) -> TarMember | _Problem:
    """Return the member at `begin` with its extension headers applied, or why there is none."""
    at, name, size = begin, None, None
    for _ in range(MAX_EXTENSION_HEADERS):
        block = source.read(at, min(BLOCK, end - at))
        header = parse_header(block)
        if header is None:
            return _no_header(block, at)
        if header.kind not in EXTENSION_KINDS:
            return _member(header, name or header.name, size, begin, at, end)
        if not 0 <= header.size <= MAX_EXTENSION_BYTES:
            return _Problem("bad_size", at, f"an extension header of {header.size} bytes")
        body = source.read(at + BLOCK, min(header.size, end - at - BLOCK))
        if len(body) < header.size:
            return _Problem("cut_in_header", at, "the archive ends inside an extension header")
        if header.kind == LONG_NAME:
            name = body.split(b"\0", 1)[0]
        elif header.kind in (PAX, PAX_SOLARIS, PAX_GLOBAL):
            records = pax_records(body)
            if records is None or any(key.startswith(b"GNU.sparse.") for key in records):
                return _Problem("bad_header", at, "a pax header that is malformed or of a sparse file")
            if header.kind == PAX_GLOBAL:
                if records.keys() & {b"path", b"size"}:
                    return _Problem("bad_header", at, "a global pax header that names members")
            else:
                name = records.get(b"path", name)
                size = records.get(b"size", size)
        at += BLOCK + _round_up_to_block(header.size)
    return _Problem("bad_header", begin, f"more than {MAX_EXTENSION_HEADERS} extension headers")


def _member(
    header: TarHeader, name: bytes, pax_size: bytes | None, begin: int, at: int, end: int
) -> TarMember | _Problem:
    size = header.size
    if pax_size is not None:
        size = int(pax_size) if pax_size.isdigit() and len(pax_size) < 20 else -1
    if header.kind in BODILESS_KINDS:
        size = 0
    data = at + BLOCK
    member = TarMember(name, begin, data, size, min(data + _round_up_to_block(size), end), header.kind == DIRECTORY)
    if size < 0:
        return replace(member, size=0, end=data, fault="bad_size")
    if data + size > end:
        return replace(member, end=data, fault="cut_in_data")
    if header.kind not in FILE_KINDS and header.kind != DIRECTORY:
        return replace(member, fault="not_a_file")
    if size > MAX_MEMBER_BYTES:
        return replace(member, fault="member_too_large")
    return member


def _no_header(block: bytes, at: int) -> _Problem:
    if not block.strip(b"\0"):
        return _Problem("zeros", at)
    if len(block) < BLOCK:
        return _Problem("cut_in_header", at, f"the archive ends after {len(block)} bytes of a header")
    detail = "wrong checksum" if looks_like_header(block) else f"no tar header but {block[:16]!r}"
    return _Problem("bad_header", at, detail)


def _round_up_to_block(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _check_name(member: TarMember) -> TarMember:
    """Fault the first member behind a gap if its name may be cut: its extension header may be lost in the gap."""
    has_own_extension = member.data - member.begin > BLOCK
    mangled = len(member.name) >= 100 or b"?" in member.name
    return replace(member, fault="bad_header") if mangled and not has_own_extension else member


def _find_end(source: ByteSource, member: TarMember, end: int) -> TarMember:
    """Let a member whose size is no number or leads past the end reach to the next header."""
    if member.fault not in ("bad_size", "cut_in_data"):
        return member
    following = find_header(source, member.data, end)
    if following is None:
        return replace(member, end=end)
    return replace(member, end=following, fault="bad_size")


def _resolve(
    source: ByteSource, problem: _Problem, at: int, end: int, previous: TarMember | None
) -> tuple[TarMember | None, TarGap]:
    """Return the member before the problem, corrected by what the problem shows, and the gap up to the next header."""
    if problem.reason == "zeros":
        return _behind_zeros(source, at, end, previous)
    if problem.reason == "cut_in_header":
        return previous, TarGap(at, end, problem.reason, problem.detail)
    if previous and not looks_like_header(source.read(problem.at, BLOCK)):
        hidden_header = find_header(source, previous.data, at)
        if hidden_header is not None:  # so it is the size of the previous member that is wrong
            return replace(previous, fault="bad_size", end=hidden_header), TarGap(hidden_header, hidden_header, "")
        previous = replace(
            previous, fault=previous.fault or "bad_end"
        )  # damage that overwrote a header may have begun before it
    next_header = find_header(source, problem.at + 1, end)
    return previous, TarGap(at, end if next_header is None else next_header, problem.reason, problem.detail)


def _behind_zeros(source: ByteSource, at: int, end: int, previous: TarMember | None) -> tuple[TarMember | None, TarGap]:
    """Interpret zeros in place of a header.

    If nothing follows, they are the end of the archive; otherwise they are a hole, or a second archive follows.
    """
    nonzero = _first_nonzero(source, at, end)
    if nonzero is None:
        return _at_the_end(source, at, end, previous)
    block = nonzero - (nonzero - at) % BLOCK
    if block - at >= 2 * BLOCK and parse_header(source.read(block, BLOCK)):
        detail = f"more members after {block - at} zero bytes: joined archives, or a hole"
        return previous, TarGap(at, block, "data_after_end", detail)
    next_header = find_header(source, block, end)
    if (
        previous
        and previous.size
        and (_is_shifted(at, next_header) or source.read(previous.data + previous.size - 1, 1) == b"\0")
    ):
        previous = replace(
            previous, fault=previous.fault or "bad_end"
        )  # bytes were lost, or the hole reaches back into its body
    gap_end = end if next_header is None else next_header
    return previous, TarGap(at, gap_end, "zero_hole", f"{nonzero - at} zero bytes, then other data")


def _at_the_end(source: ByteSource, at: int, end: int, previous: TarMember | None) -> tuple[TarMember | None, TarGap]:
    """Interpret zeros up to the last byte: a proper end if they are whole blocks, and at least two of them.

    A partial block means that bytes were lost, at the end or in the last member, which then contains what follows it.
    """
    if (end - at) % BLOCK:
        hidden_header = find_header(source, previous.data, at) if previous else None
        if previous and hidden_header is not None:
            return replace(previous, fault="bad_size", end=hidden_header), TarGap(hidden_header, hidden_header, "")
        previous = previous and replace(previous, fault=previous.fault or "bad_end")
    elif end - at >= 2 * BLOCK:
        return previous, TarGap(at, end, "")
    return previous, TarGap(
        at, end, "missing_end", f"the archive ends in {end - at} zero bytes, cut short", lossy=False
    )


def _is_shifted(at: int, following: int | None) -> bool:
    """Return whether the next header is out of step with the block at `at`, so that bytes were lost between them."""
    return following is not None and (following - at) % BLOCK != 0


def find_header(source: ByteSource, begin: int, end: int) -> int | None:
    """Return the position of the first header with the ustar magic and a right checksum from `begin` on.

    It may stand at any alignment; None where there is none before `end`.
    """
    position = begin
    while position + BLOCK <= end:
        chunk = source.read(position, min(WINDOW_BYTES // 2, end - position))
        hit = chunk.find(b"ustar")
        while hit >= 0:
            start = hit - 257
            if start >= 0 and position + start + BLOCK <= end and parse_header(source.read(position + start, BLOCK)):
                return position + start
            hit = chunk.find(b"ustar", hit + 1)
        position += max(len(chunk) - BLOCK, 1) if position + len(chunk) < end else len(chunk)
    return None


def _first_nonzero(source: ByteSource, begin: int, end: int) -> int | None:
    position = begin
    while position < end:
        chunk = source.read(position, min(WINDOW_BYTES // 2, end - position))
        nonzero_tail = chunk.lstrip(b"\0")
        if nonzero_tail:
            return position + len(chunk) - len(nonzero_tail)
        position += len(chunk)
    return None
