"""Build tar or Parquet shards of image-caption pairs; equal pairs give equal bytes."""

from collections.abc import Callable, Sequence

from xmodal.data.formats.shard_writer import parquet_shard, tar_shard

PairSample = tuple[str, dict[str, bytes]]  # key, and members by extension: one image, `txt`, perhaps `json`


def pair_parquet_shard(samples: Sequence[PairSample]) -> bytes:
    """Return a Parquet file with the columns `key`, `image` (Hugging Face's struct of bytes and path), `text`, `json`.

    `json` is absent if no sample has it.
    """
    return parquet_shard(((key, _columns(members)) for key, members in samples), file_columns=("image",))


def _columns(members: dict[str, bytes]) -> dict[str, bytes | str]:
    [extension] = set(members) - {"txt", "json"}
    texts = {
        name: members[member].decode() for name, member in (("text", "txt"), ("json", "json")) if member in members
    }
    return {"image": members[extension], **texts}


SHARD_BUILDERS: dict[str, Callable[[Sequence[PairSample]], bytes]] = {"tar": tar_shard, "parquet": pair_parquet_shard}
