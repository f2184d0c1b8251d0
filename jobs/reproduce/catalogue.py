"""The names of the experiments with a line each, and where they are written; importing it costs nothing."""

import importlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jobs.reproduce.experiment import Experiment

Name = Literal["cg-mnist", "grid-letter", "grid-digit", "av-mnist", "multi-mnist"]
SUMMARIES: dict[Name, str] = {
    "cg-mnist": "a grey digit, and the same in a colour that betrays its class in training only",
    "grid-letter": "the letter of a GRID sentence from lips and sound, at the moment when it is spoken",
    "grid-digit": "the digit of a GRID sentence from lips and sound, anywhere in the clip",
    "av-mnist": "a blurred handwritten digit, and the same digit spoken in noise",
    "multi-mnist": "two tasks on one encoder: an easy and a hard digit in one picture",
}
_PLACES: dict[Name, tuple[str, str]] = {
    "cg-mnist": ("cg_mnist", "EXPERIMENT"),
    "grid-letter": ("grid", "LETTER"),
    "grid-digit": ("grid", "DIGIT"),
    "av-mnist": ("av_mnist", "EXPERIMENT"),
    "multi-mnist": ("multi_mnist", "EXPERIMENT"),
}


def listing() -> str:
    """One line for every experiment."""
    return "\n".join(f"  {name:14} {summary}" for name, summary in SUMMARIES.items())


def experiment(name: Name) -> "Experiment":
    """The experiment of this name, with torch and all that it needs."""
    module, place = _PLACES[name]
    return getattr(importlib.import_module(f"jobs.reproduce.{module}"), place)
