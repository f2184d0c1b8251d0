"""One listed row comes in, one sample of a shard goes out: key, image bytes as they are, caption; or BadSample."""

import hashlib
import io
import json
import posixpath
import re
import warnings
from typing import Any

from PIL import Image, UnidentifiedImageError

from xmodal import storage
from xmodal.data.decode import jpeg, pillow
from xmodal.data.decode.image_limits import Limits
from xmodal.data.formats.pair_shards import Sample
from xmodal.data.prepare.tables import CAPTION_NAMES
from xmodal.errors import BadSample, StorageError
from xmodal.storage import StorageOptions

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
MAX_CAPTION_BYTES = 1 << 20
_JPEG_QUALITY = 95  # of resized images only


def locate(image: bytes, base: str) -> str:
    """The path of an image below `base`, in its shortest form; BadSample `outside_base` where it leads out of it."""
    try:
        path = image.decode().strip()
    except UnicodeDecodeError as cause:
        raise BadSample("bad_utf8", f"image path: {cause}") from cause
    folder = base.removesuffix("/") + "/"
    inside = posixpath.normpath(path.removeprefix(folder).removeprefix("file://"))
    if not path or inside == ".":
        raise BadSample("missing_file", "the image path is empty")
    if re.match(r"[a-z][a-z0-9+.-]*://", path) and not path.startswith(folder):
        raise BadSample("outside_base", f"a URL elsewhere than {base}; fetch it first")
    if inside.startswith(("/", "../")) or inside == ".." or "\0" in inside:
        raise BadSample("outside_base", f"not below {base}")
    return inside


def pair_hash(path: str, caption: bytes | None) -> int:
    """64 bits that name the pair of this path and caption (the path alone where a sidecar holds the caption)."""
    digest = hashlib.sha256(path.encode() + b"\0" + (caption or b"")).digest()
    return int.from_bytes(digest[:8], "big")


def key_of(path: str, caption: bytes | None) -> str:
    """A name for the pair that is safe in a tar, unique, and depends on nothing but its path and caption."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", posixpath.splitext(path)[0]).strip("_")[-60:]
    return f"{slug or 'image'}-{pair_hash(path, caption):016x}"


def take(
    row: dict[str, Any], base: str, *, caption_key: str | None, resize: int | None, options: StorageOptions
) -> Sample:
    """Read and check one row of a listing. The image is decoded only to be resized."""
    path = locate(row["image"], base)
    text = row["caption"]
    if row["sidecar"] is not None:
        text = _read(base, row["sidecar"], options)
        if row["sidecar"].endswith(".json"):
            text = _caption_in_json(text, caption_key)
    caption = check_caption(text)
    encoded = _read(base, path, options)
    extension = image_kind(encoded, Limits())
    if resize is not None:
        extension, encoded = _resized(extension, encoded, resize)
    return key_of(path, row["caption"]), {extension: encoded, "txt": caption.encode()}


def _read(base: str, path: str, options: StorageOptions) -> bytes:
    try:
        return storage.read(storage.join(base, path), options=options)
    except storage.NotFound as cause:
        raise BadSample("missing_file", path) from cause
    except StorageError as cause:
        if base.startswith("s3://"):  # the whole store may be away: that must stop the run
            raise
        raise BadSample("unreadable", str(cause)) from cause


def check_caption(text: bytes) -> str:
    """The caption without surrounding white space; BadSample `bad_utf8`, `no_caption` or `too_large`."""
    if len(text) > MAX_CAPTION_BYTES:
        raise BadSample("too_large", f"caption of {len(text)} bytes, limit {MAX_CAPTION_BYTES}")
    try:
        caption = text.decode("utf-8-sig").strip()
    except UnicodeDecodeError as cause:
        raise BadSample("bad_utf8", f"caption: {cause.reason} at byte {cause.start}") from cause
    if not caption:
        raise BadSample("no_caption", "the caption is empty")
    return caption


def _caption_in_json(text: bytes, key: str | None) -> bytes:
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadSample("bad_json", str(cause)) from cause
    names = [key] if key else CAPTION_NAMES
    found = [held[name] for name in names if name in held] if isinstance(held, dict) else [held]
    if not found or not isinstance(found[0], str):
        raise BadSample("no_caption", f"no text under {', '.join(names)}")
    return found[0].encode(errors="surrogatepass")


def image_kind(encoded: bytes, limits: Limits) -> str:
    """The extension by content, `jpg` and so on, from the header alone.

    BadSample `not_an_image`, `too_large`, `bad_aspect`.
    """
    limits.check_bytes(encoded)
    header = jpeg.read_header(encoded) if encoded[:2] == b"\xff\xd8" else None
    if header:
        limits.check_size(header.width, header.height)
        return "jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are judged by our own limits
        try:
            picture = Image.open(io.BytesIO(encoded), formats=tuple(EXTENSIONS))
        except Image.DecompressionBombError as cause:
            raise BadSample("too_large", str(cause)) from cause
        except UnidentifiedImageError as cause:
            raise BadSample("not_an_image", f"begins with {encoded[:16]!r}") from cause
        except Exception as cause:  # Pillow's parsers let any exception escape on hostile headers
            raise BadSample("not_an_image", f"header: {cause}") from cause
    limits.check_size(*picture.size)
    return EXTENSIONS.get(str(picture.format), "jpg")  # a JPEG of several pictures calls itself MPO


def _resized(extension: str, encoded: bytes, short_side: int) -> tuple[str, bytes]:
    """The image shrunk to `short_side` as JPEG; one that is small enough keeps its bytes."""
    width, height = Image.open(io.BytesIO(encoded)).size
    if min(width, height) <= short_side:
        return extension, encoded
    picture = Image.fromarray(pillow.decode(encoded, Limits()))
    scale = short_side / min(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "jpg", out.getvalue()
