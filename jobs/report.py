"""Make one self-contained HTML page of a run, or of several runs beside each other.

    python -m jobs.report runs/vit-tiny --corpus held-out/
    python -m jobs.report runs/vit-tiny runs/vit-small --to comparison.html
    python -m jobs.report s3://bucket/runs/first --corpus s3://bucket/held-out --to s3://bucket/reports/first.html

The page shows training curves, results beside chance with intervals, a gallery (text to pictures, picture to texts, and
where that fails worst), the space of embeddings, what was quarantined, where the time went, and what was trained on
what. Of classifiers (jobs.adapt) it shows, instead of gallery and space, where the gradients of each encoder meet, and
what jobs.diagnose left in RUN/diagnoses. Results are those that jobs.evaluate left in RUN/evaluations; where there are
none, they are computed from the pairs of the gallery. The page loads nothing from elsewhere: send it by mail, print it,
open it on a phone.
"""

import sys
from pathlib import Path
from typing import Any

from jobs import arguments, console
from pipelines.config.report import Config
from pipelines.runtime.output_path import check_output
from xmodal.formatting import size


def run(config: Config) -> None:
    from pipelines.results import report  # torch and seconds, for a command line that is sound

    check_output(config.to, "--to")
    result = report.run(config, print)
    print(f"report  {place(result.uri)} ({size(result.bytes)})")


def place(uri: str) -> str:
    """Where the page is, as one can open it from anywhere."""
    return uri if "://" in uri else str(Path(uri).resolve())


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.local_jobs import reporting

    return reporting(config)


def parse(words: list[str]) -> arguments.Start[Config]:
    return arguments.parse_start(Config, words, program="python -m jobs.report", text=__doc__)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
