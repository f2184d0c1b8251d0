"""A classifier of clips as a user trains it: two workers, killed and resumed runs, evaluation."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray

from jobs import classify as job
from jobs import console
from jobs import evaluate as evaluate_job
from pipelines.config.classify import ClassifyConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.resources import ResourceConfig
from pipelines.inference import evaluate
from pipelines.runtime.events import WorkerGroupStart
from pipelines.stages import classify
from support.clip_shards import write_clips
from support.worker_kills import RankKiller, read_weights, same_tensors
from xmodal import checkpoint
from xmodal.data.synthetic.clips import PITCHES
from xmodal.encoders.classifier_files import load_classifier
from xmodal.errors import ConfigError, CorpusError
from xmodal.run import read_metrics

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = [pytest.mark.ray]

STEPS = 24
FIELDS = ("--fields", "video=mp4", "audio=mp4", "label=json:shape")
SMALL = ("--size", "32", "--frames", "2", "--bands", "16", "--widths", "8", "16", "--seconds", "0.5")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(str(folder), 96, 0, seconds=0.6, size=32, rows_per_shard=24)
    return str(folder)


def config(runs, corpus, *flags) -> ClassifyConfig:
    words = ["clips", "--corpus", str(corpus), "--runs", str(runs), "--classes", *PITCHES, *FIELDS, *SMALL]
    parsed = job.parse([*words, "--name", "a", "--steps", str(STEPS), "--batch-size", "16", *flags])
    every = {"logging": LoggingConfig(log_every=4), "checkpoints": CheckpointConfig(checkpoint_every=6)}
    return replace(parsed, **every, resources=ResourceConfig(workers=2, address="local"))


@pytest.fixture(scope="module")
def undisturbed(clips, ray_here, tmp_path_factory):
    result = classify.run(config(tmp_path_factory.mktemp("runs"), clips))
    assert result.step == STEPS
    return result.run.uri


def test_a_run_with_a_killed_worker_yields_identical_weights(undisturbed, clips, ray_here, tmp_path):
    """Nor do audits change them: the run that is killed has some, the uninterrupted one has none."""
    killer = RankKiller(step=12, rank=1)
    result = classify.run(config(tmp_path, clips, "--audit-every", "5"), killer)
    assert len(killer.starts) == 2 and killer.starts[1] >= 6
    assert same_tensors(read_weights(result.run.uri), read_weights(undisturbed))
    audited = [line for line in read_metrics(result.run.uri) if "audit/audio/same_sign" in line]
    # the lines after the audits of steps 5, 10, 15 and 20; the first may lie before the checkpoint that it went on from
    assert [line["step"] for line in audited][-3:] == [12, 16, 20]
    for line in audited:
        assert line["audit/video/same_sign"] in (0, 1) and 0 <= line["audit/video/angle_degrees"] <= 180
    again = classify.run(config(tmp_path, clips, "--resume"))
    assert again.already_finished and again.checkpoint == result.checkpoint


def forgetful(make_state, *given):
    """Make a state whose gradients are never averaged over the ranks."""
    state = make_state(*given)
    state.ddp = None
    return state


def test_gradients_that_are_never_averaged_stop_the_run_at_once_with_exit_code_5(
    clips, ray_here, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(classify, "make_state", partial(forgetful, classify.make_state))
    with pytest.raises(SystemExit) as exit:
        console.main(lambda: job.train(config(tmp_path, clips)))
    assert exit.value.code == 5
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "step 0: the gradients of " in error and "were never averaged" in error
    assert not list(tmp_path.rglob("COMMITTED.json"))


def test_the_metrics_contain_the_gradients_of_each_encoder(undisturbed):
    lines = read_metrics(undisturbed)
    assert [line["step"] for line in lines] == list(range(4, STEPS + 1, 4))
    for name in ("audio", "video"):
        assert -1 <= lines[-1][f"{name}/cosine"] <= 1 and lines[-1][f"{name}/conflict"] in (0, 1)
        figures = ("conflict_share", "norm_0", "norm_1", "weight_0", "weight_1", "rescale", "length")
        assert all(line[f"{name}/{figure}"] >= 0 for line in lines for figure in figures)
        assert 0 <= lines[-1][f"{name}/accuracy"] <= 1
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_classifier_is_evaluated_against_chance_and_the_result_is_stored(undisturbed, clips, capsys):
    result = evaluate.run(EvaluateConfig(checkpoint=undisturbed, corpus=clips))
    assert set(result.metrics) == {f"accuracy/{name}" for name in ("multimodal", "audio", "video", "ensemble")}
    assert result.rows == 96 and result.chance["accuracy/audio"] == pytest.approx(1 / 6)
    stored = json.loads(Path(result.result_uri).read_text())
    assert stored["metrics"] == dict(result.metrics) and stored["settings"]["classes"] == 6
    low, high = result.interval["accuracy/multimodal"]
    assert low <= result.metrics["accuracy/multimodal"] <= high
    assert "ensemble" in evaluate_job.table(result)
    with pytest.raises(ConfigError, match="--label is for dual encoders"):
        evaluate.run(EvaluateConfig(checkpoint=undisturbed, corpus=clips, label="cls"))


def test_the_checkpoint_is_a_directory_with_a_description(undisturbed):
    model, classes = load_classifier(Path(checkpoint.resolve(undisturbed).uri))
    assert classes == tuple(PITCHES) and model.modalities == ("audio", "video")


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (("--classes",), ConfigError, "name the classes of the corpus"),
        (("--classes", "one", "one"), ConfigError, "give at least two names, each once"),
        (("--method", "mmpareto_per_tensor"), ConfigError, "needs space=parameters"),
        (("--method", "pcgrad", "--gamma", "2"), ConfigError, "pcgrad has no gamma"),
        (("--fields", "video=mp4", "audio=mp4", "lable=cls"), ConfigError, "did you mean 'label'"),
        (("--fields", "video=mp4", "audio=wav", "label=cls"), CorpusError, "audio=wav matches nothing"),
        (("--audit-every", "4", "--method", "joint"), ConfigError, "nothing to compare"),
        (("--fusion", "transformer", "--dim", "30"), ConfigError, "heads=4 does not divide dim=30"),
        (("--batch-size", "15"), ConfigError, "batch_size=15 cannot be divided by workers=2"),
        (("--resume",), ConfigError, "no run 'a'"),
    ],
)
def test_mistakes_are_reported_before_a_worker_starts(flags, error, message, clips, ray_here, tmp_path):
    with pytest.raises(error, match=message):
        classify.run(
            config(tmp_path, clips, *flags),
            lambda event: pytest.fail(str(event)) if isinstance(event, WorkerGroupStart) else None,
        )


def test_an_unknown_preset_is_reported_with_the_nearest_one():
    with pytest.raises(ConfigError, match="no preset 'grid-leter': did you mean 'grid-letter'"):
        job.parse(["grid-leter", "--corpus", "x"])
    assert job.parse(["grid-letter", "--corpus", "x"]).data.fields[0] == "video=mp4@json:words.4"
