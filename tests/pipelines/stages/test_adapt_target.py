"""Classifiers of clips with a target: what is read of it, which targets are rejected, and a killed run."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jobs import classify as job
from pipelines.config.classify import ClassifyConfig
from pipelines.models.domain_heads import CRITICS
from pipelines.stages import classify
from pipelines.stream import corpora, domain_corpora, ingest
from pipelines.stream.source import Stream
from support.clip_shards import write_clips
from support.refused_runs import expect_one_line_error, forbid_workers
from support.worker_kills import RankKiller, read_weights
from xmodal import checkpoint
from xmodal.batch import Batch
from xmodal.data import synthetic
from xmodal.data.index import field_maps
from xmodal.data.stream import blocks
from xmodal.data.synthetic.clips import PITCHES
from xmodal.encoders.classifier_files import load_classifier
from xmodal.run import read_metrics
from xmodal.training.engine.step import train_step

ROWS, STEPS = 8, 16
FIELDS = ("--fields", "video=mp4", "audio=mp4", "label=json:shape")
SMALL = ("--size", "32", "--frames", "2", "--bands", "16", "--widths", "8", "16", "--seconds", "0.5")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Write a source and a target of another length, so that their epochs end at different steps."""
    folder = tmp_path_factory.mktemp("clips")
    for name, rows, seed in (("source", 24, 0), ("target", 16, 1)):
        write_clips(str(folder / name), rows, seed, seconds=0.6, size=32, rows_per_shard=8)
    return folder


def words(runs, clips, *flags) -> list[str]:
    asked = ["clips", "--corpus", str(clips / "source"), "--runs", str(runs), "--classes", *PITCHES, *FIELDS, *SMALL]
    asked += ["--target", str(clips / "target"), "--name", "a", "--steps", str(STEPS), "--batch-size", str(ROWS)]
    return [*asked, "--rows-per-task", "8", "--domain.hidden", "8", *flags]


def blocks_of(stream: Stream) -> Iterator[blocks.Block]:
    for task in blocks.block_tasks(stream.corpus, stream.plan, 0, STEPS, stream.block_rows(1)):
        yield from blocks.read_blocks(task, stream.decoder)


