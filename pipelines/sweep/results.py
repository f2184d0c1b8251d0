"""Write what a sweep has found: results.parquet, TensorBoard's table of hyper-parameters, the page and the command."""

import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sweep import sealed_oracle
from pipelines.sweep.engine import SweepResult
from pipelines.sweep.trial_store import RECORD, TRIALS
from xmodal import storage
from xmodal.formatting import pluralize
from xmodal.report.search_page import SearchReport, render_search
from xmodal.run.plain_config import to_plain
from xmodal.run.provenance import provenance
from xmodal.search.config_fields import value_at
from xmodal.search.trial import Trial
from xmodal.storage import StorageOptions

PARQUET, PAGE = "results.parquet", "index.html"


@dataclass(frozen=True, kw_only=True)
class SweepFiles:
    """The files of a sweep that has ended; `command` runs what was chosen."""

    page: str
    parquet: str
    run: str
    command: str
    regret: str


def write(result: SweepResult) -> SweepFiles:
    """Write everything but the trials, anew at every call, and return where it is."""
    options, plan = result.plan.config.storage, result.plan
    chosen = None
    if result.chosen is not None:
        chosen = next(one for one in result.trials if one.number == result.chosen.trial)
    command = command_of(plan.config.command, plan.config.run, chosen.values) if chosen is not None else ""
    _record_choice(result, chosen, options)
    judged = sealed_oracle.judge(result, result.uri, result.trials) if chosen is not None else {}
    regret = sealed_oracle.regret_lines(result, judged)
    storage.write(storage.join(result.uri, PARQUET), _parquet(result), options=options)
    _hyper_parameters(result, options)
    page = render_search(
        SearchReport(
            name=plan.config.sweep.name,
            trials=result.trials,
            space=plan.space,
            objectives=plan.by,
            chosen=result.chosen,
            rungs=plan.rungs.budget_shares() if plan.config.scheduler == "asha" else (),
            command=command,
            facts=_facts(result),
            regret=regret,
            compared=sealed_oracle.beside(result, judged),
            created=datetime.now(UTC).isoformat(),
            version=metadata.version("xmodal"),
        )
    )
    storage.write(storage.join(result.uri, PAGE), page.encode(), options=options)
    return SweepFiles(
        page=storage.join(result.uri, PAGE),
        parquet=storage.join(result.uri, PARQUET),
        run=storage.join(result.uri, TRIALS, chosen.name) if chosen else "",
        command=command,
        regret="; ".join(f"{name}: {value}" for name, value in regret[:1]),
    )


def _record_choice(result: SweepResult, chosen: Trial | None, options: StorageOptions) -> None:
    uri = storage.join(result.uri, RECORD)
    record = json.loads(storage.read(uri, options=options))
    record["chosen"] = None if chosen is None else {"trial": chosen.number, "values": to_plain(dict(chosen.values)),
                                                    "rule": result.chosen and result.chosen.rule}  # fmt: skip
    storage.write(uri, (json.dumps(record, indent=1) + "\n").encode(), options=options)


def command_of(words: Sequence[str], run: Any, values: Mapping[str, Any]) -> str:
    """Return the command of a run with the swept fields as flags, in place of those that it had."""
    kept = list(words)
    added: list[str] = []
    for path, value in values.items():
        flag = flag_of(run, path)
        kept = _without(kept, flag)
        if isinstance(value, bool):
            added.append(flag if value else f"--no-{flag[2:]}")
        elif value != value_at(run, path) or flag in words:
            parts = value if isinstance(value, tuple | list) else (value,)
            added += [flag, *map(str, parts)]
    program = "python -m " if kept and kept[0].startswith("jobs.") else "python -m jobs.sweep ... -- "
    return program + shlex.join([*kept, *added])


