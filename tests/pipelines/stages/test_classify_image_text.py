"""MMPareto on images with texts: trained by the command, resumed, and measured with the tokenizer that it stored."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from jobs import classify as job
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.resources import ResourceConfig
from pipelines.inference import evaluate
from pipelines.stages import classify
from xmodal.errors import ConfigError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = [pytest.mark.ray]

CLASSES = ("photo", "sketch")
SIZES = ("--size", "32", "--widths", "8", "16", "--width", "16", "--depth", "1", "--heads", "2", "--context", "12")


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """80 captioned scenes, half photos and half sketches; the class is the style."""
    import io
    import tarfile

    from xmodal.data import synthetic

    folder = tmp_path_factory.mktemp("posts")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number in range(80):
            (_, sample), *_ = synthetic.scene_samples(CLASSES[number % 2], 1, 0, start=number, size=32)
            image = next(data for name, data in sample.items() if name in ("jpg", "png"))
            for ending, data in (("jpg", image), ("txt", sample["txt"]), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return str(folder)


def config(runs, corpus, *flags):
    words = ["image-text", "--corpus", corpus, "--runs", str(runs), "--name", "a", "--classes", *CLASSES, *SIZES]
    fields = ["--fields", "image=jpg", "text=txt", "label=cls"]
    parsed = job.parse([*words, *fields, "--vocab-size", "520", "--steps", "8", "--batch-size", "16", *flags])
    every = {"logging": LoggingConfig(log_every=4), "checkpoints": CheckpointConfig(checkpoint_every=4)}
    return replace(parsed, **every, resources=ResourceConfig(workers=1, address="local"))


@pytest.mark.parametrize("encoders", ["convolutional", "transformer"])
def test_a_classifier_of_images_and_texts_is_trained_stored_and_measured(encoders, posts, ray_here, tmp_path):
    flags = ("--encoders", encoders, "--method", "mmpareto", "--fusion", "transformer")
    result = classify.run(config(tmp_path, posts, *flags))
    assert result.step == 8
    metrics = [json.loads(line) for line in Path(result.run.uri, "metrics.jsonl").read_text().splitlines()]
    names = {name for line in metrics for name in line}
    assert {"image/accuracy", "text/accuracy"} <= names, sorted(names)
    measured = evaluate.run(EvaluateConfig(checkpoint=result.run.uri, corpus=posts, batch_size=16))
    assert measured.rows == 80
    assert set(measured.metrics) == {f"accuracy/{name}" for name in ("multimodal", "image", "text", "ensemble")}


def test_a_resumed_run_keeps_its_tokenizer(posts, ray_here, tmp_path):
    first = classify.run(config(tmp_path, posts, "--steps", "4"))
    tokenizer = Path(first.run.uri, "tokenizer.json").read_bytes()
    again = classify.run(config(tmp_path, posts, "--steps", "4", "--resume"))
    assert again.already_finished and Path(again.checkpoint, "tokenizer.json").is_file()
    assert Path(first.run.uri, "tokenizer.json").read_bytes() == tokenizer


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--modalities", "image", "audio"), "a classifier takes audio video or image text"),
        (("--start-from", "runs/av"), "--start-from takes the encoders of clips"),
        (("--context", "0"), "context=0 must be at least 1"),
    ],
)
def test_impossible_settings_are_named(flags, message, posts, ray_here, tmp_path):
    with pytest.raises(ConfigError, match=message):
        classify.run(config(tmp_path, posts, *flags))
