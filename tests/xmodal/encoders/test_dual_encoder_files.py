"""Saved dual encoders: equal outputs after a round trip, also in transformers' classes, and clear errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from tests.xmodal.encoders.test_encoders import SIZES, batch_of, tiny
from xmodal.batch import Batch
from xmodal.encoders import DualEncoder
from xmodal.encoders.inputs import ImageInput
from xmodal.encoders.small_resnet import ConvConfig, ConvModel
from xmodal.encoders.tower import Tower
from xmodal.errors import CheckpointError, ConfigError
from xmodal.training.engine.optimizer import decay_groups

TEXT = {"vocab_size": 100, "bos_id": 98, "eos_id": 99, "pad_id": 0, "context": 12, "text_width": 16}
CONV = TEXT | {"image_size": 16, "hidden_sizes": [8, 16], "depths": [1, 2], "text_depth": 1, "text_heads": 2, "dim": 8}
OTHERS = {"conv-tiny": CONV, "resnet50-bert": CONV | {"stem_size": 8}}


def perturb(model: DualEncoder) -> DualEncoder:
    """Give the model weights that no initialisation gives, temperature and batch statistics included."""
    torch.manual_seed(5)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.rand(tensor.shape))
    return model.eval()


def assert_same(model: DualEncoder, other: DualEncoder) -> None:
    """Check that descriptions, states and embeddings are equal to the last bit."""
    assert other.describe() == model.describe()
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert state.keys() == model.state_dict().keys()
    batch, other = batch_of(), other.eval()
    for modality in model.modalities:
        assert torch.equal(model.encode(modality, batch), other.encode(modality, batch))


def byte_tokenizer() -> str:
    """Return a tokenizer of 100 tokens with two special ones at the end."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())[:97]])}
    vocabulary |= {"<start>": 98, "<end>": 99}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [("<start>", 98), ("<end>", 99)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    tokenizer.add_special_tokens(["<pad>", "<start>", "<end>"])
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>")
    return tokenizer.to_str()


@pytest.mark.parametrize("with_logit_bias", [False, True])
@pytest.mark.parametrize("learnable_temperature", [False, True])
def test_clip_round_trip(tmp_path: Path, with_logit_bias: bool, learnable_temperature: bool) -> None:
    model = perturb(tiny(with_logit_bias=with_logit_bias, learnable_temperature=learnable_temperature))
    model.save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path)
    assert_same(model, loaded)
    assert dict(loaded.named_parameters()).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("architecture", OTHERS)
