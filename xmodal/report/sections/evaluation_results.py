"""Evaluations of the runs of a page in, one chart and one table for each corpus out: values, intervals, chance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from xmodal.formatting import Number, clean, number, percent
from xmodal.report.charts.figures import Mark, Row, intervals
from xmodal.report.page_data import Shown
from xmodal.run.run_record import Evaluated

DIRECTIONS = {
    "text_to_image": "text → image",
    "image_to_text": "image → text",
    "audio_to_video": "audio → video",
    "video_to_audio": "video → audio",
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
}
_ORDER = [*DIRECTIONS, "accuracy"]
HEADS = {"multimodal": "all modalities", "ensemble": "mean of heads"}  # of a classifier; others are one modality's
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A value as it is shown, with its interval where there is one."""

    value: str
    interval: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A metric: one cell for each run, None where it was not measured."""

    label: str
    cells: tuple[Cell | None, ...]
    chance: str


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured on one corpus."""

    corpus: str
    about: tuple[str, ...]  # for each run: rows, step
    chart: Markup | None
    lines: tuple[Line, ...]


def results(runs: Sequence[Shown]) -> list[Result]:
    """One for each corpus that any run was evaluated on; of several evaluations of a run the newest step counts."""
    corpora: dict[str, list[list[Evaluated]]] = {}
    for place, run in enumerate(runs):
        for one in run.evaluations:
            corpora.setdefault(one.fingerprint or one.corpus, [[] for _ in runs])[place].append(one)
    return [_result(runs, [newest(found) for found in by_run]) for by_run in corpora.values()]


def newest(found: Sequence[Evaluated]) -> Evaluated | None:
    """The evaluation at the last step, the files of that step taken together."""
    if not found:
        return None
    last = max(one.step for one in found)
    parts = [one for one in found if one.step == last]
    return Evaluated(
        name=parts[0].name,
        step=last,
        corpus=parts[0].corpus,
        fingerprint=parts[0].fingerprint,
        rows=max(one.rows for one in parts),
        skipped=max(one.skipped for one in parts),
        metrics=_joined(one.metrics for one in parts),
        interval=_joined(one.interval for one in parts),
        chance=_joined(one.chance for one in parts),
    )


def _joined(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {name: value for part in parts for name, value in part.items()}


def _result(runs: Sequence[Shown], found: Sequence[Evaluated | None]) -> Result:
    there = [one for one in found if one is not None]
    names = sorted({name for one in there for name in one.metrics}, key=_place)
    shares = [name for name in names if is_share(name)]
    rows = [_row(name, runs, found) for name in shares]
    about = tuple(_about(run, one, len(runs) > 1) for run, one in zip(runs, found, strict=True))
    corpus = clean(there[0].corpus)
    return Result(
        corpus=corpus,
        about=about,
        chart=intervals(rows, f"Results on {corpus} beside chance") if rows else None,
        lines=tuple(_line(name, found) for name in names),
    )


def _about(run: Shown, one: Evaluated | None, several: bool) -> str:
    whose = f"{clean(run.name)}: " if several else ""
    if one is None:
        return f"{whose}not evaluated on this corpus"
    skipped = f", {one.skipped:,} could not be read" if one.skipped else ""
    return f"{whose}{one.rows:,} {run.recorded.thing}s{skipped}, step {one.step:,}"


def _row(name: str, runs: Sequence[Shown], found: Sequence[Evaluated | None]) -> Row:
    marks = []
    for run, one in zip(runs, found, strict=True):
        if one is not None and name in one.metrics:
            value = one.metrics[name]
            low, high = one.interval.get(name, (value, value))
            marks.append(Mark(slot=run.slot, value=value, low=low, high=high))
    return Row(label=label(name), marks=tuple(marks), chance=chance(name, found))


def chance(name: str, found: Sequence[Evaluated | None]) -> float | None:
    """What guessing gives, by the first run that says so."""
    return next((one.chance[name] for one in found if one is not None and name in one.chance), None)


def _line(name: str, found: Sequence[Evaluated | None]) -> Line:
    guess = chance(name, found)
    return Line(
        label=label(name),
        cells=tuple(None if one is None else _cell(name, one) for one in found),
        chance="" if guess is None else shown(name, guess),
    )


def _cell(name: str, one: Evaluated) -> Cell | None:
    if name not in one.metrics:
        return None
    low_high: Mapping[str, tuple[float, float]] = one.interval
    interval = " to ".join(shown(name, end) for end in low_high[name]) if name in low_high else ""
    return Cell(value=shown(name, one.metrics[name]), interval=interval)


def shown(name: str, value: Number) -> str:
    return percent(value) if is_share(name) else number(value)


def is_share(name: str) -> bool:
    """Whether the metric is a share of all queries."""
    return any(word in name for word in ("recall@", "accuracy", "precision"))


def label(name: str) -> str:
    """`text_to_image/recall@10` -> `text → image, R@10`."""
    head, _, tail = name.partition("/")
    if head == "accuracy":
        return clean(HEADS.get(tail, f"{tail} alone"), 40)
    what = tail.replace("recall@", "R@").replace("_", " ").replace("/", " ")
    return clean(f"{DIRECTIONS.get(head, head.replace('_', ' '))} {what}".strip(), 40)


def _place(name: str) -> tuple[int, str, float, str]:
    """Directions in their order, then by kind, then by K."""
    head, _, tail = name.partition("/")
    kind, _, k = tail.partition("@")
    if head == "accuracy" and tail in HEADS:
        kind = "" if tail == "multimodal" else "~"  # first and last
    order = _ORDER.index(head) if head in _ORDER else len(_ORDER)
    return order, {"recall": "0"}.get(kind, kind), float(k) if k.isdecimal() else 0.0, name
