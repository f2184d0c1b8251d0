"""Tiny models of every kind of tower, and their checkpoints in runs, for the export tests."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from xmodal.checkpoint import commit
from xmodal.data import synthetic
from xmodal.data.decode.tokenizer import special_ids, train_tokenizer
from xmodal.encoders import DualEncoder

TEXT = {"text_width": 32, "text_depth": 1, "text_heads": 2, "context": 32, "dim": 32}
IMAGE = {"image_size": 32, "hidden_sizes": (16, 32), "depths": (1, 1)}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit-tiny": ("vit-tiny", TEXT | {"image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2}),
    "conv-tiny": ("conv-tiny", TEXT | IMAGE),
    "conv-bag": ("conv-tiny", TEXT | IMAGE | {"text_depth": 0}),
    "resnet50-bert": ("resnet50-bert", TEXT | IMAGE | {"stem_size": 8}),
    "hog-tiny": ("hog-tiny", {"context": 32, "dim": 32}),
    "hub": ("hub", {"dim": 32}),
}


def tokenizer() -> str:
    """Return a tokenizer of 600 tokens, trained on captions of scenes."""
    return train_tokenizer(
        [sample[1]["txt"].decode() for sample in synthetic.scene_samples("photo", 200, 0, size=32)], 600
    )


def model_of(kind: str, hub: Path) -> DualEncoder:
    """Return a model with the weights of seed 0 and perturbed statistics; `hub` is a folder for pretrained sources."""
    architecture, arguments = KINDS[kind]
    torch.manual_seed(0)
    if architecture == "hub":
        arguments = arguments | hub_sources(hub)
    else:
        ids = special_ids(tokenizer())
        arguments = arguments | {
            "vocab_size": ids.vocab_size, "bos_id": ids.begin, "eos_id": ids.end, "pad_id": ids.pad
        }  # fmt: skip
    model = DualEncoder.create(architecture, **arguments)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.02 * torch.rand(tensor.shape))
    return model.eval()


def hub_sources(folder: Path) -> dict[str, str]:
    """Save a ViT and a BERT as their owners do, and return their directories."""
    small = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(folder / "vit")
    BertModel(BertConfig(**small, vocab_size=600, max_position_embeddings=32)).save_pretrained(folder / "bert")
    return {"image": str(folder / "vit"), "text": str(folder / "bert")}


def commit_run(model: DualEncoder, run: Path, *, step: int = 7, record: str | None = None) -> str:
    """Write a run whose only checkpoint is the model, and return it; `record` is the text of its run.json."""
    files = run.parent / f"{run.name}-files"
    model.save_pretrained(files, tokenizer_json=tokenizer())
    if record is not None:
        run.mkdir(parents=True, exist_ok=True)
        (run / "run.json").write_text(record)
        (files / "run.json").write_text(record)
    commit(files, str(run / "checkpoints"), step=step, attempt=1, run_id="a")
    return str(run)
