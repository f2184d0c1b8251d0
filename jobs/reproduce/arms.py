"""The pre-registered arms of an experiment on balanced learning: a name in, how it trains out.

Every claim of MMPareto comes beside its controls: the sum of all losses, the same with the step as long as MMPareto's,
the min-norm direction as published and at the sum's weight, the rule without its longer step, other rules, and encoders
that learn from their unimodal losses alone (whose heads are separately trained unimodal models).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xmodal.errors import ConfigError, nearest
from xmodal.training.balance_options import Balance

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of the table; `optimizer` is sgd (as published) or adamw; `only` names a task that is trained alone;
    `diagnosed`: its gradients and its minimum are looked at after training."""

    summary: str
    balance: Balance
    optimizer: str = "sgd"
    only: str | None = None
    diagnosed: bool = False


def _at(space: str, method: str, gamma: float | None = None) -> Balance:
    return Balance(method=method, space=space, gamma=gamma)  # type: ignore[arg-type]


UNIFORM = _at("features", "uniform")
ARMS: Mapping[str, Arm] = {
    "joint": Arm(summary="the multimodal loss alone", balance=_at("features", "joint"), diagnosed=True),
    "uniform": Arm(summary="all losses added up", balance=UNIFORM, diagnosed=True),
    "uniform-gamma": Arm(
        summary="uniform, encoders' steps 1.5 times as long", balance=_at("features", "uniform", 1.5), diagnosed=True
    ),
    "min-norm": Arm(summary="conventional Pareto, weights sum to 1", balance=_at("parameters", "min_norm")),
    "min-norm-2": Arm(summary="conventional Pareto x 2", balance=_at("parameters", "min_norm_scaled")),
    "mmpareto-1": Arm(summary="MMPareto's direction, gamma 1", balance=_at("parameters", "mmpareto", 1.0)),
    "mmpareto": Arm(
        summary="MMPareto, rescaled over the encoder", balance=_at("parameters", "mmpareto"), diagnosed=True
    ),
    "mmpareto-per-tensor": Arm(
        summary="MMPareto as its published code", balance=_at("parameters", "mmpareto_per_tensor")
    ),
    "mmpareto-features": Arm(summary="MMPareto decided at the features", balance=_at("features", "mmpareto")),
    "pcgrad": Arm(summary="PCGrad", balance=_at("parameters", "pcgrad")),
    "upgrad": Arm(summary="UPGrad", balance=_at("parameters", "upgrad")),
    "stop-gradient": Arm(
        summary="encoders learn from their own loss only: its heads are unimodal models trained separately",
        balance=_at("features", "stop_gradient"),
    ),
    "uniform-adamw": Arm(summary="uniform under AdamW", balance=UNIFORM, optimizer="adamw"),
    "mmpareto-adamw": Arm(summary="MMPareto under AdamW", balance=_at("parameters", "mmpareto"), optimizer="adamw"),
}


def some(*names: str) -> dict[str, Arm]:
    """These of `ARMS`, in this order."""
    return {name: ARMS[name] for name in names}


def alone(*tasks: str) -> dict[str, Arm]:
    """An arm TASK-alone for each task: a model of its own."""
    return {f"{task}-alone": Arm(summary=f"the {task} digit alone", balance=UNIFORM, only=task) for task in tasks}


def chosen(names: Sequence[str], among: Mapping[str, Kind]) -> dict[str, Kind]:
    """The arms of these names, all where there is none; ConfigError with the nearest for another."""
    for name in names:
        if name not in among:
            raise ConfigError(f"no arm {name!r}; {nearest(name, among)}")
    return {name: among[name] for name in names or among}
