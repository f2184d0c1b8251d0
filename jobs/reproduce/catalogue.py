"""The names of the experiments with a line each, and where they are written; importing it costs nothing."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from xmodal.report.experiment_page import Page

Name = Literal[
    "cg-mnist", "grid-letter", "grid-digit", "av-mnist", "multi-mnist",
    "digits-adaptation", "digits-captions", "mnist-usps", "usps-mnist", "emoji-adaptation",
    "grid-shifted",
]  # fmt: skip
SUMMARIES: dict[Name, str] = {
    "cg-mnist": "a grey digit, and the same in a colour that betrays its class in training only",
    "grid-letter": "the letter of a GRID sentence from lips and sound, at the moment when it is spoken",
    "grid-digit": "the digit of a GRID sentence from lips and sound, anywhere in the clip",
    "av-mnist": "a blurred handwritten digit, and the same digit spoken in noise",
    "multi-mnist": "two tasks on one encoder: an easy and a hard digit in one picture",
    "digits-adaptation": "labelled digits in black and white, and unlabelled ones blended with photographs",
    "digits-captions": "the same with captions in place of classes, as in CLIP",
    "mnist-usps": "labelled digits of MNIST, unlabelled ones of USPS",
    "usps-mnist": "labelled digits of USPS, unlabelled ones of MNIST",
    "emoji-adaptation": "emoji of one vendor with captions, of another without",
    "grid-shifted": "the letter of a GRID sentence in another room: without labels, by DANN or MMD beside MMPareto",
}
_PLACES: dict[Name, tuple[str, str]] = {
    "cg-mnist": ("cg_mnist", "EXPERIMENT"),
    "grid-letter": ("grid", "LETTER"),
    "grid-digit": ("grid", "DIGIT"),
    "av-mnist": ("av_mnist", "EXPERIMENT"),
    "multi-mnist": ("multi_mnist", "EXPERIMENT"),
    "digits-adaptation": ("adaptation.digits", "MNIST_M"),
    "digits-captions": ("adaptation.digits", "CAPTIONS"),
    "mnist-usps": ("adaptation.digits", "MNIST_USPS"),
    "usps-mnist": ("adaptation.digits", "USPS_MNIST"),
    "emoji-adaptation": ("adaptation.emoji", "EXPERIMENT"),
    "grid-shifted": ("adaptation.grid_shifted", "EXPERIMENT"),
}


class Reproducible(Protocol):
    """What any experiment can do, whatever it compares; `settings` are a frozen dataclass of its own."""

    @property
    def settings(self) -> Any: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def arms(self) -> Mapping[str, Any]: ...
    def prepare(self, name: Name, settings: Any, place: str) -> None: ...
    def trial(self, name: Name, arm: str, seed: int, settings: Any, place: str) -> dict[str, Any]: ...
    def headline(self, found: Mapping[str, Any]) -> str: ...
    def page(self, settings: Any, trials: Mapping[str, list[Any]]) -> "Page": ...


def listing() -> str:
    """One line for every experiment."""
    return "\n".join(f"  {name:18} {summary}" for name, summary in SUMMARIES.items())


def experiment(name: Name) -> "Reproducible":
    """The experiment of this name, with torch and all that it needs."""
    module, place = _PLACES[name]
    return getattr(importlib.import_module(f"jobs.reproduce.{module}"), place)
