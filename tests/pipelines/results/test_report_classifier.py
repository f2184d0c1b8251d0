"""Tests of the report page of classifiers, partly in headless Chromium: what it shows and what it leaves out."""

import json
import shutil
from pathlib import Path

import pytest
from test_report import MOST_BYTES, Structure, colors, contrast

from pipelines.config.diagnose import DiagnoseConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference import diagnose, evaluate
from pipelines.results import report
from support import classifier_runs, run_directories
from support.browser import Browser, Page, browser  # noqa: F401  (the fixture)
from xmodal.errors import ConfigError

QUICK = {"batch_size": 16, "batches": 3, "flat_batches": 1, "directions": 2, "points": 3, "iterations": 2}
CURVES = ("Cosine between both gradients", "Share of steps in conflict", "Gradient magnitude", "Weights",
          "Rescale factor s")  # fmt: skip
AUDITS = ("both spaces agree on conflict", "difference of the weights", "angle between the updates")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of MMPareto with an audit, and one of the joint loss; both evaluated and diagnosed."""
    folder = tmp_path_factory.mktemp("classified")
    train, test = classifier_runs.corpus(folder / "train"), classifier_runs.corpus(folder / "test", rows=32, seed=1)
    made = (
        classifier_runs.run(folder, "balanced", train, "--audit-every", "4"),
        classifier_runs.run(folder, "joint", train, "--method", "joint"),
    )
    for run in made:
        evaluate.run(EvaluateConfig(checkpoint=run.uri, corpus=test))
        diagnose.run(DiagnoseConfig(checkpoint=run.uri, corpus=train, held_out=test, **QUICK))
    return made


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """Three pages: of one run, of both runs, and of a run without evaluation and diagnosis."""
    folder = tmp_path_factory.mktemp("pages")
    balanced, joint = (run.uri for run in runs)
    bare = folder / "bare"
    shutil.copytree(balanced, bare, ignore=shutil.ignore_patterns("evaluations", "diagnoses"))
    made = {"one": (balanced,), "two": (balanced, joint), "bare": (str(bare),)}
    for name, uris in made.items():
        report.run(report.ReportConfig(runs=uris, to=str(folder / f"{name}.html")))
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture(params=["one", "two", "bare"])
def page(request, browser: Browser, pages) -> Page:  # noqa: F811
    page = browser.page()
    page.open(pages[request.param].as_uri())
    return page


def test_the_page_loads_fits_every_screen_and_is_readable_in_light_and_dark(page: Page) -> None:
    assert page.errors == [] and len(page.requests) == 1
    for width in (360, 1200):
        page.set_screen(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    by_scheme = []
    for scheme in ("light", "dark"):
        page.set_screen(1200, scheme=scheme)
        by_scheme.append(colors(page))
        assert contrast(*by_scheme[-1]) >= 7
    assert by_scheme[0] != by_scheme[1]


def test_no_label_of_a_chart_is_cut_off(page: Page) -> None:
    """Every label lies inside its SVG figure."""
    page.set_screen(1200)
    outside = page.evaluate("""[...document.querySelectorAll("svg.figure text")].filter((t) => {
        const label = t.getBoundingClientRect(), figure = t.ownerSVGElement.getBoundingClientRect();
        return label.left < figure.left - 1 || label.right > figure.right + 1;
    }).map((t) => t.textContent)""")
    assert outside == []


def test_sections_that_do_not_apply_to_classifiers_are_absent(pages) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        for section in ("results", "curves", "balance", "diagnosis", "health", "time", "setup"):
            assert f'<section id="{section}">' in text and f'href="#{section}"' in text
        assert 'id="gallery"' not in text and 'id="space"' not in text and "#gallery" not in text
        assert "Contrastive" not in text and "Temperature" not in text and "pairs" not in text
        references = Structure(text).references
        assert all(value.startswith(("data:", "#")) for value in references) and len(text) < MOST_BYTES


def test_one_run_shows_its_gradients_audit_and_diagnosis(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    for name in ("audio", "video"):
        begin = text.index(f"<h3>The {name} encoder</h3>")
        part = text[begin : text.find("<h3>The ", begin + 10)]
        assert all(f"<h3>{title}</h3>" in part for title in CURVES)
        assert all(f"<h3>Audit: {title}</h3>" in part for title in AUDITS)
    for words in (
        "Accuracy of all modalities together", "Accuracy of the video head", "chance: 5.38", "conflict below",
        "all modalities", "mean of heads", "chance 16.7 %", "classifier of 6 classes, fusion by concatenation",
        "mmpareto, gradients compared at the features", "The loss around the minimum", "video, probe",
        " products, not converged", "Gradients at the trained audio encoder", "clips seen", "training steps",
    ):  # fmt: skip
        assert words in text, words
    assert "jobs.evaluate" not in text and "jobs.diagnose" not in text  # nothing is missing


def test_two_runs_are_compared(pages) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    assert text.count('class="line s1"') > text.count('class="line s2"') > 4  # the joint loss has no conflicts
    assert "Gradient magnitude, unimodal" in text and "balance.method" in text
    section = text[text.index('id="diagnosis"') :]
    assert section.count(">balanced<") > section.count(">joint<") > 2


def test_the_loss_landscape_shows_offset_and_loss_under_the_pointer(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["one"].as_uri())
    words = page.evaluate("""(() => {
        const svg = document.querySelector("#diagnosis svg[data-lines]"), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 60, clientY: box.top + 20}));
        return svg.nextElementSibling.textContent;
    })()""")
    assert words.startswith("offset \u22121: ")


def test_missing_data_are_named_with_the_command_that_adds_them(pages) -> None:
    text = pages["bare"].read_text(encoding="utf-8")
    for kind, command in (("evaluation", "jobs.evaluate"), ("diagnosis", "jobs.diagnose")):
        assert f"no recorded {kind}" in text and f"python -m {command} " in text


def test_damaged_diagnoses_are_named_and_partly_finite_ones_are_shown(runs, tmp_path: Path) -> None:
    run = tmp_path / "odd"
    shutil.copytree(runs[0].uri, run, ignore=shutil.ignore_patterns("evaluations"))
    [stored] = (run / "diagnoses").glob("*.json")
    record = json.loads(stored.read_text())
    flat = record["flatness"]
    flat["losses"], flat["rise"] = [[None, flat["loss"], None]] * 2, None  # a loss that is not finite far away
    flat["eigenvalue"] |= {"value": None, "residual": None}
    record["gradients"]["<script>alert(1)</script>"] = record["gradients"]["audio"]
    stored.write_text(json.dumps(record))
    (run / "diagnoses" / "half.json").write_text(json.dumps({**record, "flatness": {"places": [0], "losses": []}}))
    (run / "diagnoses" / "torn.json").write_text("{")
    report.run(report.ReportConfig(runs=(str(run),), to=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text()
    assert "half.json cannot be used" in text and "torn.json cannot be used" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "nan" in text[text.index('id="diagnosis"') :]


def test_a_corpus_for_a_gallery_of_classifiers_is_refused(runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="these are classifiers"):
        report.run(report.ReportConfig(runs=(runs[0].uri,), corpus="somewhere", to=str(tmp_path / "page.html")))


def test_a_dual_encoder_and_a_classifier_share_a_page(runs, tmp_path: Path) -> None:
    pairing = run_directories.run(tmp_path, "pairing", run_directories.corpus(tmp_path / "corpus"), evaluated=True)
    report.run(report.ReportConfig(runs=(runs[0].uri, pairing.run.uri), to=str(tmp_path / "page.html"), rows=60))
    text = (tmp_path / "page.html").read_text()
    for section in ("balance", "diagnosis", "gallery", "space"):
        assert f'<section id="{section}">' in text
    assert "<h3>Contrastive loss</h3>" in text and "<h3>Loss</h3>" in text
