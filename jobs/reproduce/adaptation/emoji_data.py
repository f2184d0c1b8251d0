"""Read icons and two vendors' emoji as image descriptors and tokenised captions of a source and a target domain.

The source has pairs: icons, and Noto's emoji with name and keywords. The target is OpenMoji's images of the same
concepts, unpaired. A hundred train concepts of Noto are held out to measure the source; the 300 test concepts are in no
training data of either vendor.

Every image is described by fixed histograms of oriented gradients and colours (`xmodal.encoders.hog`), and so are some
shifted and rotated views of it: a trial then takes a minute, not an hour.
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

from jobs.bench.icon_shards import query_text, training_captions
from jobs.bench.tar_members import sample_members
from jobs.reproduce.row_batches import Fields
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.encoders.hog import HogConfig, HogModel

HOG = HogConfig()
HELD_OUT_CONCEPTS, LENGTH, VOCABULARY = 100, 32, 4096  # LENGTH: tokens of a caption
VIEWS = {"icons": 2, "emoji": 6}  # of an image; the first is the image as it is
SHIFT, ROTATION, STRETCH = 0.08, 0.2, 0.12  # the largest: share of the side, radians, share of the size
SEED = 0  # of the views
ROWS_PER_BATCH = 256


def read(root: Path, rows: int | None) -> dict[str, Fields]:
    """Return the parts `icons/train`, `noto/train`, `noto/held`, `noto/test`, `openmoji/train`, `openmoji/test`.

    `views` float16 [N, V, F]; `captions` int16 [N, C, L] to train on; `query` int16 [N, L]: the name and all keywords.
    Rows of both vendors are in the same order of concepts. `rows` bounds the icons, and each set of emoji.
    """
    emoji = {f"{vendor}/{split}": _emoji(f"{root}/emoji/{vendor}/{split}-*.tar")
             for vendor in ("noto", "openmoji") for split in ("train", "test")}  # fmt: skip
    icons = [(row["image"], [row["caption"]], row["caption"]) for row in sample_members(f"{root}/icons/train.parquet")]
    train_concepts = len(emoji["noto/train"]) - min(HELD_OUT_CONCEPTS, len(emoji["noto/train"]) // 4)
    parts = {
        "icons/train": icons[:rows],
        "noto/train": emoji["noto/train"][:train_concepts][:rows],
        "noto/held": emoji["noto/train"][train_concepts:][:rows],
        "noto/test": emoji["noto/test"][:rows],
        "openmoji/train": emoji["openmoji/train"][:train_concepts][:rows],
        "openmoji/test": emoji["openmoji/test"][:rows],
    }
    samples_with_captions = parts["icons/train"] + parts["noto/train"]
    captions = [caption for _, training_captions, _ in samples_with_captions for caption in training_captions]
    tokenizer = Tokenizer.from_str(train_tokenizer(captions, VOCABULARY))
    tokenizer.no_padding()
    return {name: _fields(samples, tokenizer, VIEWS[_kind(name)]) for name, samples in parts.items()}


def _kind(part: str) -> str:
    return "icons" if part.startswith("icons") else "emoji"


def _emoji(uri: str) -> list[tuple[bytes, list[str], str]]:
    """Return image, training captions and query of every concept, in an order that is the same for both vendors."""
    concepts = []
    for sample in sample_members(uri):
        annotation = json.loads(sample["json"])
        query = query_text(annotation["name"], annotation["keywords"])
        concepts.append((sample["png"], training_captions(annotation["name"], annotation["keywords"]), query))
    return sorted(concepts, key=lambda sample: hashlib.sha256(sample[2].encode()).digest())


def _fields(samples: Sequence[tuple[object, list[str], str]], tokenizer: Tokenizer, views: int) -> Fields:
    images = torch.from_numpy(np.stack([_decode_image(image) for image, _, _ in samples]))
    captions = torch.stack([torch.stack([_tokens(tokenizer, caption) for caption in texts]) for _, texts, _ in samples])
    queries = torch.stack([_tokens(tokenizer, query) for _, _, query in samples])
    return {"views": torch.cat([*_describe(images, views)]), "captions": captions, "query": queries}


def _decode_image(cell: Any) -> np.ndarray:
    """Return the pixels of an encoded image, or of a Parquet cell that holds one."""
    encoded = cell["bytes"] if isinstance(cell, dict) else cell
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _tokens(tokenizer: Tokenizer, caption: str) -> Tensor:
    """Return token ids int16 [L], without begin and end; -1 is padding."""
    ids = tokenizer.encode(caption, add_special_tokens=False).ids[:LENGTH]
    return torch.tensor(ids + [-1] * (LENGTH - len(ids)), dtype=torch.int16)


@torch.no_grad()
def _describe(images: Tensor, views: int) -> Iterator[Tensor]:
    """Yield descriptors float16 [n, V, F] of batches of images [n, H, W, 3]; the first view is the image as it is."""
    model, generator = HogModel(HOG).eval(), torch.Generator().manual_seed(SEED)
    for batch in images.split(ROWS_PER_BATCH):
        pixels = batch.permute(0, 3, 1, 2).float() / 255
        augmented = [pixels, *(_random_affine(pixels, generator) for _ in range(views - 1))]
        yield torch.stack([model.describe(view) for view in augmented], 1).half()


def _random_affine(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return images shifted, rotated and scaled at random; pixels outside are white."""
    count = len(pixels)
    angle, scale, shift_x, shift_y = (
        limit * (2 * torch.rand(count, generator=generator) - 1) for limit in (ROTATION, STRETCH, 2 * SHIFT, 2 * SHIFT)
    )
    cos, sin = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pixels, grid, align_corners=False)
