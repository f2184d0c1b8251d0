"""The folder of Parquet files that an embedding job writes: what it belongs to, and which of its parts are finished."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.config.embed import EmbedConfig
from pipelines.inference.encode import Embeddings, ExtentRange
from pipelines.models.loaded_encoder import LoadedEncoder
from xmodal import storage
from xmodal.data.formats.embedding_parts import (
    RECORD_NAME,
    SKIPPED_NAME,
    PartSummary,
    VectorDType,
    is_part,
    part_bytes,
    part_name,
    part_table,
    read_summary,
)
from xmodal.data.index.corpus import Corpus
from xmodal.data.stream.evaluation_rows import EvaluationDecoder
from xmodal.errors import ConfigError, CorpusError
from xmodal.run.provenance import provenance
from xmodal.storage import NotFound, StorageOptions


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult:
    """What the folder holds: embeddings of `rows` rows as `vectors` vectors, and a list of `skipped` rows."""

    to: str
    step: int
    dim: int
    rows: int
    vectors: int
    skipped: int
    parts: int
    reused_parts: int  # written by an earlier run
    seconds: float


@dataclass(frozen=True)
class PartWriter:
    """Stores the embeddings of a part; called by its encoder."""

    to: str
    of: str
    modalities: tuple[str, ...]
    dtype: VectorDType
    options: StorageOptions

    def __call__(self, part: ExtentRange, embeddings: Embeddings) -> PartSummary:
        tables = []
        for name in self.modalities:
            vectors, dtype = embeddings.vectors[name], self.dtype
            if name == "text":
                keys, row = [embeddings.key[owner] for owner in embeddings.owner], embeddings.row[embeddings.owner]
                tables.append(part_table(name, row, keys, embeddings.item, embeddings.text, vectors, dtype))
            else:
                zeros = np.zeros(len(embeddings.row), np.int32)
                tables.append(part_table(name, embeddings.row, embeddings.key, zeros, None, vectors, dtype))
        count = sum(len(table) for table in tables)
        summary = PartSummary(of=self.of, rows=len(embeddings.row), vectors=count, skipped=embeddings.faults)
        storage.write(storage.join(self.to, part_name(part.number)), part_bytes(tables, summary), options=self.options)
        return summary


@dataclass(eq=False)
class EmbeddingFolder:
    """The folder that is written: whose embeddings it holds, and which of its parts are finished."""

    config: EmbedConfig
    encoder: LoadedEncoder
    corpus: Corpus
    decoder: EvaluationDecoder
    parts: Sequence[ExtentRange]
    rows_per_part: int
    done: dict[int, PartSummary] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.decoder.fields)

    @property
    def identity(self) -> dict[str, object]:
        """What embeddings depend on: two runs that agree in it write the same parts."""
        return {
            "weights": self.encoder.digest,
            "fingerprint": self.corpus.fingerprint,
            "fields": list(self.decoder.field_map.specs),
            "modalities": list(self.modalities),
            "dtype": self.config.dtype,
            "rows_per_part": self.rows_per_part,
        }

    @property
    def id(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def rows_seen(self) -> int:
        """Rows of the corpus in finished parts, with those that were skipped."""
        return sum(summary.accounted_rows for summary in self.done.values())

    def claim(self) -> list[int]:
        """Claim the folder for these embeddings; return the numbers of the parts that are finished.

        ConfigError where it holds anything else.
        """
        files = self._list_files()
        if self.config.overwrite:
            files = self._clear(files)
        if RECORD_NAME in files:
            self._check_identity(json.loads(storage.read(self._uri(RECORD_NAME), options=self.config.storage)))
        elif files:
            raise ConfigError(
                f"{self.config.to} holds {len(files)} file(s) that are no embeddings of jobs.embed "
                f"({', '.join(sorted(files)[:3])}): choose an empty folder"
            )
        self._find_done(files)
        self.save(finished=False)
        return sorted(self.done)

    def _list_files(self) -> Mapping[str, int]:
        """Return the size of every file in the folder by its name."""
        prefix = storage.absolute(self.config.to).rstrip("/") + "/"
        try:
            entries = storage.list_files(storage.absolute(self.config.to), options=self.config.storage)
        except NotFound:
            return {}
        return {entry.uri.removeprefix(prefix): entry.size for entry in entries}

    def _clear(self, files: Mapping[str, int]) -> Mapping[str, int]:
        ours = [name for name in files if name in (RECORD_NAME, SKIPPED_NAME) or is_part(name)]
        for name in sorted(ours, key=lambda name: name == RECORD_NAME):  # the record last: it marks the folder as ours
            storage.delete(self._uri(name), options=self.config.storage)
        return {name: size for name, size in files.items() if name not in ours}

    def _check_identity(self, record: Mapping[str, Any]) -> None:
        """Raise ConfigError where the folder's record is of other embeddings."""
        old, new = record.get("identity", {}), self.identity
        words = {
            "weights": f"of the checkpoint {record.get('checkpoint')} (step {record.get('step')})",
            "fingerprint": f"of the corpus {record.get('corpus')} as it was (fingerprint {old.get('fingerprint')})",
        }
        changed = [words.get(name, f"with {name}={old.get(name)}") for name in new if old.get(name) != new[name]]
        if changed:
            raise ConfigError(
                f"{self.config.to} holds embeddings {', '.join(changed)}; repeat that command to finish them, choose "
                "another folder with --to, or give --overwrite to begin afresh"
            )

    def _find_done(self, files: Mapping[str, int]) -> None:
        numbers = {part_name(part.number): part.number for part in self.parts}
        names = [name for name in numbers if name in files]

        def read(name: str) -> PartSummary | None:
            return read_summary(self._uri(name), files[name], options=self.config.storage)

        with ThreadPoolExecutor(16) as pool:
            for name, summary in zip(names, pool.map(read, names), strict=True):
                if summary is not None and summary.of == self.id:
                    self.done[numbers[name]] = summary

    def save(self, *, finished: bool) -> None:
        """Write the record of the folder."""
        record = {
            "checkpoint": self.encoder.ref.uri,
            "step": self.encoder.ref.step,
            "corpus": storage.absolute(self.config.corpus),
            "fingerprint": self.corpus.fingerprint,
            "dim": self.encoder.dim,
            "rows": sum(summary.rows for summary in self.done.values()),
            "vectors": sum(summary.vectors for summary in self.done.values()),
            "skipped": sum(summary.skipped_rows for summary in self.done.values()),
            "parts": len(self.parts),
            "done": len(self.done),
            "finished": finished,
            "identity": self.identity,
            "versions": provenance()["packages"],
        }
        storage.write(
            self._uri(RECORD_NAME), (json.dumps(record, indent=1) + "\n").encode(), options=self.config.storage
        )

    def finish(self, reused: int, seconds: float) -> EmbeddingResult:
        """Write the list of skipped rows and return the result; CorpusError where not a single row could be read."""
        summaries = [self.done[part.number] for part in self.parts]
        faults = [fault for summary in summaries for fault in summary.skipped]
        lines = "".join(json.dumps(fault, ensure_ascii=False) + "\n" for fault in faults)
        skipped = self._uri(SKIPPED_NAME)
        storage.write(skipped, lines.encode("utf-8", "backslashreplace"), options=self.config.storage)
        self.save(finished=True)
        rows, bad = sum(a.rows for a in summaries), sum(a.skipped_rows for a in summaries)
        if rows + bad != self.corpus.rows:
            raise CorpusError(
                f"{rows} rows embedded and {bad} skipped of {self.corpus.rows}: this is a mistake in xmodal, please "
                "report it"
            )
        if not rows:
            raise CorpusError(f"{self.config.corpus}: none of its {bad} rows can be read; {skipped} says why")
        return EmbeddingResult(
            to=self.config.to, step=self.encoder.ref.step, dim=self.encoder.dim, rows=rows,
            vectors=sum(a.vectors for a in summaries), skipped=bad, parts=len(self.parts), reused_parts=reused,
            seconds=seconds,
        )  # fmt: skip

    def _uri(self, name: str) -> str:
        return storage.join(self.config.to, name)
