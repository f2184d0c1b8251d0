"""Read one row of a listing as a sample: its key, the image's bytes, and the caption."""

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
from xmodal.data.decode.image_limits import ImageLimits
from xmodal.data.formats.pair_shards import PairSample
from xmodal.data.prepare.tables import CAPTION_NAMES
from xmodal.errors import BadSample, StorageError
from xmodal.storage import StorageOptions

FORMAT_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
MAX_CAPTION_BYTES = 1 << 20
_JPEG_QUALITY = 95  # of resized images only


def resolve_path(image: bytes, base: str) -> str:
    """Return the normalised path of an image below `base`; BadSample `outside_base` where it leads out of it.

    >>> resolve_path(b"./a/../b.jpg", "/data")
    'b.jpg'
    """
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
    """Return a 64-bit hash of path and caption (of the path alone where the caption is in a file of its own)."""
    digest = hashlib.sha256(path.encode() + b"\0" + (caption or b"")).digest()
    return int.from_bytes(digest[:8], "big")


def pair_key(path: str, caption: bytes | None) -> str:
    """Return a unique key for a pair that is safe in a tar and depends on its path and caption alone.

    >>> pair_key("a/b.jpg", b"a red boat")
    'a_b-95009767041d8b7c'
    """
    slug = re.sub(r"[^A-Za-z0-9_-]+", "_", posixpath.splitext(path)[0]).strip("_")[-60:]
    return f"{slug or 'image'}-{pair_hash(path, caption):016x}"


def read_pair(
    row: dict[str, Any], base: str, *, caption_key: str | None, resize: int | None, options: StorageOptions
) -> PairSample:
    """Read and check one row of a listing; BadSample where it cannot be used.

    The image keeps its bytes, unless `resize` is given (the longest allowed short side in pixels). `caption_key` is the
    key of the caption in a JSON file; None means one of the usual names.
    """
    path = resolve_path(row["image"], base)
    text = row["caption"]
    if row["sidecar"] is not None:
        text = _read(base, row["sidecar"], options)
        if row["sidecar"].endswith(".json"):
            text = _caption_in_json(text, caption_key)
    caption = check_caption(text)
    encoded = _read(base, path, options)
    extension = image_extension(encoded, ImageLimits())
    if resize is not None:
        extension, encoded = _resize(extension, encoded, resize)
    return pair_key(path, row["caption"]), {extension: encoded, "txt": caption.encode()}


def _read(base: str, path: str, options: StorageOptions) -> bytes:
    try:
        return storage.read(storage.join(base, path), options=options)
    except storage.NotFound as cause:
        raise BadSample("missing_file", path) from cause
    except StorageError as cause:
        if base.startswith("s3://"):  # the whole storage may be unavailable, which must stop the run
            raise
        raise BadSample("unreadable", str(cause)) from cause


def check_caption(text: bytes) -> str:
    """Return the caption without surrounding white space; BadSample `bad_utf8`, `no_caption` or `too_large`."""
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
        content = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadSample("bad_json", str(cause)) from cause
    names = [key] if key else CAPTION_NAMES
    captions = [content[name] for name in names if name in content] if isinstance(content, dict) else [content]
    if not captions or not isinstance(captions[0], str):
        raise BadSample("no_caption", f"no text under {', '.join(names)}")
    return captions[0].encode(errors="surrogatepass")


def image_extension(encoded: bytes, limits: ImageLimits) -> str:
    """Return the extension of an image's format (`jpg` and so on), from its header alone.

    BadSample `not_an_image`, `too_large`, `bad_aspect`.
    """
    limits.check_bytes(encoded)
    header = jpeg.read_header(encoded) if encoded[:2] == b"\xff\xd8" else None
    if header:
        limits.check_size(header.width, header.height)
        return "jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked by our own limits
        try:
            image = Image.open(io.BytesIO(encoded), formats=tuple(FORMAT_EXTENSIONS))
        except Image.DecompressionBombError as cause:
            raise BadSample("too_large", str(cause)) from cause
        except UnidentifiedImageError as cause:
            raise BadSample("not_an_image", f"begins with {encoded[:16]!r}") from cause
        except Exception as cause:  # Pillow's parsers may raise any exception on hostile headers
            raise BadSample("not_an_image", f"header: {cause}") from cause
    limits.check_size(*image.size)
    return FORMAT_EXTENSIONS.get(str(image.format), "jpg")  # a JPEG of several pictures calls itself MPO


def _resize(extension: str, encoded: bytes, short_side: int) -> tuple[str, bytes]:
    """Return the extension and bytes of an image, as JPEG whose short side is `short_side` if it was larger."""
    width, height = Image.open(io.BytesIO(encoded)).size
    if min(width, height) <= short_side:
        return extension, encoded
    image = Image.fromarray(pillow.decode(encoded, ImageLimits()))
    scale = short_side / min(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "jpg", out.getvalue()
