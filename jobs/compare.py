"""Compare runs before and after adaptation, with controls and oracle, on pairs of the source and the target domain.

    python -m jobs.compare --adapted runs/dann --source photos/test --target sketches/test
    python -m jobs.compare --adapted runs/dann-0 runs/dann-1 --control runs/more-0 runs/more-1 \\
        --oracle runs/pairs --source photos/test --target sketches/test
    python -m jobs.compare --adapted runs/dann --source photos/ --target sketches/ --label cls --classes names.txt

The newest checkpoint of every run is measured on held-out pairs of both domains as jobs.evaluate does it, and the
evaluation is stored in that run. --before are models that the adaptation started from; --control are runs of as many
further steps with --domain.loss none; --oracle are runs that were trained on pairs of the target. Several runs of one
part count as its seeds: their mean and standard deviation are shown, and the standard error of a difference.

Use pairs of the target only here and in jobs.evaluate, when training is over: whoever chooses a strength or a step by
them measures that choice. In the stored result their metrics are called oracle/...
"""

import sys
from typing import TYPE_CHECKING

from jobs import arguments, console
from jobs.evaluate import TASK_NAMES
from pipelines.config.compare import CompareConfig
from xmodal.run.comparison_record import ARM_LABELS

if TYPE_CHECKING:
    from pipelines.results.compare import Comparison, MeanSD

ARM_NAMES = {
    "before": "before",
    "control": "source alone",
    "centred": "same, centred",
    "adapted": "adapted",
    "oracle": "oracle",
}
ARM_WIDTH = 18  # columns of an arm's name with its number of runs
BAR_WIDTH = 32  # columns of the longest bar
EIGHTH_BLOCKS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"
METRIC_NAMES = {"mean_class_recall": "per class"}  # where a metric's own name is wider than its column


def table(result: "Comparison") -> str:
    """Return a table of both domains for each task, with a line for each arm and a column for each metric."""
    blocks = [
        _block(result, task)
        for task in TASK_NAMES
        if any(name.startswith(f"{task}/") for name in result.metric_names())
    ]
    return "\n\n".join(blocks)


def _block(result: "Comparison", task: str) -> str:
    names = [name for name in result.metric_names() if name.startswith(f"{task}/") and not name.endswith("median_rank")]
    titles = [METRIC_NAMES.get(metric := name.partition("/")[2], metric.replace("recall@", "R@")) for name in names]
    width = 14 if any(len(runs["source"]) > 1 for runs in result.arms.values()) else 11
    head = f"{TASK_NAMES[task]:{ARM_WIDTH}}" + "".join(
        f"{f'{domain} {title}' if column == 0 else title:>{width + (8 if column == 0 else 0)}}"
        for domain in ("source", "target")
        for column, title in enumerate(titles)
    )
    return "\n".join([head, *(_line(result, arm, names, width) for arm in result.arms)])


def _line(result: "Comparison", arm: str, names: list[str], width: int) -> str:
    runs = len(result.arms[arm]["source"])
    cells = [
        f"{_format(result.mean_sd(arm, domain, name)):>{width + (8 if column == 0 else 0)}}"
        for domain in ("source", "target")
        for column, name in enumerate(names)
    ]
    return f"{ARM_NAMES[arm] + (f' ({runs})' if runs > 1 else ''):{ARM_WIDTH}}" + "".join(cells)


def _format(value: "MeanSD | None") -> str:
    """Return a value in percent, with its standard deviation over several runs; a dash where there is no value."""
    if value is None:
        return "\u2013"
    return f"{100 * value.mean:.1f}%" if value.sd is None else f"{100 * value.mean:.1f} ± {100 * value.sd:.1f}"


def bars(result: "Comparison") -> str:
    """Return R@10 on the target as a bar for each arm, a block for each direction of retrieval."""
    names = result.metric_names()
    return "\n\n".join(_task_bars(result, task) for task in TASK_NAMES if f"{task}/recall@10" in names)


def _task_bars(result: "Comparison", task: str) -> str:
    name = f"{task}/recall@10"
    values = {arm: value for arm in result.arms if (value := result.mean_sd(arm, "target", name)) is not None}
    longest = max(value.mean for value in values.values()) or 1.0
    head = f"{TASK_NAMES[task]} R@10 (chance {result.chance('target')[name]:.1%})"
    lines = [f"  {ARM_LABELS[arm]:34}{_format(x):>11}  {_bar(x.mean / longest)}".rstrip() for arm, x in values.items()]
    return "\n".join([head, *lines])


def _bar(share: float) -> str:
    """Return a bar of `share` times BAR_WIDTH columns, to an eighth of a column."""
    whole, eighths = divmod(round(8 * BAR_WIDTH * share), 8)
    return "\u2588" * whole + EIGHTH_BLOCKS[eighths].strip()


def improvements(result: "Comparison") -> str:
    """Return a line for each direction of retrieval: the change of R@10 by the adaptation on target and source."""
    lines = []
    for name in [name for name in result.metric_names() if name.endswith(("recall@10", "accuracy"))]:
        task, _, metric = name.partition("/")
        for over in ("control", "before"):
            target, source = (result.improvement(over, domain, name) for domain in ("target", "source"))
            if target and source:
                title = f"{TASK_NAMES[task]} {metric.replace('recall@', 'R@')}, adapted - {ARM_NAMES[over]}"
                lines.append(f"{title:49} target {_format_points(target)}, source {_format_points(source)}")
                break
    return "\n".join(lines)


def _format_points(value: "MeanSD") -> str:
    error = "" if value.sd is None else f" ± {100 * value.sd:.1f}"
    return f"{100 * value.mean:+.1f}{error} points"


def run(config: CompareConfig) -> None:
    from pipelines.results import compare  # takes seconds to import: only for a valid command line

    result = compare.run(config, lambda text: print(text, file=sys.stderr))
    print(
        f"\nadapted: {result.adaptation}\n\n{table(result)}\n\n{improvements(result)}\n\nstored in {result.result_uri}"
    )


def preview(config: CompareConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_comparison

    return preview_comparison(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[CompareConfig]:
    return arguments.parse_model_request(CompareConfig, words, program="python -m jobs.compare", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
