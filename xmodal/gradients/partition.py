"""The division of a module's trainable parameters into encoders and the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from xmodal.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """Trainable parameters: `encoders` by name, each with a decision of its own, and `others` (heads, fusion, scalars).

    The gradients of `others` are the plain sum over all objectives, as in Wei & Hu 2024. A frozen encoder has no
    parameters here and no decision.

    >>> model = nn.ModuleDict({"audio": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    >>> partition = Partition.from_module(model, {"audio": model["audio"]})
    >>> len(partition.encoders["audio"]), len(partition.others)
    (2, 2)
    """

    encoders: dict[str, list[nn.Parameter]]
    others: list[nn.Parameter]

    @classmethod
    def from_module(cls, module: nn.Module, encoders: nn.ModuleDict | Mapping[str, nn.Module]) -> "Partition":
        """Divide the parameters of `module`; ConfigError for a parameter of two encoders or of another module."""
        owner: dict[nn.Parameter, str] = {}
        for name, encoder in encoders.items():
            for path, p in encoder.named_parameters():
                if p in owner:
                    raise ConfigError(
                        f"parameter {path!r} belongs to the encoders {owner[p]!r} and {name!r}: an encoder's gradients "
                        "are weighed as one, so name the shared module as an encoder of its own"
                    )
                owner[p] = name
        trainable = [p for p in module.parameters() if p.requires_grad]
        if foreign := set(owner) - set(module.parameters()):
            raise ConfigError(f"encoder {owner[foreign.pop()]!r} is not part of the module that is trained")
        blocks = {name: [p for p in trainable if owner.get(p) == name] for name in encoders}
        return cls({name: block for name, block in blocks.items() if block}, [p for p in trainable if p not in owner])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters: the encoders' one after the other, then the others."""
        return [p for block in self.encoders.values() for p in block] + self.others
