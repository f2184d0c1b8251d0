"""Runs by the parts they play, and held-out pairs of two domains, in; what adaptation brought, and where, out.

Pairs of the target are sealed: only here and in jobs.evaluate are they looked at, after training, and what they say is
named `oracle/...` in what is stored, so that no search can take it for something that may be selected by.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from pipelines.config import evaluate as config_of_evaluate
from pipelines.config.compare import ARMS, Config
from pipelines.inference import evaluate
from pipelines.inference.evaluation_records import Evaluation
from xmodal import checkpoint, storage
from xmodal.data.index.listing import folder_before_pattern
from xmodal.errors import CheckpointError, ConfigError
from xmodal.run.provenance import provenance
from xmodal.run.run_record import Recorded, read_run

DOMAINS = {"source": "source", "target": "oracle"}  # and what each one's figures are named by in the stored result
Notify = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure over the runs of an arm; `sd` is None for a single run."""

    mean: float
    sd: float | None
    runs: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """For each arm that there is, its evaluations on each domain, one a run."""

    adaptation: str  # what the adapted runs did, in words
    arms: Mapping[str, Mapping[str, Sequence[Evaluation]]]
    stored: str

    def names(self) -> list[str]:
        """The figures that the evaluations of any arm have, in their order: not every arm has a label predictor."""
        every = [one for arm in self.arms.values() for found in arm.values() for one in found]
        return list(dict.fromkeys(name for one in every for name in one.metrics))

    def spread(self, arm: str, domain: str, name: str) -> Spread | None:
        """Mean and standard deviation of a figure over the arm's runs; None where not all of these have it."""
        values = [one.metrics[name] for one in self.arms[arm][domain] if name in one.metrics]
        if len(values) < len(self.arms[arm][domain]):
            return None
        return Spread(mean=mean(values), sd=stdev(values) if len(values) > 1 else None, runs=len(values))

    def gain(self, over: str, domain: str, name: str) -> Spread | None:
        """Adapted minus `over`, with the standard error of that difference as `sd`; None where one has no figure."""
        if over not in self.arms:
            return None
        first, second = (self.spread(arm, domain, name) for arm in ("adapted", over))
        if first is None or second is None:
            return None
        errors = [one.sd**2 / one.runs for one in (first, second) if one.sd is not None]
        sd = sum(errors) ** 0.5 if errors else None
        return Spread(mean=first.mean - second.mean, sd=sd, runs=min(first.runs, second.runs))


def run(config: Config, notify: Notify = lambda message: None) -> Comparison:
    """Evaluate every run on both domains; each evaluation is also kept beside its run, as those of jobs.evaluate."""
    recorded = _adapted(config)
    arms = _arms(config, recorded, notify)
    where = config.to or storage.join(config.adapted[0], "comparisons", f"{_name(config.target)}.json")
    storage.check(where, writable=True, options=config.storage)
    found = {
        arm: {domain: [_measured(config, uri, domain, arm, notify) for uri in uris] for domain in DOMAINS}
        for arm, uris in arms.items()
    }
    result = Comparison(adaptation=_in_words(recorded[0]), arms=found, stored=where)
    text = json.dumps(_as_json(config, result), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write(where, text.encode("utf-8", "backslashreplace"), options=config.storage)
    return result


def _adapted(config: Config) -> list[Recorded]:
    """What the adapted runs recorded; ConfigError for a run that adapted nothing, or runs that did different things."""
    for uri in (config.source, config.target):
        storage.check(folder_before_pattern(uri), writable=False, options=config.storage)
    recorded = [read_run(uri, options=config.storage) for uri in config.adapted]
    for uri, one in zip(config.adapted, recorded, strict=True):
        if one.configured("domain.loss") is None:
            raise ConfigError(f"{uri} is no run of jobs.adapt clip: name it as --before, --control or --oracle")
    words = {_in_words(one) for one in recorded}
    if len(words) > 1:
        raise ConfigError(
            f"the adapted runs did different things ({'; '.join(sorted(words))}): compare them one by one"
        )
    return recorded


def _in_words(recorded: Recorded) -> str:
    domain = recorded.configured("domain", {})
    protocol = f"protocol {recorded.configured('target.protocol')}"
    if recorded.configured("label.field") is not None:
        protocol += f", label loss {recorded.configured('label.weight'):g} ({recorded.configured('balance.method')})"
    if domain["loss"] == "none":
        return f"no domain loss, {protocol}"
    strength = f"strength {domain['strength']:g} ({domain['schedule']})"
    return f"{domain['loss']}, {strength}, placement {domain['placement']}, {protocol}"


def _arms(config: Config, recorded: Sequence[Recorded], notify: Notify) -> dict[str, tuple[str, ...]]:
    """The runs of each arm; `before` is what the adapted ones recorded where none is named, and is still there."""
    arms = {arm: getattr(config, arm) for arm in ARMS}
    if not arms["before"]:
        start = str(recorded[0].configured("start_from"))
        try:
            checkpoint.resolve(start, options=config.storage)
            arms["before"] = (start,)
        except CheckpointError as error:
            notify(f"no figures from before the adaptation: {error}")
    for arm in ("control", "oracle"):
        if not arms[arm]:
            notify(f"no {arm} is named: {_MISSING[arm]}")
    for uris in arms.values():
        for uri in uris:
            checkpoint.resolve(uri, options=config.storage)
    return {arm: uris for arm, uris in arms.items() if uris}


_MISSING = {
    "control": "what more steps on the source alone would have given is unknown (jobs.adapt clip --domain.loss none)",
    "oracle": "what pairs of the target would have been worth is unknown (jobs.pretrain --start-from on those pairs)",
}


def _measured(config: Config, uri: str, domain: str, arm: str, notify: Notify) -> Evaluation:
    corpus = {"source": config.source, "target": config.target}[domain]
    notify(f"{arm}: {uri} on {corpus}")
    fields = config.target_fields if domain == "target" and config.target_fields else config.fields
    return evaluate.run(
        config_of_evaluate.Config(
            checkpoint=uri, corpus=corpus, fields=fields, label=config.label, classes=config.classes,
            templates=config.templates, batch_size=config.batch_size, index=config.index, workers=0,
            endpoint=config.endpoint, region=config.region, profile=config.profile, anonymous=config.anonymous,
        )
    )  # fmt: skip


def _as_json(config: Config, result: Comparison) -> dict[str, Any]:
    return {
        "adaptation": result.adaptation,
        "source": storage.absolute(config.source),
        "target": storage.absolute(config.target),
        "arms": {
            arm: [
                {
                    "checkpoint": pair[0].checkpoint,
                    "step": pair[0].step,
                    "metrics": {
                        f"{DOMAINS[domain]}/{name}": value
                        for domain, one in zip(DOMAINS, pair, strict=True)
                        for name, value in one.metrics.items()
                    },
                }
                for pair in zip(*(found[domain] for domain in DOMAINS), strict=True)
            ]
            for arm, found in result.arms.items()
        },
        "versions": provenance()["packages"],
    }


def _name(uri: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rstrip("/").rpartition("/")[2]).strip("-._")[:80] or "target"
