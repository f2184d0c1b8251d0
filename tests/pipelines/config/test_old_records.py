"""The configuration of a run that an earlier version recorded is today's configuration after its upgrade."""

import json

import pytest

from jobs import adapt, classify, pretrain, sweep
from pipelines.config.old_records import upgrade_run, upgrade_sweep
from support.model_flags import model_flags
from xmodal.run.plain_config import to_plain

PRETRAIN = """
{"data": {"corpus": ["/data/photos"], "weights": [], "fields": [], "index": null, "hash_extents": false,
"max_bad_fraction": 0.01, "rows_per_task": 1024, "tasks_per_segment": 4096, "cache": null, "cache_gb": 8.0,
"endpoint": null, "region": null, "profile": null, "anonymous": false}, "name": "vit-tiny", "runs": "/data/runs",
"resume": false, "seed": 0, "model": {"architecture": "vit-tiny", "arguments": ["image_size=32", "patch_size=8",
"width=32", "depth=1", "heads=2", "text_width=32", "text_depth=1", "text_heads=2", "context=16", "dim=32"],
"start_from": null, "tokenizer": null, "vocab_size": 600, "patch_dropout": 0.0, "gradient_checkpointing": false,
"compile": false}, "loss": {"objective": "info_nce", "temperature": 0.07, "learnable_temperature": true,
"mask_duplicates": true}, "augment": {"scale": [0.9, 1.0], "ratio": [0.75, 1.3333333333333333], "mirror": 0.0,
"rotate": 0.0, "translate": 0.0, "jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
"greyscale": 0.0}, "optim": {"batch_size": 24, "epochs": 32.0, "steps": 8, "learning_rate": 0.001,
"final_learning_rate": 0.0, "warmup_steps": null, "optimizer": "adamw", "momentum": 0.9, "weight_decay": 0.1,
"betas": [0.9, 0.98], "eps": 1e-06, "max_grad_norm": 1.0, "precision": "fp32", "rows_per_forward": null}, "cadence":
{"log_every": 2, "checkpoint_every": 4, "keep": 4, "restarts": 3, "sinks": ["tensorboard"]}, "validation":
{"corpus": null, "every": 500, "rows": 1000, "fields": []}, "resources": {"workers": 1, "gpus_per_worker": null,
"cpus_per_worker": null, "address": "local"}}
"""
CLIPS = """
{"data": {"corpus": ["/data/clips"], "weights": [], "fields": ["video=mp4", "audio=mp4"], "index": null,
"hash_extents": false, "max_bad_fraction": 0.01, "rows_per_task": 1024, "tasks_per_segment": 4096, "cache": null,
"cache_gb": 8.0, "endpoint": null, "region": null, "profile": null, "anonymous": false}, "name": "av-tiny", "runs":
"/data/runs", "resume": false, "seed": 0, "model": {"architecture": "av-tiny", "arguments": ["seconds=0.5",
"frames=3", "size=32", "bands=16", "widths=8,16", "dim=16"], "start_from": null, "tokenizer": null, "vocab_size":
8192, "patch_dropout": 0.0, "gradient_checkpointing": false, "compile": false}, "loss": {"objective": "info_nce",
"temperature": 0.07, "learnable_temperature": true, "mask_duplicates": true}, "augment": {"scale": [0.8, 1.0],
"ratio": [0.9, 1.1], "mirror": 0.0, "rotate": 0.0, "translate": 0.0, "jitter": 0.8, "brightness": 0.2, "contrast":
0.2, "saturation": 0.0, "hue": 0.0, "greyscale": 0.0}, "optim": {"batch_size": 16, "epochs": 32.0, "steps": 4,
"learning_rate": 0.001, "final_learning_rate": 0.0, "warmup_steps": null, "optimizer": "adamw", "momentum": 0.9,
"weight_decay": 0.1, "betas": [0.9, 0.98], "eps": 1e-06, "max_grad_norm": 1.0, "precision": "fp32",
"rows_per_forward": null}, "cadence": {"log_every": 2, "checkpoint_every": 2, "keep": 4, "restarts": 3, "sinks":
["tensorboard"]}, "validation": {"corpus": null, "every": 500, "rows": 1000, "fields": []}, "resources": {"workers":
1, "gpus_per_worker": null, "cpus_per_worker": null, "address": "local"}}
"""
ADAPT = """
{"data": {"corpus": ["/data/photos"], "weights": [], "fields": [], "index": null, "hash_extents": false,
"max_bad_fraction": 0.01, "rows_per_task": 1024, "tasks_per_segment": 4096, "cache": null, "cache_gb": 8.0,
"endpoint": null, "region": null, "profile": null, "anonymous": false}, "target": {"corpus": ["/data/sketches"],
"protocol": "images", "texts": [], "fields": [], "batch_size": null, "consistency": 0.0, "pseudo_pairs": 0.0,
"threshold": 0.5}, "start_from": "/data/runs/vit-tiny/checkpoints/step-000000008.attempt-1", "name": "clip", "runs":
"/data/runs", "resume": false, "seed": 0, "objective": null, "mask_duplicates": true, "label": {"field": null,
"classes": [], "weight": 1.0, "modality": null}, "balance": {"method": "uniform", "space": "features", "gamma":
null, "audit_every": 0, "rescale": [0.1, 10.0]}, "domain": {"loss": "mmd", "strength": 0.3, "schedule": "ramp",
"gamma": 10.0, "placement": "each", "hidden": [256, 256], "spectral": false, "smoothing": 0.0, "penalty": 0.0,
"critic_gain": 1.0, "critic_steps": 1, "bank": null, "temperature": 0.1, "bank_size": 64}, "augment": {"scale":
[0.9, 1.0], "ratio": [0.75, 1.3333333333333333], "mirror": 0.0, "rotate": 0.0, "translate": 0.0, "jitter": 0.0,
"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "greyscale": 0.0}, "optim": {"batch_size": 24,
"epochs": 10, "steps": 4, "learning_rate": 0.0002, "final_learning_rate": 0.0, "warmup_steps": null, "optimizer":
"adamw", "momentum": 0.9, "weight_decay": 0.1, "betas": [0.9, 0.98], "eps": 1e-06, "max_grad_norm": 1.0,
"precision": "fp32", "rows_per_forward": null}, "cadence": {"log_every": 2, "checkpoint_every": 2, "keep": 4,
"restarts": 3, "sinks": ["tensorboard"]}, "validation": {"corpus": null, "every": 500, "rows": 1000, "fields": []},
"target_validation": {"corpus": null, "every": 500, "rows": 1000, "scores": []}, "resources": {"workers": 1,
"gpus_per_worker": null, "cpus_per_worker": null, "address": "local"}}
"""
CLASSIFY = """
{"data": {"corpus": ["/data/clips"], "weights": [], "fields": ["video=mp4", "audio=mp4", "label=json:shape"],
"index": null, "hash_extents": false, "max_bad_fraction": 0.01, "rows_per_task": 1024, "tasks_per_segment": 4096,
"cache": null, "cache_gb": 8.0, "endpoint": null, "region": null, "profile": null, "anonymous": false}, "model":
{"classes": ["circle", "square", "triangle", "star", "cross", "heart"], "start_from": null, "fusion":
"concatenation", "dim": 128, "encoders": "convolutional", "widths": [8, 16], "width": 128, "depth": 4, "heads": 4,
"patch": 16, "frames": 2, "size": 32, "rate": 16000, "bands": 16, "seconds": 0.5, "margin": 0.0, "level": -4.0,
"level_spread": 2.0}, "name": "clips", "runs": "/data/runs", "resume": false, "seed": 0, "balance": {"method":
"mmpareto", "space": "features", "gamma": null, "audit_every": 0, "rescale": [0.1, 10.0]}, "target": {"corpus": [],
"fields": [], "batch_size": null}, "domain": {"loss": "dann", "strength": 0.3, "schedule": "ramp", "gamma": 10.0,
"placement": "each", "hidden": [256, 256], "spectral": false, "smoothing": 0.0, "penalty": 0.0, "critic_gain": 1.0,
"critic_steps": 1, "bank": null, "temperature": 0.1, "bank_size": 64}, "augment": {"scale": [0.8, 1.0], "ratio":
[0.9, 1.1], "mirror": 0.0, "rotate": 0.0, "translate": 0.0, "jitter": 0.8, "brightness": 0.2, "contrast": 0.2,
"saturation": 0.0, "hue": 0.0, "greyscale": 0.0}, "optim": {"batch_size": 16, "epochs": 30, "steps": 4,
"learning_rate": 0.001, "final_learning_rate": 0.0, "warmup_steps": null, "optimizer": "adamw", "momentum": 0.9,
"weight_decay": 0.05, "betas": [0.9, 0.98], "eps": 1e-06, "max_grad_norm": 1.0, "precision": "fp32",
"rows_per_forward": null}, "cadence": {"log_every": 2, "checkpoint_every": 2, "keep": 4, "restarts": 3, "sinks":
["tensorboard"]}, "resources": {"workers": 1, "gpus_per_worker": null, "cpus_per_worker": null, "address": "local"}}
"""
SWEEP = """
{"run": {"data": {"corpus": ["/data/photos"], "weights": [], "fields": [], "index": null, "hash_extents": false,
"max_bad_fraction": 0.01, "rows_per_task": 1024, "tasks_per_segment": 4096, "cache": null, "cache_gb": 8.0,
"endpoint": null, "region": null, "profile": null, "anonymous": false}, "name": "vit-tiny", "runs": "/data/runs",
"resume": false, "seed": 0, "model": {"architecture": "vit-tiny", "arguments": ["image_size=32", "patch_size=8",
"width=32", "depth=1", "heads=2", "text_width=32", "text_depth=1", "text_heads=2", "context=16", "dim=32"],
"start_from": null, "tokenizer": null, "vocab_size": 600, "patch_dropout": 0.0, "gradient_checkpointing": false,
"compile": false}, "loss": {"objective": "info_nce", "temperature": 0.07, "learnable_temperature": true,
"mask_duplicates": true}, "augment": {"scale": [0.9, 1.0], "ratio": [0.75, 1.3333333333333333], "mirror": 0.0,
"rotate": 0.0, "translate": 0.0, "jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0,
"greyscale": 0.0}, "optim": {"batch_size": 24, "epochs": 32.0, "steps": 4, "learning_rate": 0.001,
"final_learning_rate": 0.0, "warmup_steps": null, "optimizer": "adamw", "momentum": 0.9, "weight_decay": 0.1,
"betas": [0.9, 0.98], "eps": 1e-06, "max_grad_norm": 1.0, "precision": "fp32", "rows_per_forward": null}, "cadence":
{"log_every": 2, "checkpoint_every": 500, "keep": 3, "restarts": 3, "sinks": ["tensorboard"]}, "validation":
{"corpus": null, "every": 500, "rows": 1000, "fields": []}, "resources": {"workers": 1, "gpus_per_worker": null,
"cpus_per_worker": null, "address": "local"}}, "command": ["jobs.pretrain", "vit-tiny", "--corpus", "/data/photos",
"--runs", "/data/runs", "--arguments", "image_size=32", "patch_size=8", "width=32", "depth=1", "heads=2",
"text_width=32", "text_depth=1", "text_heads=2", "context=16", "dim=32", "--vocab-size", "600", "--batch-size",
"24", "--steps", "4", "--log-every", "2", "--address", "local"], "preset": null, "search":
["optim.learning_rate=loguniform(1e-4,1e-2)"], "metric": ["loss"], "mode": ["min"], "guard": [], "name": "s",
"runs": "/data/runs", "resume": false, "trials": 2, "algorithm": "random", "points": 3, "scheduler": "fifo",
"grace": null, "reduction": 3.0, "population": 6, "intervals": 4, "concurrent": 1, "finalists": 0, "seeds": 3,
"retries": 1, "silent_s": 900.0, "seed": 0, "beside": null, "regret": null, "storage": {"endpoint": null, "region":
null, "profile": null, "anonymous": false}}
"""

