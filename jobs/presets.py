"""Presets of jobs.pretrain: a model with the batch size, learning rate, precision and augmentation that suit it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.config.architectures import default_of, model_config
from pipelines.config.model import ModelConfig
from pipelines.config.optimizer import OptimizerConfig
from xmodal.data.decode.augment import Augment


@dataclass(frozen=True, kw_only=True)
class PretrainPreset:
    """A named starting point: one line for the help, and the parts of a configuration that depend on the model."""

    summary: str
    model: ModelConfig
    optim: OptimizerConfig
    augment: Augment = field(default_factory=Augment)


def _gpu_optimizer(batch_size: int, learning_rate: float, *, weight_decay: float = 0.2) -> OptimizerConfig:
    """Return the settings of CLIP's large runs (Radford et al. 2021, table 19), which suit millions of pairs."""
    return OptimizerConfig(
        batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, precision="bf16"
    )


SMALL_OPTIMIZER = OptimizerConfig(batch_size=256, learning_rate=1e-3, weight_decay=0.1)
STRONG_AUGMENT = Augment(scale=(0.6, 1.0), rotate=8.0, translate=0.05, jitter=0.8, brightness=0.3, contrast=0.3)
LAYOUT_AUGMENT = Augment(  # little movement and no flip, for drawings whose layout is a convention
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

CLIP_AUGMENT = Augment(scale=(0.8, 1.0), ratio=(0.9, 1.1), jitter=0.8, brightness=0.2, contrast=0.2)

PRESETS: Mapping[str, PretrainPreset] = {
    "vit-tiny": PretrainPreset(
        summary="ViT and text transformer of 2 M parameters at 64 px, for a laptop",
        model=default_of("vit-tiny"),
        optim=SMALL_OPTIMIZER,
    ),
    "conv-tiny": PretrainPreset(
        summary="small ResNet and bag of tokens at 64 px: learns from a few thousand pairs",
        model=model_config("conv-tiny", text_depth=0, text_width=256),
        optim=SMALL_OPTIMIZER,
        augment=STRONG_AUGMENT,
    ),
    "hog-tiny": PretrainPreset(
        summary="fixed gradients and colours with a learned head at 64 px: for a few thousand drawings or icons",
        model=default_of("hog-tiny"),
        optim=SMALL_OPTIMIZER,
        augment=LAYOUT_AUGMENT,
    ),
    "vit-b-32": PretrainPreset(
        summary="CLIP ViT-B/32 at 224 px, the usual first model on GPUs",
        model=model_config("vit-b-32", vocab_size=49152),
        optim=_gpu_optimizer(4096, 5e-4),
    ),
    "vit-b-16": PretrainPreset(
        summary="CLIP ViT-B/16 at 224 px: three times the compute of B/32",
        model=model_config("vit-b-16", vocab_size=49152),
        optim=_gpu_optimizer(4096, 5e-4),
    ),
    "vit-l-14": PretrainPreset(
        summary="CLIP ViT-L/14 at 224 px, with recomputed activations",
        model=model_config("vit-l-14", vocab_size=49152, gradient_checkpointing=True),
        optim=_gpu_optimizer(8192, 4e-4),
    ),
    "resnet50-bert": PretrainPreset(
        summary="ResNet-50 and BERT-base with linear heads, from scratch",
        model=model_config("resnet50-bert", vocab_size=30522),
        optim=_gpu_optimizer(1024, 2e-4, weight_decay=0.1),
    ),
    "av-tiny": PretrainPreset(
        summary="small ResNets on 8 frames of 64 px and on the log-mel of the same second of a clip",
        model=default_of("av-tiny"),
        optim=replace(SMALL_OPTIMIZER, batch_size=128),
        augment=CLIP_AUGMENT,
    ),
    "hub": PretrainPreset(
        summary="any two transformers models: --model.image NAME --model.text NAME",
        model=default_of("hub"),
        optim=_gpu_optimizer(1024, 1e-4, weight_decay=0.1),
    ),
}
