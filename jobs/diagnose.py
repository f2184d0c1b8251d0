"""Look into a trained classifier of clips: its two gradients at each encoder, its minimum, and what each encoder knows.

    python -m jobs.diagnose runs/grid-letter grid/train --held-out grid/test
    python -m jobs.diagnose runs/baseline grid/train --held-out grid/test --rows 512 --batches 8 --iterations 10

CHECKPOINT is a run of jobs.adapt (its newest sound checkpoint is taken) or one checkpoint; CORPUS labelled rows, as a
rule those that it was trained on. Measured are, in this process and without moving a weight:

gradients: magnitude and covariance of the multimodal and of each modality's own loss at its encoder, over mini-batches
(assumption 1 of MMPareto), and how often the two point apart;

flatness: the multimodal loss along random directions that are as long as the weights, filter by filter, and the top
eigenvalue of its Hessian by power iteration;

accuracy: of each head, beside a linear probe on the features of its encoder.

Compare runs by diagnosing them with the same flags. The result is stored as JSON in RUN/diagnoses, where jobs.report
finds it.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jobs import arguments, console
from pipelines.config.diagnose import Config


def told(record: Mapping[str, Any]) -> Iterator[str]:
    """A line for each finding, for a terminal."""
    yield f"{'gradients of':24}{'|g|':>10}{'variance':>12}{'covariance':>12}{'conflicts':>11}"
    for encoder, found in record["gradients"].items():
        for objective in [name for name in ("multimodal", "unimodal") if name in found]:
            one = found[objective]
            conflicts = f"{found['conflict_share']:>11.1%}" if objective == "unimodal" else f"{'':>11}"
            yield (
                f"{f'{encoder}, {objective} loss':24}{one['mean_norm']:>10.4g}{one['norm_variance']:>12.3g}"
                f"{one['covariance_trace']:>12.3g}{conflicts}".rstrip()
            )
    flat = record["flatness"]
    top = flat["eigenvalue"]
    state = "converged" if top["converged"] else "not converged"
    yield f"loss at the minimum {_figure(flat['loss'])}, {_figure(flat['rise'])} higher at both ends of a direction"
    yield f"top Hessian eigenvalue {_figure(top['value'])} ({top['iterations']} products, {state})"
    accuracy = record["accuracy"]
    for name, found in accuracy.items():
        if isinstance(found, Mapping):
            shares = [f"{what} {_share(found.get(what))}" for what in ("head", "probe") if what in found]
            yield f"accuracy of {name:12} {', '.join(shares)} (chance {_share(accuracy['chance'])})"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "never trained" if value is None else f"{value:.1%}"


def run(config: Config) -> None:
    from pipelines.inference import diagnose  # torch and seconds, for a command line that is sound

    result = diagnose.run(config, print)
    record = result.record
    print(f"step {record['step']:,}, {record['rows']:,} rows of {config.corpus}, {record['seconds']:.0f} s")
    for line in told(record):
        print(line)
    if result.stored:
        print(f"stored in {result.stored}")


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import diagnosing

    return diagnosing(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.diagnose", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
