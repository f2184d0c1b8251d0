"""Saves and loads the resumable part of a training state: optimizer tensors by flat names, and JSON values.

The weights are saved with the model. This module has the optimizer's moments, the step, and the values that must not
change on resume.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import CheckpointError
from xmodal.training.engine.optimizer import moment_names, trainable
from xmodal.training.engine.state import TrainState

FORMAT = 1
UNCHANGEABLE = ("betas", "eps", "momentum", "weight_decay", "gain")  # of a parameter group, if it has them


def state_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `<moment>/<parameter name>`; empty before the first update.

    They share memory with the optimizer: copy or write them before the next step.
    """
    optimizer_state = state.optimizer.state
    return {
        f"{moment}/{name}": optimizer_state[p][moment].detach()
        for name, p in trainable(state.objective)
        if p in optimizer_state
        for moment in moment_names(state.optimizer)
    }


def state_json(state: TrainState) -> dict[str, object]:
    """Return everything else as JSON values: step, seed, parameter groups (names, hyper-parameters), torch version."""
    return {
        "format": FORMAT,
        "step": state.step,
        "seed": state.seed,
        "clamps": int(state.clamps),
        "precision": state.precision,
        "rows_per_forward": state.rows_per_forward,
        "groups": _groups(state),
        "torch": torch.__version__,
    }


def load_state(state: TrainState, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Restore the optimizer and the step in a new state of the same objective, whose weights are loaded already.

    `tensors` and `values` are what `state_tensors` and `state_json` returned. Raises CheckpointError before it changes
    anything, and names what differs: format, seed, groups, names or shapes.
    """
    _check_values(state, values)
    expected_shapes = _moment_shapes(state) if values["step"] > 0 else {}
    _check_names(expected_shapes, tensors)
    _check_shapes(expected_shapes, tensors)
    state.optimizer.state.clear()
    if expected_shapes:
        for name, p in trainable(state.objective):
            state.optimizer.state[p] = _load_moments(state, name, p, tensors)
    state.step = values["step"]
    state.clamps.fill_(values["clamps"])


def _groups(state: TrainState) -> list[dict[str, object]]:
    names = {p: name for name, p in trainable(state.objective)}
    return [
        {"parameters": [names[p] for p in group["params"]]}
        | {key: list(group[key]) if key == "betas" else group[key] for key in (*UNCHANGEABLE, "lr") if key in group}
        for group in state.optimizer.param_groups
    ]


def _moment_shapes(state: TrainState) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, p in trainable(state.objective):
        for moment in moment_names(state.optimizer):
            shapes[f"{moment}/{name}"] = () if moment == "step" else tuple(p.shape)
    return shapes


def _load_moments(state: TrainState, name: str, p: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy the moments of a parameter in its memory layout, which the fused kernel expects."""
    fused = any(group["fused"] for group in state.optimizer.param_groups)
    moments = {}
    for moment in moment_names(state.optimizer):
        saved = tensors[f"{moment}/{name}"]
        if moment == "step":
            moments[moment] = saved.to(device=p.device if fused else "cpu", copy=True)
        else:
            moments[moment] = torch.empty_like(p).copy_(saved).detach()
    return moments


def _check_values(state: TrainState, values: Mapping[str, Any]) -> None:
    missing = sorted({"format", "step", "seed", "clamps", "groups"} - set(values))
    if missing:
        raise CheckpointError(f"the training state lacks {', '.join(missing)}: it is damaged or another kind")
    if values["format"] != FORMAT:
        raise CheckpointError(f"the training state has format {values['format']}; this version reads {FORMAT}")
    if values["seed"] != state.seed:
        raise CheckpointError(f"the checkpoint has seed {values['seed']}, this run {state.seed}: use the first")
    groups, saved_groups = _groups(state), values["groups"]
    if len(groups) != len(saved_groups):
        raise CheckpointError(f"the checkpoint has {len(saved_groups)} parameter groups, this run {len(groups)}")
    for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        _check_group(i, group, saved)


def _check_group(i: int, group: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    _check_names(group["parameters"], saved["parameters"])
    if group["parameters"] != saved["parameters"]:
        raise CheckpointError(f"parameter group {i} holds the same parameters in another order")
    for key in UNCHANGEABLE:
        if group.get(key) != saved.get(key):
            raise CheckpointError(
                f"parameter group {i} was trained with {key}={saved.get(key)}, this run has {group.get(key)}: "
                "use the first, or start a new run from the weights"
            )


def _check_names(expected: Iterable[str], saved: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(saved)), sorted(set(saved) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"the checkpoint is of another model: it lacks {_first(missing)} and has in excess {_first(extra)}"
        )


def _check_shapes(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"the checkpoint is of another model: {name!r} has shape {list(tensors[name].shape)}, "
                f"here it needs {list(shape)}"
            )


def _first(names: list[str]) -> str:
    if not names:
        return "nothing"
    return f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
