"""A corpus of sound pairs with every kind of bad or odd sample among them, and what has to become of each."""

import functools
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SOUND = 150
SHARDS = 3
SIDE = 40


@dataclass(frozen=True)
class Sample:
    """One pair as bytes (None: not there), its image's extension, and the fault it must get ("" for none)."""

    image: bytes | None
    text: bytes | None
    extension: str = "jpg"
    field: str = ""
    reason: str = ""


def picture(seed: int) -> Image.Image:
    """Coloured rectangles, different for every seed."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), np.ones((SIDE // 5, SIDE // 5, 1), np.uint8))
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def sound(seed: int) -> Sample:
    return Sample(encode(picture(seed)), f"picture number {seed} of a series".encode())


@functools.cache
def bad() -> dict[str, Sample]:
    """Samples that cannot be delivered, by key."""
    whole = encode(picture(1000), quality=95)
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")  # 400 megapixels in 50 kB
    assert len(bomb) < 100_000
    text = b"a caption"
    images = {
        "corrupt": (_flipped(encode(picture(1), "PNG")), "png", "decode_corrupt"),
        "truncated": (whole[: len(whole) // 2], "jpg", "decode_truncated"),
        "no-image-but-html": (b"<html>404 not found</html>", "jpg", "not_an_image"),
        "zero-bytes": (b"", "jpg", "not_an_image"),
        "bomb": (bomb, "png", "too_large"),
        "thread": (encode(Image.new("RGB", (4000, 4))), "jpg", "bad_aspect"),
    }
    captions = {
        "empty": (b"", "no_caption"),
        "white-space": (b" \n\t ", "no_caption"),
        "only-nul": (b"\0\0\0", "no_caption"),
        "latin-1": ("caf\u00e9".encode("latin-1"), "bad_utf8"),
        "utf-16": ("two bytes".encode("utf-16"), "bad_utf8"),
    }
    image = encode(picture(2000))
    return {
        **{key: Sample(data, text, ext, "image", reason) for key, (data, ext, reason) in images.items()},
        **{key: Sample(image, caption, "jpg", "text", reason) for key, (caption, reason) in captions.items()},
        "no-text": Sample(image, None, "jpg", "text", "missing_member"),
        "no-image": Sample(None, text, "jpg", "image", "missing_member"),
    }


def odd() -> dict[str, Sample]:
    """Samples that look hostile and must be delivered."""
    frames = [picture(seed) for seed in range(3)]
    palette = picture(5).quantize(8)
    deep = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    text = b"an odd picture"
    images = {
        "cmyk": (encode(picture(3).convert("CMYK")), "jpg"),
        "16-bit": (encode(Image.fromarray(deep), "PNG"), "png"),
        "animated-gif": (encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "gif"),
        "animated-webp": (encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "webp"),
        "palette-alpha": (encode(palette, "PNG", transparency=0), "png"),
        "grey": (encode(picture(4).convert("L")), "jpg"),
        "one-pixel": (encode(Image.new("RGB", (1, 1))), "jpg"),
    }
    captions = {
        "megabyte": "word " * 200_000,
        "megabyte-word": "w" * 1_000_000,
        "right-to-left": "\u202e\u0635\u0648\u0631\u0629 \u05ea\u05de\u05d5\u05e0\u05d4",
        "nul-inside": "before\0after \x1b[31mred",
        "emoji": "a \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    }
    image = encode(picture(6))
    return {
        **{key: Sample(data, text, extension) for key, (data, extension) in images.items()},
        **{key: Sample(image, caption.encode()) for key, caption in captions.items()},
    }


@functools.cache
def samples() -> dict[str, Sample]:
    """All of them, the nasty ones spread among the sound ones."""
    nasty = list((bad() | odd()).items())
    found: dict[str, Sample] = {}
    for seed in range(SOUND):
        found[f"s{seed:04}"] = sound(seed)
        if seed % 5 == 2 and nasty:
            found.update([nasty.pop()])
    assert not nasty
    return found


def write_tar(folder: Path, pairs: dict[str, Sample], shards: int = SHARDS) -> list[str]:
    """Shards of the pairs in order; every shard ends with a repeated key. Returns the keys that come twice."""
    folder.mkdir()
    repeated = []
    for number, keys in enumerate(_parts(list(pairs), shards)):
        with tarfile.open(folder / f"{number:02}.tar", "w") as tar:
            for key in [*keys, keys[0]]:
                _add(tar, key, pairs[key])
        repeated.append(keys[0])
    return repeated


def _add(tar: tarfile.TarFile, key: str, pair: Sample) -> None:
    for extension, data in ((pair.extension, pair.image), ("txt", pair.text)):
        if data is not None:
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_parquet(folder: Path, pairs: dict[str, Sample], shards: int = SHARDS) -> None:
    """The same pairs as Parquet in Hugging Face's layout; captions are declared as strings whatever they hold."""
    folder.mkdir()
    for number, keys in enumerate(_parts(list(pairs), shards)):
        texts = pa.array([pairs[key].text for key in keys], pa.binary()).view(pa.string())
        images = [None if pairs[key].image is None else {"bytes": pairs[key].image, "path": key} for key in keys]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"key": keys, "image": pa.array(images, kind), "text": texts})
        pq.write_table(table, folder / f"{number:02}.parquet", row_group_size=20)


def _parts(keys: list[str], number: int) -> list[list[str]]:
    size = -(-len(keys) // number)
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _flipped(data: bytes) -> bytes:
    """The same file with a run of wrong bytes in the middle of its pixels."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 16]) + data[middle + 16 :]
