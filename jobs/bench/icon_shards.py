"""Write the corpora that the icon benchmark trains and tests on, as shards, from files of icons and emoji."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.tar_members import sample_members
from xmodal.data.formats.shard_writer import write_shards

ICONS, TRAIN, UNSEEN = "icons/train.parquet", "emoji/noto/train-*.tar", "emoji/noto/test-*.tar"
WHOLE_CAPTIONS, PARTIAL_CAPTIONS = 8, 12  # of an emoji: name with all keywords, and with some of them


@dataclass(frozen=True, kw_only=True)
class IconCorpora:
    """URIs of the corpora, and the number of pairs in those for training."""

    icons: str
    emoji: str
    unseen: str
    icon_rows: int
    emoji_rows: int


def write_corpora(root: Path, scratch: str) -> IconCorpora:
    """Write icons with their caption, train emoji with several captions, and test emoji with their query."""
    icons, emoji, unseen = (f"{scratch}/{name}" for name in ("icons", "emoji", "unseen"))
    _write_corpus(_emoji(f"{root}/{UNSEEN}", scratch, unseen=True), unseen, "tar")
    return IconCorpora(
        icons=icons,
        emoji=emoji,
        unseen=unseen,
        icon_rows=_write_corpus(_icons(f"{root}/{ICONS}", scratch), icons, "parquet"),
        emoji_rows=_write_corpus(_emoji(f"{root}/{TRAIN}", scratch, unseen=False), emoji, "tar"),
    )


def _write_corpus(samples: Iterator[tuple[str, dict[str, Any]]], uri: str, format: Any) -> int:
    shards = write_shards(samples, uri, format=format, rows_per_shard=256, file_columns=("image",))
    return sum(len(shard.keys) for shard in shards)


def _icons(uri: str, index: str) -> Iterator[tuple[str, dict[str, object]]]:
    for number, sample in enumerate(sample_members(uri, f"{index}/index")):
        yield f"{number:06d}", {"image": sample["image"], "caption": sample["caption"]}


def _emoji(uri: str, index: str, *, unseen: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, sample in enumerate(sample_members(uri, f"{index}/index")):
        annotation = json.loads(sample["json"])
        name, keywords = annotation["name"], annotation["keywords"]
        captions = [query_text(name, keywords)] if unseen else training_captions(name, keywords)
        yield f"{number:06d}", {"png": sample["png"], "json": json.dumps({"captions": captions})}


def query_text(name: str, keywords: list[str]) -> str:
    """Return the text that an unseen emoji is searched by."""
    return " ".join([name, *keywords])


def training_captions(name: str, keywords: list[str]) -> list[str]:
    """Return the query, and random parts of it in random order: without some words, the others must suffice.

    One caption of an emoji is drawn in a step, so the query is repeated as often as it should be drawn.
    """
    rng = random.Random(name)  # hashes a string by SHA-512, the same in every process
    parts = [name, *keywords]
    partial_captions = [" ".join(rng.sample(parts, rng.randint(1, len(parts)))) for _ in range(PARTIAL_CAPTIONS)]
    return [query_text(name, keywords)] * WHOLE_CAPTIONS + partial_captions
