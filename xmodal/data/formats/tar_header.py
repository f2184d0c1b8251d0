"""Parse 512-byte tar headers and the records of pax headers.

Formats: POSIX.1-1988 ustar, GNU (long names, base-256 numbers) and POSIX.1-2001 pax; field offsets from POSIX `pax`,
"ustar Interchange Format". Everything read here may be hostile: callers must check numbers, and names stay bytes.
"""

from dataclasses import dataclass

BLOCK = 512

FILE_KINDS = b"0\x007"  # regular, regular in old archives, contiguous
DIRECTORY = b"5"
BODILESS_KINDS = b"123456"  # hard link, symbolic link, devices, directory, FIFO
LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
EXTENSION_KINDS = (LONG_NAME, LONG_LINK, PAX, PAX_SOLARIS, PAX_GLOBAL)

_MAGIC = slice(257, 262)
_CHECKSUM = slice(148, 156)
_SUMMED_AS_SPACES = 8 * ord(" ")


@dataclass(frozen=True, slots=True)
class TarHeader:
    """A header whose checksum is right.

    `size` is -1 where the field is no number or a negative one; `name` includes the ustar prefix.
    """

    name: bytes
    size: int
    kind: bytes


def looks_like_header(block: bytes) -> bool:
    """Return whether the block has the ustar magic and a clean name field, whether or not its checksum is right.

    If so, the bytes before it are probably intact: damage that overwrote them would reach into the name.
    """
    name, _, padding = block[:100].partition(b"\0")
    return block[_MAGIC] == b"ustar" and name != b"" and not padding.strip(b"\0") and min(name) >= 32


def parse_header(block: bytes) -> TarHeader | None:
    """Return the header in `block`; None when the block is short or its checksum is wrong."""
    if len(block) != BLOCK or not _checksum_fits(block):
        return None
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    size = parse_number(block[124:136])
    return TarHeader(name, -1 if size is None else size, block[156:157])


def parse_number(field: bytes) -> int | None:
    """Return the value of an octal or base-256 number field; None for garbage and for negative numbers.

    >>> parse_number(b"0000644 "), parse_number(b"-1")
    (420, None)
    """
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
    r"""Return the `LENGTH KEY=VALUE\n` records of a pax header; None when they are malformed.

    >>> pax_records(b"12 path=a/b\n")
    {b'path': b'a/b'}
    """
    records = {}
    position, stop = 0, len(body.rstrip(b"\0"))
    while position < stop:
        digits, space, _ = body[position : position + 20].partition(b" ")
        if not space or not digits.isdigit():
            return None
        end = position + int(digits)
        key, equals, value = body[position + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or body[end - 1 : end] != b"\n":
            return None
        records[key] = value
        position = end
    return records
