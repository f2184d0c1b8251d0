"""The bag of tokens: embeddings depend on which tokens a caption has and how often, and on nothing else."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from tests.xmodal.encoders.test_dual_encoder_files import CONV, assert_same, perturb
from tests.xmodal.encoders.test_encoders import batch_of
from xmodal.batch import Batch
from xmodal.encoders import DualEncoder
from xmodal.encoders.bag_of_tokens import BagModel
from xmodal.training.engine.optimizer import decay_groups


def bag(**changes: object) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder.create("conv-tiny", **CONV | {"text_depth": 0} | changes)


def with_text(batch: Batch, ids: torch.Tensor, length: torch.Tensor | None = None) -> Batch:
    changes = {"text": ids} | ({} if length is None else {"text_length": length})
    return Batch(batch.row, batch.valid, batch.fields | changes)


def test_text_depth_0_gives_a_bag_of_tokens() -> None:
    assert isinstance(bag().tower("text").backbone, BagModel)
    assert not isinstance(bag(text_depth=1).tower("text").backbone, BagModel)


def test_the_order_of_tokens_does_not_matter() -> None:
    model, batch = bag().eval(), batch_of()
    ids = batch.fields["text"].clone()
    for row, length in zip(ids, batch.fields["text_length"], strict=True):
        row[:length] = row[:length].flip(0)
    torch.testing.assert_close(model.encode("text", with_text(batch, ids)), model.encode("text", batch))


def test_each_token_and_its_count_matter() -> None:
    model, batch = bag().eval(), batch_of()
    before = model.encode("text", batch)
    other, repeated = batch.fields["text"].clone(), batch.fields["text"].clone()
    other[:, 1] = (other[:, 1] + 1) % 98
    repeated[:, 1] = 99  # each caption has one end token; now it has two
    for ids in (other, repeated):
        assert (model.encode("text", with_text(batch, ids)) - before).abs().amax(1).min() > 1e-4


def test_padding_does_not_matter_and_an_empty_row_is_finite() -> None:
    model, batch = bag().eval(), batch_of()
    ids, length = batch.fields["text"].clone(), batch.fields["text_length"]
    before = model.encode("text", batch)
    ids[torch.arange(ids.shape[1]) >= length[:, None]] = 57
    torch.testing.assert_close(model.encode("text", with_text(batch, ids)), before)
    none = with_text(batch, torch.zeros_like(ids), torch.zeros_like(length))
    assert model.encode("text", none).isfinite().all()


def test_every_parameter_learns() -> None:
    model = bag()
    out = model(batch_of())
    (out["image"] @ out["text"].T).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["log_scale"]
    assert sum(len(group["params"]) for group in decay_groups(model, 0.1)) == len(list(model.parameters()))


def test_initial_embeddings_of_different_captions_differ() -> None:
    """The embeddings are initialised small, so the layer norm must restore their differences."""
    embedding = bag(text_width=64).eval().encode("text", batch_of(32))
    similarity = (embedding @ embedding.T).fill_diagonal_(-1)
    assert similarity.max() < 0.98


@pytest.mark.parametrize("reader", ["dual encoder", "AutoModel"])
def test_a_saved_bag_loads_unchanged(tmp_path: Path, reader: str) -> None:
    model, batch = perturb(bag()), batch_of()
    if reader == "dual encoder":
        model.save_pretrained(tmp_path)
        assert_same(model, DualEncoder.from_pretrained(tmp_path))
        return
    tower = model.tower("text")
    tower.backbone.save_pretrained(tmp_path)
    backbone, inputs = AutoModel.from_pretrained(tmp_path).eval(), tower.input_adapter(batch)
    assert torch.equal(backbone(**inputs).pooler_output, tower.backbone(**inputs).pooler_output)
