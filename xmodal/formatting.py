"""Numbers and foreign text as a reader sees them: values in, short strings that are safe in a line of text out.

Captions, keys and names come from strangers: they may be megabytes long, hold control characters, or turn the
direction of the text around them. Escaping for HTML is the template's business.
"""

import math
import re
import unicodedata
from datetime import datetime
from typing import Any

Number = int | float  # an annotation of float refuses int at run time
LONGEST = 160  # characters of a caption or a name
_LOOK = 8 * LONGEST  # what is looked at: a megabyte costs what a sentence costs
_MARKS = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"  # that stack up above a letter
_MARKS_IN_A_ROW = re.compile(f"([{_MARKS}]{{3}})[{_MARKS}]+")
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, bidi overrides, lone surrogates, private use
_KEPT = {0x200C, 0x200D}  # joiners, without which scripts and emoji fall apart
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def clean(value: Any, longest: int = LONGEST) -> str:
    """One line of visible characters, cut at `longest` with the number of characters that there were."""
    text = value if isinstance(value, str) else str(value)
    seen = "".join(" " if c.isspace() else c for c in text[:_LOOK] if c.isspace() or _visible(c))
    line = _MARKS_IN_A_ROW.sub(r"\1", " ".join(seen.split()))
    if len(text) <= _LOOK and len(line) <= longest:
        return line
    return f"{line[:longest].rstrip()} … ({len(text):,} characters)"


def _visible(character: str) -> bool:
    return unicodedata.category(character) not in _UNSEEN or ord(character) in _KEPT


def number(value: Any, digits: int = 3) -> str:
    """A number to `digits` significant digits, thousands apart; anything else as `clean` shows it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean(value)
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "\u2212")
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 10**digits:
        return f"{value:,.0f}".replace("-", "\u2212")
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "\u2212")
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}".replace("-", "\u2212")


def percent(share: Number) -> str:
    """A share of one as a percentage: `42.3 %`; below one percent with a second decimal."""
    return f"{100 * share:.2f} %" if 0 < abs(share) < 0.01 else f"{100 * share:.1f} %"


def cosine(value: Number) -> str:
    """To two decimals, with a true minus."""
    return f"{value:.2f}".replace("-", "\u2212")


def seconds(value: Number) -> str:
    """A duration: `3.2 s`, `4 min 05 s`, `2 h 10 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def size(count: Number) -> str:
    """A number of bytes: `512 B`, `3.4 MiB`."""
    place = 0
    while count >= 1024 and place < len(UNITS) - 1:
        count, place = count / 1024, place + 1
    return f"{count:,.0f} {UNITS[place]}" if place == 0 or count >= 100 else f"{count:.1f} {UNITS[place]}"


def moment(text: Any) -> str:
    """An ISO time as `2026-11-21 12:30 UTC`; what is no time as it stands."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return clean(text)


def count(many: int, thing: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{many:,} {thing}" if many == 1 else f"{many:,} {thing}s"
