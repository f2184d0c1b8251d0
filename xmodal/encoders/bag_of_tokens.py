"""A text backbone that averages token embeddings and ignores their order, for few and short captions."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xmodal.encoders.pooling import mean_over_mask


class BagConfig(PreTrainedConfig):
    """Configuration: `vocab_size` embeddings of width `hidden_size`, and a hidden layer of `intermediate_size`."""

    model_type = "xmodal-bag"
    __no_type_check__ = True  # transformers writes an __init__ that takes more than its signature says

    vocab_size: int = 8192
    hidden_size: int = 256
    intermediate_size: int = 512
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class BagModel(PreTrainedModel):
    """The mean of the token embeddings, then a hidden layer with a shortcut.

    A mean cannot memorise wordings, costs next to nothing, and leaves a caption of seen and unseen words near the
    captions that share the seen ones.
    """

    config: BagConfig
    config_class = BagConfig
    main_input_name = "input_ids"

    def __init__(self, config: BagConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.norm1 = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.norm2 = nn.LayerNorm(width)
        PreTrainedModel.post_init(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=module.in_features**-0.5)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)

    def forward(
        self, input_ids: Int64[Tensor, "B L"], attention_mask: Int64[Tensor, "B L"], **_: Any
    ) -> BaseModelOutputWithPooling:
        """Return the feature vectors as `pooler_output`; every row of `attention_mask` has a 1."""
        tokens = self.embeddings(input_ids)
        mean = self.norm1(mean_over_mask(tokens, attention_mask))
        pooled = self.norm2(mean + self.output(F.gelu(self.hidden(mean))))
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)


AutoConfig.register(BagConfig.model_type, BagConfig)
AutoModel.register(BagConfig, BagModel)
