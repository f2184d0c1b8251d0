"""Tars for the tests, with the position of every member, and a reader of all their samples."""

import io
import tarfile
from dataclasses import dataclass

from xmodal.data.extents import ShardContents
from xmodal.data.formats.byte_source import MemorySource
from xmodal.data.formats.tar import index_tar, read_tar

Samples = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class MemberSpan:
    """The bytes of a member: where its first header and its body begin, and where its padding ends."""

    key: str
    begin: int
    data: int
    size: int
    end: int


def make_tar(samples: Samples, *, format: int = tarfile.PAX_FORMAT) -> tuple[bytes, list[MemberSpan]]:
    return make_members(
        [(key, f"{key}.{ext}", data) for key, members in samples.items() for ext, data in members.items()],
        format=format,
    )


def make_members(
    members: list[tuple[str, str, bytes]], *, format: int = tarfile.PAX_FORMAT
) -> tuple[bytes, list[MemberSpan]]:
    """Return a tar of (key, name, body), and the bytes of each member."""
    out, spans = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for key, name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            begin = archive.offset
            archive.addfile(info, io.BytesIO(body))
            data = archive.offset - -(-len(body) // 512) * 512
            spans.append(MemberSpan(key, begin, data, len(body), archive.offset))
    return out.getvalue(), spans


def some_samples(count: int = 6) -> Samples:
    """Return samples of an image and a caption, each of another length, none ending in a zero."""
    return {
        f"{i:04d}": {"jpg": bytes(1 + (i * 37 + j) % 250 for j in range(600 + 211 * i)), "txt": f"caption {i}".encode()}
        for i in range(count)
    }


def index_and_read(data: bytes) -> tuple[Samples, ShardContents]:
    """Index the bytes of a tar and read every extent; return the samples by key, and the index."""
    index = index_tar(MemorySource(data), "0.tar")
    delivered: Samples = {}
    next_row, last_end = 0, 0
    for first_row, rows, offset, length in index.spans:
        assert first_row == next_row and offset >= last_end and length > 0
        next_row, last_end = first_row + rows, offset + length
        raw = read_tar(MemorySource(data[offset : offset + length], offset), offset, offset + length, rows, None)
        assert len(raw) == rows
        for sample in raw:
            assert sample.fault is None and sample.members is not None, sample
            assert sample.key not in delivered
            assert data[sample.offset : sample.offset + 512]
            delivered[sample.key] = sample.members
    return delivered, index


def damage_reasons(index: ShardContents) -> set[str]:
    return {item.reason for item in index.damage}
