"""Turn a table or folder of images and captions into a corpus: shards, an index, and a list of rejected rows.

Every shard is a pure function of the plan, appears whole, and is followed by a small receipt. A run that was killed
continues where a receipt is missing, so its shards are the same bytes as those of an uninterrupted run.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.config.prepare import PrepareConfig
from pipelines.runtime.processes import map_in_processes
from xmodal import storage
from xmodal.callbacks import Notify, Progress
from xmodal.data.formats.pair_shards import SHARD_BUILDERS
from xmodal.data.index.corpus import open_corpus
from xmodal.data.prepare.pair_reader import pair_hash, read_pair
from xmodal.data.prepare.pairs import read_pairs
from xmodal.data.prepare.shard_plan import ShardPlan, plan_shards, rejection_record
from xmodal.errors import BadSample, CorpusError
from xmodal.storage.local import PARTIAL

RECORD, RECEIPTS, REFUSED = "_xmodal_prepare.json", "_xmodal_prepare", "_refused.jsonl"
OURS = re.compile(r"\d{5,}\.(tar|parquet)|_refused\.jsonl|_xmodal_[a-z_]+(\.[a-z]+|/.*)")
UNSHUFFLED = "that of the source"  # what a target of before has
_READERS = 8  # images of one shard read at once


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What the target holds after a run."""

    target: str
    rows: int
    refused: dict[str, int]  # reason -> rows
    shards: int
    bytes: int
    reused_shards: int  # written by an earlier run
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """One shard to write, with all that a worker process needs."""

    number: int
    rows: pa.Table
    base: str
    caption_key: str | None
    config: PrepareConfig


@dataclass(frozen=True, kw_only=True)
class ShardReceipt:
    """What became of one shard; stored after it. A shard whose rows were all rejected has no file."""

    shard: str
    rows: int
    bytes: int
    refused: list[dict[str, Any]] = field(default_factory=list)

    @property
    def source_rows(self) -> int:
        return self.rows + len(self.refused)


def run(config: PrepareConfig, *, progress: Progress | None = None, notify: Notify = print) -> PrepareSummary:
    """Prepare the corpus, or finish it, or report that it is complete. XmodalError names what the user can fix."""
    started = time.monotonic()
    plan = make_plan(config)
    record = _record(config, plan)
    receipts = _claim(config, record, notify)
    reused = sum(r.rows > 0 for r in receipts.values())
    for receipt in _write_missing(config, plan, receipts, progress):
        receipts[receipt.shard] = receipt
    rows = _finish(config, plan, list(receipts.values()))
    refused = Counter(item["reason"] for item in rows)
    return PrepareSummary(
        target=config.target, rows=sum(r.rows for r in receipts.values()), refused=dict(refused.most_common()),
        shards=sum(r.rows > 0 for r in receipts.values()), bytes=sum(r.bytes for r in receipts.values()),
        reused_shards=reused, seconds=time.monotonic() - started,
    )  # fmt: skip


def make_plan(config: PrepareConfig) -> ShardPlan:
    """Decide which row of the source goes into which shard.

    Raises where the source cannot be read or the target cannot be written.
    """
    listing = read_pairs(
        config.source, image_column=config.image_column, caption_column=config.caption_column,
        base=config.base, options=config.storage,
    )  # fmt: skip
    storage.check(config.target, writable=True, options=config.storage)
    return plan_shards(
        listing, rows_per_shard=config.rows_per_shard,
        bytes_per_shard=int(config.shard_mb * 1e6) if config.shard_mb else None,
        seed=config.seed if config.shuffle else None, options=config.storage,
    )  # fmt: skip


def _record(config: PrepareConfig, plan: ShardPlan) -> dict[str, Any]:
    """Return what identifies the run that a target belongs to: its source and settings."""
    names = ("format", "rows_per_shard", "shard_mb", "image_column", "caption_column", "resize_short_side")
    cuts = [int(start) for start in plan.starts]
    return {
        "version": 1,
        "source": _absolute(config.source),
        "settings": {name: getattr(config, name) for name in names}
        | {
            "base": _absolute(plan.listing.base),
            "order": f"shuffled by seed {config.seed}" if config.shuffle else UNSHUFFLED,
        },
        "listing": plan.listing.fingerprint,
        "shards": len(cuts),
        "cuts": pair_hash(json.dumps(cuts), None),
    }


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)


def _claim(config: PrepareConfig, record: dict[str, Any], notify: Notify) -> dict[str, ShardReceipt]:
    """Claim the target for this run; return the receipts of shards that need not be written again, by name."""
    files = _list_files(config)
    if config.overwrite:
        files = _clear(config, files)
    if RECORD in files:
        _check_record(config, json.loads(_load(config, RECORD)), record)
    elif files:
        some = ", ".join(sorted(files)[:3])
        raise CorpusError(
            f"{config.target} holds {len(files)} files that are no unfinished run of jobs.prepare ({some}); choose an "
            "empty folder, or give --overwrite where an old corpus may be deleted"
        )
    else:
        _save(config, RECORD, record)
    receipts = _receipts(config, files)
    if receipts:
        notify(f"{config.target}: {len(receipts)} of {record['shards']} shards are there and stay as they are")
    return receipts


def _list_files(config: PrepareConfig) -> dict[str, int]:
    """Return the size of every file in the target by relative path."""
    prefix = config.target.removesuffix("/") + "/"
    try:
        entries = storage.list_files(config.target, options=config.storage)
    except storage.NotFound:
        return {}
    return {entry.uri.removeprefix(prefix): entry.size for entry in entries}


