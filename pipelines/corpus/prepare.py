"""A table or folder of images and captions -> a corpus: shards, index, and a list of the rows that were refused.

Every shard is a pure function of the plan, appears whole, and is followed by a small receipt. A run that was killed
goes on where a receipt is missing, so its shards are the same bytes as those of a run that nobody disturbed.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import tyro

from pipelines.runtime.processes import in_processes
from xmodal import storage
from xmodal.data.extents import Format
from xmodal.data.formats.pair_shards import FORMATS
from xmodal.data.index.corpus import open_corpus
from xmodal.data.prepare.pair_reader import pair_hash, take
from xmodal.data.prepare.pairs import read_pairs
from xmodal.data.prepare.shard_plan import Plan, make_plan, refusal
from xmodal.errors import BadSample, ConfigError, CorpusError, nearest
from xmodal.storage import StorageOptions
from xmodal.storage.local import PARTIAL

RECORD, RECEIPTS, REFUSED = "_xmodal_prepare.json", "_xmodal_prepare", "_refused.jsonl"
OURS = re.compile(r"\d{5,}\.(tar|parquet)|_refused\.jsonl|_xmodal_[a-z_]+(\.[a-z]+|/.*)")
_READERS = 8  # images of one shard read at once

Progress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to turn into a corpus, and how. Equal settings on equal sources give equal bytes."""

    source: tyro.conf.Positional[str]  # a table of image paths and captions, or a folder; local or s3://BUCKET/KEY
    target: tyro.conf.Positional[str]  # the folder for the corpus, local or s3://BUCKET/KEY
    format: Format = "tar"  # tar (WebDataset) or parquet (Hugging Face layout)
    rows_per_shard: int | None = None  # default 1024; rows that are refused leave a shard smaller
    shard_mb: float | None = None  # instead of rows: megabytes of images in a shard
    image_column: str | None = None  # column of image paths; default: the one with a usual name
    caption_column: str | None = None  # column of captions, or key in JSON sidecars; default: as above
    base: str | None = None  # folder that relative paths begin at; default: the folder of the table
    resize_short_side: int | None = None  # shrink larger images to this many pixels; default: bytes as they are
    workers: int | None = None  # processes; default: one for each CPU
    overwrite: bool = False  # delete the corpus that an earlier run left in the target, and begin afresh
    endpoint: str | None = None  # of an S3-compatible store; default: AWS_ENDPOINT_URL or AWS itself
    region: str | None = None  # of the store
    profile: str | None = None  # of the AWS configuration; default: the standard environment
    anonymous: bool = False  # send unsigned requests

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"no format {self.format!r}; {nearest(self.format, FORMATS)}")
        if self.rows_per_shard is not None and self.shard_mb is not None:
            raise ConfigError("--rows-per-shard and --shard-mb both set the size of a shard; give one of them")
        for name in ("rows_per_shard", "shard_mb", "resize_short_side", "workers"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"--{name.replace('_', '-')} must be positive, not {value}")

    @property
    def storage(self) -> StorageOptions:
        return StorageOptions(
            endpoint=self.endpoint, region=self.region, profile=self.profile, anonymous=self.anonymous
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What stands in the target after a run."""

    target: str
    rows: int
    refused: dict[str, int]  # reason -> rows
    shards: int
    bytes: int
    kept_shards: int  # written by an earlier run and left as they are
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to write: everything that a worker process needs."""

    number: int
    rows: pa.Table
    base: str
    caption_key: str | None
    config: Config


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one shard; stored after it. A shard of which every row was refused has no file."""

    shard: str
    rows: int
    bytes: int
    refused: list[dict[str, Any]] = field(default_factory=list)

    @property
    def listed(self) -> int:
        return self.rows + len(self.refused)


def run(config: Config, *, progress: Progress | None = None, notify: Callable[[str], None] = print) -> Summary:
    """Prepare the corpus, or finish it, or say that it is there. XmodalError names what the user can mend."""
    began = time.monotonic()
    plan = plan_of(config)
    record = _record(config, plan)
    receipts = _claim(config, record, notify)
    kept = sum(r.rows > 0 for r in receipts.values())
    for receipt in _write_missing(config, plan, receipts, progress):
        receipts[receipt.shard] = receipt
    rows = _finish(config, plan, list(receipts.values()))
    refused = Counter(item["reason"] for item in rows)
    return Summary(
        target=config.target, rows=sum(r.rows for r in receipts.values()), refused=dict(refused.most_common()),
        shards=sum(r.rows > 0 for r in receipts.values()), bytes=sum(r.bytes for r in receipts.values()),
        kept_shards=kept, seconds=time.monotonic() - began,
    )  # fmt: skip


def plan_of(config: Config) -> Plan:
    """Which row of the source goes into which shard; refuses a source that cannot be read, a target not written."""
    listing = read_pairs(
        config.source, image_column=config.image_column, caption_column=config.caption_column,
        base=config.base, options=config.storage,
    )  # fmt: skip
    storage.check(config.target, writable=True, options=config.storage)
    return make_plan(
        listing, rows_per_shard=config.rows_per_shard,
        bytes_per_shard=int(config.shard_mb * 1e6) if config.shard_mb else None, options=config.storage,
    )  # fmt: skip


def _record(config: Config, plan: Plan) -> dict[str, Any]:
    """What ties a target to its source and settings."""
    names = ("format", "rows_per_shard", "shard_mb", "image_column", "caption_column", "resize_short_side")
    cuts = [int(start) for start in plan.starts]
    return {
        "version": 1,
        "source": _absolute(config.source),
        "settings": {name: getattr(config, name) for name in names} | {"base": _absolute(plan.listing.base)},
        "listing": plan.listing.fingerprint,
        "shards": len(cuts),
        "cuts": pair_hash(json.dumps(cuts), None),
    }


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)


def _claim(config: Config, record: dict[str, Any], notify: Callable[[str], None]) -> dict[str, Receipt]:
    """Make the target ours: the receipts of shards that need not be written again, by name."""
    held = _held(config)
    if config.overwrite:
        held = _clear(config, held)
    if RECORD in held:
        found = json.loads(_load(config, RECORD))
        _compare(config, found, record)
    elif held:
        some = ", ".join(sorted(held)[:3])
        raise CorpusError(
            f"{config.target} holds {len(held)} files that are no unfinished run of jobs.prepare ({some}); choose an "
            "empty folder, or give --overwrite where an old corpus may be deleted"
        )
    else:
        _save(config, RECORD, record)
    receipts = _receipts(config, held)
    if receipts:
        notify(f"{config.target}: {len(receipts)} of {record['shards']} shards are there and stay as they are")
    return receipts


def _held(config: Config) -> dict[str, int]:
    """Size of every file in the target by relative path."""
    prefix = config.target.removesuffix("/") + "/"
    try:
        found = storage.list_files(config.target, options=config.storage)
    except storage.NotFound:
        return {}
    return {entry.uri.removeprefix(prefix): entry.size for entry in found}


def _clear(config: Config, held: dict[str, int]) -> dict[str, int]:
    foreign = sorted(name for name in held if not OURS.fullmatch(name))
    if foreign:
        raise CorpusError(
            f"{config.target} also holds files that jobs.prepare did not write ({', '.join(foreign[:3])}); "
            "--overwrite deletes nothing then: choose another folder"
        )
    for name in sorted(held, key=lambda name: name == RECORD):
        storage.delete(storage.join(config.target, name), options=config.storage)
    return {}


def _compare(config: Config, found: dict[str, Any], record: dict[str, Any]) -> None:
    old, new = found.get("settings", {}), record["settings"]
    changed = [f"{n} was {old.get(n)}, now {new[n]}" for n in new if old.get(n) != new[n]]
    if found.get("source") != record["source"]:
        changed.insert(0, f"source was {found.get('source')}, now {record['source']}")
    elif (found.get("listing"), found.get("cuts")) != (record["listing"], record["cuts"]) and not changed:
        changed.append(f"{record['source']} lists other rows than before")
    if changed:
        raise CorpusError(
            f"{config.target} belongs to another run ({'; '.join(changed)}); repeat that run's command to finish it, "
            "choose another target, or give --overwrite to begin afresh"
        )


def _receipts(config: Config, held: dict[str, int]) -> dict[str, Receipt]:
    """Receipts whose shard stands in the target with the size that was written."""
    names = [name for name in held if name.startswith(f"{RECEIPTS}/")]
    with ThreadPoolExecutor(4 * _READERS) as pool:
        loaded = [Receipt(**json.loads(data)) for data in pool.map(lambda name: _load(config, name), names)]
    return {r.shard: r for r in loaded if held.get(r.shard, 0 if r.rows == 0 else None) == r.bytes}


def _write_missing(
    config: Config, plan: Plan, receipts: dict[str, Receipt], progress: Progress | None
) -> Iterator[Receipt]:
    missing = [n for n in range(len(plan.starts)) if _name(config, n) not in receipts]
    jobs = (
        Job(
            number=n, rows=plan.shard(n), base=plan.listing.base, caption_key=plan.listing.caption_column,
            config=config,
        )
        for n in missing
    )  # fmt: skip
    done = sum(r.listed for r in receipts.values())
    if progress:
        progress(done, len(plan.usable))
    workers = min(config.workers or os.cpu_count() or 1, len(missing))
    for receipt in in_processes(write_shard, jobs, workers):
        yield receipt
        done += receipt.listed
        if progress:
            progress(done, len(plan.usable))


def write_shard(job: Job) -> Receipt:
    """Read, check and store the rows of one shard, then its receipt."""
    config = job.config

    def attempt(row: dict[str, Any]) -> tuple[str, dict[str, bytes]] | BadSample:
        try:
            return take(
                row, job.base, caption_key=job.caption_key, resize=config.resize_short_side, options=config.storage
            )
        except BadSample as fault:
            return fault

    rows = job.rows.to_pylist()
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(pool.map(attempt, rows))
    samples = [r for r in results if not isinstance(r, BadSample)]
    refused = [refusal(row, r) for row, r in zip(rows, results, strict=True) if isinstance(r, BadSample)]
    name, data = _name(config, job.number), b""
    if samples:
        data = FORMATS[config.format](samples)
        storage.write(storage.join(config.target, name), data, options=config.storage)
    receipt = Receipt(shard=name, rows=len(samples), bytes=len(data), refused=refused)
    _save(config, f"{RECEIPTS}/{name}.json", asdict(receipt))
    return receipt


def _finish(config: Config, plan: Plan, receipts: list[Receipt]) -> list[dict[str, Any]]:
    """Store the list of refused rows and the index; the refused rows, by row."""
    refused = plan.refused + [item for receipt in receipts for item in receipt.refused]
    refused.sort(key=lambda item: item["row"])
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in refused)
    storage.write(storage.join(config.target, REFUSED), lines.encode(), options=config.storage)
    if not any(receipt.rows for receipt in receipts):
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(r["reason"] for r in refused).most_common(3))
        raise CorpusError(
            f"{config.source}: every row was refused ({reasons}); {storage.join(config.target, REFUSED)} lists them. "
            "Are paths relative to the table's folder? Else give --base, and --overwrite to begin afresh"
        )
    _sweep(config.target)
    open_corpus(config.target, options=config.storage)
    return refused


def _sweep(target: str) -> None:
    """Delete what a killed run had begun to write; S3 keeps no such files."""
    folder = target.removeprefix("file://")
    for below in () if target.startswith("s3://") else (folder, os.path.join(folder, RECEIPTS)):
        for name in os.listdir(below):
            if name.startswith(".") and name.endswith(PARTIAL):
                os.unlink(os.path.join(below, name))


def _name(config: Config, number: int) -> str:
    return f"{number:05d}.{config.format}"


def _load(config: Config, name: str) -> bytes:
    return storage.read(storage.join(config.target, name), options=config.storage)


def _save(config: Config, name: str, value: dict[str, Any]) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=False).encode(errors="backslashreplace")
    storage.write(storage.join(config.target, name), data, options=config.storage)
