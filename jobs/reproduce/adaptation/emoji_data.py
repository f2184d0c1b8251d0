"""Icons and two vendors' emoji in; described pictures and tokenised captions of a source and a target domain out.

The source has pairs: icons, and noto's emoji with name and keywords. The target is openmoji's pictures of the same
concepts, unpaired. A hundred train concepts of noto are held back to watch the source; the 300 test concepts are in no
training data of either vendor.

Every picture is described by fixed histograms of oriented gradients and colours (`xmodal.encoders.hog`), of itself and
of some moved and turned views of it, so that a trial costs a minute and not an hour.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from jobs.bench.icon_shards import query, training_captions
from jobs.reproduce.tar_members import members
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.encoders.hog import HogConfig, HogModel

Fields = dict[str, Tensor]
HOG = HogConfig()
NEEDS = {
    "icons/train.parquet": "columns image and caption",
    "emoji/noto/*.tar": "members png, and json with name and keywords",
    "emoji/openmoji/*.tar": "the same",
}
HELD, LENGTH, VOCABULARY = 100, 32, 4096  # concepts, tokens of a caption, tokens in all
VIEWS = {"icons": 2, "emoji": 6}  # the first is the picture as it is
SHIFT, TURN, STRETCH = 0.08, 0.2, 0.12  # of the side, radians, of the size
SEED = 0
AT_ONCE = 256


def read(root: Path, rows: int | None) -> dict[str, Fields]:
    """Parts `icons/train`, `noto/train`, `noto/held`, `noto/test`, `openmoji/train`, `openmoji/test`.

    `views` float16 [N, V, F]; `captions` int16 [N, C, L] to train on; `query` int16 [N, L]: the name and all keywords.
    Both vendors' rows stand in the order of the concepts. `rows` bounds the icons, and each set of emoji.
    """
    emoji = {f"{vendor}/{split}": _emoji(f"{root}/emoji/{vendor}/{split}-*.tar")
             for vendor in ("noto", "openmoji") for split in ("train", "test")}  # fmt: skip
    icons = [(one["image"], [one["caption"]], one["caption"]) for one in members(f"{root}/icons/train.parquet")]
    held = len(emoji["noto/train"]) - min(HELD, len(emoji["noto/train"]) // 4)
    parts = {
        "icons/train": icons[:rows],
        "noto/train": emoji["noto/train"][:held][:rows],
        "noto/held": emoji["noto/train"][held:][:rows],
        "noto/test": emoji["noto/test"][:rows],
        "openmoji/train": emoji["openmoji/train"][:held][:rows],
        "openmoji/test": emoji["openmoji/test"][:rows],
    }
    known = [
        caption for name in ("icons/train", "noto/train") for _, captions, _ in parts[name] for caption in captions
    ]
    tokenizer = Tokenizer.from_str(train_tokenizer(known, VOCABULARY))
    tokenizer.no_padding()
    return {name: _fields(samples, tokenizer, VIEWS[_kind(name)]) for name, samples in parts.items()}


def _kind(part: str) -> str:
    return "icons" if part.startswith("icons") else "emoji"


def _emoji(uri: str) -> list[tuple[bytes, list[str], str]]:
    """Picture, captions to train on, and query of every concept, in an order that is the same for both vendors."""
    found = []
    for one in members(uri):
        said = json.loads(one["json"])
        whole = query(said["name"], said["keywords"])
        found.append((one["png"], training_captions(said["name"], said["keywords"]), whole))
    return sorted(found, key=lambda sample: hashlib.sha256(sample[2].encode()).digest())


def _fields(samples: Sequence[tuple[Any, list[str], str]], tokenizer: Tokenizer, views: int) -> Fields:
    pictures = torch.from_numpy(np.stack([_pixels(picture) for picture, _, _ in samples]))
    captions = torch.stack([torch.stack([_tokens(tokenizer, one) for one in said]) for _, said, _ in samples])
    queries = torch.stack([_tokens(tokenizer, asked) for _, _, asked in samples])
    return {"views": torch.cat([*_described(pictures, views)]), "captions": captions, "query": queries}


def _pixels(picture: Any) -> np.ndarray:
    data = picture["bytes"] if isinstance(picture, dict) else picture
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _tokens(tokenizer: Tokenizer, caption: str) -> Tensor:
    """int16 [L], without begin and end; -1 is padding."""
    known = tokenizer.encode(caption, add_special_tokens=False).ids[:LENGTH]
    return torch.tensor(known + [-1] * (LENGTH - len(known)), dtype=torch.int16)


@torch.no_grad()
def _described(pictures: Tensor, views: int) -> Iterator[Tensor]:
    """float16 [n, V, F] of some pictures [n, H, W, 3] at a time."""
    model, draw = HogModel(HOG).eval(), torch.Generator().manual_seed(SEED)
    for part in pictures.split(AT_ONCE):
        pixels = part.permute(0, 3, 1, 2).float() / 255
        shown = [pixels, *(_moved(pixels, draw) for _ in range(views - 1))]
        yield torch.stack([model.describe(one) for one in shown], 1).half()


def _moved(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Each picture shifted, turned and stretched by a little, white around it."""
    count = len(pixels)
    turn, size, across, down = (
        limit * (2 * torch.rand(count, generator=draw) - 1) for limit in (TURN, STRETCH, 2 * SHIFT, 2 * SHIFT)
    )
    cos, sin = torch.cos(turn) * (1 + size), torch.sin(turn) * (1 + size)
    affine = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pixels, grid, align_corners=False)
