"""Choose which members of a corpus's samples hold the fields of a model: as the user says, or by the usual names."""

from collections.abc import Sequence

from xmodal.data.decode.fields import FieldMap, available_members, parse_field_map
from xmodal.data.index.corpus import Corpus, read_extent
from xmodal.errors import ConfigError


def field_map(corpus: Corpus, specs: Sequence[str], names: Sequence[str]) -> FieldMap:
    """Return the map of the fields `names` for this corpus: by `specs` (`image=jpg|png`), else by the usual names.

    ConfigError where `specs` leaves a field out or names a member that no sample has, with those that exist.
    """
    members = available_fields(corpus)
    if not specs:
        return FieldMap.guess(members, corpus.format, names)
    given = parse_field_map(specs)
    missing = sorted(set(names) - set(given.sources))
    if missing:
        raise ConfigError(
            f"the field map does not name {', '.join(missing)}: add e.g. {missing[0]}=NAME; "
            f"{corpus.uri} has {', '.join(sorted(members))}"
        )
    given.check(members)
    return FieldMap({name: given.sources[name] for name in names})


def available_fields(corpus: Corpus) -> set[str]:
    """Return the members that exist by the index, with the JSON keys of the first valid sample."""
    first = next((sample for sample in read_extent(corpus, 0) if sample.members is not None), None)
    keys = available_members(first.members) if first is not None and first.members else set()
    return set(corpus.fields) | keys
