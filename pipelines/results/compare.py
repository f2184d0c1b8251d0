"""Compare adapted runs with their controls on held-out pairs of the source and of the target domain.

Pairs of the target are an oracle: only this comparison and jobs.evaluate read them, after training. Their metrics are
stored under names that begin with `oracle/`, so that no search can select by them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from pipelines.config.compare import ARMS, CompareConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference import evaluate
from pipelines.inference.evaluation_records import Evaluation
from xmodal import checkpoint, storage
from xmodal.callbacks import Notify
from xmodal.data.index.listing import folder_before_pattern
from xmodal.errors import CheckpointError, ConfigError
from xmodal.run.provenance import provenance
from xmodal.run.run_record import RunRecord, read_run_record

METRIC_PREFIXES = {"source": "source", "target": "oracle"}  # of each domain's metrics in the stored result
CENTRED = "centred"  # the arm that repeats another one with centred embeddings; nothing is trained for it


@dataclass(frozen=True, kw_only=True)
class MeanSD:
    """A metric over the runs of an arm; `sd` is None for a single run."""

    mean: float
    sd: float | None
    runs: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The evaluations of every arm on each domain, one for each run."""

    adaptation: str  # what the adapted runs did, in words
    arms: Mapping[str, Mapping[str, Sequence[Evaluation]]]
    result_uri: str

    def metric_names(self) -> list[str]:
        """Return the metrics of all arms in their order; some arms lack some, such as those without a label head."""
        by_run = [evaluations for domains in self.arms.values() for evaluations in domains.values()]
        return list(dict.fromkeys(name for runs in by_run for evaluation in runs for name in evaluation.metrics))

    def mean_sd(self, arm: str, domain: str, name: str) -> MeanSD | None:
        """Return mean and standard deviation of a metric over the arm's runs; None where some run lacks it."""
        evaluations = self.arms[arm][domain]
        values = [evaluation.metrics[name] for evaluation in evaluations if name in evaluation.metrics]
        if len(values) < len(evaluations):
            return None
        return MeanSD(mean=mean(values), sd=stdev(values) if len(values) > 1 else None, runs=len(values))

    def improvement(self, over: str, domain: str, name: str) -> MeanSD | None:
        """Return adapted minus `over`, with the standard error of that difference as `sd`; None where one lacks it."""
        if over not in self.arms:
            return None
        adapted, other = (self.mean_sd(arm, domain, name) for arm in ("adapted", over))
        if adapted is None or other is None:
            return None
        variances = [value.sd**2 / value.runs for value in (adapted, other) if value.sd is not None]
        error = sum(variances) ** 0.5 if variances else None
        return MeanSD(mean=adapted.mean - other.mean, sd=error, runs=min(adapted.runs, other.runs))

    def chance(self, domain: str) -> dict[str, float]:
        """Return the chance level of each metric on a domain."""
        evaluations = [evaluation for domains in self.arms.values() for evaluation in domains[domain]]
        return {name: value for evaluation in evaluations for name, value in evaluation.chance.items()}

    def rows(self, domain: str) -> int:
        """Return the number of rows of a domain that were searched."""
        return max(evaluation.rows for domains in self.arms.values() for evaluation in domains[domain])


