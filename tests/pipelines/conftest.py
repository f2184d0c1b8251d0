"""Corpora and models that the pipeline tests of a session share."""

import pytest

from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.tokenizer import special_ids, train_tokenizer
from xmodal.encoders.dual_encoder import DualEncoder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A tar corpus of 240 captioned scenes of 32 px in shards of 60."""
    folder = tmp_path_factory.mktemp("scenes")
    synthetic.write_corpus(str(folder), "photo", 240, 0, rows_per_shard=60, size=32)
    return str(folder)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """A run whose only checkpoint, of step 7, is a tiny model as it was drawn."""
    import torch

    runs = tmp_path_factory.mktemp("untrained")
    words = [sample[1]["txt"].decode() for sample in synthetic.scene_samples("photo", 200, 0, size=32)]
    tokenizer = train_tokenizer(words, 600)
    ids = special_ids(tokenizer)
    torch.manual_seed(0)
    model = DualEncoder.create(
        "vit-tiny", image_size=32, patch_size=8, width=32, depth=1, heads=2, text_width=32, text_depth=1, text_heads=2,
        context=16, dim=32, vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad,
    )  # fmt: skip
    files = runs / "files"
    model.save_pretrained(files, tokenizer_json=tokenizer)
    commit(files, str(runs / "run" / "checkpoints"), step=7, attempt=1, run_id="a")
    yield str(runs / "run")
    assert [entry.name for entry in (runs / "run").iterdir()] == ["checkpoints"], "a test wrote into what all share"
