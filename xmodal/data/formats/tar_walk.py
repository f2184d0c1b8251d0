"""A tar comes in as bytes by position, its members and every gap between them go out, in order and in bounded memory.

Python's `tarfile` takes a bad or missing header for the end of the archive, so damage looks like a smaller archive.
This walker wants the two zero blocks that end an archive, looks past zeros and bad headers for the next header, and
says what it skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xmodal.data.formats.byte_source import WINDOW, Source
from xmodal.data.formats.tar_header import (
    BLOCK,
    BODILESS_KINDS,
    DIRECTORY,
    EXTENSIONS,
    FILE_KINDS,
    LONG_NAME,
    PAX,
    PAX_GLOBAL,
    PAX_SOLARIS,
    Header,
    looks_like_header,
    parse_header,
    pax_records,
)

LARGEST_EXTENSION = 1 << 20  # bytes of a long name or pax header; real ones are below 10 KiB
LARGEST_MEMBER = 256 << 20  # bytes
LONGEST_CHAIN = 16  # extension headers before one member


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the archive; `fault` says why its bytes are not to be used ("" for a sound file).

    It spans `begin` to `end` with its extension headers and padding; `data` is the position of its body.
    """

    name: bytes
    begin: int
    data: int
    size: int
    end: int
    is_directory: bool = False
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that belong to no member; no `reason` at the sound end of an archive.

    Samples on both sides may have lost members where `lossy`.
    """

    begin: int
    end: int
    reason: str
    detail: str = ""
    lossy: bool = True


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why no member could be read; `at` is where the block in question stands."""

    reason: str
    at: int
    detail: str = ""


def walk(source: Source, begin: int, end: int, *, whole: bool) -> Iterator[Member | Gap]:
    """Members and gaps from `begin` to `end`; with `whole`, the end of the archive must be marked by zero blocks."""
    at, held, after_gap, explained = begin, None, False, False
    while at < end:
        found = _read_member(source, at, end)
        if isinstance(found, Member):
            if held:  # it was held back until a sound header behind it was seen
                yield held
            held = _bounded(source, _distrusted(found) if after_gap else found, end)
            at, after_gap, explained = held.end, False, held.end == end and bool(held.fault)
            continue
        held, gap = _resolve(source, found, at, end, held)
        if held:
            yield held
        if gap.reason:
            yield gap
        held, at, after_gap, explained = None, gap.end, True, gap.end == end
    if held:
        yield held
    if whole and not explained:
        yield Gap(end, end, "missing_end", "the archive stops without its two zero blocks")


def _read_member(source: Source, begin: int, end: int) -> Member | _Problem:
    """The member at `begin`, its extension headers applied, or what stands there instead."""
    at, name, size = begin, None, None
    for _ in range(LONGEST_CHAIN):
        block = source.read(at, min(BLOCK, end - at))
        header = parse_header(block)
        if header is None:
            return _no_header(block, at)
        if header.kind not in EXTENSIONS:
            return _member(header, name or header.name, size, begin, at, end)
        if not 0 <= header.size <= LARGEST_EXTENSION:
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
        at += BLOCK + _padded(header.size)
    return _Problem("bad_header", begin, f"more than {LONGEST_CHAIN} extension headers")


def _member(header: Header, name: bytes, pax_size: bytes | None, begin: int, at: int, end: int) -> Member | _Problem:
    size = header.size
    if pax_size is not None:
        size = int(pax_size) if pax_size.isdigit() and len(pax_size) < 20 else -1
    if header.kind in BODILESS_KINDS:
        size = 0
    data = at + BLOCK
    member = Member(name, begin, data, size, min(data + _padded(size), end), header.kind == DIRECTORY)
    if size < 0:
        return replace(member, size=0, end=data, fault="bad_size")
    if data + size > end:
        return replace(member, end=data, fault="cut_in_data")
    if header.kind not in FILE_KINDS and header.kind != DIRECTORY:
        return replace(member, fault="not_a_file")
    if size > LARGEST_MEMBER:
        return replace(member, fault="member_too_large")
    return member


def _no_header(block: bytes, at: int) -> _Problem:
    if not block.strip(b"\0"):
        return _Problem("zeros", at)
    if len(block) < BLOCK:
        return _Problem("cut_in_header", at, f"the archive ends after {len(block)} bytes of a header")
    what = "wrong checksum" if looks_like_header(block) else f"no tar header but {block[:16]!r}"
    return _Problem("bad_header", at, what)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _distrusted(member: Member) -> Member:
    """The first member behind a gap: the gap may have swallowed the extension header with its full name."""
    has_own_extension = member.data - member.begin > BLOCK
    mangled = len(member.name) >= 100 or b"?" in member.name
    return replace(member, fault="bad_header") if mangled and not has_own_extension else member


