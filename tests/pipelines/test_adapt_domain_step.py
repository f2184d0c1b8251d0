"""From corpora of two domains to a moved state, for pictures with captions and for clips. No Ray is needed."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from jobs.adapt import parse
from pipelines import adapt_domain, corpora, domains, ingest, stage
from pipelines.source import Stream
from xmodal.batch import Batch
from xmodal.checkpoint import commit
from xmodal.data import blocks, synthetic
from xmodal.data.synthetic.clips import write_clips
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.training.step import train_step

ROWS, STEPS = 8, 3


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(corpora, "on_cluster", map)


def blocks_of(stream: Stream) -> Iterator[blocks.Block]:
    for task in blocks.read_tasks(stream.corpus, stream.plan, 0, STEPS, stream.block_rows(1)):
        yield from blocks.read(task, stream.recipe)


def batches(streams: list[Stream]) -> Iterator[Batch]:
    """The shares of one rank of one, as the stream delivers them."""
    coming = [blocks_of(stream) for stream in streams]
    for _ in range(STEPS):
        share = [
            [next(part) for _ in range(ROWS // stream.block_rows(1))]
            for part, stream in zip(coming, streams, strict=True)
        ]
        yield ingest.join(share, streams, 0.0).batch


def adapted(words: list[str]) -> tuple[list[Batch], list[dict[str, float]]]:
    config = parse([*words, "--batch-size", str(ROWS), "--steps", str(STEPS), "--rows-per-task", str(ROWS)])
    config, start, model = adapt_domain.check(config)
    opened = domains.open_corpora(config, lambda message: None)
    streams = adapt_domain.streams_of(config, opened, model, start.tokenizer)
    objective = adapt_domain.make_objective(config, start.model(), STEPS, adapt_domain.bank_of(config, streams))
    state = stage.state_of(config, objective, STEPS)
    seen = list(batches(streams))
    return seen, [train_step(state, batch) for batch in seen]


def test_pictures_in_both_protocols_with_second_views(untrained, scenes, tmp_path):
    sketches = str(tmp_path / "sketches")
    synthetic.write_corpus(sketches, "sketch", 24, 0, start=5000, size=32)
    words = ["clip", "--runs", str(tmp_path), "--start-from", untrained, "--corpus", scenes, "--target", sketches]
    seen, _ = adapted([*words, "--target.consistency", "0.5"])
    for batch in seen:
        assert dict(batch.parts) == {"source": ROWS, "target": ROWS} and batch.valid.all()
        pictures, views = (batch.fields[name][batch.part("target")].float() for name in ("image", "again"))
        assert 0 < (pictures - views).abs().mean() < 60  # another crop of the same picture
        assert not batch.fields["text_length"][batch.part("target")].any()
        assert not batch.fields["again"][batch.part("source")].any()
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
        assert dict(batch.parts) == {"source": ROWS, "target": ROWS, "target_text": ROWS}
        assert batch.fields["text_length"][batch.part("target_text")].min() >= 3
    epoch = torch.stack([batch.row[batch.part(role)] for role in ("target", "target_text") for batch in seen])
    pictures, texts = (part.reshape(-1) & (2**48 - 1) for part in epoch.chunk(2))
    assert sorted(pictures.tolist()) == sorted(texts.tolist()) == list(range(24))  # 24 rows: every one once in 3 steps
    assert (pictures == texts).float().mean() < 0.5  # and in another order
    for line in metrics:
        assert {"domain/image/accuracy", "domain/text/accuracy", "pseudo_pairs/loss"} <= line.keys()
        assert np.isfinite(line["loss"])


def test_clips_are_adapted_by_what_is_seen(tmp_path):
    torch.manual_seed(1)
    model = DualEncoder.create("av-tiny", frames=2, size=32, bands=16, widths=(8, 16), seconds=0.5, dim=8)
    model.save_pretrained(tmp_path / "files")
    commit(tmp_path / "files", str(tmp_path / "run" / "checkpoints"), step=3, attempt=1, run_id="a")
    for seed, name in enumerate(("source", "target")):
        write_clips(str(tmp_path / name), 16, seed, seconds=0.6, size=32, rows_per_shard=8)
    words = [
        "clip",
        "--runs",
        str(tmp_path),
        "--start-from",
        str(tmp_path / "run"),
        "--corpus",
        str(tmp_path / "source"),
    ]
    seen, metrics = adapted([*words, "--target", str(tmp_path / "target"), "--target.consistency", "0.5"])
    assert dict(seen[0].parts) == {"source": ROWS, "target": ROWS}
    assert {"domain/video/accuracy", "video/target_spread", "consistency/loss"} <= metrics[-1].keys()
    assert "audio/target_spread" not in metrics[-1] and np.isfinite(metrics[-1]["loss"])
