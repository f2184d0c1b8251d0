"""What adaptation brought, and where: before, more of the source alone, adapted, oracle, on source and target at once.

    python -m jobs.compare --adapted runs/dann --source photos/test --target sketches/test
    python -m jobs.compare --adapted runs/dann-0 runs/dann-1 --control runs/more-0 runs/more-1 \\
        --oracle runs/pairs --source photos/test --target sketches/test
    python -m jobs.compare --adapted runs/dann --source photos/ --target sketches/ --label cls --classes names.txt

Every run is measured on the held-out pairs of both domains, by its newest checkpoint, as jobs.evaluate does it, and the
evaluation is kept beside that run. `before` is what the adaptation started from; `control` are runs of as many steps
with --domain.loss none; `oracle` are runs that were trained on pairs of the target. Several runs of one part are its
seeds: mean and standard deviation over them are shown, and of the difference its standard error.

Pairs of the target may be looked at here and in jobs.evaluate, when training is over, and nowhere else: whoever chooses
a strength or a step by them measures the choice. In the stored result their figures are called oracle/...
"""

import sys
from typing import TYPE_CHECKING, Any

from jobs import arguments, console
from jobs.evaluate import WORDS
from pipelines.config.compare import Config

if TYPE_CHECKING:
    from pipelines.results.compare import Comparison, Spread

ROWS = {"before": "before", "control": "source alone", "adapted": "adapted", "oracle": "oracle"}
TITLES = {"mean_class_recall": "per class"}  # where a figure's own name is wider than its column


def table(result: "Comparison") -> str:
    """For each task a block: a line for each arm, the figures of both domains beside each other."""
    blocks = [_block(result, task) for task in WORDS if any(name.startswith(f"{task}/") for name in result.names())]
    return "\n\n".join(blocks)


def _block(result: "Comparison", task: str) -> str:
    names = [name for name in result.names() if name.startswith(f"{task}/") and not name.endswith("median_rank")]
    titles = [TITLES.get(figure := name.partition("/")[2], figure.replace("recall@", "R@")) for name in names]
    width = 14 if any(len(found["source"]) > 1 for found in result.arms.values()) else 11
    head = f"{WORDS[task]:15}" + "".join(
        f"{f'{domain} {title}' if place == 0 else title:>{width + (8 if place == 0 else 0)}}"
        for domain in ("source", "target")
        for place, title in enumerate(titles)
    )
    return "\n".join([head, *(_line(result, arm, names, width) for arm in result.arms)])


def _line(result: "Comparison", arm: str, names: list[str], width: int) -> str:
    runs = len(result.arms[arm]["source"])
    cells = [
        f"{_shown(result.spread(arm, domain, name)):>{width + (8 if place == 0 else 0)}}"
        for domain in ("source", "target")
        for place, name in enumerate(names)
    ]
    return f"{ROWS[arm] + (f' ({runs})' if runs > 1 else ''):15}" + "".join(cells)


def _shown(value: "Spread | None") -> str:
    """In percent; with its spread where there are several runs. A dash for an arm without the figure."""
    if value is None:
        return "\u2013"
    return f"{100 * value.mean:.1f}%" if value.sd is None else f"{100 * value.mean:.1f} ± {100 * value.sd:.1f}"


def gains(result: "Comparison") -> str:
    """A line for each search: what adaptation changed in R@10 on the target, and what it cost on the source."""
    lines = []
    for name in [name for name in result.names() if name.endswith(("recall@10", "accuracy"))]:
        task, _, figure = name.partition("/")
        for over in ("control", "before"):
            target, source = (result.gain(over, domain, name) for domain in ("target", "source"))
            if target and source:
                title = f"{WORDS[task]} {figure.replace('recall@', 'R@')}, adapted - {ROWS[over]}"
                lines.append(f"{title:49} target {_points(target)}, source {_points(source)}")
                break
    return "\n".join(lines)


def _points(value: "Spread") -> str:
    error = "" if value.sd is None else f" ± {100 * value.sd:.1f}"
    return f"{100 * value.mean:+.1f}{error} points"


def run(config: Config) -> None:
    from pipelines.results import compare  # torch and seconds, for a command line that is sound

    result = compare.run(config, lambda text: print(text, file=sys.stderr))
    print(f"\nadapted: {result.adaptation}\n\n{table(result)}\n\n{gains(result)}\n\nstored in {result.stored}")


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import comparing

    return comparing(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.compare", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
