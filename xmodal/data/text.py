"""One caption in, fixed-length token ids out (signatures; the decoder follows in the next commit)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.fields import Column


@dataclass(frozen=True, kw_only=True)
class TextField:
    """columns: {name: int32 (length,), name_length: int32 (), name_id: int64 ()}."""

    tokenizer_json: str
    length: int
    name: str = "text"

    @property
    def columns(self) -> dict[str, Column]:
        return {
            self.name: Column(dtype="int32", shape=(self.length,)),
            f"{self.name}_length": Column(dtype="int32", shape=()),
            f"{self.name}_id": Column(dtype="int64", shape=()),
        }

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        raise NotImplementedError
