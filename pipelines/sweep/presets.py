"""Named searches: ranges, a metric and guards for a kind of run; and the baseline that stands beside all trials."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipelines.config.sweep import SweepConfig
from xmodal.errors import ConfigError, nearest
from xmodal.search.config_fields import paths, value_at
from xmodal.search.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class SweepPreset:
    """A named search: a line for the help, and what takes the place of flags that are not given."""

    summary: str
    kind: str  # pipelines.config.KIND of the runs that it is for
    search: tuple[str, ...]
    metric: tuple[str, ...]
    guard: tuple[str, ...] = ()


PRESETS: Mapping[str, SweepPreset] = {
    "pretrain-default": SweepPreset(
        summary="temperature, learning rate and weight decay of jobs.pretrain, by recall@10 on held-out pairs",
        kind="pretrain",
        search=(
            "loss.temperature=loguniform(0.02,0.2)",
            "optim.learning_rate=loguniform(1e-4,3e-3)",
            "optim.weight_decay=loguniform(0.01,0.5)",
        ),
        metric=("validation/image_to_text/recall@10",),
    ),
    "adapt-default": SweepPreset(
        summary="lambda and learning rate of jobs.adapt, by BNM on the target; source and spread guarded",
        kind="adapt",
        search=("domain.strength=loguniform(0.01,3)", "optim.learning_rate=loguniform(3e-5,1e-3)"),
        metric=("validation/target/bnm",),
        guard=(
            "validation/image_to_text/recall@10 >= 0.9 * baseline",
            "validation/target/effective_rank >= 0.3 * baseline",
            "validation/target/spread >= 0.3 * baseline",
        ),
    ),
    "mmpareto-default": SweepPreset(
        summary="gamma and the rescale range of MMPareto in jobs.classify, by the loss of the joint head",
        kind="classify",
        search=("balance.gamma=uniform(1,3)", "balance.rescale=loginterval(0.3,10)"),
        metric=("multimodal/accuracy",),
    ),
}


def with_preset(config: SweepConfig) -> SweepConfig:
    """Fill in flags that were not given from the preset; ConfigError for an unknown one, or one of another kind."""
    if config.preset is None:
        return config
    if config.preset not in PRESETS:
        raise ConfigError(f"no preset {config.preset!r}: {nearest(config.preset, PRESETS)}")
    chosen, kind = PRESETS[config.preset], type(config.run).__module__.rpartition(".")[2]
    if kind != chosen.kind:
        fit = ", ".join(name for name, one in PRESETS.items() if one.kind == kind) or "none"
        raise ConfigError(f"--preset {config.preset} is for {chosen.summary}; for this run there is: {fit}")
    return replace(
        config,
        preset=None,
        search=config.search or chosen.search,
        metric=config.metric or chosen.metric,
        guard=config.guard or _measurable(chosen.guard, config.run),
    )


def _measurable(guards: tuple[str, ...], run: Any) -> tuple[str, ...]:
    """Return the guards whose metric this run measures."""
    held_out, target = getattr(run, "validation", None), getattr(run, "target_validation", None)
    return tuple(
        guard
        for guard in guards
        if not (guard.startswith("validation/target/") and getattr(target, "corpus", None) is None)
        and not (guard.startswith("validation/image") and getattr(held_out, "corpus", None) is None)
    )


def baseline_of(run: Any, space: SearchSpace) -> dict[str, Any]:
    """Return the swept fields without the method (lambda = 0, the plain sum of losses); others as the run has them."""
    values = {path: value_at(run, path) for path in space.ranges}
    known = set(paths(run))
    if "domain.strength" in known and any(path.startswith("domain.") for path in values):
        values["domain.strength"] = 0.0
    if "balance.method" in known and any(path.startswith("balance.") for path in values):
        values |= {"balance.method": "uniform", "balance.gamma": None}
    return values
