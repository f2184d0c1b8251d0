"""The gallery: searches of the page's models over held-out pairs, as images, captions and spectrograms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmodal.formatting import clean_text, format_cosine
from xmodal.report.charts.images import heatmap_data_uri, jpeg_data_uri
from xmodal.report.held_out_pairs import ReportPairs
from xmodal.report.page_data import PageRun, ReportData
from xmodal.report.sections.gallery import GallerySearch, SearchHit, search_gallery


@dataclass(frozen=True, kw_only=True)
class GalleryHit:
    """One result of a search as the page shows it; `image` and `spectrogram` are data URIs.

    The spectrogram is empty for pairs of images and captions.
    """

    image: str
    spectrogram: str
    caption: str
    key: str
    cosine: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """The results of one run for a query: its first hits, and the rank of the best correct one among `items` items."""

    run: str
    color: int
    rank: int
    items: int
    hits: tuple[GalleryHit, ...]


@dataclass(frozen=True, kw_only=True)
class GalleryQuery:
    """A query with both sides of its pair, one of which is the query, and the results of every run."""

    image: str
    spectrogram: str
    caption: str
    key: str
    results: tuple[RunResults, ...]


@dataclass(frozen=True, kw_only=True)
class PairWords:
    """What the page calls the two sides of a pair."""

    image: str
    text: str
    query: str  # what a query by `text` is


PAIR_WORDS = {
    ("image", "text"): PairWords(image="image", text="caption", query="text"),
    ("video", "audio"): PairWords(image="video", text="audio track", query="audio"),
}


@dataclass(frozen=True, kw_only=True)
class GalleryView:
    """The content of the section."""

    text_to_image: tuple[GalleryQuery, ...]
    image_to_text: tuple[GalleryQuery, ...]
    worst_texts: tuple[GalleryQuery, ...]
    worst_images: tuple[GalleryQuery, ...]
    pairs: int
    captions: int
    about: str  # which pairs these are
    words: PairWords


def gallery_view(data: ReportData) -> GalleryView | None:
    """Return the gallery; None without held-out pairs or without a model that has embedded them."""
    runs, pairs = data.runs_with_embeddings, data.pairs
    if pairs is None or not runs:
        return None
    searches = search_gallery(pairs, [run.embeddings for run in runs if run.embeddings is not None])
    media = _PairMedia(pairs)

    def queries(directed: Sequence[GallerySearch], items: int) -> tuple[GalleryQuery, ...]:
        return tuple(_query(search, runs, media, items) for search in directed)

    return GalleryView(
        text_to_image=queries(searches.text_to_image, len(pairs)),
        image_to_text=queries(searches.image_to_text, searches.captions),
        worst_texts=queries(searches.worst_texts, len(pairs)),
        worst_images=queries(searches.worst_images, searches.captions),
        pairs=len(pairs),
        captions=searches.captions,
        about=_about(pairs),
        words=PAIR_WORDS[pairs.modalities],
    )


def gallery_queries(
    searches: Sequence[GallerySearch], runs: Sequence[PageRun], pairs: ReportPairs
) -> tuple[GalleryQuery, ...]:
    """Return text searches as the page shows them; `runs` are those of their results."""
    media = _PairMedia(pairs)
    return tuple(_query(search, runs, media, len(pairs)) for search in searches)


def _about(pairs: ReportPairs) -> str:
    first = ", each with the first of its captions" if any(pair.caption_count > 1 for pair in pairs.pairs) else ""
    if len(pairs) + pairs.skipped == pairs.corpus_rows:
        return f"all {len(pairs):,} readable pairs of {clean_text(pairs.uri)}{first}"
    return f"an even sample of {len(pairs):,} of the {pairs.corpus_rows:,} pairs of {clean_text(pairs.uri)}{first}"


class _PairMedia:
    """Images, spectrograms and captions of pairs as the page shows them; each image is encoded once."""

    def __init__(self, pairs: ReportPairs) -> None:
        self._pairs = pairs
        self._images: dict[int, str] = {}
        self._spectrograms: dict[int, str] = {}

    def image(self, pair: int) -> str:
        if pair not in self._images:
            self._images[pair] = jpeg_data_uri(self._pairs.pairs[pair].thumbnail)
        return self._images[pair]

    def spectrogram(self, pair: int) -> str:
        """Return the audio's spectrogram, time across and pitch upwards; empty where the pair has no audio."""
        spectrogram = self._pairs.pairs[pair].spectrogram
        if spectrogram is None:
            return ""
        if pair not in self._spectrograms:
            low, high = np.percentile(spectrogram, (20, 99.5))
            self._spectrograms[pair] = heatmap_data_uri(spectrogram.T[::-1], float(low), float(high))
        return self._spectrograms[pair]

    def caption(self, pair: int) -> str:
        return clean_text(self._pairs.pairs[pair].caption)

    def key(self, pair: int) -> str:
        return clean_text(self._pairs.pairs[pair].key, 60)


def _query(search: GallerySearch, runs: Sequence[PageRun], media: _PairMedia, items: int) -> GalleryQuery:
    return GalleryQuery(
        image=media.image(search.pair),
        spectrogram=media.spectrogram(search.pair),
        caption=media.caption(search.pair),
        key=media.key(search.pair),
        results=tuple(
            RunResults(
                run=clean_text(run.name, 40),
                color=run.color,
                rank=ranked.rank,
                items=items,
                hits=tuple(_hit(hit, media) for hit in ranked.first),
            )
            for run, ranked in zip(runs, search.results, strict=True)
        ),
    )


def _hit(hit: SearchHit, media: _PairMedia) -> GalleryHit:
    return GalleryHit(
        image=media.image(hit.pair),
        spectrogram=media.spectrogram(hit.pair),
        caption=media.caption(hit.pair),
        key=media.key(hit.pair),
        cosine=format_cosine(hit.cosine),
        correct=hit.correct,
    )
