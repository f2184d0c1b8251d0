"""A configuration that cannot work is rejected in one sentence with the fix, before Ray or a worker starts."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from jobs import console
from jobs import pretrain as job
from pipelines.config.architectures import model_config
from pipelines.models import dual_encoder
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Cluster
from pipelines.stages import caption_tokenizer, pretrain, training_job
from pipelines.stream import corpora
from support.model_flags import TINY, model_flags
from xmodal.data.decode.tokenizer import save_tokenizer, train_tokenizer
from xmodal.errors import ConfigError
from xmodal.run import create_run


class Started(Exception):
    """Ray or a worker would have started: the configuration was accepted."""


def base(runs, corpus):
    return ["vit-tiny", "--name", "a", "--runs", str(runs), "--corpus", str(corpus), *model_flags(),
            "--vocab-size", "600", "--batch-size", "24", "--steps", "4"]  # fmt: skip


def refusal(arguments, capsys):
    """Return what the job prints on stderr, without its notes, and its exit code."""
    with pytest.raises(SystemExit) as exit:
        console.main(lambda: job.run(arguments))
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    return stderr, exit.value.code


def one_line(arguments, capsys, *parts):
    """Check that the job fails with exit code 2 and one line that has all of `parts`."""
    stderr, code = refusal(arguments, capsys)
    lines = [line for line in stderr.splitlines() if not line.startswith("[pretrain]")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), stderr
    assert all(part in lines[0] for part in parts), lines[0]


@pytest.fixture
def no_ray(monkeypatch):
    """Make connecting to Ray an error."""

    def connect(resources):
        raise Started

    monkeypatch.setattr(cluster, "connect", connect)


@pytest.fixture
def no_workers(monkeypatch):
    """Index shards in this process, and make starting workers an error."""

    def launch(*arguments):
        raise Started

    monkeypatch.setattr(cluster, "connect", lambda resources: Cluster(tuple(resources.sizes), {"CPU": 1.0}, True))
    monkeypatch.setattr(corpora, "map_on_cluster", map)
    monkeypatch.setattr(training_job, "launch", launch)


WRONG = {
    "option of a model": (
        ["--model.widht", "3"],
        "vit-tiny has no option --model.widht",
        "did you mean '--model.width'",
    ),
    "option of another model": (
        ["--model.hidden-sizes", "64"],
        "vit-tiny has no option --model.hidden-sizes (an option of conv-tiny, resnet50-bert)",
        "did you mean '--model.image-size'?",
    ),
    "options in the former spelling": (
        ["--arguments", "width=64", "hidden_sizes=8,16", "--seed", "1"],
        "--arguments is gone",
        "write --model.width 64 --model.hidden-sizes 8 16",
    ),
    "a negative size": (["--model.width", "-64"], "width=-64 must be a whole number, at least 1"),
    "a size that does not divide": (["--model.width", "33"], "width=33 does not divide into 2 heads"),
    "activation": (["--model.activation", "gelo"], "unknown activation 'gelo'", "did you mean 'gelu'"),
    "architecture": (["--architecture", "vit-b-23"], "unknown architecture 'vit-b-23'", "'vit-b-32'"),
    "patch dropout": (["--patch-dropout", "1.5"], "patch_dropout=1.5"),
    "vocabulary": (["--vocab-size", "10"], "vocab_size=10 must be at least"),
    "tokenizer": (["--tokenizer", "/no/such/folder"], "tokenizer: '/no/such/folder' is neither a directory"),
    "field map": (["--fields", "image"], "'image' is not FIELD=MEMBER", "image=jpg|png"),
    "field": (["--fields", "image=jpg", "txet=txt"], "unknown field 'txet'", "did you mean 'text'?"),
    "workers": (["--workers", "5"], "batch_size=24", "workers=5", "counts that fit: 1, 2, 3, 4, 6, 8, 12, 24"),
    "no workers": (["--workers", "0"], "workers must be at least 1"),
    "a word for workers": (["--workers", "many"], "workers='many' is not a number of workers: write 4, or 2:8"),
    "an empty range of workers": (["--workers", "4:2"], "not 4:2: write 4, or 2:8"),
    "a range that never fits": (["--workers", "9:11"], "batch_size=24", "workers=9:11", "counts that fit: 1, 2, 3"),
    "batch of one": (["--batch-size", "1"], "batch_size=1 must be at least 2"),
    "sink": (["--sinks", "tensorbord"], "'tensorbord'", "did you mean 'tensorboard'?"),
    "weights": (["--weights", "1", "2"], "2 weights for 1 corpora"),
    "NaN weight": (["--weights", "nan"], "weights must be positive"),
    "negative rate": (["--learning-rate", "-1"], "learning_rate=-1.0 must lie in (0, 1)"),
    "NaN rate": (["--learning-rate", "nan"], "learning_rate=nan must lie in (0, 1)"),
    "final rate": (["--final-learning-rate", "0.9"], "final_learning_rate=0.9 must lie in [0, learning_rate]"),
    "decay": (["--weight-decay", "nan"], "weight_decay=nan"),
    "betas": (["--betas", "0.9", "1.0"], "betas=(0.9, 1.0)"),
    "eps": (["--eps", "-1"], "eps=-1.0"),
    "clipping": (["--max-grad-norm", "0"], "max_grad_norm=0.0"),
    "epochs": (["--epochs", "inf"], "epochs=inf"),
    "warm-up": (["--warmup-steps", "-1"], "warmup_steps=-1"),
    "rows per forward": (["--rows-per-forward", "0"], "rows_per_forward=0"),
    "temperature": (["--temperature", "0"], "temperature=0.0 must lie in [0.01, 1]"),
    "augmentation": (["--scale", "0.5", "2"], "scale=(0.5, 2.0)"),
    "bad fraction": (["--max-bad-fraction", "nan"], "max_bad_fraction must lie in [0, 1], not nan"),
    "kept checkpoints": (["--keep", "1"], "keep=1: keep at least 2"),
    "seed": (["--seed", "-1"], "seed=-1"),
    "run name": (["--name", "../a b"], "'../a b' cannot name a run", "for example 'a-b'"),
    "no run name": (["--name", ""], "'' cannot name a run"),
    "a runs directory that cannot be": (["--runs", "/proc/runs"], "/proc/runs"),
    "CPUs": (["--cpus-per-worker", "0"], "cpus_per_worker=0.0 must be positive"),
    "GPUs": (["--gpus-per-worker", "nan"], "gpus_per_worker=nan"),
    "no corpus": (["--corpus"], "no corpus: give at least one"),
    "missing corpus": (["--corpus", "/no/such/corpus"], "/no/such/corpus: no file is stored there"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_rejected_before_ray_starts(name, no_ray, scenes, tmp_path, capsys):
    flags, *parts = WRONG[name]
    one_line([*base(tmp_path, scenes), *flags], capsys, *parts)


def test_the_same_configuration_without_a_wrong_value_would_start(no_ray, scenes, tmp_path):
    with pytest.raises(Started):
        job.run(base(tmp_path, scenes))


def test_an_unknown_preset_names_the_nearest(no_ray, capsys):
    one_line(["vit-tiney", "--corpus", "x"], capsys, "no preset 'vit-tiney'", "did you mean 'vit-tiny'?", "conv-tiny")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--corpsu", "x"], "--corpus"),
        (["--batch-size", "many"], "--batch-size"),
        (["--model.width", "wide"], "--model.width"),
        (["--precision", "fp16"], "bf16"),
    ],
)
def test_an_error_suggests_the_flag_that_was_meant(flags, part, no_ray, scenes, tmp_path, capsys):
    stderr, code = refusal([*base(tmp_path, scenes), *flags], capsys)
    assert code == 2 and flags[0] in stderr and part in stderr and "--help" in stderr


def test_an_empty_folder_is_rejected(no_ray, tmp_path, capsys):
    one_line(base(tmp_path / "runs", tmp_path), capsys, f"{tmp_path}: no file is stored there")


def test_an_error_names_the_files_of_a_folder_without_shards(no_workers, tmp_path, capsys):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "readme.md").write_text("x")
    one_line(base(tmp_path, tmp_path / "c"), capsys, "holds no .tar or .parquet shards", "readme.md")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--fields", "image=jpge", "text=txt"], ["image=jpge", "did you mean 'jpg'?", "json:captions", "txt"]),
        (["--fields", "image=jpg"], ["does not name text", "text=NAME", "json:captions"]),
        (["--fields", "image=jpg", "text=json:captoin"], ["text=json:captoin", "did you mean 'json:captions'?"]),
    ],
)
def test_a_field_map_that_does_not_fit_names_the_fields_that_exist(flags, parts, no_workers, scenes, tmp_path, capsys):
    one_line([*base(tmp_path, scenes), *flags], capsys, *parts)


def test_a_corpus_of_other_modalities_is_rejected_with_its_fields(no_workers, tmp_path, capsys):
    corpus = tmp_path / "sounds"
    corpus.mkdir()
    with tarfile.open(corpus / "0.tar", "w") as tar:
        for name in ("a.wav", "a.txt", "b.wav", "b.txt"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"RIFF"))
    one_line(base(tmp_path, corpus), capsys, "cannot guess where the image", "txt, wav", "image=NAME")


def tokenizer_directory(folder):
    folder.mkdir()
    save_tokenizer(train_tokenizer(["a red circle"], 600), folder, 16)
    return folder


def test_shares_of_a_mixture_that_no_number_of_workers_divides_are_rejected(no_workers, scenes, tmp_path, capsys):
    tokenizer = str(tokenizer_directory(tmp_path / "t"))
    flags = ["--corpus", scenes, scenes, "--weights", "1", "3", "--workers", "5", "--tokenizer", tokenizer]
    one_line([*base(tmp_path, scenes), *flags], capsys, "batch_size=24", "workers=5", "worker counts that fit: 1, 2")


def test_a_warm_up_longer_than_the_run_is_rejected(no_workers, scenes, tmp_path, capsys):
    tokenizer = str(tokenizer_directory(tmp_path / "t"))
    flags = ["--warmup-steps", "9", "--tokenizer", tokenizer]
    one_line([*base(tmp_path, scenes), *flags], capsys, "warmup_steps=9", "total_steps=4")


def test_a_tokenizer_without_special_tokens_is_rejected(no_ray, scenes, tmp_path, capsys):
    folder = tokenizer_directory(tmp_path / "t")
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    flags = ["--tokenizer", str(folder)]
    one_line([*base(tmp_path, scenes), *flags], capsys, "needs its own begin, end and pad tokens")


@pytest.fixture
def checkpoint(tmp_path):
    """A dual encoder of the tiny sizes, as a directory."""
    tokenizer = train_tokenizer(["a red circle"], 600)
    chosen = model_config("vit-tiny", **TINY)
    dual_encoder.build_model(chosen, dual_encoder.LossConfig(), tokenizer, 0).save_pretrained(
        tmp_path / "m", tokenizer_json=tokenizer
    )
    return tmp_path / "m"


def test_a_run_may_start_from_weights_of_the_same_model(no_ray, checkpoint, scenes, tmp_path):
    with pytest.raises(Started):
        job.run([*base(tmp_path, scenes), "--start-from", str(checkpoint)])


def test_weights_of_another_model_are_rejected(no_ray, checkpoint, scenes, tmp_path, capsys):
    flags = ["--start-from", str(checkpoint), "--model.width", "64"]
    one_line([*base(tmp_path, scenes), *flags], capsys, "is a checkpoint of another model", "expected [64")


def test_an_error_says_that_weights_are_missing(no_ray, scenes, tmp_path, capsys):
    flags = ["--start-from", str(tmp_path / "gone")]
    one_line([*base(tmp_path, scenes), *flags], capsys, "start_from: '", "gone' is neither a directory")


def test_weights_that_are_no_dual_encoder_are_rejected(no_ray, checkpoint, scenes, tmp_path, capsys):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    flags = ["--start-from", str(checkpoint)]
    one_line([*base(tmp_path, scenes), *flags], capsys, str(checkpoint), "type 'bert', not a dual encoder")


@pytest.fixture
def existing(scenes, tmp_path):
    """Start a run "a" with the flags of `base`, without any step."""
    config = pretrain._with_absolute_paths(job.parse(base(tmp_path, scenes)))
    create_run(str(tmp_path), "a", config=config, corpora={scenes: "0123456789abcdef"})
    (tmp_path / "a" / caption_tokenizer.FILE).write_text(train_tokenizer(["a red circle"], 600))
    return base(tmp_path, scenes)


def test_an_existing_run_is_rejected_without_resume(no_ray, existing, capsys):
    one_line(existing, capsys, "the run 'a' exists already", "--resume continues it", "another --name")


def test_resuming_a_run_that_does_not_exist_names_the_nearest(no_ray, existing, capsys):
    one_line([*existing, "--name", "b", "--resume"], capsys, "no run 'b'", "valid: a", "leave --resume out")


def test_an_error_lists_every_value_that_a_resume_changes(no_ray, existing, capsys, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.tar").write_bytes(b"x")
    flags = ["--resume", "--batch-size", "12", "--seed", "7", "--model.dim", "64",
             "--corpus", str(tmp_path / "other")]  # fmt: skip
    one_line(
        [*existing, *flags], capsys, "seed is 0 there and 7 here", "optim.batch_size is 24 there and 12 here",
        "model.dim is 32 there and 64 here", "data.corpus is", "Resume it with the recorded values",
    )  # fmt: skip


def test_a_resume_on_a_changed_corpus_is_rejected(no_workers, existing, capsys):
    one_line([*existing, "--resume"], capsys, "the corpora of the run 'a' have changed", "was 0123456789abcdef, is ")


def test_a_resume_may_change_what_does_not_affect_the_weights(no_ray, existing):
    with pytest.raises(Started):
        job.run([*existing, "--resume", "--workers", "2", "--max-bad-fraction", "0.5", "--checkpoint-every", "7"])


@pytest.mark.ray
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--gpus-per-worker", "1"], ["workers=1 with 1 GPU", "has 0 GPU", "--gpus-per-worker"]),
        (["--workers", "2", "--cpus-per-worker", "64"], ["workers=2 with 64 CPU", "enough for 0", "--cpus-per-worker"]),
    ],
)
def test_workers_that_the_cluster_can_never_hold_are_rejected(
    flags, parts, ray_here, scenes, tmp_path, capsys, monkeypatch
):
    def no_indexing(*arguments, **keywords):
        raise Started

    monkeypatch.setattr(corpora, "open_corpora", no_indexing)
    if "GPU" in parts[0] and "GPU" in __import__("ray").cluster_resources():
        pytest.skip("this machine has a GPU")
    one_line([*base(tmp_path, scenes), *flags], capsys, *parts)


def test_a_cluster_that_does_not_answer_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "nowhere"):
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at address={address} .*ray start"):
            cluster.connect(cluster.ResourceConfig(address=address))


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("local", Exception("The current node timed out during startup. This"), "a very busy one: try again"),
        (
            "auto",
            ConnectionError("Failed to connect\n... RPC error: InvalidAuthToken: missing"),
            "refuses this token: set RAY_",
        ),
        (
            "auto",
            RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.59.0"),
            "another Ray or Python .*2.59.0",
        ),
    ],
)
def test_a_cluster_that_rejects_us_or_does_not_start_is_a_one_line_error(monkeypatch, address, error, message):
    def refuse(**_):
        raise error

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", refuse)
    with pytest.raises(ConfigError, match=message) as refused:
        cluster.connect(cluster.ResourceConfig(address=address))
    assert "\n" not in str(refused.value)


def test_bf16_trains_on_a_cpu(scenes):
    """`--precision bf16` works without a GPU, with finite losses."""
    import torch

    from xmodal.batch import Batch
    from xmodal.training.engine.step import train_step

    config = job.parse([*base("runs", scenes), "--precision", "bf16"])
    state = pretrain.make_state(config, 4, train_tokenizer(["a red circle"], 600), torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(0, 500, (8, 16), generator=draw, dtype=torch.int32)
    fields = {
        "image": torch.randint(0, 256, (8, 32, 32, 3), generator=draw, dtype=torch.uint8),
        "text": text,
        "text_length": torch.full((8,), 16, dtype=torch.int32),
        "text_id": torch.arange(8),
    }
    losses = [
        train_step(state, Batch(torch.arange(8), torch.ones(8, dtype=torch.bool), fields))["loss"] for _ in range(4)
    ]
    assert all(0 < loss < 10 for loss in losses) and losses[-1] < losses[0]


def test_a_process_ends_with_one_line_and_exit_code_2(scenes, tmp_path):
    command = [sys.executable, "-m", "jobs.pretrain", *base(tmp_path, scenes), "--learning-rate", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: learning_rate=-1.0 must lie in (0, 1)\n"
    assert not list(Path(tmp_path).iterdir())
