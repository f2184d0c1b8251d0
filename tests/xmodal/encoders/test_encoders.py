"""The dual encoder: embeddings, temperature, padding, patch dropout, recomputation, parameter groups."""

import copy
import math
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor

from xmodal.batch import Batch
from xmodal.encoders import DualEncoder
from xmodal.errors import ConfigError
from xmodal.training.engine.optimizer import decay_groups

SIZES = {
    "vocab_size": 100,
    "bos_id": 98,
    "eos_id": 99,
    "pad_id": 0,
    "image_size": 16,
    "patch_size": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "text_width": 16,
    "text_depth": 2,
    "text_heads": 2,
    "context": 12,
    "dim": 8,
}


def tiny(**changes: object) -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder.create("vit-tiny", **SIZES | changes)


def batch_of(rows: int = 5, *, size: int = 16, context: int = 12) -> Batch:
    """Return random images, and captions of random length between the start and end tokens."""
    draw = torch.Generator().manual_seed(1)
    length = torch.randint(3, context + 1, (rows,), generator=draw, dtype=torch.int32)
    ids = torch.randint(1, 98, (rows, context), generator=draw, dtype=torch.int32)
    position = torch.arange(context)
    ids[:, 0] = 98
    ids[position == length[:, None] - 1] = 99
    ids[position >= length[:, None]] = 0
    fields = {
        "image": torch.randint(0, 256, (rows, size, size, 3), generator=draw, dtype=torch.uint8),
        "text": ids,
        "text_length": length,
        "text_id": torch.arange(rows),
    }
    return Batch(torch.arange(rows), torch.ones(rows, dtype=torch.bool), fields)


def gradients(model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    out = model(batch)
    (out["image"] @ out["text"].T).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_embeddings_are_unit_vectors_of_both_modalities() -> None:
    model, batch = tiny(), batch_of()
    assert model.modalities == ("image", "text")
    for modality in model.modalities:
        embedding = model.encode(modality, batch)
        assert embedding.shape == (5, model.dim) and embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))


def test_zero_features_give_zero_and_finite_gradients() -> None:
    model = tiny()
    for tower in model.towers.values():
        torch.nn.init.zeros_(tower.projection.weight)
    assert all(g.isfinite().all() for g in gradients(model, batch_of()).values())
    assert torch.equal(model.encode("image", batch_of()), torch.zeros(5, 8))


def test_a_padding_row_is_finite_and_does_not_change_the_others() -> None:
    model, batch = tiny().eval(), batch_of()
    padded = copy.deepcopy(batch)
    for column in padded.fields.values():
        column[2] = 0
    for modality in model.modalities:
        embedding = model.encode(modality, padded)
        assert embedding.isfinite().all()
        others = torch.tensor([0, 1, 3, 4])
        torch.testing.assert_close(embedding[others], model.encode(modality, batch)[others])


def test_padding_after_the_end_token_changes_nothing() -> None:
    model, batch = tiny().eval(), batch_of()
    shorter = int(batch.fields["text_length"].max())
    cut = Batch(batch.row, batch.valid, batch.fields | {"text": batch.fields["text"][:, :shorter]})
    other_pads = batch.fields["text"].clone()
    other_pads[torch.arange(12) >= batch.fields["text_length"][:, None]] = 57
    changed = Batch(batch.row, batch.valid, batch.fields | {"text": other_pads})
    torch.testing.assert_close(model.encode("text", cut), model.encode("text", batch))
    torch.testing.assert_close(model.encode("text", changed), model.encode("text", batch))


def test_a_token_of_the_caption_changes_the_embedding() -> None:
    model, batch = tiny().eval(), batch_of()
    before = model.encode("text", batch)
    batch.fields["text"][:, 1] = (batch.fields["text"][:, 1] + 1) % 98
    assert (before - model.encode("text", batch)).abs().max() > 1e-4


