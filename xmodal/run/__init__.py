"""The directory of a run: what was asked for, what happened, and what came out.

<storage>/<name>/run.json              resolved configuration, code, versions, hardware, corpora, run id
                 metrics.jsonl         one JSON object a line
                 tensorboard/          the same figures as events
                 quarantine.parquet    every row that could not be delivered, with the reason
                 attempts/000001.json  each start of the run, so that a later one fences off an earlier one
                 checkpoints/          see xmodal.checkpoint
"""

from xmodal.run.attempts import claim_attempt, newest_attempt
from xmodal.run.directory import Run, check_name, check_new, check_same_config, create_run, open_run
from xmodal.run.metric_sinks import check_sinks
from xmodal.run.metrics_log import MetricsLog, read_metrics
from xmodal.run.quarantine import Ledger, Quarantine, QuarantineRecord, read_quarantine

__all__ = [
    "Ledger",
    "MetricsLog",
    "Quarantine",
    "QuarantineRecord",
    "Run",
    "check_name",
    "check_new",
    "check_same_config",
    "check_sinks",
    "claim_attempt",
    "create_run",
    "newest_attempt",
    "open_run",
    "read_metrics",
    "read_quarantine",
]
