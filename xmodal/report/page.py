"""Render the report of one or several runs as one self-contained HTML page.

The page loads nothing from elsewhere: its content security policy forbids all requests.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xmodal.formatting import clean_text, format_timestamp
from xmodal.report.page_data import PageRun, ReportData
from xmodal.report.sections.adaptation_comparison import adaptation_comparisons
from xmodal.report.sections.curves import training_curves
from xmodal.report.sections.diagnosis import diagnosis_section
from xmodal.report.sections.domain_alignment import domain_curves
from xmodal.report.sections.embedding_space_view import embedding_space_views
from xmodal.report.sections.evaluation_results import corpus_results
from xmodal.report.sections.gallery_view import gallery_view
from xmodal.report.sections.gradient_balance import gradient_balance
from xmodal.report.sections.run_health import row_counts, time_breakdowns
from xmodal.report.sections.run_setup import (
    configuration_rows,
    headline_rows,
    headline_tiles,
    intro_sentences,
    setup_rows,
)


def render_report(data: ReportData) -> str:
    """Return the HTML of the page; everything that came from a run or a corpus is escaped and shortened."""
    style, script = template_text("style.css"), template_text("page.js")
    runs = data.runs
    names = [clean_text(run.name, 40) for run in runs]
    return template_environment().get_template("page.html.j2").render(
        title=" · ".join(names),
        names=names,
        colors=[run.color for run in runs],
        several=len(runs) > 1,
        created=format_timestamp(data.created),
        version=clean_text(data.version),
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        missing={section: clean_text(sentence, 400) for section, sentence in data.missing.items()},
        problems=_problems(runs),
        intro=intro_sentences(runs),
        tiles=headline_tiles(runs[0]) if len(runs) == 1 else [],
        headline=headline_rows(runs),
        setup=setup_rows(runs),
        configuration=configuration_rows(runs),
        adaptations=adaptation_comparisons(data),
        results=corpus_results(runs),
        curves=[*training_curves(runs), *domain_curves(runs)],
        classifiers=any(run.record.is_classifier for run in runs),
        dual_encoders=not all(run.record.is_classifier for run in runs),
        balance=gradient_balance(runs),
        diagnosis=diagnosis_section(runs),
        gallery=gallery_view(data),
        spaces=embedding_space_views(data),
        row_counts=row_counts(runs),
        times=time_breakdowns(runs),
    )  # fmt: skip


def _problems(runs: Sequence[PageRun]) -> list[str]:
    return [
        f"{clean_text(run.name, 40)}: {clean_text(problem, 300)}" for run in runs for problem in run.record.problems
    ]


@cache
def template_environment() -> Environment:
    """Return the Jinja environment of this package; values are escaped, and an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("xmodal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code_spans"] = _code_spans
    return environment


def _code_spans(line: str) -> Markup:
    """Return a line, escaped, with the text between backticks as code."""
    parts = line.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


@cache
def template_text(name: str) -> str:
    """Return the text of a file in the folder of the templates."""
    return resources.files("xmodal.report").joinpath("templates", name).read_text(encoding="utf-8")
