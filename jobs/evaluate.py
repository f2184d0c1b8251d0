"""Measure how well a checkpoint finds the text of an image and the image of a text, on pairs it has not seen.

    python -m jobs.evaluate runs/vit-tiny held-out/
    python -m jobs.evaluate s3://bucket/runs/first/checkpoints/step-000010000.attempt-1 s3://bucket/held-out

CHECKPOINT is a run (its newest sound checkpoint is taken) or one checkpoint; CORPUS a folder of shards. A hit at K
means that a right answer is among the first K; pairs with equal captions are right answers of each other.
"""

import functools

import tyro

from jobs import console
from pipelines import evaluate
from xmodal.metrics.retrieval import Retrieval


def table(result: evaluate.Evaluation) -> str:
    """Recall at 1, 5 and 10 and the median rank, both ways, with chance in its own line."""
    lines = [f"{'':16}{'R@1':>8}{'R@5':>8}{'R@10':>8}{'median rank':>14}"]
    for label, found in (("image -> text", result.image_to_text), ("text -> image", result.text_to_image)):
        lines.append(_line(label, [found.recall[k] for k in (1, 5, 10)], found.median_rank))
    lines.append(_line("chance", *_chance(result.text_to_image)))
    return "\n".join(lines)


def _line(label: str, recall: list[float], median_rank: float) -> str:
    return f"{label:16}" + "".join(f"{share:8.1%}" for share in recall) + f"{median_rank:14,.0f}"


def _chance(found: Retrieval) -> tuple[list[float], float]:
    return [found.chance_recall[k] for k in (1, 5, 10)], found.chance_median_rank


def run(config: evaluate.Config) -> None:
    result = evaluate.run(config)
    skipped = f", {result.skipped:,} could not be read" if result.skipped else ""
    print(f"{result.rows:,} pairs of {config.corpus}{skipped}; step {result.step:,}")
    print(table(result))


def main() -> None:
    parse = functools.partial(
        tyro.cli,
        evaluate.Config,
        prog="python -m jobs.evaluate",
        description=__doc__,
        config=(tyro.conf.PositionalRequiredArgs,),
    )
    console.main(lambda: run(parse()))


if __name__ == "__main__":
    main()
