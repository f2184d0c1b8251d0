"""Tests of the export of a run: transformers and onnxruntime reproduce its embeddings; mistakes are refused first."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor, AutoTokenizer, CLIPModel, CLIPProcessor

from jobs import export as job
from pipelines.config.export import ExportConfig
from pipelines.results import export
from support.export_fixtures import commit_run, model_of, tokenizer
from xmodal import storage
from xmodal.batch import Batch
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.image import ImageField
from xmodal.encoders import DualEncoder
from xmodal.errors import CheckpointError, ConfigError, StorageError, XmodalError

RECORD = {
    "format": 1, "id": "a", "name": "first", "created": "2026-11-21T12:00:00+00:00", "resumes": [],
    "config": {"seed": 3, "model": {"architecture": "vit-tiny"}}, "corpora": {"/data/train": "aa11"}, "provenance": {},
}  # fmt: skip
EVALUATED = {
    "step": 7, "corpus": "/data/held-out", "fingerprint": "cc33", "rows": 512, "skipped": 0,
    "metrics": {"text_to_image/recall@10": 0.4219}, "interval": {"text_to_image/recall@10": [0.38, 0.46]},
    "chance": {"text_to_image/recall@10": 0.0195},
}  # fmt: skip


def run_of(kind: str, folder: Path) -> str:
    """Create a run with a record and one evaluation; return its URI."""
    run = commit_run(model_of(kind, folder / "hub"), folder / "first", record=json.dumps(RECORD))
    (folder / "first" / "evaluations").mkdir()
    (folder / "first" / "evaluations" / "held-out-step-7.json").write_text(json.dumps(EVALUATED))
    return run


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
    return run_of("vit-tiny", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def custom_run(tmp_path_factory):
    return run_of("conv-bag", tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def export_folder(clip_run, tmp_path_factory):
    """The export_folder directory of the CLIP-shaped run."""
    to = tmp_path_factory.mktemp("export_folder") / "model"
    result = export.run(ExportConfig(checkpoint=clip_run, to=str(to)))
    assert result.step == 7 and set(result.files) | {"export.json"} == {
        path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()
    }
    return to


def scene_image(size: int, seed: int = 0) -> Image.Image:
    """Return a scene of the synthetic corpus as it is stored."""
    return Image.open(io.BytesIO(next(iter(synthetic.scene_samples("photo", 1, seed, size=size)))[1]["jpg"]))


def own_embedding(run: str, image: Image.Image) -> np.ndarray:
    """Return the run's embedding of an image that is decoded and resized as in training and evaluation."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    out = {"image": np.empty((32, 32, 3), np.uint8)}
    ImageField(size=32).decode(encoded.getvalue(), np.random.default_rng(0), out)
    checkpoint = next(Path(run).glob("checkpoints/step-*"))
    batch = Batch(torch.arange(1), torch.ones(1, dtype=torch.bool), {"image": torch.from_numpy(out["image"])[None]})
    with torch.no_grad():
        return DualEncoder.from_pretrained(checkpoint).eval().encode("image", batch).numpy()


def test_transformers_reproduces_the_runs_embeddings(export_folder, clip_run):
    model, processor = CLIPModel.from_pretrained(export_folder).eval(), CLIPProcessor.from_pretrained(export_folder)
    for size, tolerance in ((32, 1e-5), (96, 0.02), (150, 0.02), (20, 0.02)):
        with torch.no_grad():
            pixels = processor(images=scene_image(size).convert("RGB"), return_tensors="pt")
            embedding = torch.nn.functional.normalize(model.get_image_features(**pixels).pooler_output).numpy()
        assert embedding == pytest.approx(own_embedding(clip_run, scene_image(size)), abs=tolerance), size


