"""A corpus of valid pairs with every kind of bad or odd sample among them, and the fault that each must get."""

import functools
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

VALID_SAMPLES = 150
SHARDS = 3
SIDE = 40


@dataclass(frozen=True)
class Sample:
    """One pair as bytes (None: missing), its image's extension, and the fault that it must get ("" for none)."""

    image: bytes | None
    text: bytes | None
    extension: str = "jpg"
    field: str = ""
    reason: str = ""


def random_image(seed: int) -> Image.Image:
    """Draw coloured rectangles, different for every seed."""
    rng = np.random.default_rng(seed)
    pixels = np.kron(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), np.ones((SIDE // 5, SIDE // 5, 1), np.uint8))
    return Image.fromarray(pixels)


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def valid_sample(seed: int) -> Sample:
    return Sample(encode(random_image(seed)), f"picture number {seed} of a series".encode())


@functools.cache
def bad_samples() -> dict[str, Sample]:
    """Return samples that cannot be delivered, by key."""
    whole = encode(random_image(1000), quality=95)
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")  # 400 megapixels in 50 kB
    assert len(bomb) < 100_000
    text = b"a caption"
    images = {
        "corrupt": (_flip_bytes(encode(random_image(1), "PNG")), "png", "decode_corrupt"),
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
    image = encode(random_image(2000))
    return {
        **{key: Sample(data, text, ext, "image", reason) for key, (data, ext, reason) in images.items()},
        **{key: Sample(image, caption, "jpg", "text", reason) for key, (caption, reason) in captions.items()},
        "no-text": Sample(image, None, "jpg", "text", "missing_member"),
        "no-image": Sample(None, text, "jpg", "image", "missing_member"),
    }


def odd_samples() -> dict[str, Sample]:
    """Return samples that look damaged and must be delivered, by key."""
    frames = [random_image(seed) for seed in range(3)]
    palette = random_image(5).quantize(8)
    deep = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    text = b"an odd picture"
    images = {
        "cmyk": (encode(random_image(3).convert("CMYK")), "jpg"),
        "16-bit": (encode(Image.fromarray(deep), "PNG"), "png"),
        "animated-gif": (encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "gif"),
        "animated-webp": (encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "webp"),
        "palette-alpha": (encode(palette, "PNG", transparency=0), "png"),
        "grey": (encode(random_image(4).convert("L")), "jpg"),
        "one-pixel": (encode(Image.new("RGB", (1, 1))), "jpg"),
    }
    captions = {
        "megabyte": "word " * 200_000,
        "megabyte-word": "w" * 1_000_000,
        "right-to-left": "\u202e\u0635\u0648\u0631\u0629 \u05ea\u05de\u05d5\u05e0\u05d4",
        "nul-inside": "before\0after \x1b[31mred",
        "emoji": "a \U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    }
    image = encode(random_image(6))
    return {
        **{key: Sample(data, text, extension) for key, (data, extension) in images.items()},
        **{key: Sample(image, caption.encode()) for key, caption in captions.items()},
    }


@functools.cache
def all_samples() -> dict[str, Sample]:
    """Return all samples, with the bad and odd ones spread among the valid ones."""
    special = list((bad_samples() | odd_samples()).items())
    mixed: dict[str, Sample] = {}
    for seed in range(VALID_SAMPLES):
        mixed[f"s{seed:04}"] = valid_sample(seed)
        if seed % 5 == 2 and special:
            mixed.update([special.pop()])
    assert not special
    return mixed


def write_tar(folder: Path, pairs: dict[str, Sample], shards: int = SHARDS) -> list[str]:
    """Write shards of the pairs in order, each of which ends with a repeated key; return the repeated keys."""
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
    """Write the pairs as Parquet in Hugging Face's layout; captions are declared as strings whatever they hold."""
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


def _flip_bytes(data: bytes) -> bytes:
    """Return the file with a run of wrong bytes in the middle of its pixels."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 16]) + data[middle + 16 :]
