"""Members of a tar come in, samples (adjacent members of one key) go out, and the verdict on each of them.

The key is the member's path up to the first dot of its last part; the rest, in lower case, is the extension, as in
WebDataset.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xmodal.data.formats.tar_walk import Gap, Member

LONGEST_NAME = 255  # bytes
LARGEST_SAMPLE = 512 << 20  # bytes in the archive
LOSSY_FAULTS = ("bad_size", "bad_end", "bad_header", "cut_in_data")  # neighbours may have lost members too

_HOSTILE = re.compile(
    rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]"  # control characters
    rb"|(?:^|[/\\])\.\.(?:[/\\]|$)"  # a way out of the folder
    rb"|^[/\\]|^[A-Za-z]:[/\\]"  # absolute
)


@dataclass(slots=True)
class Sample:
    """Adjacent members of one key, by extension; not to be used if it has a `reason`.

    `touched`: damage lies beside it, so members may be missing.
    """

    key: str
    begin: int
    end: int
    members: dict[str, Member] = field(default_factory=dict)
    touched: bool = False
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stray:
    """A sound member that belongs to no sample: no key or no extension."""

    begin: int
    name: str


def split_name(name: bytes) -> tuple[str, str] | None:
    """Key and extension; None for names without either, for dot files and for webdataset's `__meta__` members."""
    text = name.decode("utf-8", "backslashreplace").removeprefix("./")
    folder, slash, base = text.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension or (stem.startswith("__") and stem.endswith("__")):
        return None
    return folder + slash + stem, extension.lower()


def name_fault(name: bytes) -> str:
    """Why a name is refused ("" if it is not): it could escape a folder or a terminal once it is used as one."""
    if len(name) > LONGEST_NAME:
        return f"longer than {LONGEST_NAME} bytes"
    return "absolute, leads out of its folder, or holds control characters" if _HOSTILE.search(name) else ""


def samples(events: Iterable[Member | Gap]) -> Iterator[Sample | Gap | Stray]:
    """Group what `walk` yields, in the order of the archive; a sample comes after what is inside its span."""
    current: Sample | None = None
    touched = False  # by what lies before the next sample
    for event in events:
        if isinstance(event, Gap):
            if current:
                current.touched |= event.lossy
                yield current
            current, touched = None, touched or event.lossy
            yield event
            continue
        if event.is_directory:
            continue
        named = split_name(event.name)
        if named is None and event.fault not in LOSSY_FAULTS:
            yield Stray(event.begin, event.name[:LONGEST_NAME].decode("utf-8", "backslashreplace"))
            continue
        key, extension = named or (repr(event.name[:LONGEST_NAME]), "")
        if current is None or key != current.key or extension in current.members:
            if current:
                yield current
            current = Sample(key, event.begin, event.end, touched=touched)
            touched = False
        touched |= _add(current, extension, event)
    if current:
        yield current


def _add(sample: Sample, extension: str, member: Member) -> bool:
    """Add a member; whether the next sample may have lost members by its fault."""
    sample.members[extension] = member
    sample.end = member.end
    fault = member.fault or ("bad_name" if name_fault(member.name) else "")
    if sample.end - sample.begin > LARGEST_SAMPLE:
        fault = fault or "sample_too_large"
    if fault and not sample.reason:
        sample.reason = fault
        sample.detail = name_fault(member.name) or f"{member.name[:LONGEST_NAME]!r}, {member.size} bytes"
    lossy = member.fault in LOSSY_FAULTS
    sample.touched |= lossy
    return lossy


def judge(found: Sequence[Sample]) -> None:
    """Give a reason to every sample of a shard that must not be used beside the others."""
    _refuse_repeated_keys(found)
    _refuse_incomplete(found)


def _refuse_repeated_keys(found: Sequence[Sample]) -> None:
    """A key that comes back: with other members the sample was torn apart, with the same it is a duplicate."""
    first: dict[str, Sample] = {}
    for sample in found:
        earlier = first.setdefault(sample.key, sample)
        if earlier is sample:
            continue
        if earlier.members.keys() & sample.members.keys():
            sample.reason = sample.reason or "duplicate_key"
            sample.detail = sample.detail or f"the first is at {earlier.begin}"
            continue
        for part in (earlier, sample):
            part.reason = part.reason or "scattered_sample"
            part.detail = part.detail or "its members do not follow one another"


def _refuse_incomplete(found: Sequence[Sample]) -> None:
    """Beside damage, a sample counts as whole only if it has exactly the members that undamaged samples have.

    A refused one may have lost them to the one behind it (a lost name), so that one is looked at too.
    """
    known = Counter(frozenset(s.members) for s in found if not s.touched and not s.reason)
    if not known:
        known = Counter(frozenset(s.members) for s in found)
    usual = [signature for signature, _ in known.most_common(64)]
    beside = False
    for sample in found:
        if not (sample.touched or beside):
            continue
        own = frozenset(sample.members)
        if not sample.reason and (own not in usual or any(own < other for other in usual)):
            sample.reason = "incomplete_sample"
            sample.detail = f"it lies beside damage and has only {', '.join(sorted(own))}"
        beside = bool(sample.reason)
