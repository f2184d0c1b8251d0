"""Pages of the documentation that are generated are what the code says."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def load_generator():
    """The module that writes the pages; docs is no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = load_generator()


@pytest.mark.parametrize("name", GENERATE.PAGES)
def test_a_generated_page_is_up_to_date(name):
    is_current = (DOCS / name).read_text() == GENERATE.PAGES[name]()
    assert is_current, f"docs/{name} is out of date: run `python docs/generate.py` and commit the page"


def test_the_page_of_the_command_line_has_the_flags_and_architectures_of_pretraining():
    section = GENERATE.cli_page().partition("\n## jobs.pretrain\n")[2].partition("\n## ")[0]
    for flag in (
        "--corpus",
        "--profile",
        "--resume",
        "--plugin",
        "--batch-size",
        "--model.image",
        "--model.audio-grid",
    ):
        assert section.count(f"`{flag} ") == 1 or f"`{flag}`" in section, flag
    assert "| `--batch-size INT` | number of rows in every step" in section and "| `256` |" in section


@pytest.mark.parametrize("command", GENERATE.commands())
def test_every_option_of_a_command_has_a_help_text(command):
    for group in GENERATE.help_groups(command, GENERATE.PRESET_WORDS.get(command, [])):
        for option in group.options:
            assert not option.help.startswith("(") and len(option.help) > 10, (group.title, option)
