"""Every preset builds a model, by its shapes only, so that large ones cost nothing; no network is needed."""

import json

import pytest

from jobs.presets import PRESETS
from jobs.pretrain import parse
from pipelines.models.dual_encoder import build_model
from support.export_fixtures import hub_sources
from support.model_flags import model_flags
from xmodal.data.decode.tokenizer import MIN_VOCAB_SIZE, special_ids, train_tokenizer


def padded(vocab_size: int) -> str:
    """Return a tokenizer of exactly `vocab_size` tokens: one of `train_tokenizer` with invented words."""
    body = json.loads(train_tokenizer((), MIN_VOCAB_SIZE))
    old = body["model"]["vocab"]
    words = [token for token in old if old[token] < len(old) - 3]
    words += [f"word{n}</w>" for n in range(vocab_size - len(old))]
    body["model"]["vocab"] = {token: n for n, token in enumerate([*words, "<pad>", "<|startoftext|>", "<|endoftext|>"])}
    ids = body["model"]["vocab"]
    for added in body["added_tokens"]:
        added["id"] = ids[added["content"]]
    body["post_processor"] |= {"sep": ["<|endoftext|>", vocab_size - 1], "cls": ["<|startoftext|>", vocab_size - 2]}
    body["padding"]["pad_id"] = vocab_size - 3
    return json.dumps(body)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "av-tiny"])
def test_the_model_of_every_preset_can_be_made(name, tmp_path):
    sources = hub_sources(tmp_path) if name == "hub" else {}
    flags = model_flags(sources)
    config = parse([name, "--corpus", "shards/", *flags])
    tokenizer = padded(600 if sources else config.model.vocab_size)
    assert special_ids(tokenizer).vocab_size == (600 if sources else config.model.vocab_size)
    model = build_model(config.model, config.loss, tokenizer, config.seed, meta=True)
    assert set(model.modalities) == {"image", "text"}
    sizes = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sizes and (name == "hub" or all(parameter.is_meta for parameter in sizes))
    text = model.tower("text").backbone.config
    assert text.vocab_size >= special_ids(tokenizer).vocab_size
    assert PRESETS[name].summary and config.optim == PRESETS[name].optim


def test_the_model_of_clips_needs_no_tokenizer():
    config = parse(["av-tiny", "--corpus", "clips/", "--model.seconds", "2", "--model.audio-grid", "2", "4"])
    model = build_model(config.model, config.loss, None, config.seed, meta=True)
    assert model.modalities == ("video", "audio") and all(parameter.is_meta for parameter in model.parameters())
    assert model.tower("audio").input_adapter.seconds == 2 and model.tower("audio").backbone.config.grid == [2, 4]
