"""Several objectives in, one direction out: Gramian, weightings, and the two spaces in which a step is decided.

* `weighting(name, **options)`: Gramian -> weights (uniform, min_norm, mmpareto, pcgrad, upgrad, ...).
* `FeatureSplitter`: decides at the encoders' outputs, in one backward under plain DDP.
* `ParameterSpace`: decides on the encoders' exact gradients, in one backward per objective, reduced once.
* `audit`, `Auditor`: what the two would decide for the same step, in one piece or in several.
* `Partition`: which parameters belong to which encoder; `with_gain`: gamma for AdamW; `check_synchronised`: the guard.
"""

from xmodal.distributed.synchrony import check_synchronised, follow_first_rank, unsynchronised
from xmodal.gradients.audit import Agreement, Auditor, audit
from xmodal.gradients.decision import Decision
from xmodal.gradients.encoder_lr_gain import clip_before_gain_, set_rate, with_gain
from xmodal.gradients.feature_space import FeatureSplitter
from xmodal.gradients.parameter_space import ParameterSpace
from xmodal.gradients.partition import Partition
from xmodal.gradients.weightings import WEIGHTINGS, PerTensor, Weighting, weighting

__all__ = [
    "WEIGHTINGS",
    "Agreement",
    "Auditor",
    "Decision",
    "FeatureSplitter",
    "ParameterSpace",
    "Partition",
    "PerTensor",
    "Weighting",
    "audit",
    "check_synchronised",
    "clip_before_gain_",
    "follow_first_rank",
    "set_rate",
    "unsynchronised",
    "weighting",
    "with_gain",
]
