"""From samples to the bytes of one shard, the same bytes for the same samples: a WebDataset tar or a Parquet file."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

Sample = tuple[str, dict[str, bytes]]
ROWS_PER_GROUP = 256
_FEATURES = {  # so that Hugging Face datasets decodes the pictures
    "key": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"},
    "text": {"dtype": "string", "_type": "Value"}, "json": {"dtype": "string", "_type": "Value"},
}  # fmt: skip
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def tar_bytes(samples: Sequence[Sample]) -> bytes:
    """Members `KEY.EXTENSION`, no owner and no time of day."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def parquet_bytes(samples: Sequence[Sample]) -> bytes:
    """Columns `key`, `image` (struct of bytes and path, as Hugging Face does), `text`, and `json` if any."""
    rows = []
    for key, members in samples:
        [extension] = set(members) - {"txt", "json"}
        image = {"bytes": members[extension], "path": f"{key}.{extension}"}
        rows.append({"key": key, "image": image, "text": members["txt"].decode()})
        if "json" in members:
            rows[-1]["json"] = members["json"].decode()
    fields = [("key", pa.string()), ("image", _IMAGE), ("text", pa.string())]
    fields += [("json", pa.string())] if any("json" in row for row in rows) else []
    features = {name: _FEATURES[name] for name, _ in fields}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata=metadata))
    pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP, compression="zstd", use_dictionary=False)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Sequence[Sample]], bytes]] = {"tar": tar_bytes, "parquet": parquet_bytes}
