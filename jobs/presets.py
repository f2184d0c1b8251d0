"""Named starting points of a pretraining run: a model with the batch, rate and precision that go with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.config.model import Model
from pipelines.config.optimizer import Optim
from xmodal.data.decode.augment import Augment


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One line for the help, and the three parts of a configuration that depend on the model."""

    summary: str
    model: Model
    optim: Optim
    augment: Augment = field(default_factory=Augment)


def _gpu(batch_size: int, learning_rate: float, *, weight_decay: float = 0.2) -> Optim:
    """The recipe of CLIP's large runs (Radford et al. 2021, table 19), which is meant for millions of pairs."""
    return Optim(batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, precision="bf16")


SMALL = Optim(batch_size=256, learning_rate=1e-3, weight_decay=0.1)
STRONG = Augment(scale=(0.6, 1.0), rotate=8.0, translate=0.05, jitter=0.8, brightness=0.3, contrast=0.3)
GENTLE = Augment(  # a layout that is a convention stays as it is: no mirror, little movement
    scale=(0.85, 1.0),
    ratio=(0.9, 1.1),
    rotate=4.0,
    translate=0.04,
    jitter=0.8,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    hue=0.03,
    greyscale=0.2,
)

STILL = Augment(scale=(0.8, 1.0), ratio=(0.9, 1.1), jitter=0.8, brightness=0.2, contrast=0.2)  # of clips

PRESETS: Mapping[str, Preset] = {
    "vit-tiny": Preset(
        summary="ViT and text transformer of 2 M parameters at 64 px, for a laptop",
        model=Model(architecture="vit-tiny"),
        optim=SMALL,
    ),
    "conv-tiny": Preset(
        summary="small ResNet and bag of tokens at 64 px: learns from a few thousand pairs",
        model=Model(architecture="conv-tiny", arguments=("text_depth=0", "text_width=256")),
        optim=SMALL,
        augment=STRONG,
    ),
    "hog-tiny": Preset(
        summary="fixed gradients and colours with a learned head at 64 px: for a few thousand drawings or icons",
        model=Model(architecture="hog-tiny"),
        optim=SMALL,
        augment=GENTLE,
    ),
    "vit-b-32": Preset(
        summary="CLIP ViT-B/32 at 224 px, the usual first model on GPUs",
        model=Model(architecture="vit-b-32", vocab_size=49152),
        optim=_gpu(4096, 5e-4),
    ),
    "vit-b-16": Preset(
        summary="CLIP ViT-B/16 at 224 px: three times the compute of B/32",
        model=Model(architecture="vit-b-16", vocab_size=49152),
        optim=_gpu(4096, 5e-4),
    ),
    "vit-l-14": Preset(
        summary="CLIP ViT-L/14 at 224 px, with recomputed activations",
        model=Model(architecture="vit-l-14", vocab_size=49152, gradient_checkpointing=True),
        optim=_gpu(8192, 4e-4),
    ),
    "resnet50-bert": Preset(
        summary="ResNet-50 and BERT-base with linear heads, from scratch",
        model=Model(architecture="resnet50-bert", vocab_size=30522),
        optim=_gpu(1024, 2e-4, weight_decay=0.1),
    ),
    "av-tiny": Preset(
        summary="small ResNets on 8 frames of 64 px and on the log-mel of the same second of a clip",
        model=Model(architecture="av-tiny"),
        optim=replace(SMALL, batch_size=128),
        augment=STILL,
    ),
    "hub": Preset(
        summary="any two transformers models: --arguments image=NAME text=NAME",
        model=Model(architecture="hub"),
        optim=_gpu(1024, 1e-4, weight_decay=0.1),
    ),
}
