"""Multi-objective gradients: one update direction per encoder from the gradients of several losses.

* `MMPareto`, `MinNorm`, `Uniform`, `PCGrad`, `UPGrad`, ...: weightings, which map a Gramian to weights; by name with
  `weighting(name, **options)`.
* `FeatureSplitter`: weighs gradients at the encoders' outputs, in one backward under plain DDP.
* `ParameterSpace`: weighs the exact gradients of the encoders' parameters, in one backward per objective.
* `Partition`: the parameters of each encoder, and the others.
* `Auditor`: compares what both spaces would decide for the same step.
"""

from xmodal.gradients.audit import Auditor, AuditResult
from xmodal.gradients.decision import Decision
from xmodal.gradients.feature_space import FeatureSplitter
from xmodal.gradients.parameter_space import ParameterSpace
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import (
    WEIGHTINGS,
    MinNorm,
    MMPareto,
    MMParetoContinuous,
    MMParetoPerTensor,
    PCGrad,
    ScaledMinNorm,
    StopGradient,
    Uniform,
    UPGrad,
    Weighting,
    weighting,
)

__all__ = [
    "WEIGHTINGS",
    "AuditResult",
    "Auditor",
    "Decision",
    "FeatureSplitter",
    "MMPareto",
    "MMParetoContinuous",
    "MMParetoPerTensor",
    "MinNorm",
    "PCGrad",
    "ParameterSpace",
    "Partition",
    "ScaledMinNorm",
    "StopGradient",
    "UPGrad",
    "Uniform",
    "Weighting",
    "weighting",
]
