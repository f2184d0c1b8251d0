"""Generate the samples of the procedural corpus, and write them as shards."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import cv2
import numpy as np

from xmodal import storage
from xmodal.data.formats.pair_shards import SHARD_BUILDERS, PairSample
from xmodal.data.synthetic.photo import draw_photo
from xmodal.data.synthetic.scene_captions import describe_scene
from xmodal.data.synthetic.scene_graph import Scene, make_scene
from xmodal.data.synthetic.sketch import draw_sketch
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions

DOMAINS = {"photo": draw_photo, "sketch": draw_sketch}
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


def draw_scene(scene: Scene, domain: str = "photo", size: int = 96) -> np.ndarray:
    """Draw a scene: uint8 RGB [size, size, 3]; both domains show the same things in the same positions.

    >>> draw_scene(make_scene(seed=0, index=0), "sketch", size=32).shape
    (32, 32, 3)
    """
    if domain not in DOMAINS:
        raise ConfigError(f"no domain {domain!r} to draw in; {nearest(domain, DOMAINS)}")
    if size < 16:
        raise ConfigError(f"size is {size}; a scene needs at least 16 pixels")
    return DOMAINS[domain](scene, size)


def scene_samples(
    domain: str, rows: int, seed: int, *, start: int = 0, size: int = 96, captions_per_scene: int = 5
) -> Iterator[PairSample]:
    """Yield the rows `start` to `start + rows - 1` of the endless corpus `seed`, in order.

    A sample is its key and its members: `jpg` (4:4:4, quality 92), `txt` (one caption), `json` (all captions, the
    domain and the scene graph). Ranges that do not overlap share no row, so another `start` gives held-out pairs.
    """
    for index in range(start, start + rows):
        scene = make_scene(seed, index)
        yield f"{domain}-{index:08d}", _members(scene, domain, size, captions_per_scene)


def _members(scene: Scene, domain: str, size: int, captions_per_scene: int) -> dict[str, bytes]:
    texts = describe_scene(scene, scene.seed, count=captions_per_scene)
    _, jpeg = cv2.imencode(".jpg", draw_scene(scene, domain, size)[..., ::-1], _JPEG)
    record = {"captions": texts, "domain": domain, "scene": asdict(scene)}
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
    """Write `scene_samples(...)` as shards `uri/DOMAIN-00000.tar` ...; equal arguments give equal bytes.

    Each shard is stored whole or not at all. `progress(rows written, rows in all)` is called after each.
    """
    if format not in SHARD_BUILDERS:
        raise ConfigError(f"no shard format {format!r}; {nearest(format, SHARD_BUILDERS)}")
    if rows < 1 or rows_per_shard < 1:
        raise ConfigError(f"rows ({rows}) and rows_per_shard ({rows_per_shard}) must be at least 1")
    for number, first in enumerate(range(0, rows, rows_per_shard)):
        count = min(rows_per_shard, rows - first)
        shard = SHARD_BUILDERS[format](list(scene_samples(domain, count, seed, start=start + first, size=size)))
        target = storage.join(uri, f"{domain}-{number:05d}.{format}")
        storage.write(target, shard, options=options or StorageOptions())
        if progress:
            progress(first + count, rows)
