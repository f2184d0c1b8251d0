"""Inspect a corpus in this process: what it holds, what is damaged, and an image with a grid of samples."""

from dataclasses import dataclass

from pipelines.config.inspect import FIELDS, TERMINAL, InspectConfig
from xmodal import storage
from xmodal.callbacks import Notify, Progress
from xmodal.data.decode.fields import FieldMap, FieldSource
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.index.survey import CorpusSurvey, survey_corpus
from xmodal.errors import CorpusError
from xmodal.formatting import pluralize
from xmodal.report.charts.contact_sheet import contact_sheet


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found in a corpus; `missing_fields` says why a field was not looked into."""

    corpus: Corpus
    mapping: FieldMap
    survey: CorpusSurvey
    missing_fields: tuple[str, ...]


def run(
    config: InspectConfig, *, notify: Notify = lambda message: None, progress: Progress | None = None
) -> Inspection:
    """Survey the corpus and write the grid that `config` names. `progress` counts shards that are indexed."""
    options = config.storage
    storage.check(folder_before_pattern(config.corpus), writable=False, options=options)
    to_file = config.grid is not None and config.grid != TERMINAL
    if config.grid is not None and to_file:
        storage.check(config.grid, writable=True, options=options)
    corpus = open_corpus(config.corpus, index=config.index, options=options, notify=notify, progress=progress)
    mapping, missing = _field_map(corpus, config.fields)
    survey = survey_corpus(corpus, mapping, max_rows=config.rows, examples=config.pictures)
    if config.grid is not None and to_file:
        heading = f"{config.corpus} · {len(survey.examples):,} of {pluralize(corpus.rows, 'row')}"
        storage.write(config.grid, contact_sheet(survey.examples, heading), options=options)
    return Inspection(corpus=corpus, mapping=mapping, survey=survey, missing_fields=missing)


def _field_map(corpus: Corpus, specs: tuple[str, ...]) -> tuple[FieldMap, tuple[str, ...]]:
    """Return the map of the fields that the corpus has, and for each usual field that it lacks the reason.

    CorpusError for a field of `specs` that it lacks.
    """
    if specs:
        names = tuple(spec.partition("=")[0].strip() for spec in specs)
        return field_map(corpus, specs, names), ()
    sources: dict[str, tuple[FieldSource, ...]] = {}
    absent = []
    for name in FIELDS:
        try:
            sources |= field_map(corpus, (), (name,)).sources
        except CorpusError as error:
            absent.append(str(error))
    return FieldMap(sources), tuple(absent)
