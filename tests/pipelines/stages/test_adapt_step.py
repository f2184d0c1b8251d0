"""Adaptation steps on corpora of two domains without Ray, for images with captions and for clips."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.adapt import parse
from jobs.compare import table
from pipelines.config.compare import CompareConfig
from pipelines.results import compare
from pipelines.stages import adapt, training_job
from pipelines.stream import corpora, domain_corpora, ingest
from pipelines.stream.source import Stream
from support.clip_shards import write_clips
from xmodal import storage
from xmodal.batch import Batch
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.stream import blocks
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run import create_run
from xmodal.training.engine.step import train_step

ROWS, STEPS, CLASSES = 8, 3, ("thing", "other thing")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(corpora, "map_on_cluster", map)


def blocks_of(stream: Stream) -> Iterator[blocks.Block]:
    for task in blocks.block_tasks(stream.corpus, stream.plan, 0, STEPS, stream.block_rows(1)):
        yield from blocks.read_blocks(task, stream.decoder)


def batches(streams: list[Stream]) -> Iterator[Batch]:
    """Yield the batches of a single rank, as the stream on Ray does."""
    coming = [blocks_of(stream) for stream in streams]
    for _ in range(STEPS):
        share = [
            [next(part) for _ in range(ROWS // stream.block_rows(1))]
            for part, stream in zip(coming, streams, strict=True)
        ]
        yield ingest.join(share, streams).batch


def adapted(words: list[str]) -> tuple[list[Batch], list[dict[str, float]]]:
    config = parse([*words, "--batch-size", str(ROWS), "--steps", str(STEPS), "--rows-per-task", str(ROWS)])
    config, start, model = adapt.check(config)
    opened = domain_corpora.open_domains(config, lambda message: None)
    streams = adapt.build_streams(config, opened, model, start.tokenizer)
    objective = adapt.make_objective(config, start.model(), STEPS, adapt.build_bank(config, streams))
    state = training_job.initial_state(config, objective, STEPS)
    seen = list(batches(streams))
    return seen, [train_step(state, batch) for batch in seen]


def test_images_are_adapted_in_both_protocols_with_second_views(untrained, scenes, tmp_path):
    sketches = str(tmp_path / "sketches")
    synthetic.write_corpus(sketches, "sketch", 24, 0, start=5000, size=32)
    words = ["--runs", str(tmp_path), "--start-from", untrained, "--corpus", scenes, "--target", sketches]
    seen, _ = adapted([*words, "--target.consistency", "0.5"])
    for batch in seen:
        assert dict(batch.role_sizes) == {"source": ROWS, "target": ROWS} and batch.valid.all()
        pictures, views = (batch.fields[name][batch.rows_of("target")].float() for name in ("image", "again"))
        assert 0 < (pictures - views).abs().mean() < 60  # another crop of the same picture
        assert not batch.fields["text_length"][batch.rows_of("target")].any()
        assert not batch.fields["again"][batch.rows_of("source")].any()
    (tmp_path / "bank.txt").write_text("a red circle\na blue square\na green star\n")
    unpaired = [
        *words,
        "--target.protocol",
        "unpaired",
        "--domain.loss",
        "cdan",
        "--domain.bank",
        str(tmp_path / "bank.txt"),
    ]
    seen, metrics = adapted([*unpaired, "--target.pseudo-pairs", "1", "--target.threshold", "-1"])
    for batch in seen:
        assert dict(batch.role_sizes) == {"source": ROWS, "target": ROWS, "target_text": ROWS}
        assert batch.fields["text_length"][batch.rows_of("target_text")].min() >= 3
    epoch = torch.stack([batch.row[batch.rows_of(role)] for role in ("target", "target_text") for batch in seen])
    pictures, texts = (part.reshape(-1) & (2**48 - 1) for part in epoch.chunk(2))
    assert sorted(pictures.tolist()) == sorted(texts.tolist()) == list(range(24))  # 24 rows: every one once in 3 steps
    assert (pictures == texts).float().mean() < 0.5  # and in another order
    for line in metrics:
        assert {"domain/image/accuracy", "domain/text/accuracy", "pseudo_pairs/loss"} <= line.keys()
        assert np.isfinite(line["loss"])


def labelled(folder: Path, look: str, start: int, every: int) -> str:
    """Write scenes of two classes; every n-th row has no class."""
    samples = list(synthetic.scene_samples(look, 24, 0, start=start, size=32))
    for number, (_, members) in enumerate(samples):
        if number % every:
            members["cls"] = CLASSES[number % 2].encode()
    storage.write(str(folder / "0.tar"), tar_shard(samples))
    return str(folder)


def test_a_label_predictor_is_saved_with_the_model_and_evaluated_on_both_domains(untrained, tmp_path, monkeypatch):
    """Rows without a class count only as pairs. The head is in the checkpoint; the target's labels are read by the
    comparison alone, after training."""
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    source, target = labelled(tmp_path / "source", "photo", 0, 3), labelled(tmp_path / "target", "sketch", 5000, 99)
    before = shutil.copytree(untrained, tmp_path / "before")  # the comparison stores its figures there
    words = ["--name", "a", "--runs", str(tmp_path / "runs"), "--start-from", str(before), "--corpus", source]
    words += ["--target", target, "--label.field", "cls", "--label.classes", str(tmp_path / "names.txt")]
    asked = parse(
        [*words, "--method", "mmpareto", "--batch-size", str(ROWS), "--steps", str(STEPS), "--rows-per-task", "8"]
    )
    config, start, model = adapt.check(asked)
    assert config.label.classes == CLASSES
    opened = domain_corpora.open_domains(config, lambda message: None)
    streams = adapt.build_streams(config, opened, model, start.tokenizer)
    objective, again = (adapt.make_objective(config, start.model(), STEPS, None) for _ in range(2))
    state = training_job.initial_state(config, objective, STEPS)
    seen = list(batches(streams))
    metrics = [train_step(state, batch) for batch in seen]
    labels = torch.cat([batch.fields["label"][batch.rows_of("source")] for batch in seen])
    assert set(labels.tolist()) == {-1, 0, 1} and all(batch.valid.all() for batch in seen)
    assert not any(batch.fields["label"][batch.rows_of("target")].any() for batch in seen)
    assert {"label/accuracy", "image/cosine", "domain/image/accuracy"} <= metrics[-1].keys()
    run, files = create_run(str(tmp_path / "runs"), "a", config=config), tmp_path / "files"
    adapt.save_files(config.label.classes, start, state, files)
    adapt.load_files(training_job.initial_state(config, again, STEPS), files)
    assert all(torch.equal(x, again.state_dict()[name]) for name, x in objective.state_dict().items())
    commit(files, run.checkpoints_uri, step=3, attempt=1, run_id=run.id)
    result = compare.run(CompareConfig(adapted=(run.uri,), source=source, target=target, label="cls"))
    stored = json.loads(Path(result.result_uri).read_text())["arms"]["adapted"][0]["metrics"]
    for name in ("source/label_predictor/accuracy", "oracle/label_predictor/accuracy"):
        assert 0 <= stored[name] <= 1
    assert result.mean_sd("before", "target", "label_predictor/accuracy") is None
    text = table(result)
    assert "label predictor" in text and "\u2013" in text and "zero-shot" in text


def test_clips_are_adapted_by_their_video(tmp_path):
    torch.manual_seed(1)
    model = DualEncoder.create("av-tiny", frames=2, size=32, bands=16, widths=(8, 16), seconds=0.5, dim=8)
    model.save_pretrained(tmp_path / "files")
    commit(tmp_path / "files", str(tmp_path / "run" / "checkpoints"), step=3, attempt=1, run_id="a")
    for seed, name in enumerate(("source", "target")):
        write_clips(str(tmp_path / name), 16, seed, seconds=0.6, size=32, rows_per_shard=8)
    words = [
        "--runs",
        str(tmp_path),
        "--start-from",
        str(tmp_path / "run"),
        "--corpus",
        str(tmp_path / "source"),
    ]
    seen, metrics = adapted([*words, "--target", str(tmp_path / "target"), "--target.consistency", "0.5"])
    assert dict(seen[0].role_sizes) == {"source": ROWS, "target": ROWS}
    assert {"domain/video/accuracy", "video/target_spread", "consistency/loss"} <= metrics[-1].keys()
    assert "audio/target_spread" not in metrics[-1] and np.isfinite(metrics[-1]["loss"])