def test_temperature_starts_at_clips_value_and_is_clamped_to_100() -> None:
    model = tiny()
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    for value, clamped in ((7.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        model.log_scale.data.fill_(value)
        model.clamp_()
        assert model.log_scale.item() == pytest.approx(clamped)


def test_a_fixed_temperature_is_no_parameter() -> None:
    model = tiny(learnable_temperature=False)
    assert "log_scale" in model.state_dict()
    assert "log_scale" not in dict(model.named_parameters())


def test_the_logit_bias_exists_only_when_asked_for() -> None:
    assert tiny().logit_bias is None
    bias = tiny(with_logit_bias=True).logit_bias
    assert bias is not None and bias.item() == -10


def test_patch_dropout_keeps_the_class_token_and_a_share_of_the_patches() -> None:
    model, batch = tiny(), batch_of()
    backbone = model.tower("image").backbone
    full = backbone.embeddings(model.tower("image").input_adapter(batch)["pixel_values"])
    model.drop_patches(0.5)
    tokens = backbone.embeddings(model.tower("image").input_adapter(batch)["pixel_values"])
    assert tokens.shape == (5, 1 + 8, 16)
    assert torch.equal(tokens[:, 0], full[:, 0])
    distance = torch.cdist(tokens[:, 1:], full[:, 1:])
    assert (distance < 1e-6).sum(2).eq(1).all(), "each kept token is one of the patches"
    assert (distance < 1e-6).sum(1).le(1).all(), "none of them twice"


def test_patch_dropout_follows_the_seed_and_is_off_in_evaluation() -> None:
    model, batch = tiny(), batch_of()
    plain = model.eval().encode("image", batch)
    model.drop_patches(0.5)
    assert torch.equal(model.encode("image", batch), plain)
    model.train()
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(model.encode("image", batch))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    model.drop_patches(0.0)
    assert torch.equal(model.encode("image", batch), plain)


def test_recomputed_activations_give_the_same_gradients() -> None:
    batch = batch_of()
    plain, recomputing = tiny(), tiny()
    assert recomputing.checkpoint_activations() == ("image", "text")
    expected = gradients(plain, batch)
    actual = gradients(recomputing, batch)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_every_parameter_receives_a_gradient() -> None:
    model = tiny()
    assert gradients(model, batch_of()).keys() == dict(model.named_parameters()).keys() - {"log_scale"}


def test_bf16_autocast_gives_float32_embeddings_near_the_exact_ones() -> None:
    model, batch = tiny().eval(), batch_of()
    exact = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(batch)
    for modality in model.modalities:
        assert rounded[modality].dtype == torch.float32
        torch.testing.assert_close(rounded[modality].norm(dim=1), torch.ones(5))
        assert (rounded[modality] * exact[modality]).sum(1).min() > 0.99


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Disable the shape checks of the test run, which are no part of the graph."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("without_shape_checks")
def test_the_forward_pass_compiles_into_one_graph() -> None:
    model, batch = tiny(depth=1, text_depth=1), batch_of()
    model.drop_patches(0.5)
    torch.manual_seed(3)
    expected = model(batch)
    torch.manual_seed(3)
    actual = torch.compile(model, backend="eager", fullgraph=True)(batch)
    for modality in model.modalities:
        torch.testing.assert_close(actual[modality], expected[modality])


def test_initial_similarities_are_spread_around_zero() -> None:
    """If all pairs started alike, the loss would have no gradient between rows."""
    out = tiny()(batch_of(64))
    similarity = out["image"] @ out["text"].T
    assert similarity.abs().mean() < 0.7 and similarity.std() > 0.02


def test_each_trainable_parameter_is_in_exactly_one_group() -> None:
    model = tiny(with_logit_bias=True)
    groups = decay_groups(model, 0.2)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = ([names[id(p)] for p in group["params"]] for group in groups)
    assert sorted(decayed + plain) == sorted(names.values())
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert {"log_scale", "logit_bias", "towers.image.backbone.embeddings.class_embedding"} <= set(plain)
    assert not [name for name in decayed if name.endswith("bias") or "norm" in name]
    assert decayed == [name for name in names.values() if name in set(decayed)], "the model's order"


def test_a_frozen_parameter_is_in_no_group() -> None:
    model = tiny()
    model.tower("text").projection.requires_grad_(False)
    grouped = {id(p) for group in decay_groups(model, 0.1) for p in group["params"]}
    assert id(model.tower("text").projection.weight) not in grouped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos_id": 2}, "eos_id=2"),
        ({"eos_id": 100}, "outside the vocabulary"),
        ({"patch_size": 5}, "multiple of patch_size"),
        ({"heads": 3}, "divide into 3 heads"),
        ({"widht": 16}, "did you mean 'width'"),
    ],
)
def test_invalid_sizes_raise_a_config_error(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(**arguments)


def test_unknown_names_raise_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'vit-b-32'"):
        DualEncoder.create("vitb32", **SIZES)
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        tiny().encode("imag", batch_of())
    with pytest.raises(ConfigError, match="needs vocab_size"):
        DualEncoder.create("vit-b-32")
    with pytest.raises(ConfigError, match=r"outside \[0, 1\)"):
        tiny().drop_patches(1.0)
