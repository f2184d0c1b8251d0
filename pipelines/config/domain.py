"""What makes the source and the target alike: a method, where it works, and how strongly."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError, nearest
from xmodal.training.domain_methods import JOINT, METHODS, ON_PREDICTIONS, SCHEDULES, WITH_BANK, WITH_CRITIC

NONE, EACH = "none", "each"
PLACES = (EACH, JOINT, "image", "text", "video", "audio")


@dataclass(frozen=True, kw_only=True)
class Domain:
    """The domain loss beside those of the task."""

    loss: Annotated[str, tyro.conf.arg(name="domain.loss")] = "dann"
    """dann: a critic behind gradient reversal; mmd, coral: discrepancies; cdan, mcc, bnm: on probabilities, those of a
    bank of captions, or of a classifier's classes; none: the source alone"""
    strength: Annotated[float, tyro.conf.arg(name="domain.strength")] = 0.3
    """lambda: what reaches the encoders of the domain loss; a critic learns at weight 1. With 0 it only watches"""
    schedule: Annotated[str, tyro.conf.arg(name="domain.schedule")] = "ramp"
    """ramp: the strength rises with the share of the planned steps (Ganin et al. 2016); constant: from the first on"""
    gamma: Annotated[float, tyro.conf.arg(name="domain.gamma")] = 10.0
    """of the ramp: with 10 a tenth of the run reaches 0.46 of the strength, half of it 0.99"""
    placement: Annotated[str, tyro.conf.arg(name="domain.placement")] = EACH
    """each: every modality that the target has; one of them, e.g. image; joint: all together, as points of one space,
    or as what a classifier's fusion gives"""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(name="domain.hidden")] = (256, 256)
    """widths of a critic's hidden layers"""
    spectral: Annotated[bool, tyro.conf.arg(name="domain.spectral")] = False
    """spectral norm 1 in every layer of a critic, instead of LayerNorm"""
    smoothing: Annotated[float, tyro.conf.arg(name="domain.smoothing")] = 0.0
    """of a critic's labels: 0.1 asks for 0.9 and 0.1 instead of 1 and 0"""
    penalty: Annotated[float, tyro.conf.arg(name="domain.penalty")] = 0.0
    """weight of the squared gradient of a critic's logits at the embeddings"""
    critic_gain: Annotated[float, tyro.conf.arg(name="domain.critic-gain")] = 1.0
    """factor on a critic's learning rate: it begins anew where the encoders begin trained"""
    critic_steps: Annotated[int, tyro.conf.arg(name="domain.critic-steps")] = 1
    """updates of a critic for each one of the encoders"""
    bank: Annotated[str | None, tyro.conf.arg(name="domain.bank")] = None
    """of cdan, mcc, bnm: file of captions or prompts, one a line; None: captions of the source, evenly spread"""
    temperature: Annotated[float, tyro.conf.arg(name="domain.temperature")] = 0.1
    """of the probabilities that cdan, mcc and bnm read: fixed, since a trained one would look sure by sinking"""
    bank_size: Annotated[int, tyro.conf.arg(name="domain.bank-size")] = 64
    """captions taken of the source where no bank is named"""

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("loss", self.loss, (*METHODS, NONE)),
            ("schedule", self.schedule, SCHEDULES),
            ("placement", self.placement, PLACES),
        ):
            if value not in valid:
                raise ConfigError(f"unknown domain.{name} {value!r}: {nearest(value, valid)}")
        if not 0 <= self.strength < math.inf:
            raise ConfigError(
                f"domain.strength={self.strength} must be at least 0 and finite: the reversal has its sign already, "
                "and 0 trains on the source alone while the critic watches"
            )
        rules = {
            "gamma": (0 < self.gamma < math.inf, "be positive and finite"),
            "hidden": (bool(self.hidden) and min(self.hidden) >= 1, "be one width or more, each at least 1"),
            "smoothing": (0 <= self.smoothing < 0.5, "lie in [0, 0.5): at 0.5 a critic has nothing to learn"),
            "penalty": (0 <= self.penalty < math.inf, "be at least 0 and finite"),
            "critic_gain": (0 < self.critic_gain <= 1000, "lie in (0, 1000]"),
            "critic_steps": (self.critic_steps >= 1, "be at least 1"),
            "temperature": (0 < self.temperature <= 10, "lie in (0, 10]"),
            "bank_size": (self.bank_size >= 2, "be at least 2"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigError(f"domain.{name}={getattr(self, name)} must {rule}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        defaults = {"spectral": False, "smoothing": 0.0, "penalty": 0.0, "critic_gain": 1.0, "critic_steps": 1}
        asked = [name for name, value in defaults.items() if getattr(self, name) != value]
        if asked and self.loss not in WITH_CRITIC:
            flag = asked[0].replace("_", "-")
            raise ConfigError(
                f"--domain.{flag} is of a critic, and {self.loss} has none: {' and '.join(WITH_CRITIC)} do"
            )
        if self.bank is not None and self.loss not in WITH_BANK:
            raise ConfigError(f"--domain.bank with domain.loss={self.loss}: only {', '.join(WITH_BANK)} ask a bank")

    def places(self, modalities: tuple[str, str], *, texts: bool) -> tuple[str, ...]:
        """Where it works, for a model of these modalities and a target with the second one or without."""
        if self.loss == NONE:
            return ()
        there = modalities if texts else modalities[:1]
        if self.placement == EACH:
            return there[:1] if self.loss in ON_PREDICTIONS else there
        if self.placement == JOINT and not texts:
            raise ConfigError(
                "domain.placement=joint needs both modalities of the target: add --target.protocol unpaired, or "
                f"place it on {modalities[0]}"
            )
        if self.placement != JOINT and self.placement not in modalities:
            raise ConfigError(f"domain.placement={self.placement}: the model has {' and '.join(modalities)}")
        if self.placement != JOINT and self.placement not in there:
            raise ConfigError(
                f"domain.placement={self.placement}, which the target has not: add --target.protocol unpaired, or "
                f"place it on {modalities[0]}"
            )
        return (self.placement,)

    def places_of_classifier(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Where it works, for a classifier whose target has all these modalities."""
        if self.loss == NONE:
            return ()
        if self.loss in ON_PREDICTIONS:
            if self.placement not in (EACH, JOINT):
                raise ConfigError(
                    f"domain.placement={self.placement} with domain.loss={self.loss}, which is of the predictions from "
                    "all modalities together: leave --domain.placement out"
                )
            return (JOINT,)
        if self.placement == EACH:
            return modalities
        if self.placement not in (*modalities, JOINT):
            raise ConfigError(f"domain.placement={self.placement}: the classifier has {' and '.join(modalities)}")
        return (self.placement,)

    def check_without_bank(self) -> None:
        """ConfigError for flags of a bank of captions, where a classifier gives the probabilities."""
        defaults = {"bank": None, "bank_size": 64, "temperature": 0.1}
        asked = [name for name, value in defaults.items() if getattr(self, name) != value]
        if asked:
            raise ConfigError(
                f"--domain.{asked[0].replace('_', '-')} is of a bank of captions, and a classifier reads the "
                "probabilities of its own classes: leave it out"
            )