def _clear(config: PrepareConfig, files: dict[str, int]) -> dict[str, int]:
    foreign = sorted(name for name in files if not OURS.fullmatch(name))
    if foreign:
        raise CorpusError(
            f"{config.target} also holds files that jobs.prepare did not write ({', '.join(foreign[:3])}); "
            "--overwrite deletes nothing then: choose another folder"
        )
    for name in sorted(files, key=lambda name: name == RECORD):
        storage.delete(storage.join(config.target, name), options=config.storage)
    return {}


def _check_record(config: PrepareConfig, stored: dict[str, Any], record: dict[str, Any]) -> None:
    """Raise CorpusError where the target's record is that of another run."""
    old, new = {"order": UNSHUFFLED, **stored.get("settings", {})}, record["settings"]
    changed = [f"{n} was {old.get(n)}, now {new[n]}" for n in new if old.get(n) != new[n]]
    if stored.get("source") != record["source"]:
        changed.insert(0, f"source was {stored.get('source')}, now {record['source']}")
    elif (stored.get("listing"), stored.get("cuts")) != (record["listing"], record["cuts"]) and not changed:
        changed.append(f"{record['source']} lists other rows than before")
    if changed:
        raise CorpusError(
            f"{config.target} belongs to another run ({'; '.join(changed)}); repeat that run's command to finish it, "
            "choose another target, or give --overwrite to begin afresh"
        )


def _receipts(config: PrepareConfig, files: dict[str, int]) -> dict[str, ShardReceipt]:
    """Read the receipts whose shard is in the target with the size that was written."""
    names = [name for name in files if name.startswith(f"{RECEIPTS}/")]
    with ThreadPoolExecutor(4 * _READERS) as pool:
        loaded = [ShardReceipt(**json.loads(data)) for data in pool.map(lambda name: _load(config, name), names)]
    return {r.shard: r for r in loaded if files.get(r.shard, 0 if r.rows == 0 else None) == r.bytes}


def _write_missing(
    config: PrepareConfig, plan: ShardPlan, receipts: dict[str, ShardReceipt], progress: Progress | None
) -> Iterator[ShardReceipt]:
    missing = [n for n in range(len(plan.starts)) if _name(config, n) not in receipts]
    jobs = (
        ShardJob(
            number=n, rows=plan.shard(n), base=plan.listing.base, caption_key=plan.listing.caption_column,
            config=config,
        )
        for n in missing
    )  # fmt: skip
    done = sum(r.source_rows for r in receipts.values())
    if progress:
        progress(done, len(plan.usable))
    workers = min(config.workers or os.cpu_count() or 1, len(missing))
    for receipt in map_in_processes(write_shard, jobs, workers):
        yield receipt
        done += receipt.source_rows
        if progress:
            progress(done, len(plan.usable))


def write_shard(job: ShardJob) -> ShardReceipt:
    """Read, check and store the rows of one shard, then store its receipt."""
    config = job.config

    def attempt(row: dict[str, Any]) -> tuple[str, dict[str, bytes]] | BadSample:
        try:
            return read_pair(
                row, job.base, caption_key=job.caption_key, resize=config.resize_short_side, options=config.storage
            )
        except BadSample as fault:
            return fault

    rows = job.rows.to_pylist()
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(attempt, rows))
    samples = [r for r in results if not isinstance(r, BadSample)]
    refused = [rejection_record(row, r) for row, r in zip(rows, results, strict=True) if isinstance(r, BadSample)]
    name, data = _name(config, job.number), b""
    if samples:
        data = SHARD_BUILDERS[config.format](samples)
        storage.write(storage.join(config.target, name), data, options=config.storage)
    receipt = ShardReceipt(shard=name, rows=len(samples), bytes=len(data), refused=refused)
    _save(config, f"{RECEIPTS}/{name}.json", asdict(receipt))
    return receipt


def _finish(config: PrepareConfig, plan: ShardPlan, receipts: list[ShardReceipt]) -> list[dict[str, Any]]:
    """Store the list of rejected rows and the index; return the rejected rows, in order."""
    refused = plan.rejected + [item for receipt in receipts for item in receipt.refused]
    refused.sort(key=lambda item: item["row"])
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in refused)
    storage.write(storage.join(config.target, REFUSED), lines.encode(), options=config.storage)
    if not any(receipt.rows for receipt in receipts):
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r["reason"] for r in refused).most_common(3))
        raise CorpusError(
            f"{config.source}: every row was refused ({reasons}); {storage.join(config.target, REFUSED)} lists them. "
            "Are paths relative to the table's folder? Else give --base, and --overwrite to begin afresh"
        )
    _delete_partial_files(config.target)
    open_corpus(config.target, options=config.storage)
    return refused


def _delete_partial_files(target: str) -> None:
    """Delete what a killed run had begun to write; on S3 there are no such files."""
    folder = target.removeprefix("file://")
    for below in () if target.startswith("s3://") else (folder, os.path.join(folder, RECEIPTS)):
        for name in os.listdir(below):
            if name.startswith(".") and name.endswith(PARTIAL):
                os.unlink(os.path.join(below, name))


def _name(config: PrepareConfig, number: int) -> str:
    return f"{number:05d}.{config.format}"


def _load(config: PrepareConfig, name: str) -> bytes:
    return storage.read(storage.join(config.target, name), options=config.storage)


def _save(config: PrepareConfig, name: str, value: dict[str, Any]) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace")
    storage.write(storage.join(config.target, name), data, options=config.storage)
