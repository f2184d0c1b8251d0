"""A corpus URI comes in (a folder, a file, or a pattern such as `{00000..00012}.tar`), its shards go out."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass

from xmodal import storage
from xmodal.data.extents import Format
from xmodal.data.index.shard_indexer import relative
from xmodal.errors import CorpusError

TAR_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4")
PARQUET_ENDINGS = (".parquet",)
MOST_NAMES = 1_000_000  # of one brace pattern

_MAGIC = re.compile(r"[{*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Listing:
    """The shards of a corpus, sorted; `base` is the folder that their paths are relative to."""

    base: str
    format: Format
    entries: tuple[storage.Entry, ...]
    ignored: tuple[str, ...]
    is_folder: bool

    @property
    def paths(self) -> list[str]:
        return [relative(self.base, entry.uri) for entry in self.entries]


def list_shards(uri: str, options: storage.StorageOptions) -> Listing:
    """List the shards of `uri`; CorpusError when there are none.

    In a folder, files and folders whose name starts with `_` or `.` are no shards, nor is anything but tar and Parquet.
    Where a folder holds both, the tars are the corpus (img2dataset writes its metadata beside them).
    """
    base, entries, is_folder = _candidates(uri, options)
    named = [(relative(base, entry.uri), entry) for entry in entries]
    visible = [(path, entry) for path, entry in named if not is_folder or _is_visible(path)]
    tars = [entry for path, entry in visible if path.lower().endswith(TAR_ENDINGS)]
    parquets = [entry for path, entry in visible if path.lower().endswith(PARQUET_ENDINGS)]
    chosen = tars or parquets
    if not chosen:
        seen = f"only {', '.join(path for path, _ in named[:5])}" if named else "nothing"
        raise CorpusError(f"{uri} holds no .tar or .parquet shards, {seen}; name the folder of the shards")
    taken = {entry.uri for entry in chosen}
    ignored = tuple(path for path, entry in named if entry.uri not in taken)
    return Listing(base, "tar" if tars else "parquet", tuple(chosen), ignored, is_folder)


def _is_visible(path: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.split("/"))


def _candidates(uri: str, options: storage.StorageOptions) -> tuple[str, list[storage.Entry], bool]:
    """The base folder, the files in question, and whether `uri` is that folder."""
    if _MAGIC.search(uri) and not storage.exists(uri, options=options):
        return _matching(uri, options)
    try:
        entries = storage.list_files(uri, options=options)
    except storage.NotFound as error:
        raise CorpusError(f"there is no corpus at {uri}: nothing is stored there; check the path") from error
    if len(entries) == 1 and entries[0].uri.removesuffix("/") == uri.removesuffix("/"):
        return _parent(uri), entries, False
    return uri, entries, True


def _parent(uri: str) -> str:
    folder, slash, _ = uri.removesuffix("/").rpartition("/")
    return folder or slash or "."


def folder_before_pattern(uri: str) -> str:
    """What a pattern matches files below: the folders before its first brace or wildcard; any other URI itself."""
    magic = _MAGIC.search(uri)
    return _parent(uri[: magic.start()] + "x") if magic else uri


def _matching(pattern: str, options: storage.StorageOptions) -> tuple[str, list[storage.Entry], bool]:
    base = folder_before_pattern(pattern)
    wanted = list(expand_braces(pattern.removeprefix(base.removesuffix("/") + "/")))
    try:
        listed = storage.list_files(base, options=options)
    except storage.NotFound as error:
        raise CorpusError(f"there is no corpus at {pattern}: {base} does not exist; check the path") from error
    by_path = {relative(base, entry.uri): entry for entry in listed}
    missing = [name for name in wanted if name not in by_path and not _MAGIC.search(name)]
    if missing:
        raise CorpusError(
            f"{pattern} names {len(wanted)} files, of which {len(missing)} do not exist, "
            f"first {', '.join(missing[:3])}; correct the range"
        )
    found = {name for name in wanted if name in by_path}
    for glob in (name for name in wanted if name not in by_path):
        found.update(path for path in by_path if fnmatch.fnmatchcase(path, glob))
    return base, [by_path[path] for path in sorted(found)], False


def expand_braces(pattern: str) -> Iterator[str]:
    """`{000..012}` counts, keeping the width; `{a,b}` lists; anything else in braces stays as it is.

    CorpusError beyond a million names.
    """
    names = [pattern]
    while any(_first_group(name) for name in names):
        longer: list[str] = []
        for name in names:
            longer += _expand_once(name)
            if len(longer) > MOST_NAMES:
                raise CorpusError(f"{pattern} names more than {MOST_NAMES} files; name their folder instead")
        names = longer
    yield from names


def _first_group(name: str) -> re.Match[str] | None:
    groups = _BRACES.finditer(name)
    return next((group for group in groups if "," in group[1] or _RANGE.fullmatch(group[1])), None)


def _expand_once(name: str) -> list[str]:
    group = _first_group(name)
    if group is None:
        return [name]
    head, tail = name[: group.start()], name[group.end() :]
    span = _RANGE.fullmatch(group[1])
    if span is None:
        return [head + choice + tail for choice in group[1].split(",")]
    first, last = int(span[1]), int(span[2])
    if abs(last - first) >= MOST_NAMES:
        raise CorpusError(f"{{{group[1]}}} names more than {MOST_NAMES} files; name their folder instead")
    step = 1 if last >= first else -1
    return [f"{head}{number:0{len(span[1])}d}{tail}" for number in range(first, last + step, step)]