def batches(streams: list[Stream]) -> Iterator[Batch]:
    """Yield the batches of a single rank, as the stream on Ray does."""
    coming = [blocks_of(stream) for stream in streams]
    for _ in range(STEPS):
        parts = [list(islice(part, ROWS // s.block_rows(1))) for part, s in zip(coming, streams, strict=True)]
        yield ingest.join(parts, streams).batch


def trained_here(config: ClassifyConfig):
    """Train the same run without a cluster; return its batches, its last metrics, and its state."""
    config, _ = classify.check(config)
    opened = domain_corpora.open_domains(config, lambda message: None)
    maps = [field_maps.field_map(corpus, config.data.fields, config.model.fields) for corpus in opened.source]
    streams = classify.build_streams(config, opened, maps, None)
    state = classify.make_state(config, STEPS, classify.InitialClassifier(None, None), torch.device("cpu"))
    seen = list(batches(streams))
    for batch in seen:
        metrics = train_step(state, batch)
    return seen, metrics, state


@pytest.fixture
def here(monkeypatch):
    """Index shards in this process, without a cluster."""
    monkeypatch.setattr(corpora, "map_on_cluster", map)


def test_the_target_has_video_and_audio_and_no_label(here, clips, tmp_path):
    seen, metrics, _ = trained_here(job.parse(words(tmp_path, clips, "--domain.loss", "cdan")))
    for batch in seen:
        assert dict(batch.role_sizes) == {"source": ROWS, "target": ROWS} and batch.valid.all()
        target = batch.rows_of("target")
        assert not batch.fields["label"][target].any() and batch.fields["audio_length"][target].min() > 0
        assert batch.fields["video"][target].float().std() > 1
    assert len({int(x) for batch in seen for x in batch.fields["label"][batch.rows_of("source")]}) > 3
    assert {"domain/audio/accuracy", "domain/video/accuracy", "audio/cosine", "video/gradient_ratio"} <= metrics.keys()


@pytest.mark.ray
def test_a_killed_run_with_a_target_yields_the_weights_of_an_uninterrupted_one(clips, ray_here, tmp_path):
    """With DANN, MMPareto, a ramp, and an epoch of the target that ends during the run; critics are compared, too."""
    cadence = ("--log-every", "1", "--checkpoint-every", "4", "--address", "local")
    asked = words(tmp_path / "ray", clips, "--domain.loss", "dann", *cadence)
    killer = RankKiller(step=12, rank=0)
    result = classify.run(job.parse(asked), killer)
    assert len(killer.starts) == 2 and killer.starts[1] >= 4 and result.step == STEPS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        here.__wrapped__(patched)
        _, metrics, state = trained_here(job.parse(words(tmp_path / "here", clips, "--domain.loss", "dann")))
    torch.set_num_threads(threads)
    expected = {name: x.detach() for name, x in state.objective.state_dict().items()}
    tensors = {f"model.{name}": x for name, x in read_weights(result.run.uri).items()}
    place = Path(checkpoint.resolve(result.run.uri).uri)
    tensors |= {f"places.{name}": x for name, x in load_file(place / CRITICS).items()}
    assert tensors.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(
            tensors[name], x, rtol=1e-6, atol=1e-8, msg=lambda difference, name=name: name + difference
        )
    strengths = [line["domain/strength"] for line in read_metrics(result.run.uri)]
    assert strengths[0] == 0 and strengths[-1] == metrics["domain/strength"] and strengths == sorted(set(strengths))
    assert load_classifier(place)[1] == tuple(PITCHES)  # the critics beside it are in nobody's way


WRONG = {
    "a negative strength": (["--domain.strength", "-1"], "domain.strength=-1.0 must be at least 0"),
    "flags of a target without one": (["--target", "--target.batch-size", "4"], "--target.batch-size without a target"),
    "a domain loss without a target": (["--target", "--domain.loss", "mmd"], "without a target", "--target CORPUS"),
    "a field of pictures": (["--target.fields", "image=png"], "unknown field 'image'"),
    "a field that the target lacks": (["--target.fields", "video=mp4", "audio=wav"], "the target", "audio=wav"),
    "a place that it has not": (["--domain.placement", "text"], "the classifier has audio and video"),
    "predictions of one modality": (
        ["--domain.loss", "mcc", "--domain.placement", "audio"], "from all modalities together",
    ),
    "a bank of captions": (["--domain.loss", "cdan", "--domain.bank-size", "8"], "of a bank of captions"),
    "a target that workers cannot share": (["--target.batch-size", "5", "--workers", "2"], "batch_size=5"),
    "a target that is not there": (["--target", "/no/such/corpus"], "/no/such/corpus: no file is stored there"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_target_is_rejected_in_one_sentence(name, clips, tmp_path, capsys, monkeypatch):
    flags, *parts = WRONG[name]
    forbid_workers(monkeypatch)
    expect_one_line_error(words(tmp_path, clips, *flags), capsys, *parts, job=job)


def test_the_source_and_a_corpus_of_images_are_rejected_as_targets(clips, tmp_path, capsys, monkeypatch):
    forbid_workers(monkeypatch)
    source = str(clips / "source")
    expect_one_line_error(
        words(tmp_path, clips, "--target", source), capsys, "is the source", "name the other domain", job=job
    )
    scenes, empty = str(tmp_path / "scenes"), tmp_path / "empty"
    synthetic.write_corpus(scenes, "sketch", 8, 0, start=5000, size=32)
    expect_one_line_error(
        words(tmp_path, clips, "--target", scenes), capsys, f"the target {scenes}", "--target.fields", job=job
    )
    empty.mkdir()
    (empty / "notes.md").write_text("nothing")
    expect_one_line_error(words(tmp_path, clips, "--target", str(empty)), capsys, str(empty), job=job)
