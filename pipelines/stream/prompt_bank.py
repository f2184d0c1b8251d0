"""Choose the bank of captions whose probabilities a domain loss reads, from a file or from the source's captions."""

from collections.abc import Sequence

import torch

from pipelines.config.adapt import AdaptConfig
from pipelines.stream import corpora
from pipelines.stream.source import Stream
from xmodal import storage
from xmodal.batch import Batch
from xmodal.data.decode.fields import Field
from xmodal.data.decode.text import TextField, clean_caption
from xmodal.errors import BadSample, ConfigError, CorpusError
from xmodal.storage import NotFound
from xmodal.training.domain_methods import PROBABILITY_METHODS

CANDIDATES = 20  # captions of the source that are read for each one that is chosen


def read_captions(config: AdaptConfig, fields: Sequence[Field]) -> list[str] | None:
    """Read and clean the captions of `--domain.bank`; None without one. ConfigError for a file that gives no bank."""
    domain = config.domain
    if domain.loss in PROBABILITY_METHODS and not isinstance(fields[1], TextField):
        raise ConfigError(f"domain.loss={domain.loss} reads probabilities of captions, and this model reads no text")
    if domain.bank is None:
        return None
    try:
        text = storage.read(domain.bank, options=config.data.storage).decode("utf-8-sig")
        captions = list(dict.fromkeys(clean_caption(line) for line in text.splitlines() if line.strip()))
    except NotFound as error:
        raise ConfigError(f"there is no file {domain.bank}: --domain.bank names captions, one a line") from error
    except (UnicodeDecodeError, BadSample) as error:
        raise ConfigError(f"{domain.bank} is no text in UTF-8 ({error})") from error
    if len(captions) < 2:
        raise ConfigError(
            f"{domain.bank} has {len(captions)} captions: a bank needs at least two that differ, one a line"
        )
    return captions


def sample_source_captions(config: AdaptConfig, streams: Sequence[Stream]) -> list[str]:
    """Choose `domain.bank_size` different captions, spread evenly over the source: the same at every start of a run."""
    size = config.domain.bank_size
    most = CANDIDATES * size // len(streams) + 1
    samples = [corpora.sample_captions(stream.corpus, stream.decoder.field_map, most=most) for stream in streams]
    different = list(dict.fromkeys(caption for captions in samples for caption in captions))
    if len(different) < size:
        raise CorpusError(
            f"the source has {len(different)} different captions at hand: lower --domain.bank-size={size}"
        )
    return [different[i * len(different) // size] for i in range(size)]


def tokenize_captions(captions: Sequence[str], field: Field) -> Batch:
    """Tokenize captions into a batch for the text tower."""
    assert isinstance(field, TextField)
    ids, length = field.tokenize(list(captions))
    fields = {field.name: torch.from_numpy(ids), f"{field.name}_length": torch.from_numpy(length)}
    return Batch(torch.arange(len(ids)), torch.ones(len(ids), dtype=torch.bool), fields)
