"""A page that loads in a browser as it is, whatever a run and its corpus hold; looked at in headless Chromium."""

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
    """A run with everything (and a hostile record), and one to compare it with that nobody evaluated."""
    folder = tmp_path_factory.mktemp("reported")
    where = run_directories.corpus(folder / "corpus")
    return (
        run_directories.run(folder, "first", where, evaluated=True, hostile=True),
        run_directories.run(folder, "second", where, seed=1),
    )


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """Three pages: one run with everything, two runs beside each other, and a run of which only the record is left."""
    folder = tmp_path_factory.mktemp("pages")
    first, second = runs
    bare = folder / "bare"
    bare.mkdir()
    (bare / "run.json").write_text((Path(second.run.uri) / "run.json").read_text())
    made = {
        "one": report.Config(runs=(first.run.uri,), to=str(folder / "one.html")),
        "two": report.Config(runs=(first.run.uri, second.run.uri), to=str(folder / "two.html"), rows=60),
        "bare": report.Config(runs=(str(bare),), to=str(folder / "bare.html")),
    }
    for config in made.values():
        report.run(config)
    return {name: Path(config.to) for name, config in made.items()}


@pytest.fixture(params=["one", "two", "bare"])
def opened(request, browser: Browser, pages) -> Page:  # noqa: F811
    page = browser.page()
    page.open(pages[request.param].as_uri())
    return page


def test_it_loads_without_a_complaint_or_a_request(opened: Page) -> None:
    assert opened.complaints == []
    assert len(opened.requests) == 1  # the page itself
    assert opened.value("document.title").endswith("xmodal report")  # no script of a caption ran
    assert opened.value("document.querySelectorAll('script').length") == 1


def test_every_image_is_there(opened: Page, request) -> None:
    sizes = opened.value("[...document.images].map((i) => i.complete && i.naturalWidth)")
    assert all(sizes)
    assert bool(sizes) == ("bare" not in request.node.name)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_screen(opened: Page, width: int) -> None:
    opened.look(width)
    assert opened.value("document.documentElement.scrollWidth") <= width


def test_light_and_dark_and_paper_differ_and_are_readable(opened: Page) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        opened.look(1200, scheme=scheme)
        seen[scheme] = colours(opened)
    opened.look(1200, scheme="dark", media="print")
    seen["paper"] = colours(opened)
    assert seen["light"] != seen["dark"]
    assert seen["paper"][1] == (255, 255, 255)
    assert all(contrast(ink, paper) >= 7 for ink, paper in seen.values())


def colours(page: Page) -> tuple[tuple[int, ...], ...]:
    """Of text, and of what it stands on."""
    found = page.value("[['body', 'color'], ['section', 'backgroundColor']].map(([e, c]) => "
                       "getComputedStyle(document.querySelector(e))[c])")  # fmt: skip
    return tuple(tuple(map(int, re.findall(r"\d+", colour)[:3])) for colour in found)


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(rgb):
        linear = [c / 12.92 if (c := v / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_values_under_the_pointer_are_told(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["two"].as_uri())
    told = page.value("""(() => {
        const svg = document.querySelector("svg[data-lines]"), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right - 9, clientY: box.top + 20}));
        return svg.nextElementSibling.textContent;
    })()""")
    assert told == "step 40: first 1.20 · second 1.30"


def test_it_prints(browser: Browser, pages) -> None:  # noqa: F811
    page = browser.page()
    page.open(pages["one"].as_uri())
    assert page.pdf().startswith(b"%PDF")


class Structure(HTMLParser):
    """Every attribute that can ask for something, and what the page says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.asked += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def test_nothing_in_it_points_elsewhere(pages) -> None:
    for path in pages.values():
        text = path.read_text(encoding="utf-8")
        found = Structure(text)
        assert all(value.startswith(("data:", "#")) for value in found.asked)
        assert found.handlers == []
        assert len(text) < MOST_BYTES
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_it_shows_what_was_recorded(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    for words in (
        "42.0 %",
        "38.0 % to 46.0 %",
        "10.0 %",
        "fingerprint",
        "no caption",
        "Modality gap",
        "guessing: 3.18",
    ):
        assert words in text, words
    assert "megabyte" not in text.lower() or "characters)" in text
    assert "jobs.evaluate" not in text  # nothing is missing


def test_bad_rows_have_a_stamp_where_their_picture_can_be_seen(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    health = text[text.index('id="health"') : text.index('id="time"')]
    captions = health[health.index("<h4>no caption") : health.index("<h4>", health.index("<h4>no caption") + 4)]
    assert captions.count("<img") == 3  # the picture is sound, its caption is not
    assert health.count("no picture") >= 5  # broken pictures


def test_where_the_time_went_adds_up(pages) -> None:
    text = pages["one"].read_text(encoding="utf-8")
    section = text[text.index('id="time"') :]
    assert "waiting for data <b>2.4 s</b>" in section and "training steps <b>7.2 s</b>" in section


def test_two_runs_stand_beside_each_other(pages) -> None:
    text = pages["two"].read_text(encoding="utf-8")
    differing = text[text.index("Settings that differ") : text.index("Settings that all share")]
    assert "optim.learning_rate" in differing and "optim.batch_size" not in differing
    assert text.count('class="line s1"') == text.count('class="line s2"') > 3
    assert re.search(r"second has no recorded evaluation: its figures are of the \d\d pairs of this page", text)


def test_what_is_missing_comes_with_its_command(pages) -> None:
    text = pages["bare"].read_text(encoding="utf-8")
    for words in (
        "No held-out corpus is known",
        "--corpus HELD_OUT",
        "python -m jobs.evaluate",
        "No metrics were logged",
    ):
        assert words in text, words


def test_damaged_records_are_named_on_the_page(runs, tmp_path: Path) -> None:
    run = tmp_path / "broken"
    (run / "evaluations").mkdir(parents=True)
    (run / "run.json").write_text((Path(runs[1].run.uri) / "run.json").read_text())
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n[3]\n')
    (run / "quarantine.parquet").write_bytes(b"PAR1 no PAR1")
    (run / "evaluations" / "a.json").write_text(json.dumps({"step": 1, "metrics": {"x": 1}, "interval": {"x": 3}}))
    (run / "evaluations" / "b.json").write_text("{")
    report.run(report.Config(runs=(str(run),), to=str(tmp_path / "page.html")))
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
def test_a_mistake_is_one_sentence_and_leaves_no_page(runs, change, words, tmp_path: Path) -> None:
    run = runs[0].run.uri
    fill = {"run": run, "parent": str(Path(run).parent)}
    given = {"runs": (run,), "to": str(tmp_path / "page.html")} | {
        name: tuple(one.format(**fill) for one in value) if isinstance(value, tuple)
        else value.format(**fill) if isinstance(value, str) else value
        for name, value in change.items()
    }  # fmt: skip
    with pytest.raises(XmodalError, match=words):
        report.run(report.Config(**given))
    assert not (tmp_path / "page.html").exists()


def test_the_command_says_where_the_page_is(runs, tmp_path: Path, capsys) -> None:
    job.run(report.Config(runs=(runs[1].run.uri,), to=str(tmp_path / "r.html")))
    assert f"report  {tmp_path / 'r.html'} (" in capsys.readouterr().out


@pytest.mark.s3
def test_the_page_goes_to_storage(runs, s3_root: str) -> None:
    from xmodal import storage

    made = report.run(report.Config(runs=(runs[1].run.uri,), to=f"{s3_root}/pages/second.html"))
    assert storage.read(made.uri).startswith(b"<!doctype html>") and made.bytes == storage.stat(made.uri).size