def flag_of(run: Any, path: str) -> str:
    """Return the flag of a field: its own name, unless it says another."""
    *folders, last = path.split(".")
    for part in folders:
        run = getattr(run, part)
    hint = get_type_hints(type(run), include_extras=True)[last]
    if get_origin(hint) is Annotated:
        named = [one.name for one in get_args(hint)[1:] if getattr(one, "name", None)]
        if named:
            return f"--{named[0]}"
    return "--" + last.replace("_", "-")


def _without(words: list[str], flag: str) -> list[str]:
    """Return the words without a flag and what follows it up to the next one."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word == flag or word.startswith(f"{flag}=")
        if not skipping:
            kept.append(word)
    return kept


def _parquet(result: SweepResult) -> bytes:
    rows = [_row(trial, result) for trial in result.trials]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _row(trial: Trial, result: SweepResult) -> dict[str, Any]:
    last = {name: trial.last(name) for report in trial.reports for name in report.metrics}
    fixed = ("number", "kind", "status", "why", "seed", "attempts", "parent", "seconds", "ready", "share")
    return {
        **{name: getattr(trial, name) for name in fixed},
        **{f"config/{path}": value for path, value in trial.values.items()},
        **last,
        **trial.oracle,
        "errors": "\n".join(trial.errors),
        "run": storage.join(result.uri, TRIALS, trial.name),
    }


def _column(values: list[Any]) -> pa.Array:
    """Return a column of numbers or of lists (pairs); of a mixture as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) if float in kinds else value for value in values])
    if kinds <= {tuple, list} and kinds:
        return pa.array([None if value is None else [float(x) for x in value] for value in values])
    if len(kinds) == 1:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values])


def _hyper_parameters(result: SweepResult, options: StorageOptions) -> None:
    """Write an entry for each trial for TensorBoard's HParams tab, in place of those of an earlier call."""
    from tensorboardX import SummaryWriter

    place = storage.join(result.uri, "tensorboard")
    storage.delete_tree(place, options=options)
    with tempfile.TemporaryDirectory(prefix="xmodal-hparams-") as folder:
        for trial in result.trials:
            found = {one.metric: value for one in result.plan.by if (value := trial.last(one.metric)) is not None}
            if not found:
                continue
            with SummaryWriter(str(Path(folder, trial.name))) as writer:
                writer.add_hparams(dict(_flat(trial)), found, name="search", global_step=trial.reports[-1].step)
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            storage.upload(str(path), storage.join(place, str(path.relative_to(folder))), options=options)


def _flat(trial: Trial) -> Iterator[tuple[str, Any]]:
    yield "seed", trial.seed
    for path, value in trial.values.items():
        if isinstance(value, tuple | list):
            yield from ((f"{path}.{end}", float(x)) for end, x in zip(("low", "high"), value, strict=False))
        elif value is not None:
            yield path, value


def _facts(result: SweepResult) -> list[tuple[str, str]]:
    config, rungs = result.plan.config, result.plan.rungs
    found = provenance()
    scheduler: str = config.scheduler
    if scheduler == "asha":
        shares = ", ".join(f"{share:.0%}" for share in rungs.budget_shares())
        scheduler += f": at {shares} of the budget the best 1/{rungs.reduction:g} go on"
    ready = [trial.ready for trial in result.trials if trial.ready]
    return [
        ("Space", "; ".join(config.search)),
        ("By", "; ".join(f"{one.metric} ({'max' if one.sign > 0 else 'min'})" for one in result.plan.by)),
        ("Guards", "; ".join(config.guard) or "none"),
        ("Algorithm", f"{config.algorithm}, seed {config.seed}"),
        ("Scheduler", scheduler),
        ("At a time", pluralize(result.plan.concurrent, "trial")),
        ("To a first figure", f"{mean(ready):.1f} s in the mean" if ready else "none"),
        ("Run", shlex.join(config.command)),
        ("Commit", str(found["commit"])),
        ("Hardware", ", ".join(f"{name} {value}" for name, value in found["hardware"].items())),
    ]  # fmt: skip
