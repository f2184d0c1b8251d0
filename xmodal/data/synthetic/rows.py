"""From (domain, rows, seed) to samples of a corpus: keys and encoded members."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import cv2
import numpy as np

from xmodal.data.synthetic.graph import Scene, scene
from xmodal.data.synthetic.photo import photo
from xmodal.data.synthetic.sketch import sketch
from xmodal.data.synthetic.wording import captions
from xmodal.errors import ConfigError, nearest

DOMAINS = {"photo": photo, "sketch": sketch}
Sample = tuple[str, dict[str, bytes]]
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
