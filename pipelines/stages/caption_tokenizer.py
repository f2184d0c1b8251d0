"""The tokenizer of a run whose model reads captions: a given one, that of the run, or one trained on its captions."""

from collections.abc import Sequence

from pipelines.config.data import DataConfig
from pipelines.config.run import RunOptions
from pipelines.stream import corpora
from xmodal import storage
from xmodal.data.decode.fields import FieldMap
from xmodal.data.decode.tokenizer import train_tokenizer
from xmodal.data.index.corpus import Corpus
from xmodal.run import Run
from xmodal.storage import NotFound

FILE = "tokenizer.json"
CAPTIONS = 200_000  # that a tokenizer is trained on, over all corpora


def tokenizer_of_run(run: RunOptions, data: DataConfig) -> str | None:
    """Return the tokenizer that a resumed run has stored, as JSON; None where it has yet to be trained."""
    try:
        uri = storage.join(run.runs, run.name, FILE)
        return storage.read(uri, options=data.storage).decode() if run.resume else None
    except NotFound:  # the run ended before it was stored; the same captions give the same one
        return None


def train_on_captions(opened: Sequence[Corpus], maps: Sequence[FieldMap], vocab_size: int) -> str:
    """Train a tokenizer on a sample of every corpus's captions."""
    most = CAPTIONS // len(opened)
    captions = [
        caption
        for corpus, mapping in zip(opened, maps, strict=True)
        for caption in corpora.sample_captions(corpus, mapping, most=most)
    ]
    return train_tokenizer(captions, vocab_size)


def store_tokenizer(tokenizer: str, directory: Run) -> None:
    """Write a trained tokenizer into the run's directory, for a resume."""
    storage.write(storage.join(directory.uri, FILE), tokenizer.encode(), options=directory.options)
