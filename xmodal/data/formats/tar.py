"""One tar shard comes in; its extents and its damage, or the samples of one extent, go out."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from xmodal.data.extents import Contents, Damage, RawSample, Span, damage_summary
from xmodal.data.formats.byte_source import Source
from xmodal.data.formats.tar_samples import Sample, Stray, judge, samples
from xmodal.data.formats.tar_walk import Gap, Member, walk
from xmodal.errors import BadSample

ROWS_PER_EXTENT = 256
BYTES_PER_EXTENT = 16 << 20  # unless one sample is larger
MOST_MEMBERS = 1_000_000  # in one shard; a thousand times what is usual
MOST_FIELDS = 256
MOST_REPORTS = 10_000  # of damage in one shard

Found = Sample | Gap | Stray


def index_tar(source: Source, path: str, *, one_extent: bool = False) -> Contents:
    """Walk a whole tar; `one_extent` packs all neighbours together, whatever their number."""
    found = list(_without_places(samples(_capped(walk(source, 0, source.size, whole=True), source.size))))
    judge([item for item in found if isinstance(item, Sample)])
    sound = [item for item in found if isinstance(item, Sample) and not item.reason]
    extensions = Counter(name for sample in sound for name in sample.members)
    limits = (1 << 62, 1 << 62) if one_extent else (ROWS_PER_EXTENT, BYTES_PER_EXTENT)
    return Contents(
        spans=tuple(_pack(found, *limits)),
        fields=tuple(sorted(name for name, _ in extensions.most_common(MOST_FIELDS))),
        damage=_damage(source, found, path),
    )


def _without_places(found: Iterable[Found]) -> Iterator[Found]:
    """Let samples with the same extensions share one dict, since only its names count here: a third of the memory."""
    shared: dict[tuple[str, ...], dict[str, Member]] = {}
    for item in found:
        if isinstance(item, Sample):
            item.members = shared.setdefault(tuple(item.members), item.members)
        yield item


def _capped(events: Iterator[Member | Gap], end: int) -> Iterator[Member | Gap]:
    yield from islice(events, MOST_MEMBERS)
    if (rest := next(events, None)) is not None:
        yield Gap(rest.begin, end, "too_many_members", f"more than {MOST_MEMBERS}; write smaller shards")


def _damage(source: Source, found: list[Found], path: str) -> tuple[Damage, ...]:
    if not any(isinstance(item, Sample) for item in found) and (nothing := _why_nothing(source, found)):
        return (Damage(path, 0, *nothing),)
    damage = sorted((Damage(path, *report) for item in found if (report := _report(item))), key=lambda d: d.offset)
    if len(damage) > MOST_REPORTS:
        detail = f"{len(damage) - MOST_REPORTS} more: {damage_summary(damage[MOST_REPORTS:])}"
        damage[MOST_REPORTS:] = [Damage(path, damage[MOST_REPORTS].offset, "more_damage", detail)]
    return tuple(damage)


def _why_nothing(source: Source, found: list[Found]) -> tuple[str, str] | None:
    """What a shard without any sample is, if it is no archive with damage."""
    first = found[0] if found else None
    if source.size == 0:
        return "empty_shard", "zero bytes"
    if first is None or (isinstance(first, Gap) and first.reason == "missing_end" and first.begin == 0):
        return "only_zeros", "an archive without members"
    if isinstance(first, Gap) and (first.begin, first.end) == (0, source.size):
        return "not_a_tar", f"it starts with {source.read(0, 80)!r}"
    return None


def _report(item: Found) -> tuple[int, str, str] | None:
    """Offset, reason and detail of what is not sound."""
    if isinstance(item, Stray):
        return item.begin, "not_a_sample", f"member {item.name!r} has no key or no extension"
    if isinstance(item, Gap):
        skipped = f"{item.end - item.begin} bytes skipped" if item.end > item.begin else ""
        return item.begin, item.reason, "; ".join(filter(None, (item.detail, skipped)))
    return (item.begin, item.reason, f"sample {item.key!r}: {item.detail}") if item.reason else None


def _pack(found: Iterable[Found], most_rows: int, most_bytes: int) -> Iterator[Span]:
    """Runs of sound samples with nothing unsound between them."""
    first_row = rows = begin = end = 0
    for item in found:
        if isinstance(item, Stray):
            continue
        usable = isinstance(item, Sample) and not item.reason
        if rows and (not usable or rows == most_rows or item.end - begin > most_bytes):
            yield first_row, rows, begin, end - begin
            first_row, rows = first_row + rows, 0
        if usable:
            begin = begin if rows else item.begin
            rows, end = rows + 1, item.end
    if rows:
        yield first_row, rows, begin, end - begin


def read_tar(source: Source, begin: int, end: int, rows: int, wanted: Collection[str] | None) -> list[RawSample]:
    """Exactly `rows` samples of an extent; from the first damage on they carry a fault.

    Raises BadSample when the extent is sound but does not hold `rows` samples: then it is not the one that was indexed.
    """
    found: list[RawSample] = []
    trouble = ""
    for item in samples(walk(source, begin, end, whole=False)):
        if isinstance(item, Stray):
            continue
        if isinstance(item, Gap) or item.reason or item.touched:
            trouble = f"{item.reason or 'damage'} at {item.begin}"
            break
        found.append(_raw(source, item, wanted))
    if len(found) > rows or (len(found) < rows and not trouble):
        raise BadSample("shard_changed", f"{len(found)} samples where the index has {rows}")
    fault = BadSample("extent_damaged", trouble)
    return found + [RawSample("", begin, None, fault) for _ in range(rows - len(found))]


def _raw(source: Source, sample: Sample, wanted: Collection[str] | None) -> RawSample:
    members = {
        extension: source.read(member.data, member.size)
        for extension, member in sample.members.items()
        if wanted is None or extension in wanted
    }
    return RawSample(sample.key, sample.begin, members)
