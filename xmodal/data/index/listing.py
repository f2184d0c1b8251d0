"""List the shards of a corpus URI: of a folder, a file, or a pattern such as `{00000..00012}.tar`."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass

from xmodal import storage
from xmodal.data.extents import ShardFormat
from xmodal.data.index.shard_indexer import relative_path
from xmodal.errors import CorpusError

TAR_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4")
PARQUET_ENDINGS = (".parquet",)
MAX_NAMES = 1_000_000  # of one brace pattern

_MAGIC = re.compile(r"[{*?\[]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


@dataclass(frozen=True)
class Listing:
    """The shards of a corpus, sorted by path; `base` is the folder that their paths are relative to.

    `ignored` are the paths of other files there; `is_folder` says whether the corpus was given as a folder.
    """

    base: str
    format: ShardFormat
    entries: tuple[storage.Entry, ...]
    ignored: tuple[str, ...]
    is_folder: bool

    @property
    def paths(self) -> list[str]:
        """Path of each shard, relative to `base`."""
        return [relative_path(self.base, entry.uri) for entry in self.entries]


def list_shards(uri: str, options: storage.StorageOptions) -> Listing:
    """List the shards of `uri`; CorpusError when there are none.

    In a folder, only tar and Parquet files count, and nothing whose name or folder begins with `_` or `.`. Where a
    folder holds both kinds, the tars are the corpus (img2dataset stores its metadata next to them as Parquet).
    """
    base, entries, is_folder = _candidates(uri, options)
    by_path = [(relative_path(base, entry.uri), entry) for entry in entries]
    visible = [(path, entry) for path, entry in by_path if not is_folder or _is_visible(path)]
    tars = [entry for path, entry in visible if path.lower().endswith(TAR_ENDINGS)]
    parquets = [entry for path, entry in visible if path.lower().endswith(PARQUET_ENDINGS)]
    shards = tars or parquets
    if not shards:
        content = f"only {', '.join(path for path, _ in by_path[:5])}" if by_path else "nothing"
        raise CorpusError(f"{uri} holds no .tar or .parquet shards, {content}; name the folder of the shards")
    shard_uris = {entry.uri for entry in shards}
    ignored = tuple(path for path, entry in by_path if entry.uri not in shard_uris)
    return Listing(base, "tar" if tars else "parquet", tuple(shards), ignored, is_folder)


def _is_visible(path: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.split("/"))


def _candidates(uri: str, options: storage.StorageOptions) -> tuple[str, list[storage.Entry], bool]:
    """Return the base folder, the files that may be shards, and whether `uri` is that folder."""
    if _MAGIC.search(uri) and not storage.exists(uri, options=options):
        return _match_pattern(uri, options)
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
    """Return the folder before a pattern's first brace or wildcard; any other URI as it is.

    >>> folder_before_pattern("s3://bucket/train/{000..012}.tar")
    's3://bucket/train'
    """
    magic = _MAGIC.search(uri)
    return _parent(uri[: magic.start()] + "x") if magic else uri


def _match_pattern(pattern: str, options: storage.StorageOptions) -> tuple[str, list[storage.Entry], bool]:
    base = folder_before_pattern(pattern)
    names = list(expand_braces(pattern.removeprefix(base.removesuffix("/") + "/")))
    try:
        entries = storage.list_files(base, options=options)
    except storage.NotFound as error:
        raise CorpusError(f"there is no corpus at {pattern}: {base} does not exist; check the path") from error
    by_path = {relative_path(base, entry.uri): entry for entry in entries}
    missing = [name for name in names if name not in by_path and not _MAGIC.search(name)]
    if missing:
        raise CorpusError(
            f"{pattern} names {len(names)} files, of which {len(missing)} do not exist, "
            f"first {', '.join(missing[:3])}; correct the range"
        )
    matches = {name for name in names if name in by_path}
    for glob in (name for name in names if name not in by_path):
        matches.update(path for path in by_path if fnmatch.fnmatchcase(path, glob))
    return base, [by_path[path] for path in sorted(matches)], False


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names of a pattern: `{000..012}` counts and keeps the width, `{a,b}` lists alternatives.

    Anything else in braces stays as it is. CorpusError beyond a million names.

    >>> list(expand_braces("{08..10}-{a,b}.tar"))
    ['08-a.tar', '08-b.tar', '09-a.tar', '09-b.tar', '10-a.tar', '10-b.tar']
    """
    names = [pattern]
    while any(_first_group(name) for name in names):
        expanded: list[str] = []
        for name in names:
            expanded += _expand_once(name)
            if len(expanded) > MAX_NAMES:
                raise CorpusError(f"{pattern} names more than {MAX_NAMES} files; name their folder instead")
        names = expanded
    yield from names


def _first_group(name: str) -> re.Match[str] | None:
    groups = _BRACES.finditer(name)
    return next((group for group in groups if "," in group[1] or _RANGE.fullmatch(group[1])), None)


def _expand_once(name: str) -> list[str]:
    group = _first_group(name)
    if group is None:
        return [name]
    head, tail = name[: group.start()], name[group.end() :]
    counter = _RANGE.fullmatch(group[1])
    if counter is None:
        return [head + choice + tail for choice in group[1].split(",")]
    first, last = int(counter[1]), int(counter[2])
    if abs(last - first) >= MAX_NAMES:
        raise CorpusError(f"{{{group[1]}}} names more than {MAX_NAMES} files; name their folder instead")
    step = 1 if last >= first else -1
    return [f"{head}{number:0{len(counter[1])}d}{tail}" for number in range(first, last + step, step)]
