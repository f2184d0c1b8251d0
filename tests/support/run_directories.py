"""Build the directories of finished dual-encoder runs by hand: no cluster, a second each."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from support import corrupt_corpus
from xmodal.checkpoint import CheckpointWriter
from xmodal.data.decode.tokenizer import MIN_VOCAB_SIZE, special_ids, train_tokenizer
from xmodal.data.index.corpus import Corpus, open_corpus, read_extent
from xmodal.encoders.dual_encoder import DualEncoder
from xmodal.run import MetricsLog, Quarantine, QuarantineRecord, Run, create_run

STEPS, BATCH = 40, 24
ATTACK = "<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=\"alert(1)\">&amp;"
HOSTILE_CONFIG = {"name": "a run", "model": {"architecture": ATTACK}, "note": f"\u202e{ATTACK}\x00\x1b[31m", "rows": 1}


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, and the URI of the corpus that it was trained on."""

    run: Run
    corpus: str


def corpus(folder: Path) -> str:
    """Write a corpus of valid, bad and odd pairs, with captions and keys that attack a page; return its folder."""
    pairs = corrupt_corpus.all_samples()
    image = corrupt_corpus.encode(corrupt_corpus.random_image(7))
    pairs["attack"] = corrupt_corpus.Sample(image, ATTACK.encode())
    pairs["a&b<i>key</i>"] = corrupt_corpus.Sample(image, b"an ordinary caption")
    corrupt_corpus.write_tar(folder, pairs)
    return str(folder)


def run(
    folder: Path, name: str, corpus_uri: str, *, seed: int = 0, evaluated: bool = False, hostile: bool = False
) -> FinishedRun:
    """Create a run of STEPS steps on a corpus, with all its bad rows quarantined.

    `evaluated` adds an evaluation on the same corpus, `hostile` a configuration whose texts attack a page.
    """
    config = {
        "data": {"corpus": [corpus_uri], "fields": [], "index": None, "weights": []},
        "model": {"architecture": "conv-tiny"},
        "loss": {"objective": "info_nce"},
        "optim": {"batch_size": BATCH, "learning_rate": 1e-3 * (1 + seed), "precision": "fp32"},
        "resources": {"workers": 2},
        "seed": seed,
    } | (HOSTILE_CONFIG if hostile else {})
    opened = open_corpus(corpus_uri)
    created = create_run(str(folder), name, config=config, corpora={corpus_uri: opened.fingerprint})
    _write_metrics(created, opened, seed)
    _write_checkpoint(created, seed)
    if evaluated:
        _write_evaluation(created, corpus_uri, opened)
    return FinishedRun(created, corpus_uri)


def _write_metrics(run: Run, opened: Corpus, seed: int) -> None:
    """Write metrics.jsonl and the quarantine."""
    records = _quarantine_records(opened)
    with MetricsLog(run.uri, sinks=()) as log:
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
    quarantine = Quarantine(run.uri)
    quarantine.add(records)
    quarantine.sync()


def _quarantine_records(opened: Corpus) -> list[QuarantineRecord]:
    bad, records, row = corrupt_corpus.bad_samples(), [], 0
    for extent in range(len(opened.extents)):
        for sample in read_extent(opened, extent):
            if sample.key in bad:
                fault = bad[sample.key]
                records.append(
                    QuarantineRecord(
                        corpus=opened.uri, shard="00.tar", key=sample.key, row=row, offset=sample.offset,
                        field=fault.field, reason=fault.reason, detail=f"{ATTACK} \u202e", step=1, epoch=0,
                    )
                )  # fmt: skip
            row += 1
    return records


def _write_checkpoint(run: Run, seed: int) -> None:
    tokenizer = train_tokenizer(["picture number of a series", "an odd picture"] * 5, MIN_VOCAB_SIZE + 40)
    ids = special_ids(tokenizer)
    torch.manual_seed(seed)
    model = DualEncoder.create(
        "conv-tiny", vocab_size=ids.vocab_size, bos_id=ids.begin, eos_id=ids.end, pad_id=ids.pad, image_size=32,
        hidden_sizes=[8, 16], depths=[1, 1], text_width=16, text_depth=0, text_heads=2, context=16, dim=8,
    )  # fmt: skip
    with CheckpointWriter(run.checkpoints_uri, run_id=run.id, attempt=1) as writer:
        writer.save(STEPS, lambda directory: model.save_pretrained(directory, tokenizer_json=tokenizer))


def _write_evaluation(run: Run, corpus_uri: str, opened: Corpus) -> None:
    name = "text_to_image/recall@10"
    record = {
        "checkpoint": run.uri, "step": STEPS, "corpus": corpus_uri, "fingerprint": opened.fingerprint, "rows": 100,
        "skipped": 3, "metrics": {name: 0.42, "text_to_image/median_rank": 14.0}, "interval": {name: [0.38, 0.46]},
        "chance": {name: 0.1, "text_to_image/median_rank": 50.0}, "settings": {},
    }  # fmt: skip
    folder = Path(run.uri) / "evaluations"
    folder.mkdir()
    (folder / "held-out.json").write_text(json.dumps(record))


def write_comparison(before: FinishedRun, adapted: FinishedRun, target: str) -> None:
    """Write a comparison into the adapted run: two seeds of every arm, with texts that attack a page."""
    recall = {"before": 0.04, "control": 0.06, "centred": 0.15, "adapted": 0.2}
    arms = {
        arm: [_arm_run(before if arm == "before" else adapted, value + seed / 100) for seed in range(2)]
        for arm, value in recall.items()
    }
    record = {
        "adaptation": f"mmd {ATTACK}", "source": ATTACK, "target": target, "rows": {"source": 9, "oracle": 1234},
        "chance": {"oracle/text_to_image/recall@10": 0.02}, "arms": arms,
    }  # fmt: skip
    folder = Path(adapted.run.uri) / "comparisons"
    folder.mkdir()
    (folder / "target.json").write_text(json.dumps(record))


def _arm_run(finished: FinishedRun, recall: float) -> dict[str, Any]:
    metrics = {f"{domain}/text_to_image/recall@10": recall for domain in ("source", "oracle")}
    return {"checkpoint": f"{finished.run.uri}/checkpoints/{STEPS}", "step": STEPS, "metrics": metrics}
