"""The resumable part of a training state: optimizer tensors by flat names and JSON-plain values, out and in again.

The weights themselves travel with the model; here are the optimizer's moments, the cursor, and what must not change.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import CheckpointError
from xmodal.training.engine.optimizer import moments, trainable
from xmodal.training.engine.state import TrainState

FORMAT = 1
FIXED = ("betas", "eps", "momentum", "weight_decay", "gain")  # of a group; a resumed run must repeat those it has


def state_tensors(state: TrainState) -> dict[str, Tensor]:
    """The optimizer's tensors as `<moment>/<parameter name>`; empty before the first update.

    They are the live ones: copy or write them before the next step.
    """
    known = state.optimizer.state
    return {
        f"{moment}/{name}": known[p][moment].detach()
        for name, p in trainable(state.objective)
        if p in known
        for moment in moments(state.optimizer)
    }


def state_plain(state: TrainState) -> dict[str, Any]:
    """Everything else as JSON: the cursor, the seed, the parameter groups (names, hyper-parameters), versions."""
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


def load_state(state: TrainState, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Put a saved optimizer and cursor into a new state of the same objective, whose weights are loaded already.

    Raises CheckpointError, before it changes anything, naming what differs: format, seed, groups, names, shapes.
    """
    _check_plain(state, plain)
    expected = _expected(state) if plain["step"] > 0 else {}
    _check_names(expected, tensors)
    _check_shapes(expected, tensors)
    state.optimizer.state.clear()
    if expected:
        for name, p in trainable(state.objective):
            state.optimizer.state[p] = _moments(state, name, p, tensors)
    state.step = plain["step"]
    state.clamps.fill_(plain["clamps"])


def _groups(state: TrainState) -> list[dict[str, Any]]:
    names = {p: name for name, p in trainable(state.objective)}
    return [
        {"parameters": [names[p] for p in group["params"]]}
        | {key: list(group[key]) if key == "betas" else group[key] for key in (*FIXED, "lr") if key in group}
        for group in state.optimizer.param_groups
    ]


def _expected(state: TrainState) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, p in trainable(state.objective):
        for moment in moments(state.optimizer):
            shapes[f"{moment}/{name}"] = () if moment == "step" else tuple(p.shape)
    return shapes


def _moments(state: TrainState, name: str, p: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the memory layout of the parameter: the fused kernel walks both alike."""
    fused = any(group["fused"] for group in state.optimizer.param_groups)
    found = {}
    for moment in moments(state.optimizer):
        saved = tensors[f"{moment}/{name}"]
        if moment == "step":
            found[moment] = saved.to(device=p.device if fused else "cpu", copy=True)
        else:
            found[moment] = torch.empty_like(p).copy_(saved).detach()
    return found


def _check_plain(state: TrainState, plain: Mapping[str, Any]) -> None:
    missing = sorted({"format", "step", "seed", "clamps", "groups"} - set(plain))
    if missing:
        raise CheckpointError(f"the training state lacks {', '.join(missing)}: it is damaged or another kind")
    if plain["format"] != FORMAT:
        raise CheckpointError(f"the training state has format {plain['format']}; this version reads {FORMAT}")
    if plain["seed"] != state.seed:
        raise CheckpointError(f"the checkpoint has seed {plain['seed']}, this run {state.seed}: use the first")
    here, there = _groups(state), plain["groups"]
    if len(here) != len(there):
        raise CheckpointError(f"the checkpoint has {len(there)} parameter groups, this run {len(here)}")
    for i, (mine, saved) in enumerate(zip(here, there, strict=True)):
        _check_group(i, mine, saved)


def _check_group(i: int, mine: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    _check_names(mine["parameters"], saved["parameters"])
    if mine["parameters"] != saved["parameters"]:
        raise CheckpointError(f"parameter group {i} holds the same parameters in another order")
    for key in FIXED:
        if mine.get(key) != saved.get(key):
            raise CheckpointError(
                f"parameter group {i} was trained with {key}={saved.get(key)}, this run has {mine.get(key)}: "
                "use the first, or start a new run from the weights"
            )


def _check_names(expected: Iterable[str], found: Iterable[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
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
