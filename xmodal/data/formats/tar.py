"""Index a tar shard (extents and damage), and read the samples of one of its extents."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from xmodal.data.extents import Damage, RawSample, RowSpan, ShardContents, damage_summary
from xmodal.data.formats.byte_source import ByteSource
from xmodal.data.formats.tar_samples import StrayMember, TarSample, group_members, mark_unusable
from xmodal.data.formats.tar_walk import TarGap, TarMember, walk_tar
from xmodal.errors import BadSample

ROWS_PER_EXTENT = 256
BYTES_PER_EXTENT = 16 << 20  # unless one sample is larger
MAX_MEMBERS = 1_000_000  # in one shard; a thousand times the usual number
MAX_FIELDS = 256
MAX_DAMAGE_REPORTS = 10_000  # in one shard

TarItem = TarSample | TarGap | StrayMember


def index_tar(source: ByteSource, path: str, *, one_extent: bool = False) -> ShardContents:
    """Index a whole tar; `path` is its name in the damage records.

    With `one_extent`, all neighbours form one extent, whatever their number.
    """
    members = _limit_members(walk_tar(source, 0, source.size, whole=True), source.size)
    items = list(_share_member_dicts(group_members(members)))
    mark_unusable([item for item in items if isinstance(item, TarSample)])
    valid = [item for item in items if isinstance(item, TarSample) and not item.reason]
    extensions = Counter(name for sample in valid for name in sample.members)
    limits = (1 << 62, 1 << 62) if one_extent else (ROWS_PER_EXTENT, BYTES_PER_EXTENT)
    return ShardContents(
        spans=tuple(_pack(items, *limits)),
        fields=tuple(sorted(name for name, _ in extensions.most_common(MAX_FIELDS))),
        damage=_damage(source, items, path),
    )


def _share_member_dicts(items: Iterable[TarItem]) -> Iterator[TarItem]:
    """Let samples with the same extensions share one dict, since only its names count here: a third of the memory."""
    shared: dict[tuple[str, ...], dict[str, TarMember]] = {}
    for item in items:
        if isinstance(item, TarSample):
            item.members = shared.setdefault(tuple(item.members), item.members)
        yield item


def _limit_members(events: Iterator[TarMember | TarGap], end: int) -> Iterator[TarMember | TarGap]:
    """Replace everything after MAX_MEMBERS members and gaps by one gap."""
    yield from islice(events, MAX_MEMBERS)
    if (following := next(events, None)) is not None:
        yield TarGap(following.begin, end, "too_many_members", f"more than {MAX_MEMBERS}; write smaller shards")


def _damage(source: ByteSource, items: list[TarItem], path: str) -> tuple[Damage, ...]:
    if not any(isinstance(item, TarSample) for item in items) and (reason := _why_empty(source, items)):
        return (Damage(path, 0, *reason),)
    damage = sorted((Damage(path, *report) for item in items if (report := _report(item))), key=lambda d: d.offset)
    if len(damage) > MAX_DAMAGE_REPORTS:
        detail = f"{len(damage) - MAX_DAMAGE_REPORTS} more: {damage_summary(damage[MAX_DAMAGE_REPORTS:])}"
        damage[MAX_DAMAGE_REPORTS:] = [Damage(path, damage[MAX_DAMAGE_REPORTS].offset, "more_damage", detail)]
    return tuple(damage)


def _why_empty(source: ByteSource, items: list[TarItem]) -> tuple[str, str] | None:
    """Return reason and detail for a shard without any sample; None where it is an archive with damage."""
    first = items[0] if items else None
    if source.size == 0:
        return "empty_shard", "zero bytes"
    if first is None or (isinstance(first, TarGap) and first.reason == "missing_end" and first.begin == 0):
        return "only_zeros", "an archive without members"
    if isinstance(first, TarGap) and (first.begin, first.end) == (0, source.size):
        return "not_a_tar", f"it starts with {source.read(0, 80)!r}"
    return None


def _report(item: TarItem) -> tuple[int, str, str] | None:
    """Return offset, reason and detail of an item that is not a valid sample; None for a valid one."""
    if isinstance(item, StrayMember):
        return item.begin, "not_a_sample", f"member {item.name!r} has no key or no extension"
    if isinstance(item, TarGap):
        extent = f"{item.end - item.begin} bytes skipped" if item.end > item.begin else ""
        return item.begin, item.reason, "; ".join(filter(None, (item.detail, extent)))
    return (item.begin, item.reason, f"sample {item.key!r}: {item.detail}") if item.reason else None


def _pack(items: Iterable[TarItem], max_rows: int, max_bytes: int) -> Iterator[RowSpan]:
    """Yield runs of valid samples that have no damage between them."""
    first_row = rows = begin = end = 0
    for item in items:
        if isinstance(item, StrayMember):
            continue
        usable = isinstance(item, TarSample) and not item.reason
        if rows and (not usable or rows == max_rows or item.end - begin > max_bytes):
            yield first_row, rows, begin, end - begin
            first_row, rows = first_row + rows, 0
        if usable:
            begin = begin if rows else item.begin
            rows, end = rows + 1, item.end
    if rows:
        yield first_row, rows, begin, end - begin


def read_tar(source: ByteSource, begin: int, end: int, rows: int, columns: Collection[str] | None) -> list[RawSample]:
    """Return exactly `rows` samples of the extent from byte `begin` to `end`; from the first damage on with a fault.

    Only the members `columns` (extensions) are read; None means all. Raises BadSample `shard_changed` when the extent
    is undamaged but does not hold `rows` samples: then it is not the one that was indexed.
    """
    valid: list[RawSample] = []
    damage = ""
    for item in group_members(walk_tar(source, begin, end, whole=False)):
        if isinstance(item, StrayMember):
            continue
        if isinstance(item, TarGap) or item.reason or item.near_damage:
            damage = f"{item.reason or 'damage'} at {item.begin}"
            break
        valid.append(_read_members(source, item, columns))
    if len(valid) > rows or (len(valid) < rows and not damage):
        raise BadSample("shard_changed", f"{len(valid)} samples where the index has {rows}")
    fault = BadSample("extent_damaged", damage)
    return valid + [RawSample("", begin, None, fault) for _ in range(rows - len(valid))]


def _read_members(source: ByteSource, sample: TarSample, columns: Collection[str] | None) -> RawSample:
    members = {
        extension: source.read(member.data, member.size)
        for extension, member in sample.members.items()
        if columns is None or extension in columns
    }
    return RawSample(sample.key, sample.begin, members)
