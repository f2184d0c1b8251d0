"""The public data sets that experiments and benchmarks read: sources, licences, and files with their checksums.

No data set is part of the project. A benchmark or an experiment names the files that it needs by patterns below the
folder of data, such as `digits/mnist_*.parquet`; `SHA256SUMS` beside this module lists every file, in the form that
`sha256sum -c` reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

CHECKSUMS = Path(__file__).with_name("SHA256SUMS")


@dataclass(frozen=True, kw_only=True)
class PublicDataset:
    """A public data set in the files that the project reads."""

    name: str
    pattern: str  # of its files, below the folder of data
    contents: str  # of a file
    source: str
    licence: str
    conversion: str  # what was done to the files of the source


DATASETS = (
    PublicDataset(
        name="MNIST",
        pattern="digits/mnist_*.parquet",
        contents="columns image (PNG, 28 x 28, grey) and label; 60,000 and 10,000 rows in the canonical order",
        source="https://github.com/rasbt/mnist-pngs at d26bd33bf1e454dd15bd4fe8b8ba64c76308f91c",
        licence="commonly stated as CC BY-SA 3.0; Y. LeCun, C. Cortes, C. Burges",
        conversion="the PNG files as they are, in one Parquet file a split",
    ),
    PublicDataset(
        name="USPS",
        pattern="digits/usps_*.parquet",
        contents="columns image (PNG, 16 x 16, grey) and label; 7,291 and 2,007 rows in the canonical order",
        source=(
            "https://github.com/niuers/Learning-From-Data-A-Short-Course at "
            "879a698b960e5867f7c2b11f8938fa89c3d21839, data/usps.h5"
        ),
        licence="none stated: use it, do not redistribute it; J. Hull 1994",
        conversion="rounded to 8 bits, written as PNG",
    ),
    PublicDataset(
        name="photographs of clothing",
        pattern="photos/*.tar",
        contents="713 samples in three shards, KEY.jpg (about 400 x 530), KEY.txt and KEY.cls",
        source=(
            "https://github.com/alexeygrigorev/clothing-dataset-small at 11961516512414bf9f6c150a832cfd21b54a6b54, "
            "folders test and validation"
        ),
        licence="CC0 1.0",
        conversion="the JPEG files as they are, in shards of 256, 256 and 201",
    ),
    PublicDataset(
        name="Free Spoken Digit Dataset",
        pattern="fsdd/*.tar",
        contents="3,000 samples: KEY.flac (8 kHz, mono), KEY.cls, KEY.json (speaker, index, digit); index 0-4 is test",
        source=("https://github.com/Jakobovski/free-spoken-digit-dataset at 26eb9aaf76e81b692f806f9140c2d2777410d7a1"),
        licence="CC BY-SA 4.0; Z. Jackson and others",
        conversion="lossless FLAC from the WAV files",
    ),
    PublicDataset(
        name="GRID speaker 1",
        pattern="grid_s1/*.tar",
        contents="1,000 clips of 3 s, KEY.mp4 (H.264 112 x 112, 25 frames a second, AAC 16 kHz), KEY.txt and KEY.json",
        source=(
            "https://github.com/osalinasv/lipnet at 84367bd1183381e2cfc3c9157156998bb6db3f71 (history); the corpus: "
            "https://zenodo.org/records/3625687"
        ),
        licence="CC BY 4.0; M. Cooke, J. Barker, S. Cunningham, X. Shao, JASA 2006",
        conversion="one fixed square of the 360 x 288 frame (left 52, top 46, side 208), scaled and encoded anew",
    ),
    PublicDataset(
        name="Noto emoji",
        pattern="emoji/noto/*.tar",
        contents="1,136 train, 300 test concepts: KEY.png (64 x 64 RGB on white), KEY.txt, KEY.json (name, keywords)",
        source=(
            "https://github.com/googlefonts/noto-emoji at b3e3051a088047d19fd4d49b1c3ac42fb8c3aaf8, png/128; names: "
            "https://github.com/unicode-org/cldr-json at b08a82b582f1120d630d623f9e5073316741574d"
        ),
        licence="images Apache-2.0, names Unicode License v3",
        conversion="without skin tones, scaled to 64 x 64",
    ),
    PublicDataset(
        name="OpenMoji",
        pattern="emoji/openmoji/*.tar",
        contents="the same concepts, split and layout as Noto's",
        source=(
            "https://github.com/svgmoji/svgmoji at fb4bf0c2e6188c0cf70642d2931e92b9b7b0ae65, "
            "packages/svgmoji__openmoji/svg; names as for Noto"
        ),
        licence="images CC BY-SA 4.0 (https://openmoji.org), names Unicode License v3",
        conversion="without skin tones, drawn with resvg, scaled to 64 x 64",
    ),
    PublicDataset(
        name="icons",
        pattern="icons/train.parquet",
        contents="columns image (PNG, 64 x 64 RGB on white), caption, source and license; 13,055 rows",
        source=(
            "https://github.com/game-icons/icons at b659ba7773ed6ad1e1fee228b089f7104bea4984, "
            "https://github.com/Templarian/MaterialDesign at 2424e748e0cc63ab7b9c095a099b9fe239b737c0, "
            "https://github.com/mulberrysymbols/mulberry-symbols at 9cbab9f400c5de44e2bc58839cca07294aadb086"
        ),
        licence="CC BY 3.0 (some CC0), Apache-2.0, CC BY-SA 4.0, in this order",
        conversion="drawn at 64 x 64, game-icons black on white; a caption is the file's name made readable",
    ),
)


def expected_files(needs: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of every file that the patterns name, by its path below the folder of data.

    Raises ValueError for a pattern that names no listed file.
    """
    lines = (line.split(maxsplit=1) for line in CHECKSUMS.read_text().splitlines())
    listed = {path: sha256 for sha256, path in lines}
    files: dict[str, str] = {}
    for pattern in needs:
        matches = {path: sha256 for path, sha256 in listed.items() if fnmatchcase(path, pattern)}
        if not matches:
            raise ValueError(f"{CHECKSUMS.name} lists no file {pattern}")
        files |= matches
    return files


def dataset_names(needs: Sequence[str]) -> str:
    """Return the names of the data sets that the files of these patterns belong to, separated by commas."""
    return ", ".join(dataset.name for dataset in datasets_of(needs))


def datasets_of(needs: Sequence[str]) -> list[PublicDataset]:
    """Return the data sets that the files of these patterns belong to."""
    files = expected_files(needs)
    return [dataset for dataset in DATASETS if any(fnmatchcase(path, dataset.pattern) for path in files)]
