"""Preview jobs that run in the process that starts them: what they will read is looked up, nothing is written."""

from pipelines.config import compare, diagnose, doctor, export, inspect, report
from pipelines.preview.locations import cluster_address, preview_checkpoint, preview_corpus, ray_in_words
from xmodal import storage
from xmodal.data.index.listing import folder_before_pattern
from xmodal.run.plain_config import to_plain

HERE = {"where": "this process"}


def preview_export(config: export.ExportConfig) -> dict[str, object]:
    """Return `config` and the checkpoint to export. Raises what is wrong with either location."""
    storage.check(config.to, writable=True, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoint": preview_checkpoint(config.checkpoint, config.storage),
        "resources": HERE,
    }


def preview_report(config: report.ReportConfig) -> dict[str, object]:
    """Return `config` and the newest checkpoint of each run."""
    storage.check(config.to, writable=True, options=config.storage)
    runs = [preview_checkpoint(uri, config.storage) for uri in config.runs]
    return {"config": to_plain(config), "checkpoints": runs, "resources": HERE}


def preview_inspection(config: inspect.InspectConfig) -> dict[str, object]:
    """Return `config` and what the corpus holds."""
    storage.check(folder_before_pattern(config.corpus), writable=False, options=config.storage)
    corpora = [preview_corpus(config.corpus, config.index, config.storage)]
    return {"config": to_plain(config), "corpora": corpora, "resources": HERE}


def preview_diagnosis(config: diagnose.DiagnoseConfig) -> dict[str, object]:
    """Return `config`, the checkpoint to diagnose, and what the corpora hold."""
    corpora = list(filter(None, (config.corpus, config.held_out)))
    for uri in corpora:
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoint": preview_checkpoint(config.checkpoint, config.storage),
        "corpora": [preview_corpus(uri, config.index, config.storage) for uri in corpora],
        "resources": HERE,
    }


def preview_comparison(config: compare.CompareConfig) -> dict[str, object]:
    """Return `config`, the newest checkpoint of each run that is named, and what the corpora hold."""
    for uri in (config.source, config.target):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    return {
        "config": to_plain(config),
        "checkpoints": {arm: [preview_checkpoint(uri, config.storage) for uri in getattr(config, arm)]
                        for arm in compare.ARMS},
        "corpora": [preview_corpus(uri, config.index, config.storage) for uri in (config.source, config.target)],
        "resources": HERE,
    }  # fmt: skip


def preview_doctor(config: doctor.DoctorConfig) -> dict[str, object]:
    """Return `config`, and where one task will examine every node."""
    return {
        "config": to_plain(config),
        "resources": {
            "where": ray_in_words(cluster_address(config.resources.address)),
            "tasks": "one on each node, of 0 CPU",
        },
    }
