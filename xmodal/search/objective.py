"""The objectives of a search (metrics with directions), and guards that reject a trial with a reason."""

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
class SearchObjective:
    """A metric to optimise; `sign` is +1 if larger is better, else -1."""

    metric: str
    sign: int = 1

    def better(self, trial: Trial) -> int | float | None:
        """Return the trial's newest value, negated if smaller is better; None if there is none or it is not finite."""
        value = trial.last(self.metric)
        return None if value is None or not math.isfinite(value) else self.sign * value


def objectives(metrics: Sequence[str], modes: Sequence[str]) -> tuple[SearchObjective, ...]:
    """Return one objective for each metric; one mode may be given for all.

    Raises ConfigError for metrics that are measured on the target's labels.
    """
    if not metrics:
        raise ConfigError("no metric to search by: name one that the run logs, e.g. --metric validation/target/bnm")
    for metric in metrics:
        reject_oracle_metric(metric, "--metric")
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"--metric {' '.join(metrics)}: name each once")
    if len(modes) not in (1, len(metrics)) or any(mode not in ("max", "min") for mode in modes):
        raise ConfigError(f"--mode {' '.join(modes)}: give max or min, one for all metrics or one for each")
    modes = list(modes) * (len(metrics) if len(modes) == 1 else 1)
    return tuple(
        SearchObjective(metric=m, sign=1 if mode == "max" else -1) for m, mode in zip(metrics, modes, strict=True)
    )


def reject_oracle_metric(metric: str, flag: str) -> None:
    """Raise ConfigError for a metric that is measured on labels or pairs of the target."""
    if metric.startswith(ORACLE) or f"/{ORACLE}" in metric:
        raise ConfigError(
            f"{flag} {metric}: this is measured on labels or pairs of the target, and choosing by it would measure the "
            "choice; search by a score without labels, and ask for the regret afterwards with --regret"
        )


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A condition such as `METRIC >= 0.9 * baseline` or `METRIC < 2`; a trial that violates it is rejected."""

    metric: str
    sign: str
    limit: float
    of_baseline: bool = False

    def violation(self, trial: Trial, baseline: Trial | None) -> str | None:
        """Return why the newest metrics of the trial violate the guard; None if they do not, or are missing."""
        value, limit = trial.last(self.metric), self.limit
        if value is None:
            return None
        if self.of_baseline:
            base = None if baseline is None else baseline.metric_at_share(self.metric, trial.share)
            base = base if base is not None or baseline is None else baseline.last(self.metric)
            if base is None:
                return None
            limit *= base
        if _SIGNS[self.sign](value, limit):
            return None
        whose = f" ({self.limit:g} x the baseline's)" if self.of_baseline else ""
        return f"{self.metric} is {value:.3g}, not {self.sign} {limit:.3g}{whose}"


def parse_guards(texts: Sequence[str]) -> tuple[Guard, ...]:
    """Parse guards of the form METRIC SIGN NUMBER, with or without `* baseline`; ConfigError for others."""
    return tuple(map(_guard, texts))


def _guard(text: str) -> Guard:
    match = _GUARD.fullmatch(text)
    try:
        limit = float(match["limit"]) if match else math.nan
    except ValueError:
        limit = math.nan
    if match is None or not math.isfinite(limit):
        raise ConfigError(
            f"--guard {text!r} is not METRIC SIGN NUMBER, e.g. 'validation/target/effective_rank >= 0.3 * baseline'"
        )
    reject_oracle_metric(match["metric"], "--guard")
    return Guard(metric=match["metric"], sign=match["sign"], limit=limit, of_baseline=bool(match["base"]))
