"""`transformers` classes for dual encoders that are no CLIP, so that `AutoModel` and `pipeline` load their directories.

Importing this module (`import xmodal.encoders` does) registers the model type with transformers; CLIP-shaped
directories do not need it.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.models.clip.modeling_clip import CLIPOutput

from xmodal.encoders.dual_encoder import SMALLEST_NORM
from xmodal.encoders.dual_encoder_files import MODEL_TYPE
from xmodal.encoders.tower import Tower, build_tower


class DualEncoderConfig(PreTrainedConfig):
    """The `config.json` that `dual_encoder_files` writes: the description of each tower."""

    model_type = MODEL_TYPE
    __no_type_check__ = True  # transformers writes an __init__ that takes more than its signature says

    towers: dict[str, Any] | None = None
    learnable_temperature: bool = True
    with_logit_bias: bool = False


class DualEncoderModel(PreTrainedModel):
    """The towers under the names of our weights, with the inputs and outputs of `transformers.CLIPModel`."""

    config: DualEncoderConfig
    config_class = DualEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__(config)
        descriptions = config.towers or {}
        if descriptions and set(descriptions) != {"image", "text"}:
            modalities = " and ".join(descriptions)
            raise ValueError(f"this model pairs {modalities}: load it with xmodal.encoders.DualEncoder.from_pretrained")
        self.towers = nn.ModuleDict({name: build_tower(description) for name, description in descriptions.items()})
        for tower in self.towers.values():
            del tower.input_adapter  # the processor of transformers prepares the inputs
        self.log_scale = nn.Parameter(torch.zeros(()))
        if config.with_logit_bias:
            self.logit_bias = nn.Parameter(torch.zeros(()))
        PreTrainedModel.post_init(self)

    def get_image_features(self, pixel_values: Float[Tensor, "B C H W"], **_: object) -> BaseModelOutputWithPooling:
        """Return features of images, not normalised, as `pooler_output`."""
        return BaseModelOutputWithPooling(pooler_output=self._features("image", pixel_values=pixel_values))

    def get_text_features(
        self, input_ids: Int64[Tensor, "B L"], attention_mask: Int64[Tensor, "B L"] | None = None, **_: object
    ) -> BaseModelOutputWithPooling:
        """Return features of texts, not normalised, as `pooler_output`; without a mask every token counts."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        features = self._features("text", input_ids=input_ids, attention_mask=mask)
        return BaseModelOutputWithPooling(pooler_output=features)

    def forward(
        self,
        input_ids: Int64[Tensor, "T L"],
        pixel_values: Float[Tensor, "B C H W"],
        attention_mask: Int64[Tensor, "T L"] | None = None,
        **_: Any,
    ) -> CLIPOutput:
        """Return unit vectors of both modalities, and their similarities times the learned factor."""
        image = _unit(self.get_image_features(pixel_values))
        text = _unit(self.get_text_features(input_ids, attention_mask))
        logits = image @ text.T * self.log_scale.exp()
        if self.config.with_logit_bias:
            logits = logits + self.logit_bias
        return CLIPOutput(logits_per_image=logits, logits_per_text=logits.T, text_embeds=text, image_embeds=image)

    def _features(self, modality: str, **inputs: Tensor) -> Float[Tensor, "B D"]:
        tower = cast(Tower, self.towers[modality])
        return tower.features(inputs)


def _unit(output: BaseModelOutputWithPooling) -> Float[Tensor, "B D"]:
    return F.normalize(cast(Tensor, output.pooler_output), dim=-1, eps=SMALLEST_NORM)


AutoConfig.register(MODEL_TYPE, DualEncoderConfig)
AutoModel.register(DualEncoderConfig, DualEncoderModel)
AutoModelForZeroShotImageClassification.register(DualEncoderConfig, DualEncoderModel)
# The pipeline logs an error for model classes that are not in this mapping.
MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES[MODEL_TYPE] = DualEncoderModel.__name__
