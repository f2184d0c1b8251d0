"""Configuration of the loss that makes source and target domain alike: its method, its strength, and where it
applies."""

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmodal.errors import ConfigError, nearest
from xmodal.training.domain_methods import (
    CRITIC_METHODS,
    DOMAIN_METHODS,
    JOINT,
    PREDICTION_METHODS,
    PROBABILITY_METHODS,
    STRENGTH_SCHEDULES,
)

NONE, EACH = "none", "each"
PLACEMENTS = (EACH, JOINT, "image", "text", "video", "audio")


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """The loss that makes the features of both domains alike, beside the losses of the task."""

    loss: Annotated[str, tyro.conf.arg(name="domain.loss")] = "dann"
    """dann: a domain critic behind gradient reversal; mmd, coral: a discrepancy of the
    features; cdan, mcc, bnm: a loss on predicted probabilities, over a bank of captions or
    over a classifier's classes; none: train on the source alone"""
    strength: Annotated[float, tyro.conf.arg(name="domain.strength")] = 0.3
    """weight lambda of the domain loss's gradient in the encoders, at least 0; a critic itself
    learns with weight 1, and with 0 the critic learns while the encoders ignore it"""
    schedule: Annotated[str, tyro.conf.arg(name="domain.schedule")] = "ramp"
    """ramp: the strength rises over the run (Ganin et al. 2016); constant: it is the same from
    the first step on"""
    gamma: Annotated[float, tyro.conf.arg(name="domain.gamma")] = 10.0
    """steepness of the ramp; with 10, the strength reaches 0.46 of its peak after a tenth of
    the run and 0.99 after half of it"""
    placement: Annotated[str, tyro.conf.arg(name="domain.placement")] = EACH
    """features that are made alike: each (of every modality that the target has, separately),
    one modality by name, e.g. image, or joint (all modalities together; of a classifier the
    output of its fusion)"""
    hidden: Annotated[tuple[int, ...], tyro.conf.arg(name="domain.hidden")] = (256, 256)
    """widths of the hidden layers of a critic"""
    spectral: Annotated[bool, tyro.conf.arg(name="domain.spectral")] = False
    """normalise every layer of a critic to spectral norm 1, instead of LayerNorm"""
    smoothing: Annotated[float, tyro.conf.arg(name="domain.smoothing")] = 0.0
    """smoothing of a critic's labels, from 0 up to 0.5: with 0.1 its targets are 0.9 and 0.1
    instead of 1 and 0"""
    penalty: Annotated[float, tyro.conf.arg(name="domain.penalty")] = 0.0
    """weight of a penalty on the squared gradient of a critic's logits at the features; 0: no
    penalty"""
    critic_gain: Annotated[float, tyro.conf.arg(name="domain.critic-gain")] = 1.0
    """factor on a critic's learning rate, since a critic starts from random weights and the
    encoders from trained ones"""
    critic_steps: Annotated[int, tyro.conf.arg(name="domain.critic-steps")] = 1
    """number of updates of a critic for each update of the encoders"""
    bank: Annotated[str | None, tyro.conf.arg(name="domain.bank")] = None
    """for cdan, mcc and bnm: file with one caption or prompt a line, over which probabilities
    are predicted; None: captions of the source, spread evenly over it"""
    temperature: Annotated[float, tyro.conf.arg(name="domain.temperature")] = 0.1
    """for cdan, mcc and bnm: temperature of the probabilities; it is fixed, since a trained
    one could fake confidence by sinking"""
    bank_size: Annotated[int, tyro.conf.arg(name="domain.bank-size")] = 64
    """number of captions that are taken from the source where no --domain.bank is given"""

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("loss", self.loss, (*DOMAIN_METHODS, NONE)),
            ("schedule", self.schedule, STRENGTH_SCHEDULES),
            ("placement", self.placement, PLACEMENTS),
        ):
            if value not in valid:
                raise ConfigError(f"unknown domain.{name} {value!r}: {nearest(value, valid)}")
        if not 0 <= self.strength < math.inf:
            raise ConfigError(
                f"domain.strength={self.strength} must be at least 0 and finite: the reversal has its sign already, "
                "and 0 trains the encoders on the source alone"
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
        given = [name for name, value in defaults.items() if getattr(self, name) != value]
        if given and self.loss not in CRITIC_METHODS:
            flag, methods = given[0].replace("_", "-"), " and ".join(CRITIC_METHODS)
            raise ConfigError(f"--domain.{flag} is an option of a critic: {methods} have one, {self.loss} does not")
        if self.bank is not None and self.loss not in PROBABILITY_METHODS:
            raise ConfigError(
                f"--domain.bank with domain.loss={self.loss}: only {', '.join(PROBABILITY_METHODS)} use a bank"
            )

    def alignment_points(self, modalities: tuple[str, str], *, texts: bool) -> tuple[str, ...]:
        """Return where the loss applies in a dual encoder; `texts`: the target has the second modality as well."""
        if self.loss == NONE:
            return ()
        target_modalities = modalities if texts else modalities[:1]
        if self.placement == EACH:
            return target_modalities[:1] if self.loss in PREDICTION_METHODS else target_modalities
        if self.placement == JOINT and not texts:
            raise ConfigError(
                "domain.placement=joint needs both modalities of the target: add --target.protocol unpaired, or "
                f"place it on {modalities[0]}"
            )
        if self.placement != JOINT and self.placement not in modalities:
            raise ConfigError(f"domain.placement={self.placement}: the model has {' and '.join(modalities)}")
        if self.placement != JOINT and self.placement not in target_modalities:
            raise ConfigError(
                f"domain.placement={self.placement}, which is not read of the target: add --target.protocol unpaired, "
                f"or place it on {modalities[0]}"
            )
        return (self.placement,)

    def classifier_alignment_points(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Return where the loss applies, for a classifier whose target has all these modalities."""
        if self.loss == NONE:
            return ()
        if self.loss in PREDICTION_METHODS:
            if self.placement not in (EACH, JOINT):
                raise ConfigError(
                    f"domain.placement={self.placement} with domain.loss={self.loss}, which reads the predictions from "
                    "all modalities together: leave --domain.placement out"
                )
            return (JOINT,)
        if self.placement == EACH:
            return modalities
        if self.placement not in (*modalities, JOINT):
            raise ConfigError(f"domain.placement={self.placement}: the classifier has {' and '.join(modalities)}")
        return (self.placement,)

    def check_without_bank(self) -> None:
        """Raise ConfigError for flags of a bank of captions, which a classifier does not need."""
        defaults = {"bank": None, "bank_size": 64, "temperature": 0.1}
        given = [name for name, value in defaults.items() if getattr(self, name) != value]
        if given:
            raise ConfigError(
                f"--domain.{given[0].replace('_', '-')} is an option of a bank of captions, and a classifier reads "
                "the probabilities of its own classes: leave it out"
            )