def _bounded(source: Source, member: Member, end: int) -> Member:
    """A member whose size leads past the end, or is no number, is taken to reach to the next header."""
    if member.fault not in ("bad_size", "cut_in_data"):
        return member
    following = find_header(source, member.data, end)
    if following is None:
        return replace(member, end=end)
    return replace(member, end=following, fault="bad_size")


def _resolve(source: Source, problem: _Problem, at: int, end: int, held: Member | None) -> tuple[Member | None, Gap]:
    """What the problem says about the member before it, and the gap up to the next header."""
    if problem.reason == "zeros":
        return _behind_zeros(source, at, end, held)
    if problem.reason == "cut_in_header":
        return held, Gap(at, end, problem.reason, problem.detail)
    if held and not looks_like_header(source.read(problem.at, BLOCK)):
        hidden = find_header(source, held.data, at)
        if hidden is not None:  # so it is the size of the member before that is wrong
            return replace(held, fault="bad_size", end=hidden), Gap(hidden, hidden, "")
        held = replace(held, fault=held.fault or "bad_end")  # what overwrote a header may have begun before it
    following = find_header(source, problem.at + 1, end)
    return held, Gap(at, end if following is None else following, problem.reason, problem.detail)


def _behind_zeros(source: Source, at: int, end: int, held: Member | None) -> tuple[Member | None, Gap]:
    """Zeros at a header's place: the end of the archive if nothing follows, otherwise a hole or a second archive."""
    nonzero = _first_nonzero(source, at, end)
    if nonzero is None:
        return _at_the_end(source, at, end, held)
    block = nonzero - (nonzero - at) % BLOCK
    if block - at >= 2 * BLOCK and parse_header(source.read(block, BLOCK)):
        detail = f"more members after {block - at} zero bytes: joined archives, or a hole"
        return held, Gap(at, block, "data_after_end", detail)
    following = find_header(source, block, end)
    if held and held.size and (_shifted(at, following) or source.read(held.data + held.size - 1, 1) == b"\0"):
        held = replace(held, fault=held.fault or "bad_end")  # bytes were lost, or the hole reaches back into its body
    gap_end = end if following is None else following
    return held, Gap(at, gap_end, "zero_hole", f"{nonzero - at} zero bytes, then other data")


def _at_the_end(source: Source, at: int, end: int, held: Member | None) -> tuple[Member | None, Gap]:
    """Zeros up to the last byte: a sound end if they are whole blocks, and two of them at least.

    A broken block means that bytes were lost, at the end or in the last member, which then swallowed what follows it.
    """
    if (end - at) % BLOCK:
        hidden = find_header(source, held.data, at) if held else None
        if held and hidden is not None:
            return replace(held, fault="bad_size", end=hidden), Gap(hidden, hidden, "")
        held = held and replace(held, fault=held.fault or "bad_end")
    elif end - at >= 2 * BLOCK:
        return held, Gap(at, end, "")
    return held, Gap(at, end, "missing_end", f"the archive ends in {end - at} zero bytes, cut short", lossy=False)


def _shifted(at: int, following: int | None) -> bool:
    return following is not None and (following - at) % BLOCK != 0


def find_header(source: Source, begin: int, end: int) -> int | None:
    """Position of the first header with the ustar magic and a right checksum from `begin` on, at any alignment."""
    at = begin
    while at + BLOCK <= end:
        chunk = source.read(at, min(WINDOW // 2, end - at))
        hit = chunk.find(b"ustar")
        while hit >= 0:
            start = hit - 257
            if start >= 0 and at + start + BLOCK <= end and parse_header(source.read(at + start, BLOCK)):
                return at + start
            hit = chunk.find(b"ustar", hit + 1)
        at += max(len(chunk) - BLOCK, 1) if at + len(chunk) < end else len(chunk)
    return None


def _first_nonzero(source: Source, begin: int, end: int) -> int | None:
    at = begin
    while at < end:
        chunk = source.read(at, min(WINDOW // 2, end - at))
        rest = chunk.lstrip(b"\0")
        if rest:
            return at + len(chunk) - len(rest)
        at += len(chunk)
    return None
