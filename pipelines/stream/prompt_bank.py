"""A file of captions, or a source, in; the bank that a domain loss reads probabilities of out, as tokens."""

from collections.abc import Sequence

import torch

from pipelines.config.adapt import Config
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.batch import Batch
from xmodal.data.decode.fields import Field
from xmodal.data.decode.text import TextField, clean_caption
from xmodal.errors import BadSample, ConfigError, CorpusError
from xmodal.storage import NotFound
from xmodal.training.domain_methods import WITH_BANK

CANDIDATES = 20  # captions of the source that are read for each one that is taken


def named_captions(config: Config, fields: Sequence[Field]) -> list[str] | None:
    """The clean captions of `--domain.bank`; None where none is named. ConfigError for a file that gives no bank."""
    chosen = config.domain
    if chosen.loss in WITH_BANK and not isinstance(fields[1], TextField):
        raise ConfigError(f"domain.loss={chosen.loss} reads probabilities of captions, and this model reads no text")
    if chosen.bank is None:
        return None
    try:
        text = storage.read(chosen.bank, options=config.data.storage).decode("utf-8-sig")
        found = list(dict.fromkeys(clean_caption(line) for line in text.splitlines() if line.strip()))
    except NotFound as error:
        raise ConfigError(f"there is no file {chosen.bank}: --domain.bank names captions, one a line") from error
    except (UnicodeDecodeError, BadSample) as error:
        raise ConfigError(f"{chosen.bank} is no text in UTF-8 ({error})") from error
    if len(found) < 2:
        raise ConfigError(f"{chosen.bank} has {len(found)} captions: a bank needs at least two that differ, one a line")
    return found


def captions_of_source(config: Config, streams: Sequence[Stream]) -> list[str]:
    """`domain.bank_size` different captions, spread evenly over the source: the same at every start of a run."""
    size = config.domain.bank_size
    most = CANDIDATES * size // len(streams) + 1
    texts = [t for s in streams for t in corpora.sample_texts(s.corpus, s.recipe.field_map, most=most)]
    different = list(dict.fromkeys(texts))
    if len(different) < size:
        raise CorpusError(
            f"the source has {len(different)} different captions at hand: lower --domain.bank-size={size}"
        )
    return [different[i * len(different) // size] for i in range(size)]


def as_batch(captions: Sequence[str], field: Field) -> Batch:
    """Tokens of the captions, as the text tower takes them."""
    assert isinstance(field, TextField)
    ids, length = field.tokens(list(captions))
    fields = {field.name: torch.from_numpy(ids), f"{field.name}_length": torch.from_numpy(length)}
    return Batch(torch.arange(len(ids)), torch.ones(len(ids), dtype=torch.bool), fields)
