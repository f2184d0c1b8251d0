"""The lines of metrics of the runs of a page in, one figure for each kind of curve out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.formatting import clean, number
from xmodal.report.charts.figures import Line, Reference, lines
from xmodal.report.page_data import Shown
from xmodal.report.sections.evaluation_results import is_share, label

MOST_VALIDATIONS = 6
CONTRASTIVE = "contrastive/loss"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure, its title, and the line that says how to read it."""

    title: str
    caption: str
    chart: Markup
    legend: tuple[tuple[str, int], ...] = ()  # names and colours of lines that are no runs


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A metric that every run logs."""

    name: str
    title: str
    caption: str
    from_zero: bool = True
    share: bool = False


KNOWN = (
    _Known(
        name="temperature",
        title="Temperature",
        caption="Cosines are divided by it in the loss. Lower is sharper; it is learned within 0.01 to 1.",
    ),
    _Known(
        name="grad_norm",
        title="Gradient norm",
        caption="Length of the gradient over all parameters, before clipping. Spikes are unstable steps.",
    ),
    _Known(name="lr", title="Learning rate", caption="Warm-up, then half a cosine."),
    _Known(
        name="samples_per_s", title="Throughput, rows/s", caption="Over all workers, between two lines of the log."
    ),
    _Known(
        name="data_wait_share",
        title="Share of time waiting for data",
        caption="Near 0 % the model is the bottleneck, near 100 % reading and decoding are.",
        share=True,
    ),
    _Known(
        name="peak_memory_GiB",
        title="Peak memory, GiB",
        caption="What the first worker has held at most: on its GPU, else all that is resident.",
    ),
)  # fmt: skip


def curves(runs: Sequence[Shown]) -> list[Curve]:
    """Loss first, then accuracy or validation, then the rest; only what some run logged."""
    pairing = [run for run in runs if not run.recorded.classifier]
    classifying = [run for run in runs if run.recorded.classifier]
    found = [_loss(pairing), _cross_entropy(classifying), *_accuracy(classifying), *_validation(runs)]
    return [curve for curve in (*found, *(_known(runs, one) for one in KNOWN)) if curve is not None]


def _cross_entropy(runs: Sequence[Shown]) -> Curve | None:
    series = series_of(runs, "loss")
    if not series:
        return None
    guesses = {math.log(classes) * _terms(run) for run in runs if (classes := _classes(run))}
    marks = [Reference(value=guess, label=f"guessing: {number(guess)}") for guess in sorted(guesses)]
    return Curve(
        title="Loss",
        caption="Cross-entropy of the fusion plus that of each head (the joint loss alone: of the fusion). Down is "
        "better. Dashed: what guessing gets.",
        chart=lines(series, "Loss over training steps", references=marks, from_zero=True),
    )


def _terms(run: Shown) -> int:
    """Cross-entropies in the loss: one for each accuracy that is logged."""
    return max(1, sum(_is_accuracy(name) for name in run.recorded.last))


def _classes(run: Shown) -> int:
    classes = run.recorded.configured("model.classes")
    return len(classes) if isinstance(classes, list | tuple) else 0


def _accuracy(runs: Sequence[Shown]) -> list[Curve]:
    """Of the fusion, then of each head."""
    names = {name for run in runs for line in run.recorded.metrics for name in line if _is_accuracy(name)}
    chances = {1 / classes for run in runs if (classes := _classes(run))}
    marks = [Reference(value=chance, label="guessing") for chance in sorted(chances)]
    made = []
    for name in sorted(names, key=lambda name: (not name.startswith("multimodal"), name)):
        whose = clean(name.partition("/")[0], 40)
        words = "all modalities together" if whose == "multimodal" else f"the {whose} head"
        made.append(
            Curve(
                title=f"Accuracy of {words}",
                caption="Share of one training batch whose class is named right. Up is better.",
                chart=lines(
                    series_of(runs, name), f"Accuracy of {words}", references=marks, from_zero=True, share=True
                ),
            )
        )
    return made


def _is_accuracy(name: str) -> bool:
    return name.endswith("/accuracy") and name.count("/") == 1


def _loss(runs: Sequence[Shown]) -> Curve | None:
    """Of an adapted run the contrastive part alone: its whole loss has a critic's in it, too."""
    names = {run.slot: CONTRASTIVE if CONTRASTIVE in run.recorded.last else "loss" for run in runs}
    series = [line for run in runs for line in series_of([run], names[run.slot])]
    if not series:
        return None
    guesses = {_guess(run) for run in runs} - {None}
    marks = [Reference(value=g, label=f"guessing: {number(g)}") for g in guesses if g is not None]
    caption = "Mean over both directions of the batch. Down is better."
    if marks:
        caption += " Dashed: what a model that cannot tell pairs apart gets, the logarithm of the batch size."
    return Curve(
        title="Contrastive loss",
        caption=caption,
        chart=lines(series, "Contrastive loss over training steps", references=marks, from_zero=True),
    )


def _guess(run: Shown) -> float | None:
    """ln B for the softmax loss; the sigmoid loss has no such figure that does not depend on its bias."""
    batch = run.recorded.configured("optim.batch_size")
    softmax = run.recorded.configured("loss.objective", "info_nce") == "info_nce"
    return round(math.log(batch), 4) if softmax and isinstance(batch, int) and batch > 1 else None


def _validation(runs: Sequence[Shown]) -> list[Curve]:
    names = {name for run in runs for line in run.recorded.metrics for name in line if name.startswith("validation/")}
    names -= {name for name in names if name.startswith("validation/target/")}  # no shares: curves of their own
    wanted = [name for name in sorted(names) if is_share(name) and "/chance" not in name]
    wanted.sort(key=lambda name: not name.endswith("@10"))
    made = []
    for name in wanted[:MOST_VALIDATIONS]:
        words = label(name.removeprefix("validation/"))
        made.append(
            Curve(
                title=f"Validation: {words}",
                caption="On held-out pairs during training. Up is better.",
                chart=lines(series_of(runs, name), f"{words} on held-out pairs", from_zero=True, share=True),
            )
        )
    return made


def _known(runs: Sequence[Shown], one: _Known) -> Curve | None:
    series = series_of(runs, one.name)
    if not series:
        return None
    chart = lines(series, f"{one.title} over training steps", from_zero=one.from_zero, share=one.share)
    return Curve(title=one.title, caption=one.caption, chart=chart)


def series_of(runs: Sequence[Shown], name: str) -> list[Line]:
    """One line for each run that has finite values of this metric."""
    made = []
    for run in runs:
        points = [(line["step"], line[name]) for line in run.recorded.metrics if _finite(line.get(name))]
        if points:
            steps, values = zip(*points, strict=True)
            made.append(Line(label=clean(run.name, 40), slot=run.slot, x=steps, y=values))
    return made


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
