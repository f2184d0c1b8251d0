"""A run's checkpoint in, a directory that other tools load out: weights, processors, model card, ONNX on request."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from json import loads
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.config.export import Config
from xmodal import checkpoint, storage
from xmodal.checkpoint import Found
from xmodal.encoders import dual_encoder_files
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.encoders.dual_encoder_files import WEIGHTS
from xmodal.encoders.hub_tokenizer import load_tokenizer
from xmodal.encoders.preprocessing import IMAGE_FILE, TOKENIZER_FILES, copy_tokenizer, write_image_processor
from xmodal.errors import ConfigError, nearest
from xmodal.export import card, onnx
from xmodal.export.check import check_directory
from xmodal.export.publish import claim, publish, staging
from xmodal.run.directory import RECORD, run_names
from xmodal.run.run_record import Recorded, read_run
from xmodal.storage import StorageOptions

CARD, MODEL_CONFIG = "README.md", "config.json"
COPIED = (MODEL_CONFIG, WEIGHTS)
ONNX_FILES = tuple(f"{onnx.FOLDER}/{modality}.onnx{more}" for modality in onnx.INPUTS for more in ("", ".data"))
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was written where; `loads` is one sentence about who can load it."""

    to: str
    step: int
    files: tuple[str, ...]
    bytes: int
    loads: str
    onnx: tuple[onnx.Checked, ...]
    other_steps: tuple[int, ...] = field(default=())  # evaluated, but not what was exported


def run(config: Config, notify: Notify = lambda message: None) -> Result:
    """Write the directory, whole or not at all, once transformers and onnxruntime give what the model gives."""
    options = config.storage
    found, recorded = _source(config)
    if config.onnx:
        _refuse_clips(found, options)
        onnx.check_extra()
    if recorded is not None:
        _refuse_inside(config.to, recorded.run.uri)
        for problem in recorded.problems:
            if problem.startswith("evaluations"):
                notify(problem)
    tokenizer = [record.path for record in found.files if record.path in TOKENIZER_FILES]
    names = [CARD, IMAGE_FILE, *COPIED, *tokenizer, *(ONNX_FILES if config.onnx else ())]
    place = claim(config.to, names, overwrite=config.overwrite, options=options)
    with staging(place) as staged, TemporaryDirectory(prefix="xmodal-export-") as scratch:
        notify(f"reading {found.uri}")
        material = _fill(config, found, recorded, Path(scratch), staged, notify)
        about = {"name": material.name, "step": found.step, "run_id": found.marker.run_id, "xmodal": material.version}
        records = publish(staged, place, about)
    return Result(
        to=config.to,
        step=found.step,
        files=tuple(record.path for record in records),
        bytes=sum(record.size for record in records),
        loads=card.what_loads(material.model, onnx=bool(material.onnx)),
        onnx=material.onnx,
        other_steps=tuple(card.other_steps(material.evaluations, found.step)),
    )


def _source(config: Config) -> tuple[Found, Recorded | None]:
    """The checkpoint, and what its run wrote down where it lies in one."""
    options, uri = config.storage, config.checkpoint
    if not storage.exists(uri, options=options):
        parent, _, name = storage.absolute(uri).rstrip("/").rpartition("/")
        raise ConfigError(f"there is nothing at {uri}; {nearest(name, run_names(parent, options=options))}")
    found = checkpoint.resolve(uri, options=options)
    place = storage.absolute(found.uri).rstrip("/").rpartition("/checkpoints/")[0]
    if place and storage.exists(storage.join(place, RECORD), options=options):
        return found, read_run(place, options=options)
    return found, None


def _refuse_inside(to: str, run: str) -> None:
    """ConfigError for a directory inside the run's own."""
    inner, outer = (_resolved(uri) for uri in (to, run))
    if f"{inner}/".startswith(f"{outer}/"):
        raise ConfigError(f"{to} lies inside the run {run}, whose directory is its own: choose another place")


def _resolved(uri: str) -> str:
    place = storage.absolute(uri).removeprefix("file://").rstrip("/")
    return place if "://" in place else os.path.realpath(place)


def _fill(
    config: Config, found: Found, recorded: Recorded | None, scratch: Path, staged: Path, notify: Notify
) -> card.Material:
    """All files of the directory, checked."""
    source = _fetch(found, scratch, config.storage)
    model = DualEncoder.from_pretrained(source).eval()
    for name in COPIED:
        shutil.copyfile(source / name, staged / name)
    if "text" in model.modalities:
        _add_processors(model, source, staged, notify)
    weights = next(record.sha256 for record in found.files if record.path == WEIGHTS)
    checked: tuple[onnx.Checked, ...] = ()
    if config.onnx:
        notify("writing both towers as ONNX")
        checked = onnx.write(model, staged, {"step": str(found.step), "weights_sha256": weights})
    material = card.Material(
        name=_name(config, source, recorded),
        version=metadata.version("xmodal"),
        model=model,
        step=found.step,
        weights=weights,
        record=_record(source, recorded),
        at=_metrics_at(found.step, recorded),
        evaluations=recorded.evaluations if recorded else (),
        onnx=checked,
    )
    (staged / CARD).write_text(card.write_card(material), encoding="utf-8", errors="backslashreplace")
    return material


def _refuse_clips(found: Found, options: StorageOptions) -> None:
    """ConfigError where a model has no towers for pictures and captions, which alone are written as ONNX."""
    described = loads(storage.read(storage.join(found.uri, MODEL_CONFIG), options=options))
    intakes = dual_encoder_files.intakes_in(described)
    if intakes and "text" not in intakes:
        raise ConfigError(f"--onnx is for pictures and captions, not for {' and '.join(intakes)}: leave it out")


def _add_processors(model: DualEncoder, source: Path, staged: Path, notify: Notify) -> None:
    """What makes inputs of pictures and captions, checked to give the model's own vectors in transformers."""
    copy_tokenizer(staged, source)
    write_image_processor(staged, model.tower("image").intake)
    notify("comparing what transformers makes of it with the model")
    check_directory(staged, model, load_tokenizer(str(source)))


def _fetch(found: Found, scratch: Path, options: StorageOptions) -> Path:
    """A verified copy of what an export needs."""
    needed = {*COPIED, IMAGE_FILE, RECORD, *TOKENIZER_FILES}
    skip = [record.path for record in found.files if record.path not in needed]
    return checkpoint.fetch(found, scratch, skip=skip, options=options)


def _record(source: Path, recorded: Recorded | None) -> Mapping[str, Any]:
    """`run.json` as it was when the checkpoint was written, else as the run has it now; empty where there is none."""
    path = source / RECORD
    if path.is_file():
        return loads(path.read_text(encoding="utf-8"))
    return recorded.run.record if recorded else {}


def _name(config: Config, source: Path, recorded: Recorded | None) -> str:
    name = _record(source, recorded).get("name")
    return str(name or config.to.rstrip("/").rpartition("/")[2])


def _metrics_at(step: int, recorded: Recorded | None) -> Mapping[str, Any]:
    """The last line of metrics up to the step."""
    lines = [line for line in recorded.metrics if line["step"] <= step] if recorded else []
    return lines[-1] if lines else {}
