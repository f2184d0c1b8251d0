"""Diagnose a trained classifier of clips: the gradients at its encoders, its minimum, and its features.

    python -m jobs.diagnose runs/grid-letter grid/train --held-out grid/test
    python -m jobs.diagnose runs/baseline grid/train --held-out grid/test --rows 512 --batches 8 --iterations 10

CHECKPOINT is a run of jobs.classify (its newest valid checkpoint is taken) or one checkpoint; CORPUS holds labelled
rows, usually those of the training. In this process, and without changing a weight, it measures:

gradients: magnitude and covariance of the gradient of the multimodal loss and of each modality's own loss at its
encoder, over mini-batches (assumption 1 of MMPareto), and how often the two conflict;

flatness: the multimodal loss along random directions that are as long as the weights, filter by filter, and the top
eigenvalue of its Hessian by power iteration;

accuracy: of each head, beside a linear probe on the features of its encoder.

To compare runs, diagnose them with the same flags. The result is stored as JSON in RUN/diagnoses, where jobs.report
finds it.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jobs import arguments, console
from pipelines.config.diagnose import DiagnoseConfig


def summary_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each result of the diagnosis."""
    yield f"{'gradients of':24}{'|g|':>10}{'variance':>12}{'covariance':>12}{'conflicts':>11}"
    for encoder, gradients in record["gradients"].items():
        for objective in [name for name in ("multimodal", "unimodal") if name in gradients]:
            gradient = gradients[objective]
            conflicts = f"{gradients['conflict_share']:>11.1%}" if objective == "unimodal" else f"{'':>11}"
            yield (
                f"{f'{encoder}, {objective} loss':24}{gradient['mean_norm']:>10.4g}{gradient['norm_variance']:>12.3g}"
                f"{gradient['covariance_trace']:>12.3g}{conflicts}".rstrip()
            )
    flatness = record["flatness"]
    top = flatness["eigenvalue"]
    state = "converged" if top["converged"] else "not converged"
    loss, rise = _format_number(flatness["loss"]), _format_number(flatness["rise"])
    yield f"loss at the minimum {loss}, {rise} higher at both ends of a direction"
    yield f"top Hessian eigenvalue {_format_number(top['value'])} ({top['iterations']} products, {state})"
    accuracy = record["accuracy"]
    for name, by_model in accuracy.items():
        if isinstance(by_model, Mapping):
            shares = [f"{model} {_format_share(by_model[model])}" for model in ("head", "probe") if model in by_model]
            yield f"accuracy of {name:12} {', '.join(shares)} (chance {_format_share(accuracy['chance'])})"


def _format_number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _format_share(value: float | None) -> str:
    return "never trained" if value is None else f"{value:.1%}"


def run(config: DiagnoseConfig) -> None:
    from pipelines.inference import diagnose  # takes seconds to import: only for a valid command line

    result = diagnose.run(config, print)
    record = result.record
    print(f"step {record['step']:,}, {record['rows']:,} rows of {config.corpus}, {record['seconds']:.0f} s")
    for line in summary_lines(record):
        print(line)
    if result.result_uri:
        print(f"stored in {result.result_uri}")


def preview(config: DiagnoseConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_diagnosis

    return preview_diagnosis(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[DiagnoseConfig]:
    return arguments.parse_model_request(DiagnoseConfig, words, program="python -m jobs.diagnose", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
