"""An adaptation that cannot work is rejected in one sentence with the fix, before a worker starts."""

import json
import shutil

import pytest

from jobs import adapt as job
from pipelines.stages import adapt
from pipelines.stream import domain_corpora
from support.clip_shards import write_clips
from support.refused_runs import WorkersStarted, expect_one_line_error, forbid_workers
from xmodal import checkpoint
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.errors import ConfigError


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    synthetic.write_corpus(str(folder), "sketch", 24, 0, start=5000, size=32)
    return str(folder)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    forbid_workers(monkeypatch)


def words(runs, start, source, target, *flags):
    return ["--name", "a", "--runs", str(runs), "--start-from", start, "--corpus", source, "--target", target,
            "--batch-size", "12", "--steps", "4", *flags]  # fmt: skip


WRONG = {
    "a negative strength": (["--domain.strength", "-0.5"], "domain.strength=-0.5 must be at least 0"),
    "a strength without end": (["--domain.strength", "inf"], "domain.strength=inf must be at least 0 and finite"),
    "a loss that is not known": (["--domain.loss", "dnan"], "unknown domain.loss 'dnan'", "did you mean 'dann'?"),
    "a place that is not known": (["--domain.placement", "imgae"], "'imgae'", "did you mean 'image'?"),
    "a schedule": (["--domain.schedule", "rmap"], "unknown domain.schedule 'rmap'", "did you mean 'ramp'?"),
    "a place of another model": (["--domain.placement", "audio"], "the model has image and text"),
    "a place without rows": (["--domain.placement", "text"], "not read of the target", "--target.protocol unpaired"),
    "joint without texts": (["--domain.placement", "joint"], "needs both modalities", "--target.protocol unpaired"),
    "texts where none are read": (
        ["--target.texts", "elsewhere"],
        "reads images alone",
        "--target.protocol unpaired",
    ),
    "smoothing without a critic": (["--domain.loss", "mmd", "--domain.smoothing", "0.1"], "mmd does not"),
    "smoothing to nothing": (["--domain.smoothing", "0.5"], "domain.smoothing=0.5 must lie in [0, 0.5)"),
    "no critic steps": (["--domain.critic-steps", "0"], "domain.critic_steps=0 must be at least 1"),
    "a bank for nobody": (["--domain.bank", "words.txt"], "only cdan, mcc, bnm use a bank"),
    "a bank that is not there": (["--domain.loss", "mcc", "--domain.bank", "/no/words.txt"], "no file /no/words.txt"),
    "a target of one row a step": (["--target.batch-size", "1"], "target.batch_size=1 must be at least 2"),
    "a share that workers cannot have": (["--target.batch-size", "9", "--workers", "2"], "batch_size=9", "workers=2"),
    "an unknown score": (["--target-validation.scores", "bmn"], "no validator 'bmn'", "did you mean 'bnm'?"),
    "a sealed score": (["--target-validation.scores", "oracle/recall@1"], "pairs of the target and may not choose"),
    "a score without its labels": (["--target-validation.scores", "source_accuracy"], "needs source"),
    "consistency below nothing": (["--target.consistency", "-1"], "target.consistency=-1.0 must be at least 0"),
    "no target": (["--target"], "no target: name at least one corpus"),
    "a target that is not there": (["--target", "/no/such/corpus"], "/no/such/corpus: no file is stored there"),
    "a start that is not there": (["--start-from", "/no/such/run"], "/no/such/run: no file is stored there"),
    "an unknown field of the target": (["--target.fields", "imgae=png"], "unknown field 'imgae'", "'image'"),
    "a field that the target lacks": (["--target.fields", "image=png"], "the target", "image=png matches nothing"),
    "a label without its classes": (["--label.field", "cls"], "needs --label.classes"),
    "classes without a label": (["--label.classes", "a", "b"], "need --label.field"),
    "classes that are not there": (["--label.field", "cls", "--label.classes", "/no/names.txt"], "/no/names.txt"),
    "a label's weight": (
        ["--label.field", "cls", "--label.classes", "a", "b", "--label.weight", "-1"],
        "label.weight=-1.0 must be positive",
    ),
    "a label of another modality": (
        ["--label.field", "cls", "--label.classes", "a", "b", "--label.modality", "audio"],
        "label.modality=audio: the model has image and text",
    ),
    "a label that no row has": (["--label.field", "clas", "--label.classes", "a", "b"], "label=clas matches nothing"),
    "nothing to combine": (["--method", "mmpareto"], "nothing to combine", "--label.field"),
    "a balance without losses": (["--method", "joint"], "another --method than joint"),
    "a balance of parameters": (["--method", "mmpareto", "--space", "parameters"], "leave --space"),
    "a loss that the model cannot have": (["--objective", "sigmoid"], "a model with a logit bias"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_rejected(name, untrained, scenes, sketches, tmp_path, capsys):
    flags, *parts = WRONG[name]
    expect_one_line_error(words(tmp_path, untrained, scenes, sketches, *flags), capsys, *parts)


def test_the_source_is_rejected_as_the_target(untrained, scenes, tmp_path, capsys):
    expect_one_line_error(words(tmp_path, untrained, scenes, scenes), capsys, "is the source", "name the other domain")


def test_validation_on_pairs_of_the_target_is_rejected(untrained, scenes, sketches, tmp_path, capsys):
    flags = ("--validation.corpus", sketches)
    expect_one_line_error(
        words(tmp_path, untrained, scenes, sketches, *flags), capsys, "pairs of the target", "jobs.compare"
    )


def test_an_error_names_an_empty_target(untrained, scenes, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("nothing")
    expect_one_line_error(
        words(tmp_path / "runs", untrained, scenes, str(tmp_path / "empty")), capsys, str(tmp_path / "empty")
    )


def test_an_error_names_a_target_of_other_modalities_with_its_fields(untrained, scenes, tmp_path, capsys):
    write_clips(str(tmp_path / "clips"), 8, 0, seconds=0.6, size=32, rows_per_shard=8)
    target = str(tmp_path / "clips")
    expect_one_line_error(
        words(tmp_path / "runs", untrained, scenes, target), capsys, f"the target {target}", "image", "mp4"
    )


def test_a_checkpoint_that_is_no_dual_encoder_is_rejected(scenes, sketches, tmp_path, capsys):
    files = tmp_path / "files"
    files.mkdir()
    (files / "config.json").write_text(json.dumps({"model_type": "xmodal-multimodal-classifier"}))
    commit(files, str(tmp_path / "other" / "checkpoints"), step=3, attempt=1, run_id="a")
    start = str(tmp_path / "other")
    expect_one_line_error(
        words(tmp_path / "runs", start, scenes, sketches), capsys, "not a dual encoder", f"{start}/checkpoints"
    )


@pytest.mark.parametrize("protocol", ["images", "unpaired"])
def test_a_note_says_that_captions_or_their_pairing_are_not_used(protocol, untrained, scenes, sketches, tmp_path):
    """A corpus of pairs may be meant as a target; the run says that its pairs are not used."""
    events = []
    config = job.parse(words(tmp_path, untrained, scenes, sketches, "--target.protocol", protocol))
    with pytest.raises(WorkersStarted):
        adapt.run(config, events.append)
    notes = " ".join(getattr(event, "text", "") for event in events)
    assert {"images": "does not read them", "unpaired": "read in two orders"}[protocol] in notes


def test_images_and_texts_of_the_target_have_different_orders(untrained, scenes, sketches, tmp_path):
    """Neither the position of a row in a batch nor its number tells which text belongs to which image."""
    config, start, model = adapt.check(
        job.parse(words(tmp_path, untrained, scenes, sketches, "--target.protocol", "unpaired"))
    )
    opened = domain_corpora.open_domains(config, lambda message: None)
    streams = adapt.build_streams(config, opened, model, start.tokenizer)
    assert [stream.role for stream in streams] == ["source", "target", "target_text"]
    images, texts = ([task.picks.tolist() for task in stream.plan.tasks(0, 4)] for stream in streams[1:])
    assert images != texts and sorted(images[0]) == sorted(texts[0])
    assert len({stream.number for stream in streams}) == 3


def test_a_resume_with_other_settings_is_rejected(untrained, scenes, sketches, tmp_path, capsys):
    with pytest.raises(WorkersStarted):
        adapt.run(job.parse(words(tmp_path, untrained, scenes, sketches)))
    other = [*words(tmp_path, untrained, scenes, sketches), "--resume", "--domain.strength", "0.9"]
    expect_one_line_error(other, capsys, "domain.strength is 0.3 there and 0.9 here")


def test_a_run_resumes_after_the_checkpoint_it_started_from_is_gone(untrained, scenes, sketches, tmp_path, capsys):
    """Retention of the first run may have removed it; the adapted run's own checkpoints hold all that it needs."""
    start = tmp_path / "start"
    shutil.copytree(untrained, start)
    place = checkpoint.resolve(str(start)).uri
    asked = words(tmp_path, place, scenes, sketches)
    with pytest.raises(WorkersStarted):
        adapt.run(job.parse(asked))
    shutil.copytree(checkpoint.resolve(untrained).uri, tmp_path / "files")
    (tmp_path / "files" / "COMMITTED.json").unlink()
    commit(tmp_path / "files", str(tmp_path / "a" / "checkpoints"), step=2, attempt=1, run_id="a")
    shutil.rmtree(start)
    with pytest.raises(WorkersStarted):
        adapt.run(job.parse([*asked, "--resume"]))
    expect_one_line_error([*asked, "--name", "b"], capsys, "no file is stored there")


def test_a_preview_names_both_domains(untrained, scenes, sketches, tmp_path, capsys):
    job.run([*words(tmp_path, untrained, scenes, sketches, "--target.protocol", "unpaired"), "--dry-run"])
    preview = json.loads(capsys.readouterr().out)
    assert preview["target"][0]["uri"] == preview["target_texts"][0]["uri"] == sketches
    assert (
        preview["model"]["starts_from"].endswith("step-000000007.attempt-1")
        and preview["config"]["domain"]["loss"] == "dann"
    )


def test_a_strength_is_also_checked_in_python(untrained):
    from pipelines.config.domain import DomainConfig

    with pytest.raises(ConfigError, match=r"domain\.strength=nan"):
        DomainConfig(strength=float("nan"))
