"""Search over fields of a run's configuration across the cluster: many runs, a choice, and a page about it.

    python -m jobs.sweep --preset adapt-default --name lambda -- \\
        jobs.adapt --start-from runs/vit-tiny --corpus photos/train --target sketches/train \\
        --validation.corpus photos/held --target-validation sketches/held
    python -m jobs.sweep --search loss.temperature=loguniform(0.02,0.2) optim.learning_rate=loguniform(1e-4,3e-3) \\
        --metric validation/image_to_text/recall@10 --trials 16 -- \\
        jobs.pretrain vit-tiny --corpus shards/ --validation.corpus held-out/ --steps 400
    python -m jobs.sweep --preset adapt-default --name lambda --resume -- jobs.adapt ...

Behind the -- stands the command of the run, before it what is searched. A range is one of uniform(0,1),
loguniform(1e-4,1e-2), integers(1,8), logintegers(16,1024), choice(dann,mmd), interval(1,4) and loginterval(0.1,10),
for any field of the run's configuration by its dotted name (in a shell the parentheses need quotes). Presets:

    pretrain-default   temperature, learning rate and weight decay of jobs.pretrain
    adapt-default      lambda and learning rate of jobs.adapt, with guards on the source and against a collapse
    mmpareto-default   gamma and the rescale range of jobs.classify

The sweep is a `ray.tune.Tuner`. Every trial is a complete run in RUNS/NAME/trials, on any node of the cluster, with a
job of its own. Points are drawn by --algorithm random, grid, or a searcher of Ray Tune (tpe, cmaes, nsga2, hyperopt,
bayesopt), trials are stopped by --scheduler: asha stops those that are behind at shares of their budget (never before
a strength that ramps up has come near its peak), median those behind the median, pbt and pb2 copy checkpoints of the
best over the worst, and fifo stops none. Trial 0 is always the baseline: the run with lambda = 0, or with the plain
sum of the losses. The metric is any that the run logs, except those that read labels or pairs of the target
(oracle/...). A guard rejects a trial and says why. The best trials are repeated with other seeds; among those that
one standard error does not separate, the one closest to the baseline is chosen. At the end the command of the chosen
run is printed, and RUNS/NAME gets results.parquet, tensorboard/ and index.html. --regret CORPUS evaluates all trials
on pairs of the target afterwards; --beside NAME shows another sweep of RUNS on the page.

A trial that fails, hangs or loses its node is tried again, continues from its last checkpoint, and is recorded with its
error. A sweep may be killed at any moment: the same command with --resume continues it, and repeats no finished trial.
"""

import importlib
import shlex
import sys
from dataclasses import replace
from typing import Any

from jobs import arguments, console
from jobs.sweep_reporter import SweepReporter, final_summary
from pipelines.config.sweep import SweepConfig
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions

PROGRAM = "python -m jobs.sweep"
RUNS = ("jobs.pretrain", "jobs.adapt", "jobs.classify")
EXPERIMENTS = ("cg-mnist", "digits-adaptation", "digits-captions")  # of jobs.reproduce


def parse(words: list[str]) -> arguments.JobRequest[SweepConfig]:
    """Return the sweep that the flags before the `--` describe, with the run behind it; ConfigError without a run."""
    if "--" not in words:
        if not arguments.HELP_FLAGS & set(words):
            arguments.parse_request(SweepConfig, words, program=PROGRAM, text=__doc__)  # reports a misspelt flag first
            raise ConfigError(
                f"name the run behind a `--`, e.g. {PROGRAM} --preset pretrain-default -- jobs.pretrain ..."
            )
        return arguments.parse_request(SweepConfig, words, program=PROGRAM, text=__doc__)
    at = words.index("--")
    request = arguments.parse_request(SweepConfig, words[:at], program=PROGRAM, text=__doc__)
    run = run_of(words[at + 1 :])
    options = getattr(run.data, "storage", StorageOptions())
    config = replace(request.config, run=run, command=tuple(words[at + 1 :]), storage=options)
    return replace(request, config=config)


def run_of(words: list[str]) -> Any:
    """Return the configuration of the run that a job would start; its mistakes are reported as that job does."""
    words = words[2:] if words[:2] == ["python", "-m"] else words
    first = words[0] if words else ""
    if first in EXPERIMENTS:
        from jobs.reproduce.sweepable import parse as experiment

        return experiment(words)
    if first not in RUNS:
        raise ConfigError(f"no run to sweep {first!r}: {nearest(first, [*RUNS, *EXPERIMENTS])}")
    return importlib.import_module(first).parse(words[1:])


def run(config: SweepConfig) -> None:
    from pipelines import sweep
    from pipelines.sweep import results  # takes seconds to import: only for a valid command line

    try:
        with SweepReporter() as reporter:
            result = sweep.run(config, reporter)
    except KeyboardInterrupt:
        print(f"[sweep] to go on: {resume_command(sys.argv[1:])}", file=sys.stderr)
        raise
    print(final_summary(result, results.write(result)))


def resume_command(words: list[str]) -> str:
    """Return the command that continues the sweep of these words.

    >>> resume_command(["--name", "a", "--", "jobs.adapt", "--steps", "9"])
    'python -m jobs.sweep --name a --resume -- jobs.adapt --steps 9'
    """
    at = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:at] if word != "--resume"]
    return f"{PROGRAM} {shlex.join([*flags, '--resume', *words[at:]])}"


def preview(config: SweepConfig) -> dict[str, Any]:
    from pipelines.preview.sweep import preview_sweep

    return preview_sweep(config)


def main() -> None:
    console.main(lambda: arguments.run_or_preview(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
