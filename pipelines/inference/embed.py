"""Checkpoint + corpus -> a folder of Parquet with the embeddings of every sound row, resumable at any moment.

A part is one file, written whole, that carries its own account; so what is there is finished, and a run that was killed
goes on with the parts that are missing. Which rows a part holds depends on the corpus alone.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.config.embed import Config
from pipelines.inference.encode import Encoded, Part, Task, Trained, encode_on_cluster, load, parts
from pipelines.runtime import cluster
from pipelines.runtime.cluster import Cluster, Resources
from pipelines.stream.corpora import field_map, on_cluster
from xmodal import storage
from xmodal.data.formats.embedding_parts import (
    RECORD,
    SKIPPED,
    Account,
    DType,
    is_part,
    part_bytes,
    part_name,
    read_account,
    table,
)
from xmodal.data.index.corpus import Corpus, open_corpus
from xmodal.data.index.listing import folder_before_pattern
from xmodal.data.stream.evaluation_rows import ItemRecipe
from xmodal.errors import ConfigError, CorpusError
from xmodal.run.provenance import provenance
from xmodal.storage import NotFound, StorageOptions

FEWEST_ROWS, MOST_ROWS, WANTED_PARTS = 1024, 32_768, 64
SHOWN_EVERY_S = 30.0  # how often the record in the folder is brought up to date

Progress = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True, kw_only=True)
class Result:
    """What stands in the folder: `rows` of the corpus embedded as so many `vectors`, and `skipped` ones listed."""

    to: str
    step: int
    dim: int
    rows: int
    vectors: int
    skipped: int
    parts: int
    kept_parts: int  # written by an earlier run and left as they are
    seconds: float


def run(
    config: Config, *, progress: Progress | None = None, notify: Callable[[str], None] = lambda text: None
) -> Result:
    """Embed what is not embedded yet. Everything that can be wrong is raised before an encoder starts."""
    began = time.monotonic()
    options = config.storage
    for uri in (config.checkpoint, folder_before_pattern(config.corpus)):
        storage.check(uri, writable=False, options=options)
    storage.check(config.to, writable=True, options=options)
    trained = load(config.checkpoint, options)
    held = connect(config.workers, config)
    corpus = open_corpus(config.corpus, index=config.index, options=options, map_shards=on_cluster, notify=notify)
    recipe = _recipe(config, corpus, trained)
    rows = config.rows_per_part or int(np.clip(corpus.rows // WANTED_PARTS, FEWEST_ROWS, MOST_ROWS))
    folder = Folder(config, trained, corpus, recipe, parts(corpus, rows), rows)
    kept = folder.claim()
    if kept:
        notify(f"{config.to}: {len(kept)} of {len(folder.parts)} parts are there and stay as they are")
    task = Task(corpus, recipe, config.batch_size)
    _encode_missing(folder, trained, task, held, progress)
    return folder.finish(len(kept), time.monotonic() - began)


def connect(workers: int | None, config: Any) -> Cluster:
    """The cluster with `workers` encoders; None: one for each GPU, or for each core where there is none."""
    asked = {name: getattr(config, name) for name in ("gpus_per_worker", "cpus_per_worker", "address")}
    held = cluster.connect(Resources(workers=workers or 1, **asked))
    if workers is not None:
        return held
    have = cluster.capacity()
    most = have.get("GPU", 0) or (have.get("CPU", 2) - 1 if held.local else have.get("CPU", 2) // 2)
    return cluster.connect(Resources(workers=max(1, int(most)), **asked))


def _recipe(config: Config, corpus: Corpus, trained: Trained) -> ItemRecipe:
    """What decodes the modalities that are asked for; ConfigError for one that the checkpoint does not have."""
    for name in config.modalities:
        if name not in trained.fields:
            raise ConfigError(
                f"--modalities {name}: {config.checkpoint} pairs {' and '.join(trained.modalities)}; "
                "name one of them, or leave it out for both"
            )
    names = tuple(name for name in trained.modalities if name in config.modalities or not config.modalities)
    mapping = field_map(corpus, trained.specs(config.fields), names)
    return ItemRecipe(mapping, tuple(trained.fields[name] for name in names))


def _encode_missing(folder: "Folder", trained: Trained, task: Task, held: Cluster, progress: Progress | None) -> None:
    todo = [part for part in folder.parts if part.number not in folder.done]
    sink = Write(folder.config.to, folder.id, folder.modalities, folder.config.dtype, folder.config.storage)
    shown = time.monotonic()
    if progress:
        progress(folder.rows_seen, task.corpus.rows)
    for part, account in encode_on_cluster(trained, task, todo, sink, held) if todo else ():
        folder.done[part.number] = account
        if progress:
            progress(folder.rows_seen, task.corpus.rows)
        if time.monotonic() - shown > SHOWN_EVERY_S:
            folder.save(finished=False)
            shown = time.monotonic()


@dataclass(frozen=True)
class Write:
    """Stores the embeddings of a part, where its encoder is."""

    to: str
    of: str
    modalities: tuple[str, ...]
    dtype: DType
    options: StorageOptions

    def __call__(self, part: Part, found: Encoded) -> Account:
        tables = []
        for name in self.modalities:
            vectors, dtype = found.vectors[name], self.dtype
            if name == "text":
                keys, row = [found.key[owner] for owner in found.owner], found.row[found.owner]
                tables.append(table(name, row, keys, found.item, found.text, vectors, dtype))
            else:
                zeros = np.zeros(len(found.row), np.int32)
                tables.append(table(name, found.row, found.key, zeros, None, vectors, dtype))
        count = sum(len(each) for each in tables)
        account = Account(of=self.of, rows=len(found.row), vectors=count, skipped=found.faults)
        storage.write(storage.join(self.to, part_name(part.number)), part_bytes(tables, account), options=self.options)
        return account


@dataclass(eq=False)
class Folder:
    """The folder that is written: whose embeddings it holds, and which of its parts are done."""

    config: Config
    trained: Trained
    corpus: Corpus
    recipe: ItemRecipe
    parts: Sequence[Part]
    rows_per_part: int
    done: dict[int, Account] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.recipe.fields)

    @property
    def identity(self) -> dict[str, Any]:
        """What embeddings depend on: two runs that agree in it give the same parts."""
        return {
            "weights": self.trained.digest,
            "fingerprint": self.corpus.fingerprint,
            "fields": list(self.recipe.field_map.specs),
            "modalities": list(self.modalities),
            "dtype": self.config.dtype,
            "rows_per_part": self.rows_per_part,
        }

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def rows_seen(self) -> int:
        """Rows of the corpus in finished parts, skipped ones too."""
        return sum(account.seen for account in self.done.values())

    def claim(self) -> list[int]:
        """Make the folder ours; the numbers of the parts that are done."""
        held = self._held()
        if self.config.overwrite:
            held = self._clear(held)
        if RECORD in held:
            self._compare(json.loads(storage.read(self._uri(RECORD), options=self.config.storage)))
        elif held:
            raise ConfigError(
                f"{self.config.to} holds {len(held)} file(s) that are no embeddings of jobs.embed "
                f"({', '.join(sorted(held)[:3])}): choose an empty folder"
            )
        self._find_done(held)
        self.save(finished=False)
        return sorted(self.done)

    def _held(self) -> Mapping[str, int]:
        """Size of every file in the folder by its name."""
        prefix = storage.absolute(self.config.to).rstrip("/") + "/"
        try:
            found = storage.list_files(storage.absolute(self.config.to), options=self.config.storage)
        except NotFound:
            return {}
        return {entry.uri.removeprefix(prefix): entry.size for entry in found}

    def _clear(self, held: Mapping[str, int]) -> Mapping[str, int]:
        ours = [name for name in held if name in (RECORD, SKIPPED) or is_part(name)]
        for name in sorted(ours, key=lambda name: name == RECORD):  # the record last: until then it is a known folder
            storage.delete(self._uri(name), options=self.config.storage)
        return {name: size for name, size in held.items() if name not in ours}

    def _compare(self, found: Mapping[str, Any]) -> None:
        old, new = found.get("identity", {}), self.identity
        words = {
            "weights": f"of the checkpoint {found.get('checkpoint')} (step {found.get('step')})",
            "fingerprint": f"of the corpus {found.get('corpus')} as it was (fingerprint {old.get('fingerprint')})",
        }
        changed = [words.get(name, f"with {name}={old.get(name)}") for name in new if old.get(name) != new[name]]
        if changed:
            raise ConfigError(
                f"{self.config.to} holds embeddings {', '.join(changed)}; repeat that command to finish them, choose "
                "another folder with --to, or give --overwrite to begin afresh"
            )

    def _find_done(self, held: Mapping[str, int]) -> None:
        names = {part_name(part.number): part.number for part in self.parts}
        there = [name for name in names if name in held]

        def account(name: str) -> Account | None:
            return read_account(self._uri(name), held[name], options=self.config.storage)

        with ThreadPoolExecutor(16) as pool:
            for name, found in zip(there, pool.map(account, there), strict=True):
                if found is not None and found.of == self.id:
                    self.done[names[name]] = found

    def save(self, *, finished: bool) -> None:
        """The record of the folder."""
        record = {
            "checkpoint": self.trained.found.uri,
            "step": self.trained.found.step,
            "corpus": storage.absolute(self.config.corpus),
            "fingerprint": self.corpus.fingerprint,
            "dim": self.trained.dim,
            "rows": sum(account.rows for account in self.done.values()),
            "vectors": sum(account.vectors for account in self.done.values()),
            "skipped": sum(account.skipped_rows for account in self.done.values()),
            "parts": len(self.parts),
            "done": len(self.done),
            "finished": finished,
            "identity": self.identity,
            "versions": provenance()["packages"],
        }
        storage.write(self._uri(RECORD), (json.dumps(record, indent=1) + "\n").encode(), options=self.config.storage)

    def finish(self, kept: int, seconds: float) -> Result:
        """List what was skipped, and say what there is. CorpusError where not a single row could be read."""
        accounts = [self.done[part.number] for part in self.parts]
        faults = [fault for account in accounts for fault in account.skipped]
        lines = "".join(json.dumps(fault, ensure_ascii=False) + "\n" for fault in faults)
        skipped = self._uri(SKIPPED)
        storage.write(skipped, lines.encode("utf-8", "backslashreplace"), options=self.config.storage)
        self.save(finished=True)
        rows, bad = sum(a.rows for a in accounts), sum(a.skipped_rows for a in accounts)
        if rows + bad != self.corpus.rows:
            raise CorpusError(
                f"{rows} rows embedded and {bad} skipped of {self.corpus.rows}: this is a mistake in xmodal, please "
                "report it"
            )
        if not rows:
            raise CorpusError(f"{self.config.corpus}: none of its {bad} rows can be read; {skipped} says why")
        return Result(
            to=self.config.to, step=self.trained.found.step, dim=self.trained.dim, rows=rows,
            vectors=sum(a.vectors for a in accounts), skipped=bad, parts=len(self.parts), kept_parts=kept,
            seconds=seconds,
        )  # fmt: skip

    def _uri(self, name: str) -> str:
        return storage.join(self.config.to, name)
