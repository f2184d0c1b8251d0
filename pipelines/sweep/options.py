"""Parse NAME=VALUE options of Tune's searchers and schedulers, and check them against what those take."""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xmodal.errors import ConfigError, nearest

FLAGS = {  # of jobs.sweep, for options that its records and reasons must know
    "grace_period": "--grace", "reduction_factor": "--reduction", "quantile_fraction": "--reduction",
    "perturbation_interval": "--intervals", "seed": "--seed", "random_state": "--seed", "random_state_seed": "--seed",
    "metric": "--metric", "mode": "--mode", "space": "--search", "hyperparam_mutations": "--search",
    "hyperparam_bounds": "--search",
}  # fmt: skip
SET_BY_US = ("self", "sampler", "points_to_evaluate", "time_attr", "max_t", "custom_explore_fn", "stop_last_trials")


def parse_options(flag: str, words: Sequence[str]) -> dict[str, Any]:
    """Return options by name; a value that is no Python literal is text. ConfigError for a word without `=`.

    >>> parse_options("--scheduler-options", ["brackets=2", "synch=False"])
    {'brackets': 2, 'synch': False}
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise ConfigError(f"{flag} {word!r} is not NAME=VALUE, e.g. {flag} brackets=2")
        try:
            options[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[name] = text
    return options


def check_options(flag: str, options: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise ConfigError for an option that `target` does not take, or that the sweep sets itself."""
    taken = [name for name in inspect.signature(target).parameters if name not in SET_BY_US]
    for name in options:
        if name in FLAGS:
            raise ConfigError(f"{flag} {name}: give {FLAGS[name]} instead")
        if name not in taken:
            raise ConfigError(f"{flag}: {getattr(target, '__name__', target)} has no {name!r}: {nearest(name, taken)}")