def test_the_auto_classes_of_transformers_load_the_directory(export_folder):
    assert type(AutoModel.from_pretrained(export_folder)).__name__ == "CLIPModel"
    assert type(AutoProcessor.from_pretrained(export_folder)).__name__ == "CLIPProcessor"
    assert AutoTokenizer.from_pretrained(export_folder).model_max_length == 32
    settings = json.loads((export_folder / "preprocessor_config.json").read_text())
    assert settings["size"] == {"shortest_edge": 32} and settings["crop_size"] == {"height": 32, "width": 32}
    assert not list(export_folder.glob("*.bin")) and not list(export_folder.glob("optimizer*"))


@pytest.mark.parametrize("run", ["clip_run", "custom_run"])
def test_every_example_of_the_card_runs(run, request, tmp_path, monkeypatch, capsys):
    to = tmp_path / "model"
    export.run(ExportConfig(checkpoint=request.getfixturevalue(run), to=str(to), onnx=run == "custom_run"))
    scene_image(60).save(to / "image.jpg")
    monkeypatch.chdir(to)
    blocks = re.findall(r"```python\n(.*?)```", (to / "README.md").read_text(), re.S)
    assert len(blocks) == 2 + (run == "custom_run")
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert "cat" in capsys.readouterr().out


def test_the_card_has_the_results_and_the_training_data(export_folder):
    card = ModelCard.load(export_folder / "README.md")
    assert card.data.library_name == "transformers" and "clip" in card.data.tags
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [("recall@10", 0.4219)]
    for words in (
        "# first",
        "| text → image R@10 | 42.2 % | 38.0 % to 46.0 % |",
        "`train`, fingerprint `aa11`",
        '"seed": 3',
    ):
        assert words in card.text, words


def test_single_checkpoints_and_runs_without_a_record_are_exported(clip_run, tmp_path):
    (checkpoint,) = Path(clip_run).glob("checkpoints/step-*")
    export.run(ExportConfig(checkpoint=str(checkpoint), to=str(tmp_path / "a")))
    assert "# first" in (tmp_path / "a" / "README.md").read_text()
    bare = commit_run(model_of("vit-tiny", tmp_path), tmp_path / "bare")
    export.run(ExportConfig(checkpoint=bare, to=str(tmp_path / "b")))
    text = (tmp_path / "b" / "README.md").read_text()
    assert "# b\n" in text and "training data are unknown" in text and "was not evaluated" in text


def test_the_newest_step_is_exported_and_evaluations_of_other_steps_are_named(custom_run, tmp_path, capsys):
    run = tmp_path / "first"
    shutil.copytree(custom_run, run)
    commit_run(model_of("conv-bag", tmp_path), run, step=9, record=json.dumps(RECORD))
    job.run(ExportConfig(checkpoint=str(run), to=str(tmp_path / "to")))
    output = capsys.readouterr().out
    assert "exported  step 9 to" in output and "evaluations of step 7 are left out" in output
    assert "loads     its towers (xmodal-conv and xmodal-bag) are no CLIP" in output
    assert "42.2 %" not in (tmp_path / "to" / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"checkpoint": "{parent}/fist"}, ConfigError, r"nothing at .*fist; did you mean 'first'\?"),
        ({"checkpoint": "{parent}/empty"}, CheckpointError, "holds no finished checkpoint"),
        ({"to": "{run}/export"}, ConfigError, "lies inside the run"),
        ({"to": "{run}"}, ConfigError, "lies inside the run"),
        ({"to": "{parent}/link/export"}, ConfigError, "lies inside the run"),
        ({"to": "{parent}/file/export"}, StorageError, "one of the directories in the path is a file"),
        ({"to": "{parent}/full"}, ConfigError, r"holds 1 file\(s\) \(notes.txt\): choose an empty folder"),
        ({"to": "{parent}/card", "overwrite": True}, ConfigError, "holds README.md, which no export wrote"),
        ({"to": "gs://bucket/model"}, StorageError, "scheme 'gs' is not supported"),
    ],
)
def test_mistakes_are_reported_in_one_sentence_before_anything_is_read(
    clip_run, change, kind, words, tmp_path, monkeypatch
):
    parent = tmp_path / "runs"
    parent.mkdir()
    (parent / "first").symlink_to(clip_run)
    (parent / "link").symlink_to(clip_run)
    for folder, name in (("full", "notes.txt"), ("card", "README.md"), ("empty", "run.json")):
        (parent / folder).mkdir()
        (parent / folder / name).write_text("{}")
    (parent / "file").write_text("")
    monkeypatch.setattr(export, "_fetch", lambda *arguments: pytest.fail("something was read"))
    fill = {"parent": str(parent), "run": clip_run}
    change = {name: value.format(**fill) if isinstance(value, str) else value for name, value in change.items()}
    before = sorted(path for path in parent.rglob("*"))
    with pytest.raises(kind, match=words) as refused:
        export.run(replace(ExportConfig(checkpoint=str(parent / "first"), to=str(tmp_path / "to")), **change))
    assert "\n" not in str(refused.value) and sorted(parent.rglob("*")) == before and not (tmp_path / "to").exists()


