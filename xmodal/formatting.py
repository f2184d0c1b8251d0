"""Format numbers, durations and untrusted text as short strings for reports and the terminal.

Captions, keys and names come from untrusted corpora: they may be megabytes long, contain control characters, or reverse
the direction of the text around them. `clean_text` makes them safe for one line of plain text; the templates escape
them for HTML.
"""

import math
import re
import unicodedata
from datetime import datetime
from typing import Any

Number = int | float  # an annotation of float refuses int at run time
MAX_TEXT_LENGTH = 160  # characters of a caption or a name
BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_MAX_EXAMINED = 8 * MAX_TEXT_LENGTH  # characters that are examined, so that a megabyte costs as little as a sentence
_COMBINING = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"  # marks that stack above a letter
_EXCESS_COMBINING = re.compile(f"([{_COMBINING}]{{3}})[{_COMBINING}]+")
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi overrides, lone surrogates, private use
_JOINERS = {0x200C, 0x200D}  # zero-width joiners, which scripts and emoji need


def clean_text(value: Any, max_length: int = MAX_TEXT_LENGTH) -> str:
    """Return `value` as one line of visible characters, truncated to `max_length` with a note of the full length.

    >>> clean_text("a red\\thouse\\u202e")
    'a red house'
    >>> clean_text("word " * 100, 9)
    'word word … (500 characters)'
    """
    text = value if isinstance(value, str) else str(value)
    visible = "".join(" " if c.isspace() else c for c in text[:_MAX_EXAMINED] if c.isspace() or _is_visible(c))
    line = _EXCESS_COMBINING.sub(r"\1", " ".join(visible.split()))
    if len(text) <= _MAX_EXAMINED and len(line) <= max_length:
        return line
    return f"{line[:max_length].rstrip()} … ({len(text):,} characters)"


def _is_visible(character: str) -> bool:
    return unicodedata.category(character) not in _INVISIBLE or ord(character) in _JOINERS


def format_number(value: Any, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and thousands separators; other values as cleaned text.

    >>> format_number(1234567), format_number(0.07), format_number(1e-6)
    ('1,234,567', '0.0700', '1e−6')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean_text(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "\u2212")
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if magnitude >= 10**digits:
        return f"{value:,.0f}".replace("-", "\u2212")
    if magnitude < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(magnitude)))}f}".replace("-", "\u2212")


def format_percent(share: Number) -> str:
    """Return a share in [0, 1] as a percentage, with a second decimal below one percent.

    >>> format_percent(0.4234), format_percent(0.00234)
    ('42.3 %', '0.23 %')
    """
    return f"{100 * share:.2f} %" if 0 < abs(share) < 0.01 else f"{100 * share:.1f} %"


def format_cosine(value: Number) -> str:
    """Return a cosine with two decimals and a typographic minus sign.

    >>> format_cosine(-0.5)
    '−0.50'
    """
    return f"{value:.2f}".replace("-", "\u2212")


def format_duration(seconds: Number) -> str:
    """Return a duration in seconds as text.

    >>> format_duration(3.25), format_duration(245), format_duration(7800)
    ('3.2 s', '4 min 05 s', '2 h 10 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def format_bytes(count: Number) -> str:
    """Return a number of bytes in binary units.

    >>> format_bytes(512), format_bytes(3.4 * 2**20)
    ('512 B', '3.4 MiB')
    """
    power = 0
    while count >= 1024 and power < len(BYTE_UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:,.0f} {BYTE_UNITS[power]}" if power == 0 or count >= 100 else f"{count:.1f} {BYTE_UNITS[power]}"


def format_timestamp(text: Any) -> str:
    """Return an ISO 8601 time to the minute; text that is not a timestamp is returned cleaned.

    >>> format_timestamp("2026-11-21T12:30:00+00:00"), format_timestamp("not a time")
    ('2026-11-21 12:30 UTC', 'not a time')
    """
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return clean_text(text)


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is one.

    >>> pluralize(1, "row"), pluralize(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
