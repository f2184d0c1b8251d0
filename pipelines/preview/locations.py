"""Where a run will be, and what lies in its corpora: what every preview says."""

import os
from typing import Any

from xmodal import checkpoint, storage
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.corpus import index_uri
from xmodal.data.index.listing import list_shards
from xmodal.storage import StorageOptions


def address_of(asked: str | None) -> str | None:
    """The cluster that a run will join; None where it starts a Ray of its own."""
    address = asked or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "local") else address


def where(address: str | None) -> str:
    """The same in words."""
    return f"the cluster at {address}" if address else "a Ray of its own on this machine"


def corpus(uri: str, index: str | None, options: StorageOptions) -> dict[str, Any]:
    """What lies there; its rows where an index is stored."""
    listing = list_shards(uri, options)
    known = stored_index.load(index_uri(uri, listing, index), options)
    return {
        "uri": uri,
        "format": listing.format,
        "shards": len(listing.entries),
        "bytes": sum(entry.size for entry in listing.entries),
        "rows": int(known.extents.rows.sum()) if known else "not indexed yet: the run does it first",
    }


def stored_checkpoint(uri: str, options: StorageOptions) -> dict[str, Any]:
    """The newest complete checkpoint of a run, or the one named; CheckpointError where there is none."""
    storage.check(uri, writable=False, options=options)
    found = checkpoint.resolve(uri, options=options)
    return {"uri": found.uri, "step": found.step, "bytes": sum(record.size for record in found.files)}