def test_a_directory_whose_embeddings_differ_is_not_written(clip_run, tmp_path, monkeypatch):
    write = export.write_image_processor

    def wrong(directory, pixels):
        write(directory, pixels)
        settings = json.loads((directory / "preprocessor_config.json").read_text())
        (directory / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}))

    monkeypatch.setattr(export, "write_image_processor", wrong)
    with pytest.raises(CheckpointError, match="the pixels of the image processor differ by"):
        export.run(ExportConfig(checkpoint=clip_run, to=str(tmp_path / "to")))
    assert not list(tmp_path.iterdir())


def test_checkpoints_that_are_damaged_or_lack_a_tokenizer_are_refused(tmp_path):
    run = commit_run(model_of("vit-tiny", tmp_path), tmp_path / "run")
    (weights,) = Path(run).glob("checkpoints/step-*/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.safetensors does not match its SHA-256"):
        export.run(ExportConfig(checkpoint=run, to=str(tmp_path / "to")))
    files = tmp_path / "files"
    model_of("vit-tiny", tmp_path).save_pretrained(files)
    commit(files, str(tmp_path / "bare" / "checkpoints"), step=1, attempt=1, run_id="a")
    with pytest.raises(XmodalError, match="holds no tokenizer"):
        export.run(ExportConfig(checkpoint=str(tmp_path / "bare"), to=str(tmp_path / "to")))
    assert not (tmp_path / "to").exists()


def test_onnx_without_its_packages_is_refused_with_the_command_to_install_them(clip_run, tmp_path, monkeypatch):
    monkeypatch.setattr("xmodal.export.onnx.REQUIRED_PACKAGES", ("no_such_package",))
    with pytest.raises(ConfigError, match=r"pip install 'xmodal\[onnx\]'"):
        export.run(ExportConfig(checkpoint=clip_run, to=str(tmp_path / "to"), onnx=True))


@pytest.mark.s3
def test_a_run_on_s3_is_exported_to_s3(clip_run, s3_root, tmp_path):
    for path in Path(clip_run).rglob("*"):
        if path.is_file():
            storage.upload(str(path), f"{s3_root}/runs/first/{path.relative_to(clip_run).as_posix()}")
    for overwrite in (False, True):
        result = export.run(
            ExportConfig(checkpoint=f"{s3_root}/runs/first", to=f"{s3_root}/model", overwrite=overwrite)
        )
    stored = {entry.uri.removeprefix(f"{s3_root}/model/") for entry in storage.list_files(f"{s3_root}/model")}
    assert stored == {*result.files, "export.json"}
    with pytest.raises(ConfigError, match="lies inside the run"):
        export.run(ExportConfig(checkpoint=f"{s3_root}/runs/first", to=f"{s3_root}/runs/first/model"))
    assert storage.read(f"{s3_root}/model/tokenizer.json").decode() == tokenizer()
