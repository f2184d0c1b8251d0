"""Material in, one self-contained HTML page out: no request leaves it, and a policy in it forbids any."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xmodal.formatting import clean, count, moment
from xmodal.report.page_data import Material, Shown
from xmodal.report.sections.curves import curves
from xmodal.report.sections.diagnosis import diagnosis
from xmodal.report.sections.domain_alignment import domains
from xmodal.report.sections.evaluation_results import results
from xmodal.report.sections.gallery_view import spaces, views
from xmodal.report.sections.gradient_balance import balance
from xmodal.report.sections.run_health import accounts, times
from xmodal.report.sections.run_setup import configuration, facts, leads, summary, tiles


def render(material: Material) -> str:
    """The whole page; everything that came from a run or a corpus is escaped and shortened."""
    style, script = file("style.css"), file("page.js")
    runs = material.runs
    names = [clean(run.name, 40) for run in runs]
    return environment().get_template("page.html.j2").render(
        title=" · ".join(names),
        names=names,
        slots=[run.slot for run in runs],
        several=len(runs) > 1,
        made=moment(material.made),
        version=clean(material.version),
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        missing={section: clean(line, 400) for section, line in material.missing.items()},
        problems=_problems(runs),
        leads=leads(runs),
        tiles=tiles(runs[0]) if len(runs) == 1 else [],
        summary=summary(runs),
        facts=facts(runs),
        configuration=configuration(runs),
        results=results(runs),
        curves=[*curves(runs), *domains(runs)],
        classifiers=any(run.recorded.classifier for run in runs),
        encoders=not all(run.recorded.classifier for run in runs),
        balance=balance(runs),
        diagnosis=diagnosis(runs),
        views=views(material),
        spaces=spaces(material),
        accounts=accounts(runs),
        times=times(runs),
        count=count,
    )  # fmt: skip


def _problems(runs: Sequence[Shown]) -> list[str]:
    return [f"{clean(run.name, 40)}: {clean(line, 300)}" for run in runs for line in run.recorded.problems]


@cache
def environment() -> Environment:
    """The templates of this package; values are escaped, and an unknown one is an error."""
    made = Environment(
        loader=PackageLoader("xmodal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["coded"] = _coded
    return made


def _coded(line: str) -> Markup:
    """A line whose `commands` stand between backticks, escaped."""
    parts = line.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


@cache
def file(name: str) -> str:
    """The text of a file beside the templates."""
    return resources.files("xmodal.report").joinpath("templates", name).read_text(encoding="utf-8")
