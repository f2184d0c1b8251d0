"""Configure and train experiments as the trials of a sweep.

    python -m jobs.sweep ... -- digits-captions --method dann
    python -m jobs.sweep ... -- cg-mnist --rows 10000

They train in the process of their trial, without the cluster. Metrics that use labels of the target or a test split are
named oracle/...: a sweep hides them until the choice is made. The files are read from the folder that XMODAL_BENCH_DATA
names, else from a folder `shared/data` beside the checkout.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jobs import arguments
from jobs.bench.real_data import data_folder, require_data
from pipelines.config.run import RunOptions
from xmodal.errors import ConfigError
from xmodal.training.balance_options import GradientBalance

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    """The domain loss that aligns both domains."""

    method: Literal["dann", "mmd", "coral", "cdan", "mcc", "bnm"] = "dann"  # domain loss
    strength: float = 0.3  # weight lambda of the domain loss at the end of its ramp
    temperature: float = 0.07  # temperature of the contrastive loss at the start (digits-captions only)

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"strength={self.strength} must be at least 0 and finite")
        if not 0.01 <= self.temperature <= 1:
            raise ConfigError(f"temperature={self.temperature} must lie in [0.01, 1]")


@dataclass(frozen=True, kw_only=True)
class AdaptationSweepConfig:
    """Adapt from digits of one domain with labels or captions to another without (Ganin et al. 2016)."""

    TARGET: ClassVar[str] = "jobs.reproduce.sweepable:run_adaptation"
    GRACE: ClassVar[float] = 0.37  # share of the run after which the strength has reached 95 % of its peak
    experiment: Literal["digits-adaptation", "digits-captions"] = "digits-captions"  # experiment to train
    domain: AlignmentOptions = field(default_factory=AlignmentOptions)
    rate: float = 0.01  # learning rate of SGD at the start
    rows: int = 10_000  # rows of each domain to train on
    steps: int = 2_000  # training steps
    batch_size: int = 32  # rows of each domain in a step
    looks: int = 8  # evaluations on held-out rows, evenly over the run
    data: str = "runs/data"  # directory of decoded digits, which all trials share
    run: RunOptions = field(default_factory=lambda: RunOptions(name="digits"))
    seed: int = 0

    def prepare(self) -> None:
        """Check that the data files are there, and decode the digits once for all trials."""
        from jobs.reproduce.adaptation.data import load_parts
        from jobs.reproduce.catalogue import ENTRIES

        folder = require_data(self.experiment, ENTRIES[self.experiment].needs, allow_other=True)
        load_parts(self.experiment, self.rows, self.data, folder)


@dataclass(frozen=True, kw_only=True)
class BalanceSweepConfig:
    """Train CG-MNIST: a grey digit, and the same in a colour that gives its class away in training only."""

    TARGET: ClassVar[str] = "jobs.reproduce.sweepable:run_balance"
    balance: GradientBalance = field(default_factory=GradientBalance)
    rate: float = 0.02  # constant learning rate of SGD
    rows: int = 10_000  # rows to train on
    epochs: int = 4  # passes over the rows
    batch_size: int = 64  # rows of a step
    data: str = "runs/data"  # directory of decoded digits, which all trials share
    run: RunOptions = field(default_factory=lambda: RunOptions(name="cg-mnist"))
    seed: int = 0

    def prepare(self) -> None:
        """Check that the data files are there, and decode the digits once for all trials."""
        from jobs.reproduce.catalogue import ENTRIES
        from jobs.reproduce.data import load_splits

        folder = require_data("cg-mnist", ENTRIES["cg-mnist"].needs, allow_other=True)
        load_splits("cg-mnist", self.rows, self.data, folder)


DEFAULTS: Mapping[str, AdaptationSweepConfig | BalanceSweepConfig] = {
    "digits-adaptation": AdaptationSweepConfig(experiment="digits-adaptation"),
    "digits-captions": AdaptationSweepConfig(),
    "cg-mnist": BalanceSweepConfig(),
}


def parse(words: list[str]) -> AdaptationSweepConfig | BalanceSweepConfig:
    """Return the configuration of the experiment named first, with the flags after it."""
    default = DEFAULTS[words[0]]
    return arguments.parse(type(default), words[1:], program=words[0], text=__doc__, default=default)


def run_adaptation(config: AdaptationSweepConfig, report: Report) -> None:
    """Train one trial on two domains of digits; a repeated trial starts from the beginning."""
    from jobs.reproduce.adaptation.arms import AdaptationArm
    from jobs.reproduce.adaptation.data import load_parts
    from jobs.reproduce.catalogue import load_experiment

    experiment: Any = load_experiment(config.experiment)
    settings = replace(
        experiment.settings, rows=config.rows, steps=config.steps, batch_size=config.batch_size, sgd_rate=config.rate
    )  # fmt: skip
    arm = AdaptationArm(summary="swept", method=config.domain.method, strength=config.domain.strength)
    parts = load_parts(config.experiment, config.rows, config.data, data_folder())
    learner = experiment.learner(arm, config.seed, parts, settings)
    head = learner.net.classes
    if hasattr(head, "log_scale"):
        head.log_scale.data.fill_(math.log(1 / config.domain.temperature))
    evaluation_steps = {round(config.steps * (k + 1) / config.looks) for k in range(config.looks)}
    for step in range(config.steps):
        learner.step(step, step / config.steps)
        if step + 1 in evaluation_steps:
            metrics = _metrics(learner.evaluate(last=False))
            report({"kind": "report", "step": step + 1, "steps": config.steps, "metrics": metrics})


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return scores and health as runs log them; what uses labels of the target is named oracle/."""
    health = {name: x for name, x in evaluation["health"].items() if x is not None and name != "source"}
    metrics = {f"validation/target/{name}": x for name, x in {**evaluation["scores"], **health}.items()}
    metrics["validation/source"] = evaluation["health"]["source"]
    return metrics | {"oracle/accuracy": evaluation["oracle"]["accuracy"]}


def run_balance(config: BalanceSweepConfig, report: Report) -> None:
    """Train one trial of CG-MNIST; a repeated trial starts from the beginning."""
    import torch

    from jobs.reproduce.arms import BalanceArm
    from jobs.reproduce.catalogue import load_experiment
    from jobs.reproduce.data import load_splits
    from jobs.reproduce.evaluation import accuracies
    from xmodal.training.engine.state import TrainState
    from xmodal.training.engine.step import train_step

    torch.set_num_threads(1)
    experiment: Any = load_experiment("cg-mnist")
    data = load_splits("cg-mnist", config.rows, config.data, data_folder())
    arm = BalanceArm(summary="swept", balance=config.balance)
    model = experiment.build_model(arm, dict(data["train"].fields), config.seed)
    state = TrainState.create(
        model.objective,
        schedule=lambda step: config.rate * min(1.0, (step + 1) / 50),
        seed=config.seed,
        space=model.space,
        optimizer="sgd",
        weight_decay=1e-4,
        max_grad_norm=None,
    )
    epoch_steps = len(data["train"]) // config.batch_size
    for epoch in range(config.epochs):
        for batch in data["train"].batches(config.batch_size, config.seed, epoch):
            train_step(state, batch)
        metrics = {f"validation/{name}": x for name, x in accuracies(model, data["validation"]).items()}
        if epoch + 1 == config.epochs:
            metrics |= {f"oracle/{name}": x for name, x in accuracies(model, data["test"]).items()}
        step, steps = (epoch + 1) * epoch_steps, config.epochs * epoch_steps
        report({"kind": "report", "step": step, "steps": steps, "metrics": metrics})
