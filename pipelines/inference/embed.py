"""Write the embeddings of every valid row of a corpus into a folder of Parquet files, resumable at any moment.

A part is one file, written whole, with an account of its rows; so every file is a finished part, and a run that was
killed continues with the parts that are missing. Which rows a part holds depends on the corpus alone.
"""

import time
from dataclasses import replace

import numpy as np

from pipelines.config.embed import EmbedConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference.embedding_folder import EmbeddingFolder, EmbeddingResult, PartWriter
from pipelines.inference.encode import EncodingTask, cut_into_parts, encode_on_cluster
from pipelines.models.loaded_encoder import LoadedEncoder, load_encoder
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Cluster, ResourceConfig
from pipelines.stream.corpora import map_on_cluster
from xmodal import storage
from xmodal.callbacks import Notify, Progress
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.field_maps import field_map
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.evaluation_rows import EvaluationDecoder
from xmodal.errors import ConfigError

MIN_ROWS, MAX_ROWS, TARGET_PARTS = 1024, 32_768, 64  # of a part; parts of a corpus
RECORD_EVERY_S = 30.0  # how often the record in the folder is brought up to date


def run(
    config: EmbedConfig, *, progress: Progress | None = None, notify: Notify = lambda text: None
) -> EmbeddingResult:
    """Embed what is not embedded yet. Everything that can be wrong is raised before an encoder starts."""
    started = time.monotonic()
    options = config.storage
    for uri in (config.checkpoint, folder_before_pattern(config.corpus)):
        storage.check(uri, writable=False, options=options)
    storage.check(config.to, writable=True, options=options)
    encoder = load_encoder(config.checkpoint, options)
    encoders = connect_encoders(config.workers, config)
    corpus = open_corpus(config.corpus, index=config.index, options=options, map_shards=map_on_cluster, notify=notify)
    decoder = _decoder(config, corpus, encoder)
    rows = config.rows_per_part or int(np.clip(corpus.rows // TARGET_PARTS, MIN_ROWS, MAX_ROWS))
    folder = EmbeddingFolder(config, encoder, corpus, decoder, cut_into_parts(corpus, rows), rows)
    finished = folder.claim()
    if finished:
        notify(f"{config.to}: {len(finished)} of {len(folder.parts)} parts are there and stay as they are")
    task = EncodingTask(corpus, decoder, config.batch_size)
    _encode_missing(folder, encoder, task, encoders, progress)
    return folder.finish(len(finished), time.monotonic() - started)


def connect_encoders(workers: int | None, config: EmbedConfig | EvaluateConfig) -> Cluster:
    """Connect to a cluster that holds `workers` encoders; None: one for each GPU, or for each core without GPUs."""
    resources = ResourceConfig(
        workers=workers or 1,
        gpus_per_worker=config.gpus_per_worker,
        cpus_per_worker=config.cpus_per_worker,
        address=config.address,
    )
    connected = cluster.connect(resources)
    if workers is not None:
        return connected
    capacity = cluster.capacity()
    cpus = capacity.get("CPU", 2)
    most = capacity.get("GPU", 0) or (cpus - 1 if connected.local else cpus // 2)
    return cluster.connect(replace(resources, workers=max(1, int(most))))


def _decoder(config: EmbedConfig, corpus: Corpus, encoder: LoadedEncoder) -> EvaluationDecoder:
    """Return what decodes the configured modalities; ConfigError for one that the checkpoint does not have."""
    for name in config.modalities:
        if name not in encoder.fields:
            raise ConfigError(
                f"--modalities {name}: {config.checkpoint} pairs {' and '.join(encoder.modalities)}; "
                "name one of them, or leave it out for both"
            )
    names = tuple(name for name in encoder.modalities if name in config.modalities or not config.modalities)
    mapping = field_map(corpus, encoder.field_specs(config.fields), names)
    return EvaluationDecoder(mapping, tuple(encoder.fields[name] for name in names))


def _encode_missing(
    folder: EmbeddingFolder, encoder: LoadedEncoder, task: EncodingTask, encoders: Cluster, progress: Progress | None
) -> None:
    todo = [part for part in folder.parts if part.number not in folder.done]
    sink = PartWriter(folder.config.to, folder.id, folder.modalities, folder.config.dtype, folder.config.storage)
    recorded_at = time.monotonic()
    if progress:
        progress(folder.rows_seen, task.corpus.rows)
    for part, summary in encode_on_cluster(encoder, task, todo, sink, encoders) if todo else ():
        folder.done[part.number] = summary
        if progress:
            progress(folder.rows_seen, task.corpus.rows)
        if time.monotonic() - recorded_at > RECORD_EVERY_S:
            folder.save(finished=False)
            recorded_at = time.monotonic()
