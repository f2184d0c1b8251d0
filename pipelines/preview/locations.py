"""What every preview contains: where the job runs, what its corpora hold, and its checkpoint."""

import os

from xmodal import checkpoint, storage
from xmodal.data.index import extent_index as stored_index
from xmodal.data.index.corpus import index_uri
from xmodal.data.index.listing import list_shards
from xmodal.storage import StorageOptions


def cluster_address(configured: str | None) -> str | None:
    """Return the address of the cluster that a run joins; None where it starts a Ray of its own."""
    address = configured or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "local") else address


def ray_in_words(address: str | None) -> str:
    """Say in words which Ray a job runs on."""
    return f"the cluster at {address}" if address else "a Ray of its own on this machine"


def preview_corpus(uri: str, index: str | None, options: StorageOptions) -> dict[str, object]:
    """Return what a corpus holds; its rows only where an index is stored."""
    listing = list_shards(uri, options)
    stored = stored_index.load_index(index_uri(uri, listing, index), options)
    return {
        "uri": uri,
        "format": listing.format,
        "shards": len(listing.entries),
        "bytes": sum(entry.size for entry in listing.entries),
        "rows": int(stored.extents.rows.sum()) if stored else "not indexed yet: the run does it first",
    }


def preview_checkpoint(uri: str, options: StorageOptions) -> dict[str, object]:
    """Return the newest complete checkpoint of a run, or the one named; CheckpointError where there is none."""
    storage.check(uri, writable=False, options=options)
    ref = checkpoint.resolve(uri, options=options)
    return {"uri": ref.uri, "step": ref.step, "bytes": sum(record.size for record in ref.files)}