def test_described_round_trip(tmp_path: Path, architecture: str) -> None:
    model = perturb(DualEncoder.create(architecture, with_logit_bias=True, **OTHERS[architecture]))
    model.save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path)
    assert_same(model, loaded)
    assert all(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("architecture", OTHERS)
def test_every_parameter_of_the_other_architectures_learns(architecture: str) -> None:
    model = DualEncoder.create(architecture, **OTHERS[architecture])
    out = model(batch_of())
    (out["image"] @ out["text"].T).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == ["log_scale"]
    assert sum(len(group["params"]) for group in decay_groups(model, 0.1)) == len(list(model.parameters()))


def test_the_small_network_embeds_rows_independently() -> None:
    model, batch = DualEncoder.create("conv-tiny", **CONV), batch_of(6)
    whole = model.train().encode("image", batch)
    parts = torch.cat([model.encode("image", part) for part in batch.chunks(2)])
    torch.testing.assert_close(whole, parts)


def test_masked_text_ignores_what_padding_holds() -> None:
    model = DualEncoder.create("resnet50-bert", **OTHERS["resnet50-bert"]).eval()
    batch = batch_of()
    before = model.encode("text", batch)
    outside = torch.arange(12) >= batch.fields["text_length"][:, None]
    batch.fields["text"][outside] = 57
    torch.testing.assert_close(model.encode("text", batch), before)
    batch.fields["text_length"][0] = 0
    assert model.encode("text", batch).isfinite().all()


def test_clip_model_loads_our_files_with_equal_features(tmp_path: Path) -> None:
    model, batch = perturb(tiny()), batch_of()
    model.save_pretrained(tmp_path)
    clip, report = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), "nothing missing, nothing left over"
    pixels = model.tower("image").input_adapter(batch)["pixel_values"]
    ids = batch.fields["text"].long()
    features = clip.get_image_features(pixel_values=pixels).pooler_output
    assert torch.equal(features, model.tower("image")(batch))
    assert torch.equal(clip.get_text_features(input_ids=ids).pooler_output, model.tower("text")(batch))
    assert torch.equal(clip.logit_scale, model.log_scale)
    mask = (torch.arange(12) < batch.fields["text_length"][:, None]).long()
    logits = clip(input_ids=ids, pixel_values=pixels, attention_mask=mask).logits_per_image
    expected = model.encode("image", batch) @ model.encode("text", batch).T * model.log_scale.exp()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_files_of_clip_model_load_with_equal_features(tmp_path: Path) -> None:
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = vision | {"vocab_size": 100, "max_position_embeddings": 12, "eos_token_id": 2, "bos_token_id": 0}
    sizes = {"image_size": 16, "patch_size": 4}
    clip = CLIPModel(CLIPConfig(vision_config=vision | sizes, text_config=text, projection_dim=8)).eval()
    clip.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    model, batch = DualEncoder.from_pretrained(tmp_path).eval(), batch_of()
    pixels = (batch.fields["image"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    torch.testing.assert_close(model.tower("image").input_adapter(batch)["pixel_values"], pixels)
    pixel_values = model.tower("image").input_adapter(batch)["pixel_values"]
    assert torch.equal(clip.get_image_features(pixel_values=pixel_values).pooler_output, model.tower("image")(batch))
    # eos_token_id 2 is the mark of checkpoints older than transformers 4.31: pooled at the highest id, which is 99.
    ids = batch.fields["text"].long()
    assert torch.equal(clip.get_text_features(input_ids=ids).pooler_output, model.tower("text")(batch))


def test_clip_processor_loads_with_equal_inputs(tmp_path: Path) -> None:
    model = tiny().eval()
    model.save_pretrained(tmp_path, tokenizer_json=byte_tokenizer())
    processor = CLIPProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    inputs = processor(text=["hello"], images=image, return_tensors="pt", padding="max_length", max_length=12)
    expected = Tokenizer.from_str(byte_tokenizer()).encode("hello").ids
    assert inputs["input_ids"][0].tolist() == expected + [0] * (12 - len(expected))
    assert AutoTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == expected
    batch = batch_of(1)
    batch.fields["image"][0] = torch.from_numpy(image)
    pixel_values = model.tower("image").input_adapter(batch)["pixel_values"]
    torch.testing.assert_close(inputs["pixel_values"], pixel_values, atol=1e-5, rtol=1e-5)


def test_a_tokenizer_directory_is_copied(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "first", tokenizer_json=byte_tokenizer())
    tiny().save_pretrained(tmp_path / "second", tokenizer_directory=tmp_path / "first")
    assert AutoTokenizer.from_pretrained(tmp_path / "second")("a")["input_ids"][-1] == 99
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        tiny().save_pretrained(tmp_path / "third", tokenizer_directory=tmp_path)


def test_another_models_tokenizer_raises(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ends captions with id 99, the model expects 150"):
        tiny(vocab_size=200, eos_id=150).save_pretrained(tmp_path, tokenizer_json=byte_tokenizer())
    with pytest.raises(CheckpointError, match="has 100 tokens, the model 90"):
        tiny(vocab_size=90, eos_id=89).save_pretrained(tmp_path, tokenizer_json=byte_tokenizer())


@pytest.mark.parametrize("architecture", OTHERS)
def test_one_tower_alone_loads_in_auto_model(tmp_path: Path, architecture: str) -> None:
    model = perturb(DualEncoder.create(architecture, **OTHERS[architecture]))
    backbone = model.tower("image").backbone
    backbone.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    pixels = model.tower("image").input_adapter(batch_of())
    assert torch.equal(loaded(**pixels).pooler_output, backbone(**pixels).pooler_output)


def hub_directories(root: Path) -> dict[str, str]:
    """Save a ViT, a ResNet, a BERT and a CLIP as their owners do, and return their directories."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    patches = {"image_size": 16, "patch_size": 4}
    text = small | {"vocab_size": 100, "max_position_embeddings": 12}
    clip = CLIPConfig(vision_config=small | patches, text_config=text | {"eos_token_id": 99}, projection_dim=8)
    saved = {
        "vit": ViTModel(ViTConfig(**small, **patches)),
        "resnet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        "bert": BertModel(BertConfig(**text)),
        "clip": CLIPModel(clip),
    }
    for name, model in saved.items():
        model.save_pretrained(root / name)
    return {name: str(root / name) for name in saved}


@pytest.mark.parametrize(("image", "text"), [("vit", "bert"), ("resnet", "clip"), ("clip", "bert")])
def test_hub_towers_load_pretrained_weights_and_survive_a_round_trip(tmp_path: Path, image: str, text: str) -> None:
    names = hub_directories(tmp_path)
    model = DualEncoder.create("hub", image=names[image], text=names[text], dim=8, image_size=16)
    original = AutoModel.from_pretrained(names[image]).state_dict()
    state = model.tower("image").backbone.state_dict()
    prefix = "vision_model." if image == "clip" else ""
    assert all(torch.equal(tensor, original[prefix + name]) for name, tensor in state.items())
    perturb(model).save_pretrained(tmp_path / "model")
    assert_same(model, DualEncoder.from_pretrained(tmp_path / "model"))


def test_hub_towers_have_no_dropout_and_no_unused_parameters(tmp_path: Path) -> None:
    names = hub_directories(tmp_path)
    model = DualEncoder.create("hub", image=names["vit"], text=names["bert"], dim=8).train()
    batch = batch_of()
    first, second = model(batch), model(batch)
    assert all(torch.equal(first[m], second[m]) for m in model.modalities)
    (first["image"] @ first["text"].T).square().sum().backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == ["log_scale"]


def test_patches_of_a_hub_vision_transformer_are_dropped_in_training(tmp_path: Path) -> None:
    names = hub_directories(tmp_path)
    model, batch = DualEncoder.create("hub", image=names["vit"], text=names["bert"], dim=8), batch_of()
    model.drop_patches(0.75)
    pixels = model.tower("image").input_adapter(batch)
    assert model.train().tower("image").backbone(**pixels).last_hidden_state.shape[1] == 1 + 4
    assert model.eval().tower("image").backbone(**pixels).last_hidden_state.shape[1] == 1 + 16


def test_a_dual_encoder_may_have_any_two_modalities(tmp_path: Path) -> None:
    """A photo and a sketch: two image fields, two networks, one space."""
    network = ConvConfig(hidden_sizes=[8], depths=[1], stem_size=8)
    towers = {
        field: Tower.with_head(ImageInput(field, size=16), ConvModel(network), 8, pooling="pooler", bias=False)
        for field in ("photo", "sketch")
    }
    model, batch = perturb(DualEncoder(towers)), batch_of()
    images = {"photo": batch.fields["image"], "sketch": 255 - batch.fields["image"]}
    both = Batch(batch.row, batch.valid, images)
    model.save_pretrained(tmp_path)
    loaded = DualEncoder.from_pretrained(tmp_path).eval()
    assert loaded.modalities == ("photo", "sketch")
    assert all(torch.equal(loaded(both)[m], model(both)[m]) for m in model.modalities)
    assert not torch.equal(model(both)["photo"], model(both)["sketch"])


def test_hub_architectures_without_weights_take_another_vocabulary(tmp_path: Path) -> None:
    names = hub_directories(tmp_path)
    arguments = {"image": names["vit"], "text": names["bert"], "vocab_size": 300, "pad_id": 299}
    model = DualEncoder.create("hub", pretrained=False, image_size=32, **arguments)
    assert model.tower("text").backbone.config.vocab_size == 300
    assert model.encode("image", batch_of(size=32)).shape == (5, 512)
    with pytest.raises(ConfigError, match="has 300 tokens"):
        DualEncoder.create("hub", **arguments)
    with pytest.raises(ConfigError, match="leave image_size out"):
        DualEncoder.create("hub", image=names["vit"], text=names["bert"], image_size=32)
    with pytest.raises(ConfigError, match="longer than the 12 positions"):
        DualEncoder.create("hub", image=names["vit"], text=names["bert"], context=13)


def test_patch_dropout_and_recomputation_depend_on_the_backbone(tmp_path: Path) -> None:
    model = DualEncoder.create("resnet50-bert", **OTHERS["resnet50-bert"])
    assert model.checkpoint_activations() == ("text",)
    with pytest.raises(ConfigError, match="vision transformer, not resnet"):
        model.drop_patches(0.5)


def test_weights_of_the_same_architecture_are_loaded(tmp_path: Path) -> None:
    model = perturb(tiny(with_logit_bias=True))
    model.save_pretrained(tmp_path)
    other = tiny(with_logit_bias=True)
    other.load_weights(tmp_path)
    assert_same(model, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, r"class_embedding is \[16\], expected \[32\]"),
        ({"depth": 3}, "layers.2.* is missing"),
        ({"depth": 1}, "layers.1.* is not expected"),
        ({"heads": 4}, "image.backbone.num_attention_heads is 2, expected 4"),
        ({"with_logit_bias": True}, "logit_bias is missing"),
    ],
)
def test_a_checkpoint_of_another_model_raises(tmp_path: Path, changes: dict, message: str) -> None:
    tiny().save_pretrained(tmp_path)
    other = tiny(**changes)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        other.load_weights(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items()), "unchanged"


def test_damaged_and_foreign_directories_raise(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read a model from"):
        DualEncoder.from_pretrained(tmp_path / "nowhere")
    bert = hub_directories(tmp_path)["bert"]
    with pytest.raises(CheckpointError, match="type 'bert', not a dual encoder"):
        DualEncoder.from_pretrained(bert)
    for architecture, arguments in {"vit-tiny": SIZES, "conv-tiny": CONV}.items():
        directory = tmp_path / architecture
        DualEncoder.create(architecture, **arguments).save_pretrained(directory)
        state = load_file(directory / "model.safetensors")
        save_file(dict(list(state.items())[3:]), directory / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match="missing"):
            DualEncoder.from_pretrained(directory)
        (directory / "model.safetensors").write_bytes(b"\0" * 20)
        with pytest.raises(CheckpointError, match="cannot read a model from"):
            DualEncoder.from_pretrained(directory)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read a model from"):
        DualEncoder.from_pretrained(tmp_path)
