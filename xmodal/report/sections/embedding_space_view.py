"""The section on the embedding space: each run's statistics as charts and text."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from xmodal.formatting import clean_text, format_cosine, format_percent
from xmodal.report.charts.figures import histogram_chart, scatter_chart
from xmodal.report.charts.images import heatmap_data_uri
from xmodal.report.page_data import PageRun, ReportData
from xmodal.report.sections.embedding_space import EmbeddingSpace, embedding_space
from xmodal.report.sections.gallery_view import PAIR_WORDS, PairWords


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpaceView:
    """The embedding space of one run's model, as the page shows it."""

    run: str
    color: int
    matrix: str  # data URI
    matrix_pairs: int
    low: str  # labels at the ends of the matrix's colour ramp
    high: str
    cosines: Markup
    mean_matching: str
    mean_other: str
    projection: Markup
    explained: str
    gap: str
    words: PairWords


def embedding_space_views(data: ReportData) -> list[EmbeddingSpaceView]:
    """Return a view for each run whose model has embedded the held-out pairs."""
    if data.pairs is None:
        return []
    ids = data.pairs.ids
    words = PAIR_WORDS[data.pairs.modalities]
    return [
        _view(run, embedding_space(run.embeddings, ids), words)
        for run in data.runs_with_embeddings
        if run.embeddings is not None
    ]


def _view(run: PageRun, space: EmbeddingSpace, words: PairWords) -> EmbeddingSpaceView:
    low, high = float(np.median(space.matrix)), float(space.matrix.max())  # the ramp is for likely pairs
    names = f"{words.image.capitalize()} and {words.query} embeddings"
    return EmbeddingSpaceView(
        run=clean_text(run.name, 40),
        color=run.color,
        matrix=heatmap_data_uri(space.matrix, low, high),
        matrix_pairs=len(space.matrix),
        low=f"up to {format_cosine(low)}",
        high=format_cosine(high),
        cosines=histogram_chart(space.edges, space.matching, space.other, "Cosines of matching and of other pairs"),
        mean_matching=format_cosine(space.mean_matching),
        mean_other=format_cosine(space.mean_other),
        projection=scatter_chart(space.image_points, space.text_points, f"{names} in two dimensions"),
        explained=f"{format_percent(space.explained[0])} and {format_percent(space.explained[1])}",
        gap=f"{space.gap:.2f}",
        words=words,
    )
