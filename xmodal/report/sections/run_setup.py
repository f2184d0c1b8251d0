"""The runs of a page in, what was trained on what out: headline figures, facts, configurations beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmodal.formatting import clean, count, moment, number, seconds
from xmodal.report.page_data import Shown
from xmodal.report.sections.evaluation_results import label, newest, shown
from xmodal.report.sections.time_spent import spent

NOTHING = "\u2013"  # where a run has no such value
_PAIRINGS = ("text_to_image", "image_to_text", "audio_to_video", "video_to_audio")
HEADLINES = (*(f"{way}/recall@10" for way in _PAIRINGS), "accuracy/multimodal", "accuracy/ensemble")


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A row of facts for each name: one value for each run; `differs` where they are not all alike."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def tiles(run: Shown) -> list[Tile]:
    """The figures one asks for first, of a single run."""
    last = run.recorded.last
    made = list(_measured(run))
    if "loss" in last and last["loss"] is not None:
        made.append(Tile(label="loss at the end", value=number(last["loss"]), note=f"step {number(last['step'])}"))
    if "rows/delivered" in last:
        bad = last.get("rows/quarantined", 0)
        note = f"{number(bad)} quarantined" if bad else "none quarantined"
        made.append(Tile(label=f"{run.recorded.thing}s seen", value=number(last["rows/delivered"]), note=note))
    time = spent(run.recorded.metrics, str(run.recorded.run.record.get("created", "")))
    if time:
        pace = (
            f"{number(last['samples_per_s'])} {run.recorded.thing}s/s at the end" if last.get("samples_per_s") else ""
        )
        made.append(Tile(label="wall-clock time", value=seconds(time.total_s), note=pace))
    return made


def _measured(run: Shown) -> Iterator[Tile]:
    best = newest(run.evaluations)
    if best is None:
        return
    for name in HEADLINES:
        if name in best.metrics:
            guess = f"chance {shown(name, best.chance[name])}" if name in best.chance else f"{best.rows:,} rows"
            words = name.replace("_to_", " → ").replace("/recall@", ", recall@")
            words = f"accuracy, {label(name)}" if name.startswith("accuracy/") else words
            yield Tile(label=words, value=shown(name, best.metrics[name]), note=guess)


def leads(runs: Sequence[Shown]) -> list[str]:
    """A sentence for each run: which model, how long, on what."""
    return [_lead(run, len(runs) > 1) for run in runs]


def _lead(run: Shown, several: bool) -> str:
    setting = run.recorded.configured
    size = f" ({_size(run.parameters)})" if run.parameters else ""
    corpora = [clean(uri, 80) for uri in run.recorded.run.corpora] or ["an unknown corpus"]
    whose = f"{clean(run.name, 40)}: " if several else ""
    return (
        f"{whose}{_model(run, 'a model')}{size}, "
        f"{number(run.recorded.last.get('step', 0))} steps of {number(setting('optim.batch_size', '?'))} "
        f"{run.recorded.thing}s "
        f"on {_workers(run)}, from {' and '.join(corpora)}."
    )


def summary(runs: Sequence[Shown]) -> list[Facts]:
    """The headline figures of several runs, a row each."""
    of_each = [{tile.label: f"{tile.value}" for tile in tiles(run)} for run in runs]
    labels = dict.fromkeys(label for tiles_of_one in of_each for label in tiles_of_one)
    return [Facts(name=label, values=tuple(one.get(label, NOTHING) for one in of_each)) for label in labels]


def facts(runs: Sequence[Shown]) -> list[Facts]:
    """What was trained on what, with which code, where."""
    of_each = [dict(_facts(run)) for run in runs]
    names = dict.fromkeys(name for one in of_each for name in one)
    return [Facts(name=name, values=tuple(one.get(name, NOTHING) for one in of_each)) for name in names]


def _facts(run: Shown) -> Iterator[tuple[str, str]]:
    record, setting = run.recorded.run.record, run.recorded.configured
    size = f", {_size(run.parameters)}" if run.parameters else ""
    yield "Model", f"{_model(run, 'unknown')}{size}"
    yield "Objective", _objective(run)
    yield "Batch", f"{number(setting('optim.batch_size', '?'))} {run.recorded.thing}s over {_workers(run)}"
    steps = run.recorded.last.get("step", 0)
    yield "Training", f"{number(steps)} steps, {number(run.recorded.last.get('epoch', 0), 2)} epochs"
    yield "Precision", clean(setting("optim.precision", "fp32"))
    yield "Seed", clean(setting("seed", NOTHING))
    weights = setting("data.weights") or []
    for place, (uri, fingerprint) in enumerate(dict(record.get("corpora") or {}).items()):
        share = f", weight {number(weights[place])}" if place < len(weights) else ""
        yield f"Corpus {place + 1}", f"{clean(uri)} (fingerprint {clean(fingerprint)}{share})"
    if run.checkpoint:
        yield "Checkpoint", f"{clean(run.checkpoint)} (step {run.step or 0:,})"
    yield "Started", f"{moment(record.get('created', ''))}{_resumes(record)}"
    yield from _origin(record.get("provenance") or {})


def _size(parameters: int) -> str:
    return f"{parameters / 1e6:,.1f} M parameters" if parameters >= 1e5 else f"{parameters:,} parameters"


def _model(run: Shown, otherwise: str) -> str:
    setting = run.recorded.configured
    if not run.recorded.classifier:
        start = "/".join(str(setting("start_from") or "").rstrip("/").split("/")[-3:])
        return clean(setting("model.architecture", f"dual encoder from {start}" if start else otherwise), 80)
    classes = len(setting("model.classes"))
    return f"classifier of {number(classes)} classes, joined by {clean(setting('model.fusion', 'a fusion'), 40)}"


def _objective(run: Shown) -> str:
    setting = run.recorded.configured
    if run.recorded.classifier:
        method = clean(setting("balance.method", "unknown"), 40).replace("_", " ")
        return method if method == "joint" else f"{method}, decided at the {clean(setting('balance.space'), 40)}"
    objective = {"info_nce": "InfoNCE (softmax)", "sigmoid": "sigmoid (SigLIP)"}
    loss = str(setting("loss.objective", setting("objective") or "info_nce"))
    words = objective.get(loss, clean(loss))
    if setting("domain.loss", "none") != "none":
        strength = f"strength {number(setting('domain.strength'))} ({clean(setting('domain.schedule'), 20)})"
        words += f" + {clean(setting('domain.loss'), 20)}, {strength}, protocol {clean(setting('target.protocol'), 20)}"
    return words


def _workers(run: Shown) -> str:
    workers = run.recorded.configured("resources.workers", 1)
    return count(workers, "worker") if isinstance(workers, int) else f"{clean(workers)} workers"


def _resumes(record: Mapping[str, Any]) -> str:
    resumes = record.get("resumes") or []
    return f", resumed {count(len(resumes), 'time')}" if resumes else ""


def _origin(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    commit = str(provenance.get("commit") or "")
    if commit:
        changed = " with uncommitted changes" if commit.endswith("+changes") else ""
        yield "Code", f"commit {clean(commit[:12])}{changed}"
    hardware = provenance.get("hardware") or {}
    gpus = ", ".join(clean(name) for name in hardware.get("gpus") or []) or "no GPU"
    yield (
        "Hardware",
        f"{number(hardware.get('cores', '?'))} cores, {number(hardware.get('memory_gib', '?'))} GiB, {gpus}, "
        f"{clean(hardware.get('system', ''))} {clean(hardware.get('machine', ''))}",
    )
    packages = provenance.get("packages") or {}
    yield (
        "Versions",
        ", ".join(
            [f"Python {clean(provenance.get('python', '?'))}", *(f"{clean(k)} {clean(v)}" for k, v in packages.items())]
        ),
    )


def configuration(runs: Sequence[Shown]) -> list[Facts]:
    """Every field of the configurations by its dotted name."""
    of_each = [dict(_flat(run.recorded.run.config)) for run in runs]
    names = dict.fromkeys(name for one in of_each for name in one)
    return [Facts(name=clean(name), values=tuple(one.get(name, "not set") for one in of_each)) for name in names]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, _setting(value)


def _setting(value: Any) -> str:
    """As one would type it: a list without brackets."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return clean(" ".join(_setting(one) for one in value))
    return f"{value:.6g}" if isinstance(value, float) else clean(value)
