"""What a sweep does next, as a function of what it knows: trials in, the next trial or the end of one out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipelines.config.sweep import PBT, SweepConfig
from pipelines.sweep.searchers import OWN, propose
from pipelines.sweep.stopping import ROUNDING, STOPPING, verdict
from xmodal.errors import ConfigError
from xmodal.search.choice import standings
from xmodal.search.objective import Guard, SearchObjective
from xmodal.search.proposals import grid, random_units
from xmodal.search.ranges import ChoiceRange
from xmodal.search.rungs import Rungs
from xmodal.search.space import SearchSpace
from xmodal.search.trial import (
    BASELINE,
    CLONE,
    FAILED,
    FINALIST,
    FINISHED,
    REJECTED,
    SEARCH,
    STOPPED,
    WAITING,
    Trial,
)

STARTUP = 8  # random points before the first modelled one
TRIES = 50  # of points whose values cannot stand together
JOLT = 0.2  # of the unit interval, by which a copy's values move at most
REDRAWN = 0.25  # of a copy's choices


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """`make(values, seed)` gives a configuration, or raises ConfigError where values cannot stand together."""

    config: SweepConfig
    space: SearchSpace
    by: tuple[SearchObjective, ...]
    guards: tuple[Guard, ...]
    baseline: Mapping[str, Any]
    rungs: Rungs
    make: Callable[[Mapping[str, Any], int], Any]
    base_seed: int = 0

    @property
    def wanted(self) -> int:
        """Trials drawn from the space."""
        if self.config.scheduler == PBT:
            return self.config.population
        return len(grid(self.space, self.config.points)) if self.config.algorithm == "grid" else self.config.trials

    @property
    def planned(self) -> int:
        """Trials in all: with the baseline, and the repeats of finalists."""
        repeats = 0 if self._finalists == 0 else (min(self._finalists, self.wanted) + 1) * (self.config.seeds - 1)
        return 1 + self.wanted + repeats

    @property
    def _finalists(self) -> int:
        return 0 if self.config.scheduler == PBT or len(self.by) > 1 else self.config.finalists

    def next(self, trials: Sequence[Trial]) -> Trial | None:
        """The next new trial, without a number; None where there is none, or none yet."""
        if not trials:
            return Trial(
                number=-1,
                kind=BASELINE,
                values=self.baseline,
                units=self.space.encode(self.baseline),
                seed=self.base_seed,
            )
        drawn = [trial for trial in trials if trial.kind == SEARCH]
        if len(drawn) < self.wanted:
            return self._drawn(len(drawn), trials)
        if self.config.scheduler == PBT or not all(trial.over for trial in trials if trial.kind != FINALIST):
            return None
        return self._repeat(trials)

    def _drawn(self, number: int, trials: Sequence[Trial]) -> Trial:
        last: ConfigError | None = None
        for more in range(TRIES):
            values, units = self._point(number + 100_000 * more, trials)
            try:
                self.make(values, self.base_seed)
            except ConfigError as error:
                last = error
                if self.config.algorithm == "grid":
                    return self._trial(values, units, status=REJECTED, why=str(error))
                continue
            return self._trial(values, units)
        raise ConfigError(f"{TRIES} points of the space, one after the other, cannot be run; the last one: {last}")

    def _point(self, number: int, trials: Sequence[Trial]) -> tuple[dict[str, Any], Any]:
        """Values and units of a proposal; a modelled one once a few random ones are known."""
        name, seed = self.config.algorithm, self.config.seed
        if name == "grid":
            values = grid(self.space, self.config.points)[number]
            return values, self.space.encode(values)
        known = sum(trial.status in (FINISHED, STOPPED) for trial in trials)
        if name in OWN or known < STARTUP:
            units = random_units(self.space, seed, number)
        else:
            units = propose(name, self.space, seed, number, trials, self.by)
        return self.space.decode(units), units

    def _trial(self, values: Mapping[str, Any], units: Any, status: str = WAITING, why: str = "") -> Trial:
        return Trial(
            number=-1, kind=SEARCH, values=values, units=units, seed=self.base_seed, status=status, why=why
        )  # fmt: skip

    def _repeat(self, trials: Sequence[Trial]) -> Trial | None:
        """The next seed of a finalist; finalists are the best that finished, and the baseline beside them."""
        if self._finalists == 0:
            return None
        first = [trial for trial in trials if trial.kind != FINALIST]
        best = [one.trial for one in standings(first, self.space, self.by[0])]
        baseline = next(trial.number for trial in trials if trial.kind == BASELINE)
        chosen = [number for number in best if number != baseline][: self._finalists]
        for number in [*chosen, *([baseline] if baseline in best else [])]:
            again = [trial for trial in trials if trial.kind == FINALIST and trial.parent == number]
            if len(again) < self.config.seeds - 1:
                original = next(trial for trial in trials if trial.number == number)
                seed = self.base_seed + 1 + len(again)
                return Trial(
                    number=-1, kind=FINALIST, values=original.values, units=original.units, seed=seed, parent=number
                )  # fmt: skip
        return None

    def verdict(self, trial: Trial, trials: Sequence[Trial]) -> tuple[str, str] | None:
        """Whether a trial that runs is ended: rejected by a guard, or stopped at a rung."""
        if self.config.scheduler not in STOPPING or trial.kind in (BASELINE, FINALIST):
            return None
        if trial.share >= self.rungs.grace - ROUNDING and (why := self.complaint(trial, trials)):
            return REJECTED, why
        why = verdict(self.config.scheduler, self.rungs, trial, trials, self.by[0])
        return (STOPPED, why) if why else None

    def complaint(self, trial: Trial, trials: Sequence[Trial]) -> str | None:
        """What its guards say of what a trial measured last; the baseline is never rejected."""
        if trial.kind == BASELINE or trial.parent == 0:
            return None
        baseline = next((one for one in trials if one.kind == BASELINE), None)
        found = [why for guard in self.guards if (why := guard.violation(trial, baseline))]
        return "; ".join(found) or None

    def boundary(self, trial: Trial, steps: int) -> int | None:
        """The step at which a trial of pbt pauses next; None for the last stretch, and for whoever never pauses."""
        if self.config.scheduler != PBT or trial.kind == BASELINE:
            return None
        every = steps // self.config.intervals
        step = (trial.paused_at // every + 1) * every
        return step if step < every * self.config.intervals else None

    def living(self, trials: Sequence[Trial]) -> list[Trial]:
        """The population."""
        return [t for t in trials if t.kind in (SEARCH, CLONE) and t.status not in (STOPPED, REJECTED, FAILED)]

    def exploit(self, trials: Sequence[Trial]) -> tuple[dict[int, str], list[Trial]]:
        """Of a population that has paused: those that give way, with the reason, and the copies that follow them.

        The worst 1/reduction give way to copies of as many of the best (Jaderberg et al. 2017, truncation).
        """
        living = self.living(trials)
        step = min(trial.paused_at for trial in living)
        score = {trial.number: _score(trial, self.by[0], step) for trial in living}
        order = sorted(living, key=lambda t: (-score[t.number], t.number))
        count = max(1, int(len(order) / self.config.reduction))
        leaving: dict[int, str] = {}
        copies: list[Trial] = []
        free = max(trial.number for trial in trials) + 1
        for place, loser in enumerate(reversed(order[-count:])):
            parent = order[place]
            if score[parent.number] > score[loser.number]:
                leaving[loser.number] = f"gave way to a copy of {parent.name} at step {parent.paused_at:,}"
                copies.append(self._copy(parent, free + len(copies)))
        return leaving, copies

    def _copy(self, parent: Trial, number: int) -> Trial:
        assert parent.units is not None
        units = self._jolted(parent.units, number)
        return Trial(
            number=-1,
            kind=CLONE,
            values=self.space.decode(units),
            units=units,
            seed=parent.seed,
            parent=parent.number,
            parent_step=parent.paused_at,
            paused_at=parent.paused_at,
            reports=tuple(report for report in parent.reports if report.step <= parent.paused_at),
        )

    def _jolted(self, units: Sequence[float], number: int) -> tuple[float, ...]:
        draw = np.random.default_rng([self.config.seed, 7919, number])
        moved, at = [], 0
        for one in self.space.ranges.values():
            for unit in units[at : at + one.size]:
                if isinstance(one, ChoiceRange):
                    moved.append(draw.random() if draw.random() < REDRAWN else unit)
                else:
                    step = unit + draw.uniform(-JOLT, JOLT)
                    moved.append(min(1.0, max(0.0, -step if step < 0 else 2 - step if step > 1 else step)))
            at += one.size
        return tuple(float(unit) for unit in moved)


def _score(trial: Trial, objective: SearchObjective, step: int) -> float:
    """What it had measured by that step; the least of all where that is nothing."""
    known = replace(trial, reports=tuple(report for report in trial.reports if report.step <= step))
    better = objective.better(known)
    return -np.inf if better is None else better
