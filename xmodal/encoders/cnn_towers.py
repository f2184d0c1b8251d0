"""Towers with convolutional or fixed image features: two small ones for little data, and ResNet-50 + BERT."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, ResNetConfig, ResNetModel

from xmodal.encoders.bag_of_tokens import BagConfig, BagModel
from xmodal.encoders.clip import check_eos
from xmodal.encoders.hog import HogConfig, HogModel
from xmodal.encoders.inputs import ImageInput, TextInput
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError


def conv_towers(
    *,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    image_size: int,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    text_width: int,
    text_depth: int,
    text_heads: int,
    context: int,
    dim: int,
    grid: int = 1,
) -> dict[str, Tower]:
    """Build a small residual network and CLIP's text transformer.

    The network has `hidden_sizes` channels and `depths` blocks per stage. Convolutions learn from thousands of pairs
    where a vision transformer needs millions. `grid=4` keeps the features of 4 x 4 parts of the image apart: better for
    drawings whose layout is a convention. `text_depth=0` replaces the transformer by the mean of the tokens and one
    hidden layer: better for a few thousand captions of a few words, whose order says little.
    """
    special = {"vocab_size": vocab_size, "bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id}
    _check_grid(grid, image_size, len(hidden_sizes))
    image = ConvModel(ConvConfig(hidden_sizes=list(hidden_sizes), depths=list(depths), grid=grid))
    text = _text_tower(special, width=text_width, depth=text_depth, heads=text_heads, context=context, dim=dim)
    return {
        "image": Tower.with_head(ImageInput("image", size=image_size), image, dim, pooling="pooler", bias=False),
        "text": text,
    }


def hog_towers(
    *,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    image_size: int = 64,
    grids: Sequence[int] = (8, 16),
    hidden_size: int = 1024,
    dropout: float = 0.5,
    text_width: int = 256,
    text_depth: int = 0,
    text_heads: int = 4,
    context: int = 32,
    dim: int = 256,
) -> dict[str, Tower]:
    """Build oriented gradients in cells of `grids`, colours, and one hidden layer on them; text as in `conv_towers`.

    The description of an image is not learned, so some thousand pairs are enough to learn what it has in common with
    captions.
    """
    if not 0 <= dropout < 1:
        raise ConfigError(f"dropout={dropout} must lie in [0, 1)")
    config = HogConfig(grids=list(grids), hidden_size=hidden_size, dropout=dropout)
    for cells in (*grids, config.thumbnail):
        if image_size % cells:
            raise ConfigError(
                f"image_size={image_size} is no multiple of {cells} cells: give one that is, or other grids"
            )
    special = {"vocab_size": vocab_size, "bos_id": bos_id, "eos_id": eos_id, "pad_id": pad_id}
    image_input = ImageInput("image", size=image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    text = _text_tower(special, width=text_width, depth=text_depth, heads=text_heads, context=context, dim=dim)
    return {"image": Tower.with_head(image_input, HogModel(config), dim, pooling="pooler", bias=False), "text": text}


def _text_tower(special: Mapping[str, int], *, width: int, depth: int, heads: int, context: int, dim: int) -> Tower:
    """Build CLIP's text transformer, or a bag of tokens if `depth` is 0."""
    check_eos(special["eos_id"], special["vocab_size"])
    ids: dict[str, Any] = {name.replace("_id", "_token_id"): number for name, number in special.items()}
    text: BagModel | CLIPTextModel
    if depth == 0:
        text = BagModel(BagConfig(**ids, hidden_size=width, intermediate_size=2 * width))
    else:
        text = CLIPTextModel(
            CLIPTextConfig(
                **ids,
                max_position_embeddings=context,
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                projection_dim=dim,
                hidden_act="gelu",
            )
        )
    text_input = TextInput("text", size=context, masked=depth == 0)
    return Tower.with_head(text_input, text, dim, pooling="pooler", bias=False)


def _check_grid(grid: int, image_size: int, stages: int) -> None:
    """Raise ConfigError if the grid's cells do not divide the last feature map."""
    side = -(-image_size // 2 ** (stages + 1))
    if grid < 1 or side % grid:
        raise ConfigError(f"grid={grid} does not divide the last map of {side} x {side}: give a divisor of {side}")


def resnet_bert_towers(
    *,
    vocab_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    image_size: int = 224,
    stem_size: int = 64,
    hidden_sizes: Sequence[int] = (256, 512, 1024, 2048),
    depths: Sequence[int] = (3, 4, 6, 3),
    text_width: int = 768,
    text_depth: int = 12,
    text_heads: int = 12,
    context: int = 77,
    dim: int = 256,
) -> dict[str, Tower]:
    """Build ResNet-50 (mean over positions) and BERT (first token), each with a linear head; no dropout, new weights.

    With pretrained weights it is the architecture `hub` of `microsoft/resnet-50` and `google-bert/bert-base-uncased`.
    ResNet normalises over the rows of a worker's batch, so padding rows and the chunk size affect its statistics.
    """
    image = ResNetConfig(embedding_size=stem_size, hidden_sizes=list(hidden_sizes), depths=list(depths))
    text = BertConfig(
        vocab_size=vocab_size,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
        pad_token_id=pad_id,
        max_position_embeddings=context,
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=text_depth,
        num_attention_heads=text_heads,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    image_input, text_input = ImageInput("image", size=image_size), TextInput("text", size=context, masked=True)
    return {
        "image": Tower.with_head(image_input, ResNetModel(image), dim, pooling="pooler", bias=True),
        "text": Tower.with_head(text_input, BertModel(text), dim, pooling="cls", bias=True),
    }
