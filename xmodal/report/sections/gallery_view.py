"""Gallery and spaces of the models of a page in, what it shows of them out: pictures as data URIs, words, marks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from xmodal.formatting import clean, cosine, percent
from xmodal.report.charts.figures import histogram, scatter
from xmodal.report.charts.images import heat_uri, photo_uri
from xmodal.report.held_out_pairs import Pairs
from xmodal.report.page_data import Material, Shown
from xmodal.report.sections import gallery as searches
from xmodal.report.sections.embedding_space import MATRIX_PAIRS, Space, space
from xmodal.report.sections.gallery import Answer, Search


@dataclass(frozen=True, kw_only=True)
class Found:
    """One answer: a picture (for a text) or a caption (for a picture); of a clip also its sound, as a picture."""

    picture: str
    sound: str
    caption: str
    key: str
    cosine: str
    hit: bool


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one run found for a query."""

    run: str
    slot: int
    rank: int
    of: int
    found: tuple[Found, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search; `picture` and `caption`, or `sound`, are of the query's own pair, one of them being the query."""

    picture: str
    sound: str
    caption: str
    key: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the two sides of a pair are called."""

    image: str
    text: str
    query: str  # what a search by `text` begins with


WORDS = {
    ("image", "text"): Words(image="picture", text="caption", query="text"),
    ("video", "audio"): Words(image="clip", text="sound", query="sound"),
}


@dataclass(frozen=True, kw_only=True)
class Views:
    """The gallery of a page."""

    text_to_image: tuple[Query, ...]
    image_to_text: tuple[Query, ...]
    worst_texts: tuple[Query, ...]
    worst_images: tuple[Query, ...]
    pairs: int
    captions: int
    about: str  # which pairs these are
    words: Words


def views(material: Material) -> Views | None:
    """None where there is no held-out corpus or no model."""
    runs, pairs = material.encoded, material.pairs
    if pairs is None or not runs:
        return None
    found = searches.gallery(pairs, [run.embedded for run in runs if run.embedded is not None])
    stamps = _Stamps(pairs)

    def shown(these: Sequence[Search], items: int) -> tuple[Query, ...]:
        return tuple(_query(one, runs, stamps, items) for one in these)

    return Views(
        text_to_image=shown(found.text_to_image, len(pairs)),
        image_to_text=shown(found.image_to_text, found.captions),
        worst_texts=shown(found.worst_texts, len(pairs)),
        worst_images=shown(found.worst_images, found.captions),
        pairs=len(pairs),
        captions=found.captions,
        about=_about(pairs),
        words=WORDS[pairs.modalities],
    )


def _about(pairs: Pairs) -> str:
    first = ", the first of its captions for each" if any(pair.captions > 1 for pair in pairs.pairs) else ""
    if len(pairs) + pairs.skipped == pairs.corpus_rows:
        return f"all {len(pairs):,} readable pairs of {clean(pairs.uri)}{first}"
    return f"an even sample of {len(pairs):,} of the {pairs.corpus_rows:,} pairs of {clean(pairs.uri)}{first}"


class _Stamps:
    """Each picture is encoded once."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs
        self._made: dict[int, str] = {}
        self._heard: dict[int, str] = {}

    def picture(self, pair: int) -> str:
        if pair not in self._made:
            self._made[pair] = photo_uri(self._pairs.pairs[pair].thumbnail)
        return self._made[pair]

    def sound(self, pair: int) -> str:
        """Time across, pitch upwards; empty where the pair has none."""
        sound = self._pairs.pairs[pair].sound
        if sound is None:
            return ""
        if pair not in self._heard:
            low, high = np.percentile(sound, (20, 99.5))
            self._heard[pair] = heat_uri(sound.T[::-1], float(low), float(high))
        return self._heard[pair]

    def caption(self, pair: int) -> str:
        return clean(self._pairs.pairs[pair].caption)

    def key(self, pair: int) -> str:
        return clean(self._pairs.pairs[pair].key, 60)


def _query(one: Search, runs: Sequence[Shown], stamps: _Stamps, items: int) -> Query:
    return Query(
        picture=stamps.picture(one.pair),
        sound=stamps.sound(one.pair),
        caption=stamps.caption(one.pair),
        key=stamps.key(one.pair),
        answers=tuple(
            Answered(
                run=clean(run.name, 40),
                slot=run.slot,
                rank=answers.rank,
                of=items,
                found=tuple(_found(answer, stamps) for answer in answers.first),
            )
            for run, answers in zip(runs, one.answers, strict=True)
        ),
    )


def _found(answer: Answer, stamps: _Stamps) -> Found:
    return Found(
        picture=stamps.picture(answer.pair),
        sound=stamps.sound(answer.pair),
        caption=stamps.caption(answer.pair),
        key=stamps.key(answer.pair),
        cosine=cosine(answer.cosine),
        hit=answer.hit,
    )


@dataclass(frozen=True, kw_only=True)
class SpaceView:
    """The space of one run's model."""

    run: str
    slot: int
    matrix: str
    matrix_pairs: int
    low: str
    high: str
    cosines: Markup
    mean_right: str
    mean_wrong: str
    projection: Markup
    explained: str
    gap: str
    words: Words


def spaces(material: Material) -> list[SpaceView]:
    """One view for each run whose model was loaded."""
    if material.pairs is None:
        return []
    ids = material.pairs.ids
    words = WORDS[material.pairs.modalities]
    return [_view(run, space(run.embedded, ids), words) for run in material.encoded if run.embedded is not None]


def _view(run: Shown, seen: Space, words: Words) -> SpaceView:
    low, high = float(np.median(seen.matrix)), float(seen.matrix.max())  # the ramp is for the likely pairs
    return SpaceView(
        run=clean(run.name, 40),
        slot=run.slot,
        matrix=heat_uri(seen.matrix, low, high),
        matrix_pairs=min(MATRIX_PAIRS, len(seen.matrix)),
        low=f"up to {cosine(low)}",
        high=cosine(high),
        cosines=histogram(seen.edges, seen.right, seen.wrong, "Cosines of right and of wrong pairs"),
        mean_right=cosine(seen.mean_right),
        mean_wrong=cosine(seen.mean_wrong),
        projection=scatter(seen.image_points, seen.text_points, f"{words.image.title()}s and {words.text}s in a plane"),
        explained=f"{percent(seen.explained[0])} and {percent(seen.explained[1])}",
        gap=f"{seen.gap:.2f}",
        words=words,
    )
