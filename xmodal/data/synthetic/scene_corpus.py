"""From (domain, rows, seed) to samples, and to a corpus of shards in storage."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import cv2
import numpy as np

from xmodal import storage
from xmodal.data.formats.pair_shards import FORMATS, Sample
from xmodal.data.synthetic.photo import photo
from xmodal.data.synthetic.scene_captions import captions
from xmodal.data.synthetic.scene_graph import Scene, scene
from xmodal.data.synthetic.sketch import sketch
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions

DOMAINS = {"photo": photo, "sketch": sketch}
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


def draw(scene: Scene, domain: str = "photo", size: int = 96) -> np.ndarray:
    """The picture of a scene: uint8 RGB [size, size, 3]; both domains show the same things in the same places."""
    if domain not in DOMAINS:
        raise ConfigError(f"no domain {domain!r} to draw in; {nearest(domain, DOMAINS)}")
    if size < 16:
        raise ConfigError(f"size is {size}; a scene needs at least 16 pixels")
    return DOMAINS[domain](scene, size)


def samples(
    domain: str, rows: int, seed: int, *, start: int = 0, size: int = 96, captions_per_scene: int = 5
) -> Iterator[Sample]:
    """Rows `start` to `start + rows` of the endless corpus `seed`, in order.

    A sample is its key and its members: `jpg` (4:4:4, quality 92), `txt` (one caption), `json` (all captions, the
    domain and the scene graph). Ranges that do not meet share no row, so held-out pairs are another `start`.
    """
    for index in range(start, start + rows):
        one = scene(seed, index)
        yield f"{domain}-{index:08d}", _members(one, domain, size, captions_per_scene)


def _members(one: Scene, domain: str, size: int, captions_per_scene: int) -> dict[str, bytes]:
    texts = captions(one, one.seed, count=captions_per_scene)
    _, jpeg = cv2.imencode(".jpg", draw(one, domain, size)[..., ::-1], _JPEG)
    record = {"captions": texts, "domain": domain, "scene": asdict(one)}
    return {"jpg": jpeg.tobytes(), "txt": texts[0].encode(), "json": json.dumps(record).encode()}


def write_corpus(
    uri: str,
    domain: str,
    rows: int,
    seed: int,
    *,
    format: str = "tar",
    rows_per_shard: int = 1024,
    start: int = 0,
    size: int = 96,
    options: StorageOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `samples(...)` as shards `uri/DOMAIN-00000.tar` ...; the same arguments give the same bytes.

    Each shard appears whole or not at all. `progress` is told (rows written, rows in all) after each.
    """
    if format not in FORMATS:
        raise ConfigError(f"no shard format {format!r}; {nearest(format, FORMATS)}")
    if rows < 1 or rows_per_shard < 1:
        raise ConfigError(f"rows ({rows}) and rows_per_shard ({rows_per_shard}) must be at least 1")
    for number, first in enumerate(range(0, rows, rows_per_shard)):
        count = min(rows_per_shard, rows - first)
        shard = FORMATS[format](list(samples(domain, count, seed, start=start + first, size=size)))
        target = storage.join(uri, f"{domain}-{number:05d}.{format}")
        storage.write(target, shard, options=options or StorageOptions())
        if progress:
            progress(first + count, rows)
