"""Pairs of image and caption come in, the bytes of one tar or Parquet shard go out; equal pairs give equal bytes."""

from collections.abc import Callable, Sequence

from xmodal.data.formats.shard_writer import parquet_shard, tar_shard

Sample = tuple[str, dict[str, bytes]]  # key, and members by extension: one image, `txt`, perhaps `json`


def parquet_pairs(samples: Sequence[Sample]) -> bytes:
    """Columns `key`, `image` (the Hugging Face struct of bytes and path), `text`, and `json` if any."""
    return parquet_shard(((key, _columns(members)) for key, members in samples), files=("image",))


def _columns(members: dict[str, bytes]) -> dict[str, bytes | str]:
    [extension] = set(members) - {"txt", "json"}
    texts = {
        name: members[member].decode() for name, member in (("text", "txt"), ("json", "json")) if member in members
    }
    return {"image": members[extension], **texts}


FORMATS: dict[str, Callable[[Sequence[Sample]], bytes]] = {"tar": tar_shard, "parquet": parquet_pairs}
