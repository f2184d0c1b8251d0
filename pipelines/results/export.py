"""Export a run's checkpoint as a directory that other tools load: weights, processors, model card, ONNX on request."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from json import loads
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.config.export import ExportConfig
from xmodal import checkpoint, storage
from xmodal.callbacks import Notify
from xmodal.checkpoint import CheckpointRef
from xmodal.encoders import dual_encoder_files
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.dual_encoder_files import WEIGHTS
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.encoders.preprocessing import IMAGE_FILE, TOKENIZER_FILES, copy_tokenizer, write_image_processor
from xmodal.errors import ConfigError, nearest
from xmodal.export import onnx
from xmodal.export.card import CardContent, loading_note, render_card
from xmodal.export.check import check_directory
from xmodal.export.origin import other_evaluated_steps
from xmodal.export.publish import prepare_target, publish, staging_directory
from xmodal.run.directory import RECORD, run_names
from xmodal.run.run_record import RunRecord, read_run_record
from xmodal.storage import StorageOptions

CARD, MODEL_CONFIG = "README.md", "config.json"
COPIED_FILES = (MODEL_CONFIG, WEIGHTS)
ONNX_FILES = tuple(f"{onnx.FOLDER}/{modality}.onnx{suffix}" for modality in onnx.INPUTS for suffix in ("", ".data"))


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written where; `loads` is a sentence that says which tools load it."""

    to: str
    step: int
    files: tuple[str, ...]
    bytes: int
    loads: str
    onnx: tuple[onnx.OnnxFile, ...]
    other_steps: tuple[int, ...] = field(default=())  # that were evaluated, but are not the exported step


def run(config: ExportConfig, notify: Notify = lambda message: None) -> ExportResult:
    """Write the directory, all or nothing, after transformers and onnxruntime have reproduced the model's output."""
    options = config.storage
    source, record = _find_source(config)
    if config.onnx:
        _check_modalities(source, options)
        onnx.require_onnx_packages()
    if record is not None:
        _check_outside_run(config.to, record.run.uri)
        for problem in record.problems:
            if problem.startswith("evaluations"):
                notify(problem)
    tokenizer_files = [file.path for file in source.files if file.path in TOKENIZER_FILES]
    names = [CARD, IMAGE_FILE, *COPIED_FILES, *tokenizer_files, *(ONNX_FILES if config.onnx else ())]
    target = prepare_target(config.to, names, overwrite=config.overwrite, options=options)
    with staging_directory(target) as staged, TemporaryDirectory(prefix="xmodal-export-") as scratch:
        notify(f"reading {source.uri}")
        content = _fill_directory(config, source, record, Path(scratch), staged, notify)
        about = {"name": content.name, "step": source.step, "run_id": source.marker.run_id, "xmodal": content.version}
        files = publish(staged, target, about)
    return ExportResult(
        to=config.to,
        step=source.step,
        files=tuple(file.path for file in files),
        bytes=sum(file.size for file in files),
        loads=loading_note(content.model, onnx=bool(content.onnx)),
        onnx=content.onnx,
        other_steps=tuple(other_evaluated_steps(content.evaluations, source.step)),
    )


def _find_source(config: ExportConfig) -> tuple[CheckpointRef, RunRecord | None]:
    """Return the checkpoint, and the record of the run that it lies in, if any."""
    options, uri = config.storage, config.checkpoint
    if not storage.exists(uri, options=options):
        parent, _, name = storage.absolute(uri).rstrip("/").rpartition("/")
        raise ConfigError(f"there is nothing at {uri}; {nearest(name, run_names(parent, options=options))}")
    source = checkpoint.resolve(uri, options=options)
    run_uri = storage.absolute(source.uri).rstrip("/").rpartition("/checkpoints/")[0]
    if run_uri and storage.exists(storage.join(run_uri, RECORD), options=options):
        return source, read_run_record(run_uri, options=options)
    return source, None


