"""Measure a checkpoint on rows that it has not seen: retrieval in both directions, zero-shot classes, a linear probe.

    python -m jobs.evaluate runs/vit-tiny held-out/
    python -m jobs.evaluate runs/vit-tiny held-out/ --fields image=jpg text=json:captions
    python -m jobs.evaluate s3://bucket/runs/first s3://bucket/val --no-retrieval --label cls --classes names.txt
    python -m jobs.evaluate runs/first pets-test/ --label json:label --probe-train pets-train/
    python -m jobs.evaluate runs/av-tiny clips-test/

CHECKPOINT is a run (its newest valid checkpoint is taken) or one checkpoint; CORPUS is a folder of shards. Recall at K
is the share of queries with a right answer among the first K results. For an image every one of its captions is right,
for a caption its image; equal captions are right answers of each other. Of clips, video is searched by audio and audio
by video, in the seconds that the field map of the training names. Each metric is printed with the value that chance
would give and a 95 % bootstrap interval over queries. The result is stored as JSON in RUN/evaluations, where
jobs.report finds it.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs import arguments, console
from pipelines.config.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from pipelines.inference.evaluation_records import Evaluation

TASK_NAMES = {
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
    """Return a table with a line for each metric: its value, its interval and chance."""
    lines = [f"{'':30}{'value':>10}{'95 % interval':>20}{'chance':>10}"]
    lines += [_line(result, name) for name in _metric_names(result)]
    return "\n".join(lines)


def _metric_names(result: "Evaluation") -> Iterator[str]:
    """Yield the names of all metrics, task by task."""
    for task in TASK_NAMES:
        yield from (name for name in result.metrics if name.startswith(f"{task}/"))


def _line(result: "Evaluation", name: str) -> str:
    task, _, metric = name.partition("/")
    low, high = result.interval.get(name, (None, None))
    interval = "" if low is None or high is None else f"{_format(metric, low)} .. {_format(metric, high)}"
    label = f"{TASK_NAMES[task]:15}{metric.replace('_', ' ').replace('recall@', 'R@')}"
    value, chance = _format(metric, result.metrics[name]), _format(metric, result.chance[name])
    return f"{label:30}{value:>10}{interval:>20}{chance:>10}"


def _format(metric: str, value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0") if metric == "median_rank" else f"{value:.1%}"


def run(config: EvaluateConfig) -> None:
    from pipelines.inference import evaluate  # takes seconds to import: only for a valid command line

    result = evaluate.run(config)
    skipped = f", {result.skipped:,} could not be read" if result.skipped else ""
    captions = result.settings.get("captions", result.rows)
    texts = f", {captions:,} captions" if captions != result.rows else ""
    print(f"{result.rows:,} rows of {config.corpus}{texts}{skipped}; step {result.step:,}")
    print(table(result))
    if result.result_uri:
        print(f"stored in {result.result_uri}")


def preview(config: EvaluateConfig) -> dict[str, object]:
    from pipelines.preview.encode import preview_evaluation

    return preview_evaluation(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[EvaluateConfig]:
    return arguments.parse_model_request(EvaluateConfig, words, program="python -m jobs.evaluate", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
