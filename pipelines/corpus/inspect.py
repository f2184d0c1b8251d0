"""The URI of a corpus in; what it holds, and a grid of samples as a picture, out. In this process, no cluster."""

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.config.inspect import FIELDS, TERMINAL, Config
from pipelines.stream.corpora import field_map
from xmodal import storage
from xmodal.data.decode.fields import FieldMap, Source
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.index.survey import Survey, survey
from xmodal.errors import CorpusError
from xmodal.formatting import count
from xmodal.report.charts.contact_sheet import contact_sheet

Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found; `unmapped` says why a field was not looked into."""

    corpus: Corpus
    mapping: FieldMap
    survey: Survey
    unmapped: tuple[str, ...]


def run(
    config: Config, *, notify: Notify = lambda message: None, progress: Callable[[int, int], None] | None = None
) -> Inspection:
    """Survey the corpus; the grid is written where it was asked for. `progress` counts shards that are indexed."""
    options = config.storage
    storage.check(folder_before_pattern(config.corpus), writable=False, options=options)
    to_file = config.grid is not None and config.grid != TERMINAL
    if config.grid is not None and to_file:
        storage.check(config.grid, writable=True, options=options)
    corpus = open_corpus(config.corpus, index=config.index, options=options, notify=notify, progress=progress)
    mapping, unmapped = _mapping(corpus, config.fields)
    found = survey(corpus, mapping, most=config.rows, examples=config.pictures)
    if config.grid is not None and to_file:
        heading = f"{config.corpus} · {len(found.examples):,} of {count(corpus.rows, 'row')}"
        storage.write(config.grid, contact_sheet(found.examples, heading), options=options)
    return Inspection(corpus=corpus, mapping=mapping, survey=found, unmapped=unmapped)


def _mapping(corpus: Corpus, specs: tuple[str, ...]) -> tuple[FieldMap, tuple[str, ...]]:
    """The map of the fields that the corpus has; one that nobody named may be absent, and is told."""
    if specs:
        names = tuple(spec.partition("=")[0].strip() for spec in specs)
        return field_map(corpus, specs, names), ()
    sources: dict[str, tuple[Source, ...]] = {}
    absent = []
    for name in FIELDS:
        try:
            sources |= field_map(corpus, (), (name,)).sources
        except CorpusError as error:
            absent.append(str(error))
    return FieldMap(sources), tuple(absent)
