"""The dual encoder: two towers and a temperature that embed any two modalities in one space."""

import math
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from xmodal.batch import Batch
from xmodal.encoders import architectures, dual_encoder_files
from xmodal.encoders.patch_dropout import PatchDropout
from xmodal.encoders.tower import Tower
from xmodal.errors import ConfigError, nearest

INITIAL_LOG_SCALE = math.log(1 / 0.07)  # Radford et al. 2021, §2.5
LARGEST_LOG_SCALE = math.log(100)  # Radford et al. 2021, §2.5
INITIAL_BIAS = -10.0  # Zhai et al. 2023, §3.2: most pairs of a batch are negatives
SMALLEST_NORM = 1e-6  # shorter rows are divided by this, so that their gradient is finite


class DualEncoder(nn.Module):
    """Two towers, named by their modalities, that map a batch to unit vectors in one space.

    `log_scale` is ln of the factor on cosine similarities: a Parameter, or a buffer if the temperature is fixed.
    `logit_bias` exists for the sigmoid loss only; it is None otherwise.

    >>> ids = {"vocab_size": 100, "bos_id": 98, "eos_id": 99, "pad_id": 0}
    >>> model = DualEncoder.create("conv-tiny", **ids)
    >>> model.modalities, model.dim
    (('image', 'text'), 256)
    """

    log_scale: Tensor
    logit_bias: nn.Parameter | None

    def __init__(
        self,
        towers: dict[str, Tower],
        *,
        log_scale: float = INITIAL_LOG_SCALE,
        learnable_temperature: bool = True,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        if len(towers) != 2:
            raise ConfigError(f"a dual encoder has two towers, not {len(towers)}: {', '.join(towers)}")
        self.towers = nn.ModuleDict(towers)
        scale = torch.tensor(log_scale)
        if learnable_temperature:
            self.log_scale = nn.Parameter(scale)
        else:
            self.register_buffer("log_scale", scale)
        bias = None if logit_bias is None else nn.Parameter(torch.tensor(float(logit_bias)))
        self.register_parameter("logit_bias", bias)
        self._patch_hook: RemovableHandle | None = None

    @classmethod
    def create(
        cls,
        architecture: str,
        *,
        learnable_temperature: bool = True,
        with_logit_bias: bool = False,
        **arguments: Any,
    ) -> "DualEncoder":
        """Build a new model of a named architecture; `arguments` are those of its factory in `architectures`."""
        towers = architectures.build_towers(architecture, **arguments)
        bias = INITIAL_BIAS if with_logit_bias else None
        return cls(towers, learnable_temperature=learnable_temperature, logit_bias=bias)

    @property
    def modalities(self) -> tuple[str, str]:
        """Return the names of the two modalities."""
        first, second = self.towers
        return first, second

    @property
    def dim(self) -> int:
        """Return D, the width of the shared space."""
        return self.tower(self.modalities[0]).projection.out_features

    def tower(self, modality: str) -> Tower:
        """Return the tower of a modality; ConfigError for an unknown one."""
        if modality not in self.towers:
            raise ConfigError(f"no tower for {modality!r}; {nearest(modality, self.towers)}")
        return cast(Tower, self.towers[modality])

    def encode(self, modality: str, batch: Batch) -> Float[Tensor, "B D"]:
        """Return embeddings of unit length in float32, also under autocast; features of zero length stay zero."""
        return F.normalize(self.tower(modality)(batch).float(), dim=-1, eps=SMALLEST_NORM)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, "B D"]]:
        """Return the embeddings of both modalities."""
        return {modality: self.encode(modality, batch) for modality in self.modalities}

    @torch.no_grad()
    def clamp_(self) -> None:
        """Clamp the temperature to 1/100..1; called after each optimizer step (Radford et al. 2021, §2.5)."""
        self.log_scale.clamp_(0, LARGEST_LOG_SCALE)

    def drop_patches(self, rate: float, modality: str = "image") -> None:
        """Train on a random `1 - rate` of the patches (FLIP); 0 drops none. Only for vision transformers."""
        if not 0 <= rate < 1:
            raise ConfigError(f"patch_dropout={rate} is outside [0, 1)")
        if modality not in self.towers:
            raise ConfigError(f"patch_dropout is for images, not for {' and '.join(self.towers)}: set it to 0")
        backbone = self.tower(modality).backbone
        if rate and backbone.config.model_type not in ("clip_vision_model", "vit"):
            raise ConfigError(
                f"patch_dropout needs a vision transformer, not {backbone.config.model_type}: set it to 0"
            )
        if self._patch_hook is not None:
            self._patch_hook.remove()
            self._patch_hook = None
        if rate:
            embeddings: Any = backbone.embeddings
            self._patch_hook = embeddings.register_forward_hook(PatchDropout(rate))

    def checkpoint_activations(self) -> tuple[str, ...]:
        """Recompute activations in the backward pass of the towers that support it; return their names.

        Raises ConfigError if none does. Convolutional towers do not: their batch statistics would be counted twice.
        """
        supported = tuple(
            modality for modality in self.modalities if self.tower(modality).backbone.supports_gradient_checkpointing
        )
        if not supported:
            raise ConfigError("no tower of this model can recompute activations: switch gradient checkpointing off")
        for modality in supported:
            self.tower(modality).backbone.activation_checkpointing_enable({"use_reentrant": False})
        return supported

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        tokenizer_json: str | None = None,
        tokenizer_directory: str | Path | None = None,
    ) -> None:
        """Write the Hugging Face layout into `directory`; `dual_encoder_files` lists the files."""
        dual_encoder_files.write(self, Path(directory), tokenizer_json, tokenizer_directory)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> "DualEncoder":
        """Load a directory written by `save_pretrained` or by `CLIPModel`, or the Hub name of a CLIP."""
        return cls(**dual_encoder_files.read(str(source)))

    def load_weights(self, source: str | Path) -> None:
        """Load the weights of a checkpoint of the same architecture; CheckpointError names the differences."""
        other = DualEncoder.from_pretrained(source)
        dual_encoder_files.compare(self, other, str(source))
        self.load_state_dict(other.state_dict())

    def describe(self) -> dict[str, Any]:
        """Return each tower without its weights, as JSON."""
        return {modality: self.tower(modality).describe() for modality in self.modalities}
