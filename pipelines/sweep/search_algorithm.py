"""Say which trial of a sweep runs next: those that wait, the baseline, points of Tune's searcher, repeats of the best.

A sweep that is resumed makes its searcher anew and tells it, in their order, what was drawn and what came of it. Where
the searcher draws the recorded points again (it is seeded, and its library is the same one), its state is that of an
undisturbed sweep; else it is given these points as its first ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from pipelines.sweep.finalists import next_repeat
from pipelines.sweep.plan import Plan
from pipelines.sweep.recorder import EmptyPickle, SweepRecorder
from pipelines.sweep.searchers import AXES, make_searcher
from xmodal.errors import ConfigError
from xmodal.search.ranges import Units
from xmodal.search.trial import BASELINE, FINISHED, REJECTED, SEARCH, STOPPED, WAITING, Trial

TRIES = 50  # of points whose values cannot stand together, one after the other
SAME = 1e-9  # units: two points at most so far apart are one


class SweepSearch(EmptyPickle, Searcher):
    """Suggests the trials of a sweep to Tune; `config["trial"]` describes one to its actor."""

    def __init__(self, recorder: SweepRecorder) -> None:
        super().__init__()
        self._recorder, self._plan = recorder, recorder.plan
        self.points = PointSource(recorder.plan, recorder.store.trials)
        recorder.on_end = self.points.tell
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        recorder = self._recorder
        if recorder.mistake is not None:
            return Searcher.FINISHED
        if not recorder.has_room():
            return None
        trial = self._next()
        if trial is None:
            return None if self._numbers else Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        return {"trial": recorder.trial_config(trial)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let go of a trial; the searcher heard of its end when that was recorded."""
        self._recorder.active.discard(self._numbers.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Store nothing: the records hold all it knows."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""

    def _next(self) -> Trial | None:
        store, plan = self._recorder.store, self._plan
        at_work = set(self._numbers.values())
        waiting = [trial for trial in store.trials if trial.status == WAITING and trial.number not in at_work]
        if plan.population_based:  # its members are no business of a searcher
            waiting = [trial for trial in waiting if trial.kind == BASELINE]
        if waiting:
            return min(waiting, key=lambda trial: (trial.share, trial.number))
        if not store.trials:
            return store.add(plan.baseline_trial())
        drawn = sum(trial.kind == SEARCH for trial in store.trials)
        while drawn < plan.draw_count and not plan.population_based:
            point = self.points.draw(store.next_number())
            if point is None:
                break
            drawn += 1
            trial = store.add(replace(point, asked=store.next_event()))
            if not trial.over:
                return trial
            self._recorder.on_event({"kind": "ended", "trial": trial})
        if at_work or plan.population_based:
            return None
        repeat = next_repeat(store.trials, plan)
        return store.add(repeat) if repeat is not None else None


class PointSource:
    """Draws points from one of Tune's searchers, and tells it what came of them.

    `trials` are the records of a sweep that is resumed.
    """

    def __init__(self, plan: Plan, trials: Sequence[Trial] = ()) -> None:
        self._plan = plan
        self._restart(())
        drawn = [trial for trial in trials if trial.kind == SEARCH]
        if drawn and not self._replay(drawn):
            self._restart(drawn)
            self._replay(drawn, forced=True)

    def _restart(self, drawn: Sequence[Trial]) -> None:
        """Make a searcher whose first points are those of `drawn`."""
        plan, config = self._plan, self._plan.config
        self._searcher = make_searcher(
            config.algorithm,
            plan.algorithm_options,
            plan.space,
            seed=config.seed,
            metrics=[objective.metric for objective in plan.by],
            grid_points=config.points,
            first_points=[units_by_axis(trial.units) for trial in drawn if trial.units is not None],
        )
        self._keys: dict[str, str] = {}  # what the searcher calls a trial, by our name
        self._results: list[dict[str, float]] = []  # of the trials that ended well

    def _replay(self, drawn: Sequence[Trial], *, forced: bool = False) -> bool:
        """Repeat draws and results in their order; whether the searcher draws the recorded points again."""
        events = [(trial.asked, trial.number, False, trial) for trial in drawn]
        events += [(trial.ended, trial.number, True, trial) for trial in drawn if trial.over]
        for *_, ended, trial in sorted(events, key=lambda event: event[:3]):
            if ended:
                self.tell(trial)
                continue
            again = self.draw(trial.number)
            if not forced and (again is None or not _same(again, trial)):
                return False
        return True

    def draw(self, number: int) -> Trial | None:
        """Return a trial of the next point whose values can stand together; of a grid also one whose cannot, rejected.

        None where a grid is at its end. ConfigError after `TRIES` points that cannot be run.
        """
        plan, name, error = self._plan, f"trial-{number:03d}", None
        for attempt in range(TRIES):
            key = name if attempt == 0 else f"{name}-{attempt}"
            point = self._searcher.suggest(key)
            if point is None or point == Searcher.FINISHED:
                return None
            values, units = self._decode(point)
            try:
                plan.make(values, plan.base_seed)
            except ConfigError as wrong:
                if AXES in point:
                    return plan.search_trial(values, units, status=REJECTED, why=str(wrong))
                error = wrong
                self._searcher.on_trial_complete(key, error=True)
                continue
            self._keys[name] = key
            return plan.search_trial(values, units)
        raise ConfigError(f"{TRIES} points of the space, one after the other, cannot be run; the last one: {error}")

    def _decode(self, point: Mapping[str, Any]) -> tuple[dict[str, Any], Units | None]:
        space = self._plan.space
        if AXES in point:
            return dict(point[AXES]), space.encode(point[AXES])
        units = tuple(min(1.0, max(0.0, float(point[str(axis)]))) for axis in range(space.size))
        return space.decode(units), units

    def tell(self, trial: Trial) -> None:
        """Tell the searcher how a trial ended; a rejected one counts as the worst, else its region is drawn again."""
        key = self._keys.pop(trial.name, None)
        if key is None:
            return
        result = {objective.metric: float(objective.better(trial) or 0.0) for objective in self._plan.by}
        measured = all(objective.better(trial) is not None for objective in self._plan.by)
        if trial.status in (FINISHED, STOPPED) and measured:
            self._results.append(result)
        elif trial.status == REJECTED and self._results:
            result = {name: min(known[name] for known in self._results) for name in result}
        else:
            self._searcher.on_trial_complete(key, error=True)
            return
        self._searcher.on_trial_complete(key, result={**result, "training_iteration": len(trial.reports)})


def units_by_axis(units: Units) -> dict[str, float]:
    """Return a point as Tune's searchers name its axes."""
    return {str(axis): float(unit) for axis, unit in enumerate(units)}


def _same(one: Trial, other: Trial) -> bool:
    if one.units is None or other.units is None:
        return dict(one.values) == dict(other.values)
    return all(abs(a - b) <= SAME for a, b in zip(one.units, other.units, strict=True))
