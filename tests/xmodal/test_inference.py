"""`xmodal.load`: the same vectors as the model gives, from files, bytes, URIs and PIL images."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xmodal
from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.tokenizer import special_ids, train_tokenizer
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.errors import CheckpointError, ConfigError, StorageError

CAPTIONS = ["a red circle on a wooden table", "two blue squares", "a green star"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dual encoder as a Hugging Face directory."""
    tokenizer = train_tokenizer(
        [sample[1]["txt"].decode() for sample in synthetic.scene_samples("photo", 60, 0, size=32)], 600
    )
    ids = special_ids(tokenizer)
    torch.manual_seed(0)
    model = DualEncoder.create(
        "vit-tiny", image_size=32, patch_size=8, width=32, depth=1, heads=2, text_width=32, text_depth=1, text_heads=2,
        context=16, dim=24, vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder, tokenizer_json=tokenizer)
    return folder


@pytest.fixture(scope="module")
def run(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one committed checkpoint of that model."""
    folder = tmp_path_factory.mktemp("run")
    commit(directory, str(folder / "checkpoints"), step=3, attempt=1, run_id="a")
    return folder


def image(seed: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (40, 52, 3), np.uint8), "RGB").convert(mode)


def as_png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_paths_bytes_and_pil_images_give_the_same_unit_vectors(directory: Path, tmp_path: Path) -> None:
    model = xmodal.load(directory)
    pictures = [image(seed) for seed in range(5)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    expected = model.encode_images(pictures)
    assert expected.shape == (5, model.dim) and expected.dtype == torch.float32 and not expected.requires_grad
    assert torch.allclose(expected.norm(dim=1), torch.ones(5), atol=1e-5)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for same in (paths, list(map(str, paths)), [f"file://{path}" for path in paths], list(map(as_png, pictures))):
        assert torch.equal(model.encode_images(same), expected)


def test_a_run_its_checkpoint_and_the_directory_are_the_same_model(directory: Path, run: Path) -> None:
    expected = xmodal.load(directory).encode_texts(CAPTIONS)
    checkpoint = next((run / "checkpoints").iterdir())
    for source in (run, str(run), checkpoint, run / "checkpoints"):
        loaded = xmodal.load(source)
        assert torch.equal(loaded.encode_texts(CAPTIONS), expected)
        assert str(checkpoint) in loaded.source


def test_the_size_of_a_batch_changes_no_vector_beyond_rounding(directory: Path) -> None:
    pictures = [image(seed) for seed in range(7)]
    expected = xmodal.load(directory).encode_images(pictures)
    assert torch.allclose(xmodal.load(directory, batch_size=2).encode_images(pictures), expected, atol=1e-6)


def test_similarity_is_the_cosine_of_every_image_with_every_caption(directory: Path) -> None:
    model = xmodal.load(directory)
    pictures = [image(0), image(1)]
    cosines = model.similarity(pictures, CAPTIONS)
    assert cosines.shape == (2, 3) and cosines.abs().max() <= 1 + 1e-6
    assert torch.equal(cosines, model.encode_images(pictures) @ model.encode_texts(CAPTIONS).T)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "HSV"])
def test_pil_images_of_any_mode_are_taken(directory: Path, mode: str) -> None:
    picture = image(0, "RGB").convert(mode)
    assert xmodal.load(directory).encode_images([picture]).isfinite().all()


def test_nothing_in_gives_no_rows(directory: Path) -> None:
    model = xmodal.load(directory)
    assert model.encode_images([]).shape == (0, model.dim)
    assert model.similarity([], CAPTIONS).shape == (0, 3)


def test_bad_inputs_are_named(directory: Path, tmp_path: Path) -> None:
    model = xmodal.load(directory)
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match=r"image 1 \(.*page.jpg'\): not_an_image"):
        model.encode_images([image(0), tmp_path / "page.jpg"])
    with pytest.raises(StorageError, match=r"nothing.jpg"):
        model.encode_images([tmp_path / "nothing.jpg"])
    with pytest.raises(ConfigError, match=r"text 0 \('  '\): no_caption"):
        model.encode_texts(["  "])
    with pytest.raises(ConfigError, match="takes a list of inputs, not one str"):
        model.encode("text", "a cat")
    with pytest.raises(ConfigError, match=r"no tower for 'audio'; .*image, text"):
        model.encode("audio", [])


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        xmodal.load(tmp_path)
    with pytest.raises(StorageError):
        xmodal.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="batch_size=0"):
        xmodal.load(tmp_path, batch_size=0)