def run(config: CompareConfig, notify: Notify = lambda message: None) -> Comparison:
    """Evaluate every run on both domains and store the comparison; each evaluation is recorded in its run as well."""
    records = _adapted_records(config)
    arms = _arms(config, records, notify)
    arms = add_centred_arm(arms) if config.centre else arms
    result_uri = config.to or storage.join(config.adapted[0], "comparisons", f"{_file_name(config.target)}.json")
    storage.check(result_uri, writable=True, options=config.storage)
    evaluations = {
        arm: {domain: [_evaluate(config, uri, domain, arm, notify) for uri in uris] for domain in METRIC_PREFIXES}
        for arm, uris in arms.items()
    }
    result = Comparison(adaptation=_describe(records[0]), arms=evaluations, result_uri=result_uri)
    text = json.dumps(_as_json(config, result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(result_uri, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return result


def _adapted_records(config: CompareConfig) -> list[RunRecord]:
    """Return the records of the adapted runs; ConfigError where one did not adapt, or they adapted differently."""
    for uri in (config.source, config.target):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    records = [read_run_record(uri, options=config.storage) for uri in config.adapted]
    for uri, record in zip(config.adapted, records, strict=True):
        if record.config_value("domain.loss") is None:
            raise ConfigError(f"{uri} is not a run of jobs.adapt: name it as --before, --control or --oracle")
    adaptations = {_describe(record) for record in records}
    if len(adaptations) > 1:
        raise ConfigError(
            f"the adapted runs differ in their adaptation ({'; '.join(sorted(adaptations))}): compare them one by one"
        )
    return records


def _describe(record: RunRecord) -> str:
    """Return what an adapted run did, in words."""
    domain = record.config_value("domain", {})
    protocol = f"protocol {record.config_value('target.protocol')}"
    if record.config_value("label.field") is not None:
        weight, method = record.config_value("label.weight"), record.config_value("balance.method")
        protocol += f", label loss {weight:g} ({method})"
    protocol += "".join(f", {name} {weight:g}" for name, weight in _target_losses(record).items())
    if domain["loss"] == "none":
        return f"no domain loss, {protocol}"
    strength = f"strength {domain['strength']:g} ({domain['schedule']})"
    return f"{domain['loss']}, {strength}, placement {domain['placement']}, {protocol}"


def _target_losses(record: RunRecord) -> dict[str, float]:
    """Return the weights, other than 0, of the losses on the target's rows alone."""
    weights = {name: record.config_value(f"target.{name}", 0.0) for name in ("consistency", "pseudo_pairs")}
    return {name.replace("_", " "): weight for name, weight in weights.items() if weight}


def _arms(config: CompareConfig, records: Sequence[RunRecord], notify: Notify) -> dict[str, tuple[str, ...]]:
    """Return the runs of each arm.

    Without --before, that arm is the checkpoint that the adapted runs started from, where it still exists.
    """
    arms = {arm: getattr(config, arm) for arm in ARMS}
    if not arms["before"]:
        start = str(records[0].config_value("start_from"))
        try:
            checkpoint.resolve(start, options=config.storage)
            arms["before"] = (start,)
        except CheckpointError as error:
            notify(f"no results from before the adaptation: {error}")
    for arm in ("control", "oracle"):
        if not arms[arm]:
            notify(f"no {arm} is named: {_WITHOUT_ARM[arm]}")
    for uris in arms.values():
        for uri in uris:
            checkpoint.resolve(uri, options=config.storage)
    return {arm: uris for arm, uris in arms.items() if uris}


_WITHOUT_ARM = {
    "control": "how much of the improvement comes from more steps on the source alone remains unknown (jobs.adapt "
    "--domain.loss none)",
    "oracle": "how much pairs of the target would improve remains unknown (jobs.pretrain --start-from on those pairs)",
}


def add_centred_arm(arms: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Insert CENTRED after the arm that it repeats: `control` where there is one, else `before`."""
    repeated = next((arm for arm in ("control", "before") if arm in arms), None)
    with_centred = {}
    for arm, uris in arms.items():
        with_centred[arm] = uris
        if arm == repeated:
            with_centred[CENTRED] = uris
    return with_centred


def _evaluate(config: CompareConfig, uri: str, domain: str, arm: str, notify: Notify) -> Evaluation:
    corpus = {"source": config.source, "target": config.target}[domain]
    notify(f"{arm}: {uri} on {corpus}")
    fields = config.target_fields if domain == "target" and config.target_fields else config.fields
    evaluation = EvaluateConfig(
        checkpoint=uri, corpus=corpus, fields=fields, label=config.label, classes=config.classes,
        templates=config.templates, batch_size=config.batch_size, index=config.index, workers=0,
        storage=config.storage,
    )  # fmt: skip
    if arm == CENTRED:  # class names are not rows of the corpus, so its mean is not theirs
        evaluation = replace(evaluation, label=None, classes=None, templates=None)
    return evaluate.run(evaluation, centred=arm == CENTRED)


def _as_json(config: CompareConfig, result: Comparison) -> dict[str, Any]:
    """Return the comparison as it is stored."""
    return {
        "adaptation": result.adaptation,
        "source": storage.absolute(config.source),
        "target": storage.absolute(config.target),
        "rows": {prefix: result.rows(domain) for domain, prefix in METRIC_PREFIXES.items()},
        "chance": {
            f"{prefix}/{name}": value
            for domain, prefix in METRIC_PREFIXES.items()
            for name, value in result.chance(domain).items()
        },
        "arms": {
            arm: [
                {
                    "checkpoint": by_domain[0].checkpoint,
                    "step": by_domain[0].step,
                    "metrics": {
                        f"{METRIC_PREFIXES[domain]}/{name}": value
                        for domain, evaluation in zip(METRIC_PREFIXES, by_domain, strict=True)
                        for name, value in evaluation.metrics.items()
                    },
                }
                for by_domain in zip(*(evaluations[domain] for domain in METRIC_PREFIXES), strict=True)
            ]
            for arm, evaluations in result.arms.items()
        },
        "versions": provenance()["packages"],
    }


def _file_name(uri: str) -> str:
    """Return the last folder of a URI as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rstrip("/").rpartition("/")[2]).strip("-._")[:80] or "target"
