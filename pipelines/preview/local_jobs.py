"""The previews of jobs that run in the process that starts them: what they will read is looked up, nothing is made."""

from typing import Any

from pipelines.config import compare, diagnose, doctor, export, inspect, report
from pipelines.preview.locations import address_of, corpus, stored_checkpoint, where
from xmodal import storage
from xmodal.data.index.listing import folder_before_pattern
from xmodal.run.plain_config import to_plain

HERE = {"where": "this process"}


def exporting(config: export.Config) -> dict[str, Any]:
    """`config` and the checkpoint that will be exported. Raises what is wrong with either place."""
    storage.check(config.to, writable=True, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoint": stored_checkpoint(config.checkpoint, config.storage),
        "resources": HERE,
    }


def reporting(config: report.Config) -> dict[str, Any]:
    """`config`, and the newest checkpoint of each run."""
    storage.check(config.to, writable=True, options=config.storage)
    runs = [stored_checkpoint(uri, config.storage) for uri in config.runs]
    return {"config": to_plain(config), "checkpoints": runs, "resources": HERE}


def inspecting(config: inspect.Config) -> dict[str, Any]:
    """`config`, and what lies in the corpus."""
    storage.check(folder_before_pattern(config.corpus), writable=False, options=config.storage)
    found = corpus(config.corpus, config.index, config.storage)
    return {"config": to_plain(config), "corpora": [found], "resources": HERE}


def diagnosing(config: diagnose.Config) -> dict[str, Any]:
    """`config`, the checkpoint that will be looked into, and what lies in the corpora."""
    corpora = list(filter(None, (config.corpus, config.held_out)))
    for uri in corpora:
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoint": stored_checkpoint(config.checkpoint, config.storage),
        "corpora": [corpus(uri, config.index, config.storage) for uri in corpora],
        "resources": HERE,
    }


def comparing(config: compare.Config) -> dict[str, Any]:
    """`config`, the newest checkpoint of each run that is named, and what lies in the corpora."""
    for uri in (config.source, config.target):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoints": {arm: [stored_checkpoint(uri, config.storage) for uri in getattr(config, arm)]
                        for arm in compare.ARMS},
        "corpora": [corpus(uri, config.index, config.storage) for uri in (config.source, config.target)],
        "resources": HERE,
    }  # fmt: skip


def examining(config: doctor.Config) -> dict[str, Any]:
    """`config`, and where one task will look at every node from inside."""
    return {
        "config": to_plain(config),
        "resources": {"where": where(address_of(config.resources.address)), "tasks": "one on each node, of 0 CPU"},
    }
