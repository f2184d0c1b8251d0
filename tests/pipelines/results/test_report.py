"""Tests of the report page of dual encoders, partly in headless Chromium, with hostile texts in run and corpus."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs import report as job
from pipelines.results import report
from support import run_directories
from support.browser import Browser, Page, browser  # noqa: F401  (the fixture)
from xmodal.errors import XmodalError

MOST_BYTES = 3 << 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A complete run (with a hostile record), and one without a recorded evaluation to compare it with."""
    folder = tmp_path_factory.mktemp("reported")
    corpus = run_directories.corpus(folder / "corpus")
    return (
        run_directories.run(folder, "first", corpus, evaluated=True, hostile=True),
        run_directories.run(folder, "second", corpus, seed=1),
    )


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """Three pages: of the complete run, of both runs, and of a run that has only its run.json."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = runs
    bare = folder / "bare"
    bare.mkdir()
    (bare / "run.json").write_text((Path(second.run.uri) / "run.json").read_text())
    made = {
        "one": report.ReportConfig(runs=(first.run.uri,), to=str(folder / "one.html")),
        "two": report.ReportConfig(runs=(first.run.uri, second.run.uri), to=str(folder / "two.html"), rows=60),
        "bare": report.ReportConfig(runs=(str(bare),), to=str(folder / "bare.html")),
    }
    for config in made.values():
        report.run(config)
    return {name: Path(config.to) for name, config in made.items()}


@pytest.fixture(params=["one", "two", "bare"])
def page(request, browser: Browser, pages) -> Page:  # noqa: F811
    page = browser.page()
    page.open(pages[request.param].as_uri())
    return page


def test_the_page_loads_without_errors_and_without_requests(page: Page) -> None:
    assert page.errors == []
    assert len(page.requests) == 1  # the page itself
    assert page.evaluate("document.title").endswith("xmodal report")  # no script of a caption ran
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_every_image_is_displayed(page: Page, request) -> None:
    sizes = page.evaluate("[...document.images].map((i) => i.complete && i.naturalWidth)")
    assert all(sizes)
    assert bool(sizes) == ("bare" not in request.node.name)


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_not_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_screen(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_dark_and_print_have_readable_contrast(page: Page) -> None:
    by_medium = {}
    for scheme in ("light", "dark"):
        page.set_screen(1200, scheme=scheme)
        by_medium[scheme] = colors(page)
    page.set_screen(1200, scheme="dark", media="print")
    by_medium["print"] = colors(page)
    assert by_medium["light"] != by_medium["dark"]
    assert by_medium["print"][1] == (255, 255, 255)
    assert all(contrast(text, background) >= 7 for text, background in by_medium.values())


def colors(page: Page) -> tuple[tuple[int, ...], ...]:
    """Return the colours of the text and of the background."""
    css_colors = page.evaluate("[['body', 'color'], ['section', 'backgroundColor']].map(([e, c]) => "
                       "getComputedStyle(document.querySelector(e))[c])")  # fmt: skip
    return tuple(tuple(map(int, re.findall(r"\d+", color)[:3])) for color in css_colors)


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""

    def luminance(rgb):
        linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_values_under_the_pointer_are_shown(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["two"].as_uri())
    words = page.evaluate("""(() => {
        const svg = document.querySelector("svg[data-lines]"), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 9, clientY: box.top + 20}));
        return svg.nextElementSibling.textContent;
    })()""")
    assert words == "step 40: first 1.20 · second 1.30"


def test_the_page_can_be_printed(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["one"].as_uri())
    assert page.pdf().startswith(b"%PDF")


class Structure(HTMLParser):
    """Collects the attributes of a page that can request something, and its event handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_the_page_refers_to_nothing_outside_of_it(pages) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        structure = Structure(text)
        assert all(value.startswith(("data:", "#")) for value in structure.references)
        assert structure.handlers == []
        assert len(text) < MOST_BYTES
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_the_page_shows_the_recorded_results(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    for words in (
        "42.0 %",
        "38.0 % to 46.0 %",
        "10.0 %",
        "fingerprint",
        "no caption",
        "Modality gap",
        "chance: 3.18",
        "Retrieval on <bdi>",
        "(used in training)",
    ):
        assert words in text, words
    assert "megabyte" not in text.lower() or "characters)" in text
    assert "jobs.evaluate" not in text  # nothing is missing


def test_the_headline_and_the_results_name_the_corpus_of_every_metric(runs, tmp_path: Path) -> None:
    run = tmp_path / "adapted"
    (run / "evaluations").mkdir(parents=True)
    (run / "run.json").write_text((Path(runs[1].run.uri) / "run.json").read_text())
    for corpus, recall in (("/data/photos/test", 0.311), ("/data/sketches/test", 0.172)):
        record = {"step": 40, "corpus": corpus, "fingerprint": corpus, "rows": 9, "skipped": 0,
                  "metrics": {"text_to_image/recall@10": recall}}  # fmt: skip
        (run / "evaluations" / f"{recall}.json").write_text(json.dumps(record))
    report.run(report.ReportConfig(runs=(str(run),), to=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text()
    for corpus, value in (("photos/test", "31.1 %"), ("sketches/test", "17.2 %")):
        assert f'<dd>{value}</dd><dd class="note"><bdi>{corpus} (held out)</bdi></dd>' in text
        assert f"Retrieval on <bdi>/data/{corpus}</bdi> (held out)" in text


def test_quarantined_rows_have_a_thumbnail_where_their_image_can_be_decoded(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    health = text[text.index('id="health"') : text.index('id="time"')]
    captions = health[health.index("<h4>no caption") : health.index("<h4>", health.index("<h4>no caption") + 4)]
    assert captions.count("<img") == 3  # the image is valid, the caption is not
    assert health.count("no image") >= 5  # broken images


def test_the_time_of_each_activity_is_shown(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    section = text[text.index('id="time"') :]
    assert "waiting for data <b>2.4 s</b>" in section and "training steps <b>7.2 s</b>" in section


def test_two_runs_are_compared(pages) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    differing = text[text.index("Settings that differ") : text.index("Settings that all share")]
    assert "optim.learning_rate" in differing and "optim.batch_size" not in differing
    assert text.count('class="line s1"') == text.count('class="line s2"') > 3
    assert re.search(
        r"second has no recorded evaluation: its results are computed from the \d\d pairs of this page", text
    )


def test_missing_data_are_named_with_the_command_that_adds_them(pages) -> None:
    text = pages["bare"].read_text(encoding="utf-8")
    for words in (
        "No held-out corpus is known",
        "--corpus HELD_OUT",
        "python -m jobs.evaluate",
        "No metrics have been logged",
    ):
        assert words in text, words


@pytest.fixture(scope="module")
def adaptation_page(tmp_path_factory):
    """Return the page of a run and of one that was adapted from it, as jobs.demo writes it."""
    folder = tmp_path_factory.mktemp("adaptation")
    target = run_directories.corpus(folder / "corpus")
    before, adapted = (run_directories.run(folder, name, target, seed=seed) for seed, name in enumerate("ab"))
    run_directories.write_comparison(before, adapted, target)
    report.run(report.ReportConfig(runs=(before.run.uri, adapted.run.uri), to=str(folder / "page.html"), corpus=target))
    return folder / "page.html"


def test_the_adaptation_is_shown_as_bars_with_the_same_queries_before_and_after(adaptation_page) -> None:
    text = adaptation_page.read_text(encoding="utf-8")
    section = text[text.index('id="adaptation"') : text.index('id="results"')]
    for words in (
        "further steps without the target (2 runs)",
        "the same, embeddings centred (2 runs)",
        "1,234 held-out",
        "20.5 % ± 0.7",
        "The same 5 queries before and after",
    ):
        assert words in section, words
    assert re.findall('class="bar ([a-z0-9]+)"', section) == ["s1", "grey", "grey", "s2"]  # the colours of the runs
    assert section.count('<article class="query">') == 5 and "<script" not in section


def test_the_page_of_an_adaptation_loads_without_errors(adaptation_page, browser: Browser) -> None:  # noqa: F811
    page = browser.page()
    page.open(adaptation_page.as_uri())
    assert page.errors == [] and len(page.requests) == 1
    for width in (360, 1200):
        page.set_screen(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_damaged_records_are_named_on_the_page(runs, tmp_path: Path) -> None:
    run = tmp_path / "broken"
    (run / "evaluations").mkdir(parents=True)
    (run / "run.json").write_text((Path(runs[1].run.uri) / "run.json").read_text())
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n[3]\n')
    (run / "quarantine.parquet").write_bytes(b"PAR1 no PAR1")
    (run / "evaluations" / "a.json").write_text(json.dumps({"step": 1, "metrics": {"x": 1}, "interval": {"x": 3}}))
    (run / "evaluations" / "b.json").write_text("{")
    report.run(report.ReportConfig(runs=(str(run),), to=str(tmp_path / "page.html")))
    text = (tmp_path / "page.html").read_text()
    for words in (
        "1 of 2 lines have no step",
        "quarantine.parquet is damaged",
        "a.json cannot be used",
        "b.json cannot be",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"runs": ("{run}-typo",)}, "(?s)typo"),
        ({"runs": ("{parent}",)}, "run.json"),
        ({"runs": ("{run}", "{run}/")}, "named twice"),
        ({"runs": tuple("abcdefg")}, "at most 6"),
        ({"rows": 1}, "rows=1"),
        ({"corpus": "{parent}/nowhere"}, "nowhere"),
        ({"to": "{parent}/pages/"}, "names a directory"),
    ],
)
def test_mistakes_are_reported_in_one_sentence_and_no_page_is_written(runs, change, words, tmp_path: Path) -> None:
    run = runs[0].run.uri
    fill = {"run": run, "parent": str(Path(run).parent)}
    given = {"runs": (run,), "to": str(tmp_path / "page.html")} | {
        name: tuple(uri.format(**fill) for uri in value) if isinstance(value, tuple)
        else value.format(**fill) if isinstance(value, str) else value
        for name, value in change.items()
    }  # fmt: skip
    with pytest.raises(XmodalError, match=words):
        report.run(report.ReportConfig(**given))
    assert not (tmp_path / "page.html").exists()


def test_the_command_prints_where_the_page_is(runs, tmp_path: Path, capsys) -> None:
    job.run(report.ReportConfig(runs=(runs[1].run.uri,), to=str(tmp_path / "r.html")))
    assert f"report  {tmp_path / 'r.html'} (" in capsys.readouterr().out


@pytest.mark.s3
def test_the_page_is_written_to_s3(runs, s3_root: str) -> None:
    from xmodal import storage

    made = report.run(report.ReportConfig(runs=(runs[1].run.uri,), to=f"{s3_root}/pages/second.html"))
    assert storage.read(made.uri).startswith(b"<!doctype html>") and made.bytes == storage.stat(made.uri).size
