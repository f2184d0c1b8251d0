"""One encoded image in, one uint8 RGB square out (signatures; the decoder follows in the next commit)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from xmodal.data.fields import Column


@dataclass(frozen=True, kw_only=True)
class ImageField:
    """columns: {name: uint8 (size, size, 3)} RGB."""

    size: int = 224
    name: str = "image"

    @property
    def columns(self) -> dict[str, Column]:
        return {self.name: Column(dtype="uint8", shape=(self.size, self.size, 3))}

    def decode(self, raw: Any, rng: np.random.Generator, out: dict[str, np.ndarray]) -> None:
        raise NotImplementedError