def _check_outside_run(to: str, run: str) -> None:
    """Raise ConfigError where the target lies inside the run's directory."""
    inner, outer = (_real_path(uri) for uri in (to, run))
    if f"{inner}/".startswith(f"{outer}/"):
        raise ConfigError(f"{to} lies inside the run {run}, whose directory is its own: choose another folder")


def _real_path(uri: str) -> str:
    path = storage.absolute(uri).removeprefix("file://").rstrip("/")
    return path if "://" in path else os.path.realpath(path)


def _fill_directory(
    config: ExportConfig, source: CheckpointRef, record: RunRecord | None, scratch: Path, staged: Path, notify: Notify
) -> CardContent:
    """Write and check all files of the directory."""
    files = _fetch(source, scratch, config.storage)
    model = DualEncoder.from_pretrained(files).eval()
    for name in COPIED_FILES:
        shutil.copyfile(files / name, staged / name)
    if "text" in model.modalities:
        _write_processors(model, files, staged, notify)
    weights = next(file.sha256 for file in source.files if file.path == WEIGHTS)
    onnx_files: tuple[onnx.OnnxFile, ...] = ()
    if config.onnx:
        notify("writing both towers as ONNX")
        onnx_files = onnx.write_onnx(model, staged, {"step": str(source.step), "weights_sha256": weights})
    content = CardContent(
        name=_model_name(config, files, record),
        version=metadata.version("xmodal"),
        model=model,
        step=source.step,
        weights=weights,
        record=_run_json(files, record),
        metrics=_metrics_at(source.step, record),
        evaluations=record.evaluations if record else (),
        onnx=onnx_files,
    )
    (staged / CARD).write_text(render_card(content), encoding="utf-8", errors="backslashreplace")
    return content


def _check_modalities(source: CheckpointRef, options: StorageOptions) -> None:
    """Raise ConfigError for a model without an image and a text tower, which alone are written as ONNX."""
    model_config = loads(storage.read(storage.join(source.uri, MODEL_CONFIG), options=options))
    modalities = dual_encoder_files.input_adapters_in(model_config)
    if modalities and "text" not in modalities:
        raise ConfigError(f"--onnx is for models of image and text, not of {' and '.join(modalities)}: leave it out")


def _write_processors(model: DualEncoder, files: Path, staged: Path, notify: Notify) -> None:
    """Write the tokenizer and the image processor, and check that transformers reproduces the model with them."""
    copy_tokenizer(staged, files)
    write_image_processor(staged, model.tower("image").input_adapter)
    notify("comparing the output of transformers with the model's")
    check_directory(staged, model, load_tokenizer(str(files)))


def _fetch(source: CheckpointRef, scratch: Path, options: StorageOptions) -> Path:
    """Return a local, verified copy of the files that an export needs."""
    needed = {*COPIED_FILES, IMAGE_FILE, RECORD, *TOKENIZER_FILES}
    skip = [file.path for file in source.files if file.path not in needed]
    return checkpoint.fetch(source, scratch, skip=skip, options=options)


def _run_json(files: Path, record: RunRecord | None) -> Mapping[str, object]:
    """Return `run.json` from the checkpoint, else as the run has it now; empty where there is none."""
    path = files / RECORD
    if path.is_file():
        content: Mapping[str, object] = loads(path.read_text(encoding="utf-8"))
        return content
    return record.run.record if record else {}


def _model_name(config: ExportConfig, files: Path, record: RunRecord | None) -> str:
    """Return the name of the run; of a checkpoint without a record the name of the target folder."""
    name = _run_json(files, record).get("name")
    return str(name or config.to.rstrip("/").rpartition("/")[2])


def _metrics_at(step: int, record: RunRecord | None) -> Mapping[str, object]:
    """Return the last line of metrics up to the step; empty where there is none."""
    lines = [line for line in record.metrics if line["step"] <= step] if record else []
    return lines[-1] if lines else {}