ORDER = ["--shuffle", "task"]  # the one that there was
SHORT = [
    *ORDER,
    "--runs",
    "/data/runs",
    "--checkpoint-every",
    "2",
    "--keep",
    "4",
    "--log-every",
    "2",
    "--address",
    "local",
]
AV_TINY = {"seconds": 0.5, "frames": 3, "size": 32, "bands": 16, "widths": (8, 16), "dim": 16}
CLIP_FIELDS = ["--fields", "video=mp4", "audio=mp4"]
TINY_RUN = ["vit-tiny", "--corpus", "/data/photos", *model_flags(), "--vocab-size", "600", "--batch-size", "24"]
START = "/data/runs/vit-tiny/checkpoints/step-000000008.attempt-1"
CASES = {
    "pretrain": (PRETRAIN, pretrain, [*TINY_RUN, *SHORT, "--steps", "8", "--checkpoint-every", "4"]),
    "pretrain on clips": (
        CLIPS,
        pretrain,
        ["av-tiny", "--corpus", "/data/clips", *CLIP_FIELDS, *model_flags(AV_TINY), *SHORT, "--batch-size", "16",
         "--steps", "4"],
    ),
    "adapt": (
        ADAPT,
        adapt,
        ["--name", "clip", "--start-from", START, "--corpus", "/data/photos", "--target", "/data/sketches", *SHORT,
         "--batch-size", "24", "--steps", "4", "--domain.loss", "mmd"],
    ),
    "classify": (
        CLASSIFY,
        classify,
        ["clips", "--corpus", "/data/clips", "--classes", "circle", "square", "triangle", "star", "cross", "heart",
         *CLIP_FIELDS, "label=json:shape", "--size", "32", "--frames", "2", "--bands", "16", "--widths", "8", "16",
         "--seconds", "0.5", *SHORT, "--batch-size", "16", "--steps", "4"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_old_run_has_the_configuration_that_its_command_gives_today_with_the_old_order(name):
    text, job, words = CASES[name]
    assert upgrade_run(json.loads(text)) == to_plain(job.parse(words))


def test_an_old_sweep_has_the_configuration_that_its_command_gives_today_with_the_old_order():
    recorded = upgrade_sweep(json.loads(SWEEP))
    run = ["jobs.pretrain", *TINY_RUN, "--steps", "4", "--runs", "/data/runs", "--log-every", "2", "--address", "local"]
    run += ORDER
    flags = ["--name", "s", "--runs", "/data/runs", "--search", "optim.learning_rate=loguniform(1e-4,1e-2)"]
    flags += ["--metric", "loss", "--mode", "min", "--trials", "2", "--finalists", "0"]
    flags += ["--scheduler", "fifo", "--concurrent", "1"]
    today = to_plain(sweep.parse([*flags, "--", *run]).config)
    changed = {name for name in today | recorded if today.get(name) != recorded.get(name)}
    assert changed <= {"command"}


@pytest.mark.parametrize("name", CASES)
def test_an_upgrade_changes_nothing_in_a_configuration_of_today(name):
    _, job, words = CASES[name]
    plain = to_plain(job.parse(words))
    assert upgrade_run(plain) == plain


def test_options_of_an_unknown_architecture_are_taken_as_they_are_spelt():
    model = {"architecture": "of-a-plugin", "arguments": ["width=8", "sizes=1,2", "name=a", "deep=true", "rate=0.5"]}
    options = {"width": 8, "sizes": [1, 2], "name": "a", "deep": True, "rate": 0.5}
    assert upgrade_run({"model": model})["model"] == {"architecture": "of-a-plugin", **options}
