"""The directory of a run: its configuration, its metrics and its results.

<storage>/<name>/run.json              resolved configuration, code, versions, hardware, corpora, run id
                 metrics.jsonl         one JSON object a line
                 tensorboard/          the same metrics as TensorBoard events
                 quarantine.parquet    every row that could not be decoded, with the reason
                 attempts/000001.json  each start of the run, so that a later one supersedes an earlier one
                 checkpoints/          see xmodal.checkpoint
"""

from xmodal.run.attempts import claim_attempt, newest_attempt
from xmodal.run.directory import Run, check_run_name, check_same_config, create_run, new_run_uri, open_run
from xmodal.run.metric_sinks import check_sinks
from xmodal.run.metrics_log import MetricsLog, read_metrics
from xmodal.run.quarantine import Quarantine, QuarantineRecord, RowCounts, read_quarantine

__all__ = [
    "MetricsLog",
    "Quarantine",
    "QuarantineRecord",
    "RowCounts",
    "Run",
    "check_run_name",
    "check_same_config",
    "check_sinks",
    "claim_attempt",
    "create_run",
    "new_run_uri",
    "newest_attempt",
    "open_run",
    "read_metrics",
    "read_quarantine",
]
