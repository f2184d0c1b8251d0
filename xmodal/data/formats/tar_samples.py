"""Group the members of a tar into samples (adjacent members of one key), and find the samples that cannot be used.

As in WebDataset, the key is the member's path up to the first dot of its last part; the rest, in lower case, is the
extension.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xmodal.data.formats.tar_walk import TarGap, TarMember

MAX_NAME_BYTES = 255
MAX_SAMPLE_BYTES = 512 << 20  # in the archive
LOSSY_FAULTS = ("bad_size", "bad_end", "bad_header", "cut_in_data")  # neighbours may have lost members too

_HOSTILE = re.compile(
    rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]"  # control characters
    rb"|(?:^|[/\\])\.\.(?:[/\\]|$)"  # a way out of the folder
    rb"|^[/\\]|^[A-Za-z]:[/\\]"  # absolute
)


@dataclass(slots=True)
class TarSample:
    """Adjacent members of one key, by extension; a `reason` says why it must not be used.

    `near_damage`: there is damage next to it, so that members may be missing.
    """

    key: str
    begin: int
    end: int
    members: dict[str, TarMember] = field(default_factory=dict)
    near_damage: bool = False
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StrayMember:
    """A valid member that belongs to no sample, because it has no key or no extension."""

    begin: int
    name: str


def split_name(name: bytes) -> tuple[str, str] | None:
    """Return key and extension of a name; None for names without either, dot files and WebDataset's `__meta__` members.

    >>> split_name(b"train/0001.seg.PNG")
    ('train/0001', 'seg.png')
    """
    text = name.decode("utf-8", "backslashreplace").removeprefix("./")
    folder, slash, base = text.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or not extension or (stem.startswith("__") and stem.endswith("__")):
        return None
    return folder + slash + stem, extension.lower()


def name_fault(name: bytes) -> str:
    """Return why a name is rejected ("" for a valid one): used as a path or printed, it could do harm.

    >>> name_fault(b"0001.jpg"), name_fault(b"../etc/passwd")
    ('', 'absolute, leads out of its folder, or holds control characters')
    """
    if len(name) > MAX_NAME_BYTES:
        return f"longer than {MAX_NAME_BYTES} bytes"
    return "absolute, leads out of its folder, or holds control characters" if _HOSTILE.search(name) else ""


def group_members(events: Iterable[TarMember | TarGap]) -> Iterator[TarSample | TarGap | StrayMember]:
    """Group the output of `walk_tar` into samples, in the order of the archive; a sample comes after what it spans."""
    current: TarSample | None = None
    near_damage = False  # whether there is damage just before the next sample
    for event in events:
        if isinstance(event, TarGap):
            if current:
                current.near_damage |= event.lossy
                yield current
            current, near_damage = None, near_damage or event.lossy
            yield event
            continue
        if event.is_directory:
            continue
        key_and_extension = split_name(event.name)
        if key_and_extension is None and event.fault not in LOSSY_FAULTS:
            yield StrayMember(event.begin, event.name[:MAX_NAME_BYTES].decode("utf-8", "backslashreplace"))
            continue
        key, extension = key_and_extension or (repr(event.name[:MAX_NAME_BYTES]), "")
        if current is None or key != current.key or extension in current.members:
            if current:
                yield current
            current = TarSample(key, event.begin, event.end, near_damage=near_damage)
            near_damage = False
        near_damage |= _add(current, extension, event)
    if current:
        yield current


def _add(sample: TarSample, extension: str, member: TarMember) -> bool:
    """Add a member to a sample; return whether the next sample, too, may have lost members by the member's fault."""
    sample.members[extension] = member
    sample.end = member.end
    fault = member.fault or ("bad_name" if name_fault(member.name) else "")
    if sample.end - sample.begin > MAX_SAMPLE_BYTES:
        fault = fault or "sample_too_large"
    if fault and not sample.reason:
        sample.reason = fault
        sample.detail = name_fault(member.name) or f"{member.name[:MAX_NAME_BYTES]!r}, {member.size} bytes"
    lossy = member.fault in LOSSY_FAULTS
    sample.near_damage |= lossy
    return lossy


def mark_unusable(samples: Sequence[TarSample]) -> None:
    """Set the `reason` of every sample of a shard that only the other samples show to be unusable."""
    _mark_repeated_keys(samples)
    _mark_incomplete(samples)


def _mark_repeated_keys(samples: Sequence[TarSample]) -> None:
    """Mark samples whose key occurs again: as duplicates with equal members, as scattered with other members."""
    first: dict[str, TarSample] = {}
    for sample in samples:
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


def _mark_incomplete(samples: Sequence[TarSample]) -> None:
    """Mark samples next to damage that do not have exactly the members of undamaged samples.

    A marked sample may have lost members to the one after it (where a name was lost), so that one is checked, too.
    """
    signatures = Counter(frozenset(s.members) for s in samples if not s.near_damage and not s.reason)
    if not signatures:
        signatures = Counter(frozenset(s.members) for s in samples)
    usual = [signature for signature, _ in signatures.most_common(64)]
    after_unusable = False
    for sample in samples:
        if not (sample.near_damage or after_unusable):
            continue
        names = frozenset(sample.members)
        if not sample.reason and (names not in usual or any(names < other for other in usual)):
            sample.reason = "incomplete_sample"
            sample.detail = f"it lies beside damage and has only {', '.join(sorted(names))}"
        after_unusable = bool(sample.reason)
