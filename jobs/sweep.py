"""Search over fields of a run's configuration, across the cluster: many runs, a choice, and a page.

    python -m jobs.sweep --preset adapt-default --name lambda -- \\
        jobs.adapt clip --start-from runs/vit-tiny --corpus photos/train --target sketches/train \\
        --validation.corpus photos/held --target-validation sketches/held
    python -m jobs.sweep --search loss.temperature=loguniform(0.02,0.2) optim.learning_rate=loguniform(1e-4,3e-3) \\
        --metric validation/image_to_text/recall@10 --trials 16 -- \\
        jobs.pretrain vit-tiny --corpus shards/ --validation.corpus held-out/ --steps 400
    python -m jobs.sweep --preset adapt-default --name lambda --resume -- jobs.adapt clip ...

Behind the -- stands the run as its own job takes it; before it what is searched. A range is one of uniform(0,1),
loguniform(1e-4,1e-2), integers(1,8), logintegers(16,1024), choice(dann,mmd), interval(1,4) and loginterval(0.1,10),
of any field of the run's configuration by its dotted name (in a shell the parentheses need quotes). Presets:

    pretrain-default   temperature, learning rate and weight decay of jobs.pretrain
    adapt-default      lambda and learning rate of jobs.adapt clip, with guards on the source and on a collapse
    mmpareto-default   gamma and the rescale range of jobs.adapt's classifiers

Every trial is a whole run in RUNS/NAME/trials, on its full budget: --scheduler asha stops those that lag behind at
shares of it (never before a strength that ramps up has come near its peak), median those behind the others' median,
pbt copies checkpoints of the best over the worst, fifo lets all end. Points come from --algorithm random, grid, or a
searcher of Ray Tune (tpe, hyperopt, bayesopt). The run as it is, with lambda = 0 or the plain sum of the losses, is
always trial 0. The metric is any that the run logs, but for those of the target's labels and pairs (oracle/...); a
guard rejects a trial and says why. The best are repeated with other seeds, and of those that one standard error does
not tell apart the configuration is chosen that departs least. Then the command to run it is printed, and RUNS/NAME
gets results.parquet, tensorboard/ and index.html. --regret CORPUS judges all trials on pairs of the target afterwards;
--beside NAME puts another sweep of RUNS on the page.

A trial that fails is tried again, goes on from its last checkpoint, and is recorded with its error. A sweep may be
killed at any moment: the same command with --resume goes on, and runs no finished trial again.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobs import arguments, console
from jobs.sweep_reporter import Watch, closing
from pipelines.config.sweep import Config
from xmodal.errors import ConfigError, nearest
from xmodal.storage import StorageOptions

PROGRAM = "python -m jobs.sweep"
RUNS: Mapping[str, str] = {"jobs.pretrain": "jobs.pretrain", "jobs.adapt": "jobs.adapt"}
EXPERIMENTS = ("cg-mnist", "digits-adaptation", "digits-captions")  # of jobs.reproduce


def parse(words: list[str]) -> arguments.Start[Config]:
    """What stands before the `--` with the run behind it; ConfigError where no run is named."""
    if "--" not in words:
        if not arguments.HELP & set(words):
            arguments.parse_start(Config, words, program=PROGRAM, text=__doc__)  # a misspelt flag is told first
            raise ConfigError(
                f"name the run behind a `--`, e.g. {PROGRAM} --preset pretrain-default -- jobs.pretrain ..."
            )
        return arguments.parse_start(Config, words, program=PROGRAM, text=__doc__)
    at = words.index("--")
    start = arguments.parse_start(Config, words[:at], program=PROGRAM, text=__doc__)
    run = run_of(words[at + 1 :])
    options = getattr(run.data, "storage", StorageOptions())
    config = replace(start.config, run=run, command=tuple(words[at + 1 :]), storage=options)
    return replace(start, config=config)


def run_of(words: list[str]) -> Any:
    """The configuration of the run that a job would start; that job's own mistakes are told as it tells them."""
    words = words[2:] if words[:2] == ["python", "-m"] else words
    first = words[0] if words else ""
    if first in EXPERIMENTS:
        from jobs.reproduce.sweepable import parse as experiment

        return experiment(words)
    if first not in RUNS:
        raise ConfigError(f"no run to sweep {first!r}: {nearest(first, [*RUNS, *EXPERIMENTS])}")
    return importlib.import_module(RUNS[words[0]]).parse(words[1:])


def run(config: Config) -> None:
    from pipelines import sweep
    from pipelines.sweep import results  # torch, Ray and seconds, for a command line that is sound

    with Watch() as watch:
        result = sweep.run(config, watch)
    told = results.write(result)
    print(closing(result, told))


def preview(config: Config) -> dict[str, Any]:
    from pipelines.preview.sweep import of

    return of(config)


def main() -> None:
    console.main(lambda: arguments.begin(parse(sys.argv[1:]), run, preview))


if __name__ == "__main__":
    main()
