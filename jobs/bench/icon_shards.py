"""A folder with icons and emoji comes in; the corpora that the icon benchmark trains and tests on go out, as shards."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.real_data import material
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.errors import CorpusError

ICONS, TRAIN, UNSEEN = "icons/train.parquet", "emoji/noto/train-*.tar", "emoji/noto/test-*.tar"
WHOLE_CAPTIONS, DRAWN_CAPTIONS = 8, 12  # of an emoji: name with all keywords, and some of these


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """URIs of the corpora, and the number of pairs in each."""

    icons: str
    emoji: str
    unseen: str
    icon_rows: int
    emoji_rows: int
    unseen_rows: int


def data_root() -> Path:
    """The folder of benchmark data; ConfigError where a part is missing."""
    emoji = "members png, and json with name and keywords"
    return material({ICONS: "columns image and caption", TRAIN: emoji, UNSEEN: emoji})


def write_corpora(root: Path, scratch: str) -> Corpora:
    """Icons with their caption, emoji to train on with several, and the unseen emoji with the query as caption."""
    icons, emoji, unseen = (f"{scratch}/{name}" for name in ("icons", "emoji", "unseen"))
    return Corpora(
        icons=icons,
        emoji=emoji,
        unseen=unseen,
        icon_rows=_written(_icons(f"{root}/{ICONS}", scratch), icons, "parquet"),
        emoji_rows=_written(_emoji(f"{root}/{TRAIN}", scratch, unseen=False), emoji, "tar"),
        unseen_rows=_written(_emoji(f"{root}/{UNSEEN}", scratch, unseen=True), unseen, "tar"),
    )


def _written(samples: Iterator[tuple[str, dict[str, Any]]], uri: str, format: Any) -> int:
    shards = write_shards(samples, uri, format=format, rows=256, files=("image",))
    return sum(len(shard.keys) for shard in shards)


def _icons(uri: str, index: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, sample in enumerate(_members(uri, index)):
        yield f"{number:06d}", {"image": sample["image"], "caption": sample["caption"]}


def _emoji(uri: str, index: str, *, unseen: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, sample in enumerate(_members(uri, index)):
        said = json.loads(sample["json"])
        name, keywords = said["name"], said["keywords"]
        captions = [query(name, keywords)] if unseen else training_captions(name, keywords)
        yield f"{number:06d}", {"png": sample["png"], "json": json.dumps({"captions": captions})}


def query(name: str, keywords: list[str]) -> str:
    """What an unseen emoji is searched by."""
    return " ".join([name, *keywords])


def training_captions(name: str, keywords: list[str]) -> list[str]:
    """The query, and random parts of it in random order: what is left must do without the words that are out.

    Of the captions of an emoji one is drawn a step, so the query stands there as often as it shall be drawn.
    """
    draw = random.Random(name)  # hashes a string by SHA-512, the same in every process
    parts = [name, *keywords]
    drawn = [" ".join(draw.sample(parts, draw.randint(1, len(parts)))) for _ in range(DRAWN_CAPTIONS)]
    return [query(name, keywords)] * WHOLE_CAPTIONS + drawn


def _members(uri: str, index: str) -> Iterator[dict[str, Any]]:
    """The members of every sample, in corpus order; CorpusError for one that cannot be read."""
    corpus = open_corpus(uri, index=f"{index}/index")
    for extent in range(len(corpus.extents)):
        for sample in read_extent(corpus, extent):
            if sample.members is None:
                raise CorpusError(f"{uri}: {sample.key} cannot be read: {sample.fault}")
            yield sample.members
