"""What a search goes by: metrics with their directions, and guards that reject a trial with a reason."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.errors import ConfigError
from xmodal.search.trial import ORACLE, Trial

_GUARD = re.compile(
    r"\s*(?P<metric>[^\s<>=*]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>[-+.\deE]+)(?P<base>\s*\*\s*baseline)?\s*"
)
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Objective:
    """`sign` +1: larger is better."""

    metric: str
    sign: int = 1

    def better(self, trial: Trial) -> int | float | None:
        """Its newest value so that larger is better; None before it measured any, or where it is not finite."""
        value = trial.last(self.metric)
        return None if value is None or not math.isfinite(value) else self.sign * value


def objectives(metrics: Sequence[str], modes: Sequence[str]) -> tuple[Objective, ...]:
    """One for each metric; one mode may stand for all. ConfigError for what was measured on the target's labels."""
    if not metrics:
        raise ConfigError("no metric to search by: name one that the run logs, e.g. --metric validation/target/bnm")
    for metric in metrics:
        refuse_oracle(metric, "--metric")
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"--metric {' '.join(metrics)}: name each once")
    if len(modes) not in (1, len(metrics)) or any(mode not in ("max", "min") for mode in modes):
        raise ConfigError(f"--mode {' '.join(modes)}: give max or min, one for all metrics or one for each")
    modes = list(modes) * (len(metrics) if len(modes) == 1 else 1)
    return tuple(Objective(metric=m, sign=1 if mode == "max" else -1) for m, mode in zip(metrics, modes, strict=True))


def refuse_oracle(metric: str, flag: str) -> None:
    """ConfigError for a metric of the target's labels or pairs."""
    if metric.startswith(ORACLE) or f"/{ORACLE}" in metric:
        raise ConfigError(
            f"{flag} {metric}: this is measured on labels or pairs of the target, and choosing by it would measure the "
            "choice; search by a score without labels, and ask for the regret afterwards with --regret"
        )


@dataclass(frozen=True, kw_only=True)
class Guard:
    """`METRIC >= 0.9 * baseline`, or a plain number: a trial that breaks it is rejected."""

    metric: str
    sign: str
    limit: float
    of_baseline: bool = False

    def complaint(self, trial: Trial, baseline: Trial | None) -> str | None:
        """Why the trial is rejected by what it measured last; None where it is not, or cannot be judged."""
        value, limit = trial.last(self.metric), self.limit
        if value is None:
            return None
        if self.of_baseline:
            base = None if baseline is None else baseline.at(self.metric, trial.share)
            base = base if base is not None or baseline is None else baseline.last(self.metric)
            if base is None:
                return None
            limit *= base
        if _SIGNS[self.sign](value, limit):
            return None
        whose = f" ({self.limit:g} x the baseline's)" if self.of_baseline else ""
        return f"{self.metric} is {value:.3g}, not {self.sign} {limit:.3g}{whose}"


def parse_guards(texts: Sequence[str]) -> tuple[Guard, ...]:
    """ConfigError for one that is not METRIC SIGN NUMBER, with or without `* baseline`."""
    return tuple(map(_guard, texts))


def _guard(text: str) -> Guard:
    found = _GUARD.fullmatch(text)
    try:
        limit = float(found["limit"]) if found else math.nan
    except ValueError:
        limit = math.nan
    if found is None or not math.isfinite(limit):
        raise ConfigError(
            f"--guard {text!r} is not METRIC SIGN NUMBER, e.g. 'validation/target/effective_rank >= 0.3 * baseline'"
        )
    refuse_oracle(found["metric"], "--guard")
    return Guard(metric=found["metric"], sign=found["sign"], limit=limit, of_baseline=bool(found["base"]))
