"""Runs as their directories look after training, made by hand: no cluster, a second each."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from support import corrupt_corpus
from xmodal.checkpoint import CheckpointWriter
from xmodal.data.decode.tokenizer import SMALLEST_VOCABULARY, special_ids, train_tokenizer
from xmodal.data.index.corpus import Corpus, open_corpus, read_extent
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run import MetricsLog, Quarantine, QuarantineRecord, Run, create_run

STEPS, BATCH = 40, 24
ATTACK = "<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=\"alert(1)\">&amp;"
LIVELY = {"name": "a run", "model": {"architecture": ATTACK}, "note": f"\u202e{ATTACK}\x00\x1b[31m", "rows": 1}


@dataclass(frozen=True)
class Made:
    """A finished run, and the corpus it was trained on."""

    run: Run
    corpus: str


def corpus(folder: Path) -> str:
    """Sound, bad and odd pairs, and captions that attack a page."""
    pairs = corrupt_corpus.samples()
    image = corrupt_corpus.encode(corrupt_corpus.picture(7))
    pairs["attack"] = corrupt_corpus.Sample(image, ATTACK.encode())
    pairs["a&b<i>key</i>"] = corrupt_corpus.Sample(image, b"an ordinary caption")
    corrupt_corpus.write_tar(folder, pairs)
    return str(folder)


def run(folder: Path, name: str, where: str, *, seed: int = 0, evaluated: bool = False, hostile: bool = False) -> Made:
    """A run of STEPS steps on the corpus at `where`, all its bad rows quarantined."""
    config = {
        "data": {"corpus": [where], "fields": [], "index": None, "weights": []},
        "model": {"architecture": "conv-tiny"},
        "loss": {"objective": "info_nce"},
        "optim": {"batch_size": BATCH, "learning_rate": 1e-3 * (1 + seed), "precision": "fp32"},
        "resources": {"workers": 2},
        "seed": seed,
    } | (LIVELY if hostile else {})
    opened = open_corpus(where)
    made = create_run(str(folder), name, config=config, corpora={where: opened.fingerprint})
    _log(made, opened, seed)
    _checkpoint(made, seed)
    if evaluated:
        _evaluation(made, where, opened)
    return Made(made, where)


def _log(made: Run, opened: Corpus, seed: int) -> None:
    records = _records(opened)
    with MetricsLog(made.uri, sinks=()) as log:
        for step in range(5, STEPS + 1, 5):
            rows = step * BATCH
            log.log(
                step,
                {
                    "loss": 3.2 - step / 20 + seed / 10, "lr": 1e-3, "grad_norm": 1.0, "temperature": 0.07,
                    "samples_per_s": 100.0, "data_wait_share": 0.25, "epoch": rows / opened.rows,
                    "rows/planned": rows, "rows/delivered": rows - len(records), "rows/quarantined": len(records),
                    "rows/padding": 0,
                },
            )  # fmt: skip
    quarantine = Quarantine(made.uri)
    quarantine.add(records)
    quarantine.sync()


def _records(opened: Corpus) -> list[QuarantineRecord]:
    bad, found, row = corrupt_corpus.bad(), [], 0
    for extent in range(len(opened.extents)):
        for sample in read_extent(opened, extent):
            if sample.key in bad:
                wanted = bad[sample.key]
                found.append(
                    QuarantineRecord(
                        corpus=opened.uri, shard="00.tar", key=sample.key, row=row, offset=sample.offset,
                        field=wanted.field, reason=wanted.reason, detail=f"{ATTACK} \u202e", step=1, epoch=0,
                    )
                )  # fmt: skip
            row += 1
    return found


def _checkpoint(made: Run, seed: int) -> None:
    tokenizer = train_tokenizer(["picture number of a series", "an odd picture"] * 5, SMALLEST_VOCABULARY + 40)
    ids = special_ids(tokenizer)
    torch.manual_seed(seed)
    model = DualEncoder.create(
        "conv-tiny", vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad, image_size=32,
        hidden_sizes=[8, 16], depths=[1, 1], text_width=16, text_depth=0, text_heads=2, context=16, dim=8,
    )  # fmt: skip
    with CheckpointWriter(made.checkpoints_uri, run_id=made.id, attempt=1) as writer:
        writer.save(STEPS, lambda directory: model.save_pretrained(directory, tokenizer_json=tokenizer))


def _evaluation(made: Run, where: str, opened: Corpus) -> None:
    name = "text_to_image/recall@10"
    record = {
        "checkpoint": made.uri, "step": STEPS, "corpus": where, "fingerprint": opened.fingerprint, "rows": 100,
        "skipped": 3, "metrics": {name: 0.42, "text_to_image/median_rank": 14.0}, "interval": {name: [0.38, 0.46]},
        "chance": {name: 0.1, "text_to_image/median_rank": 50.0}, "settings": {},
    }  # fmt: skip
    folder = Path(made.uri) / "evaluations"
    folder.mkdir()
    (folder / "held-out.json").write_text(json.dumps(record))
