"""Measure a checkpoint on rows it has not seen: retrieval both ways, zero-shot classes, a linear probe.

    python -m jobs.evaluate runs/vit-tiny held-out/
    python -m jobs.evaluate runs/vit-tiny held-out/ --fields image=jpg text=json:captions
    python -m jobs.evaluate s3://bucket/runs/first s3://bucket/val --no-retrieval --label cls --classes names.txt
    python -m jobs.evaluate runs/first pets-test/ --label json:label --probe-train pets-train/
    python -m jobs.evaluate runs/av-tiny clips-test/

CHECKPOINT is a run (its newest sound checkpoint is taken) or one checkpoint; CORPUS a folder of shards. A hit at K
means that a right answer is among the first K: any caption of the picture, any picture of the caption; equal captions
are right answers of each other. Clips are searched by their sound and sounds by their clips, in the seconds that the
field map of the training names. Every figure stands beside chance, with a 95 % bootstrap interval over queries. The
result is stored as JSON in RUN/evaluations, where jobs.report finds it.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs import arguments, console
from pipelines.config.evaluate import Config

if TYPE_CHECKING:
    from pipelines.inference.evaluation_records import Evaluation

WORDS = {
    "image_to_text": "image -> text",
    "text_to_image": "text -> image",
    "audio_to_video": "audio -> video",
    "video_to_audio": "video -> audio",
    "zero_shot": "zero-shot",
    "label_predictor": "label predictor",
    "linear_probe": "linear probe",
    "accuracy": "accuracy",
}


def table(result: "Evaluation") -> str:
    """A line for each figure: value, interval, chance."""
    lines = [f"{'':30}{'value':>10}{'95 % interval':>20}{'chance':>10}"]
    lines += [_line(result, name) for name in _ordered(result)]
    return "\n".join(lines)


def _ordered(result: "Evaluation") -> Iterator[str]:
    """The names in the order of the tasks."""
    for task in WORDS:
        yield from (name for name in result.metrics if name.startswith(f"{task}/"))


def _line(result: "Evaluation", name: str) -> str:
    task, _, figure = name.partition("/")
    low, high = result.interval.get(name, (None, None))
    interval = "" if low is None or high is None else f"{_number(figure, low)} .. {_number(figure, high)}"
    label = f"{WORDS[task]:15}{figure.replace('_', ' ').replace('recall@', 'R@')}"
    value, chance = _number(figure, result.metrics[name]), _number(figure, result.chance[name])
    return f"{label:30}{value:>10}{interval:>20}{chance:>10}"


def _number(figure: str, value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0") if figure == "median_rank" else f"{value:.1%}"


def run(config: Config) -> None:
    from pipelines.inference import evaluate  # torch and seconds, for a command line that is sound

    result = evaluate.run(config)
    skipped = f", {result.skipped:,} could not be read" if result.skipped else ""
    captions = result.settings.get("captions", result.rows)
    texts = f", {captions:,} captions" if captions != result.rows else ""
    print(f"{result.rows:,} rows of {config.corpus}{texts}{skipped}; step {result.step:,}")
    print(table(result))
    if result.stored:
        print(f"stored in {result.stored}")


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.encode import evaluation

    return evaluation(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.evaluate", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
