"""One 512-byte block comes in, a tar header that passed its checksum goes out, or None.

Formats: POSIX.1-1988 ustar, GNU (long names, base-256 numbers) and POSIX.1-2001 pax; field offsets from POSIX `pax`,
"ustar Interchange Format". Everything read here may be hostile: numbers are bounded by the caller, names stay bytes.
"""

from dataclasses import dataclass

BLOCK = 512

FILE_KINDS = b"0\x007"  # regular, regular in old archives, contiguous
DIRECTORY = b"5"
BODILESS_KINDS = b"123456"  # hard link, symbolic link, devices, directory, FIFO
LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
EXTENSIONS = (LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL)

_MAGIC = slice(257, 262)
_CHECKSUM = slice(148, 156)
_SUMMED_AS_SPACES = 8 * ord(" ")


@dataclass(frozen=True, slots=True)
class Header:
    """`size` is -1 where the field is no number or a negative one; `name` includes the ustar prefix."""

    name: bytes
    size: int
    kind: bytes


def looks_like_header(block: bytes) -> bool:
    """Whether the block has the ustar magic and a clean name field, be its checksum right or wrong.

    Then the bytes before it are probably as they were written: something that overwrote them would reach into the name.
    """
    name, _, padding = block[:100].partition(b"\0")
    return block[_MAGIC] == b"ustar" and name != b"" and not padding.strip(b"\0") and min(name) >= 32


def parse_header(block: bytes) -> Header | None:
    """The header in `block`, or None when it is short or its checksum does not fit."""
    if len(block) != BLOCK or not _checksum_fits(block):
        return None
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    size = parse_number(block[124:136])
    return Header(name, -1 if size is None else size, block[156:157])


def parse_number(field: bytes) -> int | None:
    """An octal or base-256 number field; None for garbage and for negative numbers."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else None
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits:
        return 0
    if digits.translate(None, b"01234567"):
        return None
    return int(digits, 8)


def _checksum_fits(block: bytes) -> bool:
    stored = parse_number(block[_CHECKSUM])
    if not stored:
        return False
    unsigned = sum(block) - sum(block[_CHECKSUM]) + _SUMMED_AS_SPACES
    if stored == unsigned:
        return True
    rest = block[:148] + block[156:]
    return stored == unsigned - 256 * sum(byte > 127 for byte in rest)  # some old writers summed signed bytes


def pax_records(body: bytes) -> dict[bytes, bytes] | None:
    """The `LENGTH KEY=VALUE\\n` records of a pax header; None when they are malformed."""
    records = {}
    at, stop = 0, len(body.rstrip(b"\0"))
    while at < stop:
        digits, space, _ = body[at : at + 20].partition(b" ")
        if not space or not digits.isdigit():
            return None
        end = at + int(digits)
        key, equals, value = body[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or body[end - 1 : end] != b"\n":
            return None
        records[key] = value
        at = end
    return records
