"""Write one self-contained HTML page about a run, or about several runs beside each other.

    python -m jobs.report runs/vit-tiny --corpus held-out/
    python -m jobs.report runs/vit-tiny runs/vit-small --to comparison.html
    python -m jobs.report s3://bucket/runs/first --corpus s3://bucket/held-out --to s3://bucket/reports/first.html

The page shows training curves, metrics with chance and intervals, a gallery of searches (text to images, image to
texts, and the worst failures), the space of embeddings, the rows that were quarantined, where the time went, and what
was trained on what. For classifiers (jobs.classify) it shows, instead of gallery and space, how the gradients of each
encoder conflict, and the results of jobs.diagnose in RUN/diagnoses. Metrics are those that jobs.evaluate has stored in
RUN/evaluations; where there are none, they are computed on the pairs of the gallery. The page loads nothing from
elsewhere: it can be mailed, printed, or opened on a phone.
"""

import sys
from pathlib import Path

from jobs import arguments, console
from pipelines.config.report import ReportConfig
from pipelines.runtime.output_path import check_output
from xmodal.formatting import format_bytes


def run(config: ReportConfig) -> None:
    from pipelines.results import report  # takes seconds to import: only for a valid command line

    check_output(config.to, "--to")
    result = report.run(config, print)
    print(f"report  {absolute_path(result.uri)} ({format_bytes(result.bytes)})")


def absolute_path(uri: str) -> str:
    """Return the absolute path of a local page, or its URI."""
    return uri if "://" in uri else str(Path(uri).resolve())


def preview(config: ReportConfig) -> dict[str, object]:
    from pipelines.preview.local_jobs import preview_report

    return preview_report(config)


def parse(words: list[str]) -> arguments.ModelJobRequest[ReportConfig]:
    return arguments.parse_model_request(ReportConfig, words, program="python -m jobs.report", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
