"""Make the searcher of Ray Tune that draws a sweep's points, by the name and the options of `--algorithm`.

Every searcher draws points of the unit cube, which `SearchSpace` converts to values, so that each of them can search
intervals and choices. What is ours here: the seed of each library, and the table of names.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import SEARCH_ALG_IMPORT, Searcher
from ray.tune.search.variant_generator import generate_variants

from pipelines.sweep.options import check_options
from xmodal.errors import ConfigError, nearest
from xmodal.search.space import SearchSpace

AXES = "axes"  # of a grid, whose points are values of the fields instead of units


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A way to draw points: a searcher of Tune, or (`sampler`) its Optuna searcher with that sampler."""

    tune: str = ""  # name in ray.tune.search; empty: Tune's own variants (random, grid)
    sampler: str = ""  # class in optuna.samplers
    modules: Mapping[str, str] = field(default_factory=dict)  # packages that it needs, and what pip calls them
    seed: str = "seed"  # argument that makes it repeatable
    several: bool = False  # metrics at a time
    defaults: Mapping[str, Any] = field(default_factory=dict)


_OPTUNA = {"optuna": "'xmodal[sweep]'"}
ALGORITHMS: Mapping[str, Algorithm] = {
    "random": Algorithm(several=True),
    "grid": Algorithm(),
    "tpe": Algorithm(
        tune="optuna", sampler="TPESampler", modules=_OPTUNA, several=True,
        defaults={"n_startup_trials": 8, "multivariate": True, "constant_liar": True},
    ),
    "cmaes": Algorithm(tune="optuna", sampler="CmaEsSampler", modules=_OPTUNA | {"cmaes": "cmaes"}),
    "nsga2": Algorithm(tune="optuna", sampler="NSGAIISampler", modules=_OPTUNA, several=True),
    "hyperopt": Algorithm(
        tune="hyperopt", modules={"hyperopt": "hyperopt"}, seed="random_state_seed", defaults={"n_initial_points": 8},
    ),
    "bayesopt": Algorithm(
        tune="bayesopt", modules={"bayes_opt": "bayesian-optimization==1.4.3"}, seed="random_state",
        defaults={"random_search_steps": 8, "skip_duplicate": False},
    ),
}  # fmt: skip


def check_algorithm(name: str, options: Mapping[str, Any], metrics: int) -> None:
    """Raise ConfigError for an unknown algorithm or option, a missing package, or too many metrics."""
    if name not in ALGORITHMS:
        raise ConfigError(f"--algorithm {name}: {nearest(name, ALGORITHMS)}")
    algorithm = ALGORITHMS[name]
    if metrics > 1 and (not algorithm.several or name == "random"):
        raise ConfigError(f"--algorithm {name} takes one metric, not {metrics}: take tpe or nsga2")
    for module, package in algorithm.modules.items():
        if find_spec(module) is None:
            raise ConfigError(f"--algorithm {name}: pip install {package}, or take --algorithm random")
    if options and not algorithm.tune:
        raise ConfigError(f"--algorithm-options: --algorithm {name} has none; leave them out")
    if options:
        check_options("--algorithm-options", options, _target(algorithm))


def make_searcher(
    name: str,
    options: Mapping[str, Any],
    space: SearchSpace,
    *,
    seed: int,
    metrics: Sequence[str],
    grid_points: int,
    first_points: Sequence[dict[str, float]] = (),
) -> Searcher:
    """Return a searcher that maximises `metrics`; its points are units by axis number, or values of a grid.

    It draws `first_points` before any other; one of random points or of a grid draws its own all the same.
    """
    algorithm = ALGORITHMS[name]
    if not algorithm.tune:
        return VariantSearcher(space, seed, grid_points=grid_points if name == "grid" else 0)
    _quiet(algorithm)
    arguments = {**algorithm.defaults, algorithm.seed: seed, **options}
    if algorithm.sampler:
        arguments = {"sampler": _target(algorithm)(**arguments)}
    if first_points:
        arguments["points_to_evaluate"] = list(first_points)
    mode = ["max"] * len(metrics) if len(metrics) > 1 else "max"
    metric = list(metrics) if len(metrics) > 1 else metrics[0]
    searcher = SEARCH_ALG_IMPORT[algorithm.tune]()(metric=metric, mode=mode, **arguments)
    searcher.set_search_properties(None, None, unit_axes(space))
    return searcher


def unit_axes(space: SearchSpace) -> dict[str, Any]:
    """Return the unit cube as a search space of Tune, an axis for each unit."""
    return {str(axis): tune.uniform(0.0, 1.0) for axis in range(space.size)}


class VariantSearcher(Searcher):
    """Draws random points or a grid by the generator behind Tune's `BasicVariantGenerator`.

    That class itself is no `Searcher`: Tune could run nothing but its variants, and there would be no baseline.
    """

    def __init__(self, space: SearchSpace, seed: int, *, grid_points: int) -> None:
        super().__init__(metric="score", mode="max")
        self._variants = _grid(space, grid_points) if grid_points else _random(space, seed)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        return next(self._variants, None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn nothing."""


def _grid(space: SearchSpace, points: int) -> Iterator[dict[str, Any]]:
    axes = {path.replace(".", "\0"): tune.grid_search(axis.grid(points)) for path, axis in space.ranges.items()}
    for _, spec in generate_variants({"config": axes}):
        yield {AXES: {path.replace("\0", "."): value for path, value in spec["config"].items()}}


def _random(space: SearchSpace, seed: int) -> Iterator[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    while True:
        for _, spec in generate_variants({"config": unit_axes(space)}, random_state=draw):
            yield dict(spec["config"])


def grid_size(space: SearchSpace, points: int) -> int:
    """Return the number of points of a grid with at most `points` values for each field."""
    return int(np.prod([len(axis.grid(points)) for axis in space.ranges.values()]))


def _target(algorithm: Algorithm) -> Callable[..., Any]:
    """Return the class that takes the options."""
    if algorithm.sampler:
        return getattr(importlib.import_module("optuna.samplers"), algorithm.sampler)
    return SEARCH_ALG_IMPORT[algorithm.tune]()


def _quiet(algorithm: Algorithm) -> None:
    """Silence what these libraries log for every point."""
    logging.getLogger(f"ray.tune.search.{algorithm.tune}").setLevel(logging.ERROR)
    if algorithm.sampler:
        optuna = importlib.import_module("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        importlib.import_module("warnings").filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for module in algorithm.modules:
        logging.getLogger(module).setLevel(logging.ERROR)
