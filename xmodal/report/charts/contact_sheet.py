"""Sample images of a corpus as a contact sheet in PNG, or as coloured half-block characters for a terminal."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from xmodal.data.decode.thumbnail import thumbnail
from xmodal.data.index.survey import SurveyExample
from xmodal.formatting import clean_text

COLUMNS, TILE_SIZE, GAP, MARGIN = 6, 200, 20, 32  # the last three in pixels
CAPTION_LINES, TEXT_SIZE, HEADING_SIZE = 3, 15, 22
PAPER_COLOR, TEXT_COLOR, KEY_COLOR, BORDER_COLOR = "#ffffff", "#17171a", "#7a7973", "#e3e2dd"
FONT_FILES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf")  # they cover more scripts than Pillow's own font
TERMINAL_TILE = 24  # columns of a terminal that one image takes
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(examples: Sequence[SurveyExample], heading: str) -> bytes:
    """Return a PNG with the images in rows of six, each above its key and up to three lines of its caption."""
    font, heading_font, line_height = _load_font(TEXT_SIZE), _load_font(HEADING_SIZE), TEXT_SIZE + 5
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [_label_lines(draw, example, font) for example in examples]
    top = MARGIN + HEADING_SIZE + 14
    row_height = TILE_SIZE + 8 + line_height * max(map(len, labels), default=0) + GAP
    width = 2 * MARGIN + COLUMNS * TILE_SIZE + (COLUMNS - 1) * GAP
    sheet = Image.new("RGB", (width, top + -(-len(examples) // COLUMNS) * row_height + MARGIN - GAP), PAPER_COLOR)
    draw = ImageDraw.Draw(sheet)
    title = _shorten(draw, clean_text(heading, 300), heading_font, width - 2 * MARGIN)
    draw.text((MARGIN, MARGIN - 8), title, TEXT_COLOR, heading_font)
    for k, example in enumerate(examples):
        x, y = MARGIN + (k % COLUMNS) * (TILE_SIZE + GAP), top + (k // COLUMNS) * row_height
        if example.encoded is not None:
            sheet.paste(Image.fromarray(thumbnail(example.encoded, TILE_SIZE)), (x, y))
        draw.rectangle((x - 1, y - 1, x + TILE_SIZE, y + TILE_SIZE), outline=BORDER_COLOR)
        for number, line in enumerate(labels[k]):
            color = TEXT_COLOR if number else KEY_COLOR
            draw.text((x, y + TILE_SIZE + 6 + number * line_height), line, color, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _label_lines(draw: ImageDraw.ImageDraw, example: SurveyExample, font: Font) -> list[str]:
    """Return the key and the lines of the caption, each no wider than a tile."""
    lines = [clean_text(example.key, 60), *_wrap(draw, clean_text(example.caption, 200), font)]
    return [_shorten(draw, line, font, TILE_SIZE) for line in lines]


def _load_font(size: int) -> Font:
    for name in FONT_FILES:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: Font) -> list[str]:
    """Break text into at most CAPTION_LINES lines that fit a tile; the last line takes all that is left."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == CAPTION_LINES or draw.textlength(longer, font) <= TILE_SIZE):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """Cut text to `width` pixels, with an ellipsis where something was cut."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def terminal_grid(examples: Sequence[SurveyExample], columns: int) -> Iterator[str]:
    """Yield lines for a terminal `columns` wide: images side by side, each above its caption."""
    per_row = max(1, (columns + 1) // (TERMINAL_TILE + 1))
    for start in range(0, len(examples), per_row):
        row = examples[start : start + per_row]
        images = [half_blocks(_terminal_thumbnail(example)) for example in row]
        yield from (" ".join(lines) for lines in zip(*images, strict=True))
        captions = [clean_text(example.caption or example.key, TERMINAL_TILE * 2)[:TERMINAL_TILE] for example in row]
        yield " ".join(f"{caption:{TERMINAL_TILE}}" for caption in captions)
        yield ""


def _terminal_thumbnail(example: SurveyExample) -> UInt8[np.ndarray, "S S 3"]:
    """Return the image in TERMINAL_TILE x TERMINAL_TILE pixels; white where there is none."""
    if example.encoded is None:
        return np.full((TERMINAL_TILE, TERMINAL_TILE, 3), 255, np.uint8)
    return thumbnail(example.encoded, TERMINAL_TILE)


def half_blocks(pixels: UInt8[np.ndarray, "H W 3"]) -> list[str]:
    """Return H/2 lines of W characters with ANSI colours.

    Each character is an upper half block in the colour of one pixel, on the colour of the pixel below it.
    """
    lines = []
    for upper_row, lower_row in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]};48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper_row.tolist(), lower_row.tolist(), strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return lines
