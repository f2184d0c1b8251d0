"""The names of the experiments, each with one line, the data it needs, and where it is defined; importing is cheap."""

import importlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from jobs.bench.datasets import dataset_names

ExperimentName = Literal[
    "cg-mnist", "grid-letter", "grid-digit", "av-mnist", "multi-mnist",
    "digits-adaptation", "digits-captions", "mnist-usps", "usps-mnist", "emoji-adaptation",
    "grid-shifted",
]  # fmt: skip
MNIST, USPS, PHOTOS = "digits/mnist_*.parquet", "digits/usps_*.parquet", "photos/*.tar"
SPOKEN_DIGITS, GRID = "fsdd/*.tar", ("grid_s1/train-*.tar", "grid_s1/test-*.tar")
ICONS, NOTO, OPENMOJI = "icons/train.parquet", "emoji/noto/*.tar", "emoji/openmoji/*.tar"


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One experiment; `needs` are patterns of files below the folder of data (`jobs.bench.datasets`)."""

    summary: str
    needs: tuple[str, ...]
    module: str  # below this package
    attribute: str


ENTRIES: Mapping[ExperimentName, CatalogueEntry] = {
    "cg-mnist": CatalogueEntry(
        summary="a grey digit, and the same in a colour that gives its class away in training only",
        needs=(MNIST,),
        module="cg_mnist",
        attribute="EXPERIMENT",
    ),
    "grid-letter": CatalogueEntry(
        summary="the letter of a GRID sentence from lips and sound, at the moment when it is spoken",
        needs=GRID,
        module="grid",
        attribute="LETTER",
    ),
    "grid-digit": CatalogueEntry(
        summary="the digit of a GRID sentence from lips and sound, anywhere in the clip",
        needs=GRID,
        module="grid",
        attribute="DIGIT",
    ),
    "av-mnist": CatalogueEntry(
        summary="a blurred handwritten digit, and the same digit spoken in noise",
        needs=(MNIST, SPOKEN_DIGITS),
        module="av_mnist",
        attribute="EXPERIMENT",
    ),
    "multi-mnist": CatalogueEntry(
        summary="two tasks on one encoder: an easy and a hard digit in one image",
        needs=(MNIST,),
        module="multi_mnist",
        attribute="EXPERIMENT",
    ),
    "digits-adaptation": CatalogueEntry(
        summary="labelled digits in black and white, and unlabelled ones blended with photographs",
        needs=(MNIST, PHOTOS),
        module="adaptation.digits",
        attribute="MNIST_M",
    ),
    "digits-captions": CatalogueEntry(
        summary="the same with captions in place of classes, as in CLIP",
        needs=(MNIST, PHOTOS),
        module="adaptation.digits",
        attribute="CAPTIONS",
    ),
    "mnist-usps": CatalogueEntry(
        summary="labelled digits of MNIST, unlabelled ones of USPS",
        needs=(MNIST, USPS),
        module="adaptation.digits",
        attribute="MNIST_USPS",
    ),
    "usps-mnist": CatalogueEntry(
        summary="labelled digits of USPS, unlabelled ones of MNIST",
        needs=(MNIST, USPS),
        module="adaptation.digits",
        attribute="USPS_MNIST",
    ),
    "emoji-adaptation": CatalogueEntry(
        summary="emoji of one vendor with captions, of another without",
        needs=(ICONS, NOTO, OPENMOJI),
        module="adaptation.emoji",
        attribute="EXPERIMENT",
    ),
    "grid-shifted": CatalogueEntry(
        summary="the letter of a GRID sentence in another room: without labels, by DANN or MMD with MMPareto",
        needs=GRID,
        module="adaptation.grid_shifted",
        attribute="EXPERIMENT",
    ),
}


class Experiment(Protocol):
    """What every experiment has, whatever it compares; `settings` is a frozen dataclass of its own."""

    @property
    def settings(self) -> Any: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def arms(self) -> Mapping[str, Any]: ...
    @property
    def predictions(self) -> tuple[str, ...]: ...


def list_experiments() -> str:
    """Return every experiment with its summary and the data sets that it reads."""
    return "\n".join(
        textwrap.fill(
            f"{entry.summary} (data: {dataset_names(entry.needs)})",
            120,
            initial_indent=f"  {name:18} ",
            subsequent_indent=" " * 21,
        )
        for name, entry in ENTRIES.items()
    )


def load_experiment(name: ExperimentName) -> Experiment:
    """Return the experiment of this name; imports torch and all that the experiment needs."""
    entry = ENTRIES[name]
    return getattr(importlib.import_module(f"jobs.reproduce.{entry.module}"), entry.attribute)
