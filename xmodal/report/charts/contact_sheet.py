"""Sample rows of a corpus in; a contact sheet as PNG, or half-block characters for a terminal with colours, out."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.survey import Example
from xmodal.formatting import clean

COLUMNS, TILE, GAP, MARGIN = 6, 200, 20, 32  # pixels
CAPTION_LINES, TYPE, HEADING = 3, 15, 22
PAPER, INK, QUIET, HAIR = "#ffffff", "#17171a", "#7a7973", "#e3e2dd"
FACES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")  # where there is one, more scripts are readable
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
CELL = 24  # columns of a terminal that a picture takes


def contact_sheet(examples: Sequence[Example], heading: str) -> bytes:
    """A PNG: the pictures in rows of six, each with its key and up to three lines of its caption."""
    type_, big, line = _font(TYPE), _font(HEADING), TYPE + 5
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    words = [_words(pen, example, type_) for example in examples]
    top = MARGIN + HEADING + 14
    high = TILE + 8 + line * max(map(len, words), default=0) + GAP
    width = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP
    sheet = Image.new("RGB", (width, top + -(-len(examples) // COLUMNS) * high + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 8), _fitting(pen, clean(heading, 300), big, width - 2 * MARGIN), INK, big)
    for place, example in enumerate(examples):
        x, y = MARGIN + (place % COLUMNS) * (TILE + GAP), top + (place // COLUMNS) * high
        if example.encoded is not None:
            sheet.paste(Image.fromarray(thumbnail(example.encoded, TILE)), (x, y))
        pen.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline=HAIR)
        for number, text in enumerate(words[place]):
            pen.text((x, y + TILE + 6 + number * line), text, INK if number else QUIET, type_)
    target = io.BytesIO()
    sheet.save(target, "PNG", optimize=True)
    return target.getvalue()


def _words(pen: ImageDraw.ImageDraw, example: Example, font: Font) -> list[str]:
    """The key, then the lines of the caption, each as wide as a tile at most."""
    lines = [clean(example.key, 60), *_wrapped(pen, clean(example.caption, 200), font)]
    return [_fitting(pen, text, font, TILE) for text in lines]


def _font(size: int) -> Font:
    for face in FACES:
        try:
            return ImageFont.truetype(face, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _wrapped(pen: ImageDraw.ImageDraw, words: str, font: Font) -> list[str]:
    """Up to CAPTION_LINES lines that fit a tile; the last one takes what is left, to be shortened."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == CAPTION_LINES or pen.textlength(longer, font) <= TILE):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitting(pen: ImageDraw.ImageDraw, words: str, font: Font, width: int) -> str:
    if pen.textlength(words, font) <= width:
        return words
    while words and pen.textlength(f"{words}…", font) > width:
        words = words[:-1]
    return f"{words.rstrip()}…"


def terminal_grid(examples: Sequence[Example], columns: int) -> Iterator[str]:
    """Lines for a terminal `columns` wide: pictures of CELL columns beside each other, a caption below each."""
    across = max(1, (columns + 1) // (CELL + 1))
    for start in range(0, len(examples), across):
        part = examples[start : start + across]
        pictures = [half_blocks(_pixels(example)) for example in part]
        yield from (" ".join(row) for row in zip(*pictures, strict=True))
        yield " ".join(f"{clean(example.caption or example.key, CELL * 2)[:CELL]:{CELL}}" for example in part)
        yield ""


def _pixels(example: Example) -> UInt8[np.ndarray, "S S 3"]:
    if example.encoded is None:
        return np.full((CELL, CELL, 3), 255, np.uint8)
    return thumbnail(example.encoded, CELL)


def half_blocks(pixels: UInt8[np.ndarray, "H W 3"]) -> list[str]:
    """H/2 lines of W characters: each upper half block has the colour of one pixel on that of the pixel below."""
    lines = []
    for above, below in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(above.tolist(), below.tolist(), strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return lines
