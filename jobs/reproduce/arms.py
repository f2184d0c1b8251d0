"""The pre-registered arms of an experiment on balanced learning: each is a name and the way it trains.

Every claim of MMPareto comes with its controls: the sum of all losses, the same sum with steps as long as MMPareto's,
the min-norm direction as published and with the sum's weight, MMPareto's direction without its longer step, other
rules, and encoders that learn from their unimodal losses alone (whose heads are separately trained unimodal models).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from xmodal.errors import ConfigError, nearest
from xmodal.training.balance_options import GradientBalance

ArmType = TypeVar("ArmType")


@dataclass(frozen=True, kw_only=True)
class BalanceArm:
    """One line of the results table.

    `optimizer` is sgd (as published) or adamw. `only_task` names a task that is trained alone. With `diagnose` the
    gradients and the minimum of the trained model are analysed.
    """

    summary: str
    balance: GradientBalance
    optimizer: str = "sgd"
    only_task: str | None = None
    diagnose: bool = False


def _at_features(method: str, gamma: float | None = None) -> GradientBalance:
    return GradientBalance(method=method, space="features", gamma=gamma)  # type: ignore[arg-type]


def _at_parameters(method: str, gamma: float | None = None) -> GradientBalance:
    return GradientBalance(method=method, space="parameters", gamma=gamma)  # type: ignore[arg-type]


UNIFORM = _at_features("uniform")
ARMS: Mapping[str, BalanceArm] = {
    "joint": BalanceArm(summary="the multimodal loss alone", balance=_at_features("joint"), diagnose=True),
    "uniform": BalanceArm(summary="all losses added up", balance=UNIFORM, diagnose=True),
    "uniform-gamma": BalanceArm(
        summary="uniform, encoders' steps 1.5 times as long",
        balance=_at_features("uniform", 1.5),
        diagnose=True,
    ),
    "min-norm": BalanceArm(summary="conventional Pareto, weights sum to 1", balance=_at_parameters("min_norm")),
    "min-norm-2": BalanceArm(summary="conventional Pareto x 2", balance=_at_parameters("min_norm_scaled")),
    "mmpareto-1": BalanceArm(summary="MMPareto's direction, gamma 1", balance=_at_parameters("mmpareto", 1.0)),
    "mmpareto": BalanceArm(
        summary="MMPareto, rescaled over the encoder",
        balance=_at_parameters("mmpareto"),
        diagnose=True,
    ),
    "mmpareto-per-tensor": BalanceArm(
        summary="MMPareto as its published code", balance=_at_parameters("mmpareto_per_tensor")
    ),
    "mmpareto-features": BalanceArm(summary="MMPareto decided at the features", balance=_at_features("mmpareto")),
    "pcgrad": BalanceArm(summary="PCGrad", balance=_at_parameters("pcgrad")),
    "upgrad": BalanceArm(summary="UPGrad", balance=_at_parameters("upgrad")),
    "stop-gradient": BalanceArm(
        summary="encoders learn from their own loss only: its heads are unimodal models trained separately",
        balance=_at_features("stop_gradient"),
    ),
    "uniform-adamw": BalanceArm(summary="uniform under AdamW", balance=UNIFORM, optimizer="adamw"),
    "mmpareto-adamw": BalanceArm(summary="MMPareto under AdamW", balance=_at_parameters("mmpareto"), optimizer="adamw"),
}


def select_arms(*names: str) -> dict[str, BalanceArm]:
    """Return the arms of `ARMS` with these names, in this order."""
    return {name: ARMS[name] for name in names}


def single_task_arms(*tasks: str) -> dict[str, BalanceArm]:
    """Return an arm TASK-alone for each task, which trains a model for that task only."""
    return {
        f"{task}-alone": BalanceArm(summary=f"the {task} digit alone", balance=UNIFORM, only_task=task)
        for task in tasks
    }


def arms_by_name(names: Sequence[str], among: Mapping[str, ArmType]) -> dict[str, ArmType]:
    """Return the arms of these names, all without a name; ConfigError with the nearest name for an unknown one."""
    for name in names:
        if name not in among:
            raise ConfigError(f"no arm {name!r}; {nearest(name, among)}")
    return {name: among[name] for name in names or among}
