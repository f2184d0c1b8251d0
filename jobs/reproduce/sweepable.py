"""Experiments as runs that a sweep can swallow: a configuration in, figures at every look of its trial out.

    python -m jobs.sweep ... -- digits-captions --method dann
    python -m jobs.sweep ... -- cg-mnist --rows 10000

They train in the process of their trial, without the cluster. What was measured on labels of the target, or on a test
split, is called oracle/..., which a sweep puts aside until the choice is made.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jobs import arguments
from xmodal.errors import ConfigError
from xmodal.training.balance_options import Balance

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What brings both domains together."""

    method: Literal["dann", "mmd", "coral", "cdan", "mcc", "bnm"] = "dann"  # of the domain loss
    strength: float = 0.3  # lambda, at the end of its ramp
    temperature: float = 0.07  # of the contrastive loss, at the start (digits-captions)

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"strength={self.strength} must be at least 0 and finite")
        if not 0.01 <= self.temperature <= 1:
            raise ConfigError(f"temperature={self.temperature} must lie in [0.01, 1]")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Digits of one domain with labels or captions, of another without (Ganin et al. 2016)."""

    TARGET: ClassVar[str] = "jobs.reproduce.sweepable:adapt"
    GRACE: ClassVar[float] = 0.37  # of the run, until the strength's ramp has come to 95 % of its peak
    experiment: Literal["digits-adaptation", "digits-captions"] = "digits-captions"
    domain: Alignment = field(default_factory=Alignment)
    rate: float = 0.01  # of SGD at the start
    rows: int = 10_000  # of each domain
    steps: int = 2_000
    batch_size: int = 32  # of each domain
    looks: int = 8  # at held-out rows, evenly over the run
    data: str = "runs/data"  # where decoded digits are kept; one place for all trials
    name: str = "digits"
    runs: str = "runs"
    resume: bool = False
    seed: int = 0

    def prepare(self) -> None:
        """Decode the digits once, for all trials."""
        from jobs.reproduce.catalogue import experiment

        found: Any = experiment(self.experiment)
        found.prepare(self.experiment, replace(found.settings, rows=self.rows), self.data)


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """CG-MNIST: a grey digit beside one in a colour that betrays its class in training only."""

    TARGET: ClassVar[str] = "jobs.reproduce.sweepable:balance"
    balance: Balance = field(default_factory=Balance)
    rate: float = 0.02  # of SGD, constant
    rows: int = 10_000
    epochs: int = 4
    batch_size: int = 64
    data: str = "runs/data"  # where decoded digits are kept; one place for all trials
    name: str = "cg-mnist"
    runs: str = "runs"
    resume: bool = False
    seed: int = 0

    def prepare(self) -> None:
        """Decode the digits once, for all trials."""
        from jobs.reproduce.data import splits

        splits("cg-mnist", self.rows, self.data)


DEFAULTS: Mapping[str, Adapted | Balanced] = {
    "digits-adaptation": Adapted(experiment="digits-adaptation"),
    "digits-captions": Adapted(),
    "cg-mnist": Balanced(),
}


def parse(words: list[str]) -> Adapted | Balanced:
    """The experiment named first, with the flags behind it over its values."""
    default = DEFAULTS[words[0]]
    return arguments.parse(type(default), words[1:], program=words[0], text=__doc__, default=default)


def adapt(config: Adapted, say: Say) -> None:
    """One trial on two domains of digits; not resumable: it starts again."""
    from jobs.reproduce.adaptation.arms import Arm
    from jobs.reproduce.adaptation.data import parts
    from jobs.reproduce.catalogue import experiment

    chosen: Any = experiment(config.experiment)
    settings = replace(
        chosen.settings, rows=config.rows, steps=config.steps, batch_size=config.batch_size, sgd_rate=config.rate
    )  # fmt: skip
    arm = Arm(summary="swept", method=config.domain.method, strength=config.domain.strength)
    learner = chosen.learner(arm, config.seed, parts(config.experiment, config.rows, config.data), settings)
    head = learner.net.classes
    if hasattr(head, "log_scale"):
        head.log_scale.data.fill_(math.log(1 / config.domain.temperature))
    due = {round(config.steps * (k + 1) / config.looks) for k in range(config.looks)}
    for step in range(config.steps):
        learner.step(step, step / config.steps)
        if step + 1 in due:
            found = learner.judge(last=False)
            say({"kind": "report", "step": step + 1, "steps": config.steps, "metrics": _named(found)})


def _named(found: Mapping[str, Any]) -> dict[str, float]:
    """Scores and health as runs log them; the target's labels under oracle/."""
    health = {name: x for name, x in found["health"].items() if x is not None and name != "source"}
    figures = {f"validation/target/{name}": x for name, x in {**found["scores"], **health}.items()}
    return figures | {"validation/source": found["health"]["source"], "oracle/accuracy": found["oracle"]["accuracy"]}


def balance(config: Balanced, say: Say) -> None:
    """One trial of CG-MNIST; not resumable: it starts again."""
    import torch

    from jobs.reproduce.arms import Arm
    from jobs.reproduce.catalogue import experiment
    from jobs.reproduce.data import splits
    from jobs.reproduce.evaluation import accuracies
    from xmodal.training.engine.state import TrainState
    from xmodal.training.engine.step import train_step

    torch.set_num_threads(1)
    chosen: Any = experiment("cg-mnist")
    data = splits("cg-mnist", config.rows, config.data)
    subject = chosen.subject(Arm(summary="swept", balance=config.balance), data["train"], config.seed)
    state = TrainState.create(
        subject.objective,
        schedule=lambda step: config.rate * min(1.0, (step + 1) / 50),
        seed=config.seed,
        space=subject.space,
        optimizer="sgd",
        weight_decay=1e-4,
        max_grad_norm=None,
    )
    a_part = len(data["train"]) // config.batch_size
    for epoch in range(config.epochs):
        for batch in data["train"].batches(config.batch_size, config.seed, epoch):
            train_step(state, batch)
        metrics = {f"validation/{name}": x for name, x in accuracies(subject, data["validation"]).items()}
        if epoch + 1 == config.epochs:
            metrics |= {f"oracle/{name}": x for name, x in accuracies(subject, data["test"]).items()}
        say({"kind": "report", "step": (epoch + 1) * a_part, "steps": config.epochs * a_part, "metrics": metrics})
