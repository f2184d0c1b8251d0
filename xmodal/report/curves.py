"""The lines of metrics of the runs of a page in, one figure for each kind of curve out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from xmodal.report.charts import Line, Reference, lines
from xmodal.report.material import Shown
from xmodal.report.results import is_share, label
from xmodal.report.wording import clean, number

MOST_VALIDATIONS = 6


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure, its title, and the line that says how to read it."""

    title: str
    caption: str
    chart: Markup


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
        name="samples_per_s", title="Throughput, pairs/s", caption="Over all workers, between two lines of the log."
    ),
    _Known(
        name="data_wait_share",
        title="Share of time waiting for data",
        caption="Near 0 % the model is the bottleneck, near 100 % reading and decoding are.",
        share=True,
    ),
)  # fmt: skip


def curves(runs: Sequence[Shown]) -> list[Curve]:
    """Loss first, then validation, then the rest; only what some run logged."""
    found = [_loss(runs), *_validation(runs), *(_known(runs, one) for one in KNOWN)]
    return [curve for curve in found if curve is not None]


def _loss(runs: Sequence[Shown]) -> Curve | None:
    series = _series(runs, "loss")
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
    wanted = [name for name in sorted(names) if is_share(name) and "/chance" not in name]
    wanted.sort(key=lambda name: not name.endswith("@10"))
    made = []
    for name in wanted[:MOST_VALIDATIONS]:
        words = label(name.removeprefix("validation/"))
        made.append(
            Curve(
                title=f"Validation: {words}",
                caption="On held-out pairs during training. Up is better.",
                chart=lines(_series(runs, name), f"{words} on held-out pairs", from_zero=True, share=True),
            )
        )
    return made


def _known(runs: Sequence[Shown], one: _Known) -> Curve | None:
    series = _series(runs, one.name)
    if not series:
        return None
    chart = lines(series, f"{one.title} over training steps", from_zero=one.from_zero, share=one.share)
    return Curve(title=one.title, caption=one.caption, chart=chart)


def _series(runs: Sequence[Shown], name: str) -> list[Line]:
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
