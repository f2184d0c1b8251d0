"""The preprocessing files of a model directory (image processor, tokenizer), as transformers expects them."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from xmodal.data.decode.tokenizer import save_tokenizer, special_ids
from xmodal.encoders.hub_files import reading_errors
from xmodal.encoders.inputs import CLIP_MEAN, CLIP_STD, ImageInput
from xmodal.errors import CheckpointError

IMAGE_FILE = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def write_image_processor(directory: Path, image_input: ImageInput) -> None:
    """Write CLIP's processor: shorter side to `size` (bicubic), centre crop, RGB, 0..1, mean and variance."""
    size = image_input.size
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",  # what AutoProcessor builds from it and from the tokenizer
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,  # PIL's number of bicubic
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": image_input.mean,
        "image_std": image_input.std,
    }
    write_json(directory / IMAGE_FILE, settings)


def read_normalisation(source: str) -> dict[str, list[float]]:
    """Return `mean` and `std` that a directory or Hub name states for its images; CLIP's own if it states none."""
    with reading_errors(source):
        path = cached_file(source, IMAGE_FILE, _raise_exceptions_for_missing_entries=False)
        settings = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    return {
        "mean": settings.get("image_mean") or list(CLIP_MEAN),
        "std": settings.get("image_std") or list(CLIP_STD),
    }


def write_tokenizer(directory: Path, tokenizer_json: str, config: PreTrainedConfig, length: int) -> None:
    """Write the tokenizer that the model was trained with; CheckpointError for one whose ids do not fit the model."""
    special = special_ids(tokenizer_json)
    if special.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {special.vocab_size} tokens, the model {config.vocab_size}: "
            "give the model's own tokenizer"
        )
    # CLIP checkpoints older than transformers 4.31 state 2, whatever their end token is.
    if getattr(config, "eos_token_id", None) not in (None, 2, special.end):
        raise CheckpointError(
            f"the tokenizer ends captions with id {special.end}, the model expects {config.eos_token_id}: "
            "give the model's own tokenizer"
        )
    save_tokenizer(tokenizer_json, directory, length)


def copy_tokenizer(directory: Path, source: Path) -> None:
    """Copy the tokenizer files of another directory; CheckpointError if there are none."""
    files = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not files:
        raise CheckpointError(f"{source} holds no tokenizer: expected one of {', '.join(TOKENIZER_FILES)}")
    for path in files:
        shutil.copyfile(path, directory / path.name)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a mapping as indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
