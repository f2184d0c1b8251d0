"""Losses, gradient methods, encoders and a deterministic stream for cross-modal models.

Importing `xmodal` costs nothing: each name below is imported, with torch, when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__: str

if TYPE_CHECKING:  # what type checkers and editors see; at run time `__getattr__` imports each name from `_MODULES`
    from xmodal.batch import Batch as Batch
    from xmodal.data.index.corpus import open_corpus as open_corpus
    from xmodal.data.stream.order import StreamPlan as StreamPlan
    from xmodal.encoders.architectures import register_architecture as register_architecture
    from xmodal.encoders.dual_encoder import DualEncoder as DualEncoder
    from xmodal.encoders.input_fields import register_input_adapter as register_input_adapter
    from xmodal.gradients.feature_space import FeatureSplitter as FeatureSplitter
    from xmodal.gradients.parameter_space import ParameterSpace as ParameterSpace
    from xmodal.gradients.weightings import MinNorm as MinNorm
    from xmodal.gradients.weightings import MMPareto as MMPareto
    from xmodal.gradients.weightings import PCGrad as PCGrad
    from xmodal.gradients.weightings import StopGradient as StopGradient
    from xmodal.gradients.weightings import Uniform as Uniform
    from xmodal.gradients.weightings import UPGrad as UPGrad
    from xmodal.inference import EmbeddingModel as EmbeddingModel
    from xmodal.inference import load as load
    from xmodal.losses.contrastive import info_nce as info_nce
    from xmodal.losses.contrastive import sigmoid_loss as sigmoid_loss
    from xmodal.losses.discrepancy import coral as coral
    from xmodal.losses.discrepancy import mmd as mmd
    from xmodal.losses.domain_critic import DomainCritic as DomainCritic
    from xmodal.losses.gradient_reversal import GradientReversal as GradientReversal
    from xmodal.losses.gradient_reversal import reverse_gradient as reverse_gradient
    from xmodal.streaming import StreamingDataset as StreamingDataset
    from xmodal.training.objectives.contrastive import register_contrastive_loss as register_contrastive_loss

_MODULES = {
    # losses
    "info_nce": "xmodal.losses.contrastive",
    "sigmoid_loss": "xmodal.losses.contrastive",
    "mmd": "xmodal.losses.discrepancy",
    "coral": "xmodal.losses.discrepancy",
    "DomainCritic": "xmodal.losses.domain_critic",
    "GradientReversal": "xmodal.losses.gradient_reversal",
    "reverse_gradient": "xmodal.losses.gradient_reversal",
    # gradient methods
    "MMPareto": "xmodal.gradients.weightings",
    "MinNorm": "xmodal.gradients.weightings",
    "PCGrad": "xmodal.gradients.weightings",
    "UPGrad": "xmodal.gradients.weightings",
    "Uniform": "xmodal.gradients.weightings",
    "StopGradient": "xmodal.gradients.weightings",
    "FeatureSplitter": "xmodal.gradients.feature_space",
    "ParameterSpace": "xmodal.gradients.parameter_space",
    # models
    "DualEncoder": "xmodal.encoders.dual_encoder",
    "EmbeddingModel": "xmodal.inference",
    "load": "xmodal.inference",
    # data
    "Batch": "xmodal.batch",
    "StreamPlan": "xmodal.data.stream.order",
    "StreamingDataset": "xmodal.streaming",
    "open_corpus": "xmodal.data.index.corpus",
    # extension points
    "register_architecture": "xmodal.encoders.architectures",
    "register_contrastive_loss": "xmodal.training.objectives.contrastive",
    "register_input_adapter": "xmodal.encoders.input_fields",
}

_EXTRAS = {
    "data": ("pyarrow", "s3fs", "aiobotocore", "botocore", "simplejpeg", "cv2", "PIL"),
    "av": ("av", "soundfile", "soxr", "scipy"),
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _MODULES:
        value = getattr(_import(name), name)
    else:
        raise AttributeError(f"module 'xmodal' has no attribute {name!r}; it has {', '.join(sorted(_MODULES))}")
    globals()[name] = value
    return value


def _import(name: str) -> Any:
    """Import the module of a public name; an ImportError names the extra that brings what it needs."""
    try:
        return importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        extra = next((extra for extra, packages in _EXTRAS.items() if error.name in packages), None)
        if extra is None:
            raise
        raise ImportError(
            f"xmodal.{name} needs {error.name}: pip install 'xmodal[{extra}]'", name=error.name
        ) from error


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xmodal")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
