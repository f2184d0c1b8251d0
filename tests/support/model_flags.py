"""Flags of an architecture's options, from their values by name."""

from collections.abc import Mapping
from typing import Any

TINY: Mapping[str, Any] = {
    "image_size": 32, "patch_size": 8, "width": 32, "depth": 1, "heads": 2,
    "text_width": 32, "text_depth": 1, "text_heads": 2, "context": 16, "dim": 32,
}  # fmt: skip


def model_flags(options: Mapping[str, Any] = TINY, **changes: Any) -> list[str]:
    """Return `--model.width 32 ...` for options with some of their values changed; sequences become several words."""
    words: list[str] = []
    for name, value in {**options, **changes}.items():
        values = value if isinstance(value, tuple | list) else (value,)
        words += [f"--model.{name.replace('_', '-')}", *map(str, values)]
    return words
