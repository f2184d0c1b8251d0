"""The page of runs of the second stage: what it shows and leaves out; looked at in headless Chromium."""

import json
import shutil
from pathlib import Path

import pytest
from test_report import MOST_BYTES, Structure, colours, contrast

from pipelines.config.diagnose import Config as Diagnose
from pipelines.config.evaluate import Config as Evaluate
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
    """One balanced run with an audit, and one of the joint loss; both measured and looked into."""
    folder = tmp_path_factory.mktemp("classified")
    train, test = classifier_runs.corpus(folder / "train"), classifier_runs.corpus(folder / "test", rows=32, seed=1)
    made = (
        classifier_runs.run(folder, "balanced", train, "--audit-every", "4"),
        classifier_runs.run(folder, "joint", train, "--method", "joint"),
    )
    for one in made:
        evaluate.run(Evaluate(checkpoint=one.uri, corpus=test))
        diagnose.run(Diagnose(checkpoint=one.uri, corpus=train, held_out=test, **QUICK))
    return made


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """One run, two beside each other, and one that nobody measured or looked into."""
    folder = tmp_path_factory.mktemp("pages")
    balanced, joint = (one.uri for one in runs)
    bare = folder / "bare"
    shutil.copytree(balanced, bare, ignore=shutil.ignore_patterns("evaluations", "diagnoses"))
    made = {"one": (balanced,), "two": (balanced, joint), "bare": (str(bare),)}
    for name, uris in made.items():
        report.run(report.Config(runs=uris, to=str(folder / f"{name}.html")))
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture(params=["one", "two", "bare"])
def opened(request, browser: Browser, pages) -> Page:  # noqa: F811
    page = browser.page()
    page.open(pages[request.param].as_uri())
    return page


def test_it_loads_fits_every_screen_and_is_readable_in_light_and_dark(opened: Page) -> None:
    assert opened.complaints == [] and len(opened.requests) == 1
    for width in (360, 1200):
        opened.look(width)
        assert opened.value("document.documentElement.scrollWidth") <= width
    seen = []
    for scheme in ("light", "dark"):
        opened.look(1200, scheme=scheme)
        seen.append(colours(opened))
        assert contrast(*seen[-1]) >= 7
    assert seen[0] != seen[1]


def test_no_words_of_a_figure_are_cut_off(opened: Page) -> None:
    """Every label lies inside its drawing."""
    opened.look(1200)
    outside = opened.value("""[...document.querySelectorAll("svg.figure text")].filter((t) => {
        const own = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
        return own.left < all.left - 1 || own.right > all.right + 1;
    }).map((t) => t.textContent)""")
    assert outside == []


def test_sections_that_make_no_sense_for_a_classifier_are_absent(pages) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        for section in ("results", "curves", "balance", "diagnosis", "health", "time", "setup"):
            assert f'<section id="{section}">' in text and f'href="#{section}"' in text
        assert 'id="gallery"' not in text and 'id="space"' not in text and "#gallery" not in text
        assert "Contrastive" not in text and "Temperature" not in text and "pairs" not in text
        found = Structure(text)
        assert all(value.startswith(("data:", "#")) for value in found.asked) and len(text) < MOST_BYTES


def test_one_run_shows_its_gradients_audit_and_inside(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    for name in ("audio", "video"):
        begin = text.index(f"<h3>The {name} encoder</h3>")
        part = text[begin : text.find("<h3>The ", begin + 10)]
        assert all(f"<h3>{title}</h3>" in part for title in CURVES)
        assert all(f"<h3>Audit: {title}</h3>" in part for title in AUDITS)
    for words in (
        "Accuracy of all modalities together", "Accuracy of the video head", "guessing: 5.38", "conflict below",
        "all modalities", "mean of heads", "chance 16.7 %", "classifier of 6 classes, joined by concatenation",
        "mmpareto, decided at the features", "The loss around the minimum", "video, probe", " products, not converged",
        "Gradients at the trained audio encoder", "clips seen", "training steps",
    ):  # fmt: skip
        assert words in text, words
    assert "jobs.evaluate" not in text and "jobs.diagnose" not in text  # nothing is missing


def test_two_runs_stand_beside_each_other(pages) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    assert text.count('class="line s1"') > text.count('class="line s2"') > 4  # the joint loss has no conflicts
    assert "Gradient magnitude, unimodal" in text and "balance.method" in text
    section = text[text.index('id="diagnosis"') :]
    assert section.count(">balanced<") > section.count(">joint<") > 2


def test_places_on_the_landscape_are_told_under_the_pointer(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["one"].as_uri())
    told = page.value("""(() => {
        const svg = document.querySelector("#diagnosis svg[data-lines]"), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 60, clientY: box.top + 20}));
        return svg.nextElementSibling.textContent;
    })()""")
    assert told.startswith("at \u22121: ")


def test_what_is_missing_comes_with_its_command(pages) -> None:
    text = pages["bare"].read_text(encoding="utf-8")
    for what, command in (("evaluation", "jobs.evaluate"), ("diagnosis", "jobs.diagnose")):
        assert f"no recorded {what}" in text and f"python -m {command} " in text


def test_damaged_and_odd_diagnoses_are_named_and_shown_as_far_as_they_go(runs, tmp_path: Path) -> None:
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
    report.run(report.Config(runs=(str(run),), to=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text()
    assert "half.json cannot be used" in text and "torn.json cannot be used" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "nan" in text[text.index('id="diagnosis"') :]


def test_a_gallery_cannot_be_asked_of_classifiers(runs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="these are classifiers"):
        report.run(report.Config(runs=(runs[0].uri,), corpus="somewhere", to=str(tmp_path / "page.html")))


def test_a_dual_encoder_and_a_classifier_on_one_page(runs, tmp_path: Path) -> None:
    pairing = run_directories.run(tmp_path, "pairing", run_directories.corpus(tmp_path / "corpus"), evaluated=True)
    report.run(report.Config(runs=(runs[0].uri, pairing.run.uri), to=str(tmp_path / "page.html"), rows=60))
    text = (tmp_path / "page.html").read_text()
    for section in ("balance", "diagnosis", "gallery", "space"):
        assert f'<section id="{section}">' in text
    assert "<h3>Contrastive loss</h3>" in text and "<h3>Loss</h3>" in text
