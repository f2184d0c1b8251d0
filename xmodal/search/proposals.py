"""Where the next trial lies: space, seed, number of the trial and what was found so far in, a point out.

Random and grid points depend on the number alone, so that a sweep that was killed goes on with the same trials.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmodal.errors import ConfigError
from xmodal.search.objective import Objective
from xmodal.search.space import Space
from xmodal.search.trial import FAILED, FINISHED, REJECTED, STOPPED, Trial

ALGORITHMS = ("random", "grid", "tpe")
STARTUP = 8  # random points before the first modelled one


def propose(
    algorithm: str,
    space: Space,
    seed: int,
    number: int,
    known: Sequence[Trial],
    by: Sequence[Objective],
    points: int = 3,
) -> tuple[dict[str, Any], tuple[float, ...] | None]:
    """Values and units of proposal `number` = 0, 1, ...; `known` are the trials so far, also those at work."""
    if algorithm == "grid":
        values = grid(space, points)[number]
        return values, space.encode(values)
    units = random_units(space, seed, number)
    if algorithm == "tpe" and sum(t.status in (FINISHED, STOPPED) for t in known) >= STARTUP:
        units = _tpe(space, seed, number, known, by)
    return space.decode(units), units


def random_units(space: Space, seed: int, number: int) -> tuple[float, ...]:
    """Uniform in the unit cube; a function of seed and number."""
    return tuple(np.random.default_rng([seed, number]).random(space.size).tolist())


def grid(space: Space, points: int) -> list[dict[str, Any]]:
    """All combinations of at most `points` values of each field."""
    axes = [[(path, value) for value in one.grid(points)] for path, one in space.ranges.items()]
    return [dict(combination) for combination in itertools.product(*axes)]


def check_installed() -> None:
    """ConfigError where the package of the modelled search is missing."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise ConfigError("--algorithm tpe needs Optuna: pip install 'xmodal[sweep]', or take --algorithm random")


def _tpe(space: Space, seed: int, number: int, known: Sequence[Trial], by: Sequence[Objective]) -> tuple[float, ...]:
    """A point of Optuna's tree-structured Parzen estimator over the units (several metrics: multi-objective).

    The study is made anew from what is known: nothing has to be stored, and equal knowledge gives an equal point.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=1_000_003 * seed + number, n_startup_trials=0, multivariate=True, constant_liar=True
    )
    study = optuna.create_study(directions=["maximize"] * len(by), sampler=sampler)
    names = [str(k) for k in range(space.size)]
    unit = optuna.distributions.FloatDistribution(0.0, 1.0)
    for trial in known:
        if trial.units is None or trial.status == FAILED:
            continue
        found = [float(better) for one in by if (better := one.better(trial)) is not None]
        told = found if len(found) == len(by) and trial.over and trial.status != REJECTED else None
        state = optuna.trial.TrialState
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(names, trial.units, strict=True)),
                distributions=dict.fromkeys(names, unit),
                values=told,
                state=state.COMPLETE if told else state.FAIL if trial.over else state.RUNNING,
            )
        )
    asked = study.ask(dict.fromkeys(names, unit))
    return tuple(float(asked.params[name]) for name in names)
