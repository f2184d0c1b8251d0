"""Stage 2 for dual encoders: a checkpoint, pairs of a source, a target without pairs -> the encoder at home in both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load_file, save_file

from pipelines import cluster, corpora, stage
from pipelines.bank import as_batch, captions_of_source, named_captions
from pipelines.config.adapt_domain import Config
from pipelines.config.data import Data, check_fields
from pipelines.lasting import check_output
from pipelines.model import load_model, save_model
from pipelines.saver import ModelFiles
from pipelines.source import Stream
from pipelines.stage import News, Result
from pipelines.start import Start, start_from
from pipelines.start import anchored as anchored_start
from pipelines.train import Job
from pipelines.unpaired import check_domains, refuse_pairs_of_target
from pipelines.validate import HeldOut, open_held_out
from xmodal import storage
from xmodal.batch import Batch
from xmodal.data.corpus import Corpus
from xmodal.data.fields import Field
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.intakes import fields_of
from xmodal.errors import CheckpointError, ConfigError, CorpusError
from xmodal.run import Run
from xmodal.training.adaptation import SOURCE, TARGET, TARGET_TEXT, AdaptationObjective
from xmodal.training.domain_methods import WITH_BANK
from xmodal.training.domains import DomainLoss
from xmodal.training.objective import ContrastiveObjective
from xmodal.training.state import TrainState
from xmodal.training.strength import Strength

CRITICS = "critics.safetensors"  # in a checkpoint, not in an exported model


@dataclass(frozen=True, eq=False)
class Opened:
    """The corpora of a run, with their indexes."""

    source: list[Corpus]
    target: list[Corpus]
    texts: list[Corpus]


def run(config: Config, on_news: News = lambda message: None) -> Result:
    """Train to the end, from the start or (with `resume`) from the newest checkpoint that verifies.

    Everything that can be wrong with the configuration, the storage or the corpora is raised before a worker starts.
    """
    config, start, model = check(config)
    held = cluster.connect(config.resources)
    opened = open_corpora(config, on_news)
    check_domains(config, opened.source, opened.target, opened.texts, stage.note(on_news))
    streams = streams_of(config, opened, model, start.tokenizer)
    bank = _bank(config, streams)
    held_out = open_held_out(config.validation, config.data, fields_of(model, start.tokenizer), stage.note(on_news))
    if held_out is not None:
        refuse_pairs_of_target(held_out.corpus, opened.target)
    held = stage.fitting(held, streams, config, on_news)
    steps = stage.total_steps(config.optim, streams)
    record = stage.open_record(config, opened.source, _by_uri(config, opened))
    make_job = partial(_job, config, record, steps, streams, held_out, start, bank, held)
    parameters = sum(p.numel() for p in make_objective(config, model, steps, bank).parameters())
    return stage.carry_out(
        record, streams, held, steps=steps, parameters=parameters, make_job=make_job, on_news=on_news
    )


def check(config: Config) -> tuple[Config, Start, DualEncoder]:
    """All that can be known without a cluster: places by absolute paths, the checkpoint to start from, its model.

    Raises what is wrong with the configuration, the storage, the run's directory, or that checkpoint.
    """
    check_output(config.runs, "--runs")
    start = start_from(anchored_start(config.start_from), config.data.storage)
    config = _anchored(config, start)
    model = start.model()
    for specs in (config.target.fields, config.validation.fields):
        check_fields(specs, model.modalities)
    stage.check(config, model.modalities, also=filter(None, [*_target_uris(config), config.validation.corpus]))
    corpora.global_shares([1], (), _target_rows(config), config.resources.sizes)
    fields = fields_of(model, start.tokenizer)
    captions = named_captions(config, fields) or ["a stand-in"] * config.domain.bank_size
    make_objective(config, model, 1, as_batch(captions, fields[1]) if config.domain.loss in WITH_BANK else None)
    return config, start, model


def make_objective(config: Config, model: DualEncoder, steps: int, bank: Batch | None) -> AdaptationObjective:
    """What is minimised; the critics are drawn from the seed. ConfigError where model and configuration do not fit."""
    chosen, texts = config.domain, config.target.protocol == "unpaired"
    loss = config.objective or ("info_nce" if model.logit_bias is None else "sigmoid")
    contrast = ContrastiveObjective(model, loss, mask_duplicates=config.mask_duplicates)
    torch.manual_seed(config.seed)
    places = {
        place: DomainLoss(
            chosen.loss,
            model.dim,
            hidden=chosen.hidden,
            spectral=chosen.spectral,
            smoothing=chosen.smoothing,
            penalty=chosen.penalty,
            bank_size=0 if bank is None else len(bank),
            temperature=chosen.temperature,
        )
        for place in chosen.places(model.modalities, texts=texts)
    }
    strength = Strength(peak=chosen.strength, steps=steps, schedule=chosen.schedule, gamma=chosen.gamma)
    return AdaptationObjective(contrast, places, strength, critic_steps=chosen.critic_steps, bank=bank)


def make_state(
    config: Config, start: ray.ObjectRef, bank: Batch | None, steps: int, device: torch.device
) -> TrainState:
    """The training state of step 0 on one rank."""
    begin: Start = ray.get(start)
    objective = make_objective(config, begin.model(), steps, bank).to(device)
    return stage.state_of(config, objective, steps)


def save_files(tokenizer: ray.ObjectRef, state: TrainState, directory: Path) -> None:
    """The model as a Hugging Face directory, and the critics beside it."""
    save_model(tokenizer, state, directory)
    critics = {name: x.detach().cpu().contiguous() for name, x in _critics(state).state_dict().items()}
    save_file(critics, directory / CRITICS)


def load_files(state: TrainState, directory: Path) -> None:
    """Both again; CheckpointError where the critics are of other sizes."""
    load_model(state, directory)
    try:
        _critics(state).load_state_dict(load_file(directory / CRITICS))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{directory.name}: its critics are not those of this run ({error})") from error


def _critics(state: TrainState) -> torch.nn.Module:
    assert isinstance(state.objective, AdaptationObjective)
    return state.objective.places


def _anchored(config: Config, start: Start) -> Config:
    """The same places by absolute paths, and the very checkpoint to start from: a run may have a newer one tomorrow."""
    target = config.target
    held_out = config.validation.corpus
    return replace(
        config,
        runs=storage.absolute(config.runs),
        data=stage.anchored(config.data),
        start_from=start.uri,
        target=replace(
            target,
            corpus=tuple(map(storage.absolute, target.corpus)),
            texts=tuple(map(storage.absolute, target.texts)),
        ),
        domain=replace(config.domain, bank=config.domain.bank and storage.absolute(config.domain.bank)),
        validation=replace(config.validation, corpus=held_out and storage.absolute(held_out)),
    )


def _target_uris(config: Config) -> list[str]:
    return list(dict.fromkeys((*config.target.corpus, *config.target.text_corpus)))


def _target_rows(config: Config) -> int:
    return config.target.batch_size or config.optim.batch_size


def open_corpora(config: Config, on_news: News) -> Opened:
    """Every corpus once."""
    source = stage.open_all(config.data, on_news)
    uris = _target_uris(config)
    found = dict(zip(uris, stage.open_all(_data_of_target(config, uris), on_news), strict=True))
    target = [found[uri] for uri in config.target.corpus]
    return Opened(source, target, [found[uri] for uri in config.target.text_corpus])


def _by_uri(config: Config, opened: Opened) -> dict[str, Corpus]:
    """The corpora of the target, for the record of the run."""
    uris = (*config.target.corpus, *config.target.text_corpus)
    return dict(zip(uris, (*opened.target, *opened.texts), strict=True))


def _data_of_target(config: Config, uris: Sequence[str]) -> Data:
    return replace(config.data, corpus=tuple(uris), weights=())


def streams_of(config: Config, opened: Opened, model: DualEncoder, tokenizer: str | None) -> list[Stream]:
    """The source's, then those of the target's pictures, then those of its texts: all keyed by the same global step."""
    maps = [corpora.field_map(corpus, config.data.fields, model.modalities) for corpus in opened.source]
    fields = fields_of(model, tokenizer, config.augment)
    found = stage.streams(config, opened.source, maps, fields)
    for role, part, field in ((TARGET, opened.target, fields[0]), (TARGET_TEXT, opened.texts, fields[1])):
        if part:
            found += _target_streams(config, role, part, field, after=len(found))
    return found


def _target_streams(config: Config, role: str, part: list[Corpus], field: Field, *, after: int) -> list[Stream]:
    specs = [
        spec for spec in config.target.fields or config.data.fields if spec.partition("=")[0].strip() == field.name
    ]
    maps = []
    for corpus in part:
        try:
            maps.append(corpora.field_map(corpus, specs, (field.name,)))
        except (ConfigError, CorpusError) as error:
            raise CorpusError(f"the target {corpus.uri}: {error} (--target.fields is for the target)") from error
    return corpora.streams(
        _data_of_target(config, [corpus.uri for corpus in part]),
        part,
        maps,
        (field,),
        batch_size=_target_rows(config),
        workers=config.resources.sizes,
        seed=config.seed,
        role=role,
        after=after,
    )


def _bank(config: Config, streams: Sequence[Stream]) -> Batch | None:
    """The captions that the domain loss reads probabilities of; None for one that reads none."""
    if config.domain.loss not in WITH_BANK:
        return None
    pairs = [stream for stream in streams if stream.role == SOURCE]
    fields = pairs[0].recipe.fields
    return as_batch(named_captions(config, fields) or captions_of_source(config, pairs), fields[1])


def _job(
    config: Config,
    record: Run,
    steps: int,
    streams: list[Stream],
    held_out: HeldOut | None,
    start: Start,
    bank: Batch | None,
    held: cluster.Cluster,
    news: Any,
) -> Job:
    tokenizer = ray.put(start.tokenizer)
    return Job(
        run=record,
        steps=steps,
        streams=[ray.put(streams)],
        make_state=partial(make_state, config, ray.put(start), bank, steps),
        files=ModelFiles(save=partial(save_files, tokenizer), load=load_files),
        cadence=config.cadence,
        max_bad_fraction=config.data.max_bad_fraction,
        tasks_per_segment=config.data.tasks_per_segment,
        per_worker=held.per_worker,
        news=news,
        held_out=() if held_out is None else (ray.put(held_out),),
    )
