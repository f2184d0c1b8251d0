"""Label-free validators: ranges and limits, guards against collapsed models, and no access to oracle metrics."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xmodal.errors import ConfigError
from xmodal.metrics import validators
from xmodal.metrics.model_selection import (
    Candidate,
    GuardThresholds,
    ModelHealth,
    effective_rank,
    mean_cosine,
    regret,
    select,
    violations,
    weighted_spearman,
)
from xmodal.metrics.validators import (
    VALIDATORS,
    ValidatorInputs,
    bank_scores,
    compute_score,
    compute_scores,
    get_validator,
)

HEALTHY = ModelHealth(source=0.9, effective_rank=10.0, mean_cosine=0.2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def confident_logits(classes, kinds=4):
    return 60.0 * F.one_hot(torch.as_tensor(classes), kinds).float()


@pytest.mark.parametrize("name", ["oracle/text_to_image/recall@10", "oracle/accuracy", "oracle"])
def test_oracle_metrics_cannot_choose(name):
    candidates = [Candidate(name="plain", scores={name: 1.0}, health=HEALTHY)]
    for call in (lambda: get_validator(name), lambda: compute_score(name, ValidatorInputs()),
                  lambda: select(candidates, name, baseline="plain")):  # fmt: skip
        with pytest.raises(ConfigError, match="labels or pairs of the target and may not choose"):
            call()


def test_unknown_validators_and_missing_inputs_raise():
    with pytest.raises(ConfigError, match="did you mean 'information'"):
        get_validator("informatoin")
    with pytest.raises(ConfigError, match="needs texts"):
        compute_score("mutual_nearest", ValidatorInputs(target_features=draw(3, 2)))


def test_validators_rank_uniform_collapsed_and_correct_predictions():
    rows = torch.arange(40) % 4
    uniform, collapsed, correct = torch.zeros(40, 4), confident_logits(0 * rows), confident_logits(rows)
    scores = {name: [compute_score(name, ValidatorInputs(target=x)) for x in (uniform, collapsed, correct)]
             for name in ("entropy", "information", "bnm")}  # fmt: skip
    assert scores["entropy"] == pytest.approx([-1.0, 0.0, 0.0], abs=1e-6)  # collapse is as good: hence the guards
    assert scores["information"] == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    assert scores["bnm"] == pytest.approx([1 / 4, 1 / 2, 1.0], abs=1e-6)


def test_snd_is_high_for_dense_clusters():
    dense = compute_score("snd", ValidatorInputs(target=confident_logits(torch.arange(40) % 4)))
    isolated = compute_score("snd", ValidatorInputs(target=confident_logits(torch.arange(40), 40)))
    assert dense == pytest.approx(math.log(9), abs=1e-3)
    assert isolated == pytest.approx(math.log(39), abs=1e-3)  # all others are equally far: the known flaw of this score
    spread = compute_score("snd", ValidatorInputs(target=draw(40, 4)))
    assert 0 < spread < dense + 1


def test_mutual_nearest_is_1_for_equal_spaces_and_low_for_random_ones():
    unit = F.normalize(draw(50, 16), dim=1)
    perfect = ValidatorInputs(target_features=unit, texts=unit[torch.randperm(50)])
    assert compute_score("mutual_nearest", perfect) == 1.0
    unrelated = ValidatorInputs(target_features=unit, texts=F.normalize(draw(50, 16, seed=1), dim=1))
    assert compute_score("mutual_nearest", unrelated) < 0.6


def test_dev_estimates_the_target_risk():
    """Rows right of 0 are predicted badly; a target there has a high risk, which the mean over the source hides."""
    features, train = draw(4000, 1), draw(4000, 1, seed=1)
    label = torch.zeros(4000, dtype=torch.int64)
    logits = torch.where(features > 0.5, -2.0, 2.0) * torch.tensor([[0.5, -0.5]])
    risk = float(F.cross_entropy(logits, label))

    def dev(target):
        inputs = ValidatorInputs(source=logits, source_label=label, source_features=features, train_features=train,
                            target_features=target)  # fmt: skip
        return -compute_score("dev", inputs)

    assert dev(draw(4000, 1, seed=2)) == pytest.approx(risk, abs=0.05)
    shifted = draw(4000, 1, seed=2) + 1
    truth = float(torch.where(shifted > 0.5, math.log1p(math.exp(2)), math.log1p(math.exp(-2))).mean())
    assert abs(dev(shifted) - truth) < 0.3 * abs(risk - truth)


def test_all_validators_with_their_inputs_are_computed():
    inputs = ValidatorInputs(target=draw(20, 3), source=draw(20, 3), source_label=torch.arange(20) % 3)
    assert set(compute_scores(inputs)) == {"source_accuracy", "entropy", "information", "bnm", "snd"}
    assert all(np.isfinite(value) for value in compute_scores(inputs).values())
    assert set(VALIDATORS) > set(compute_scores(inputs))
    unit = F.normalize(draw(3, 2), dim=1)
    torch.testing.assert_close(bank_scores(unit, unit).diagonal(), torch.full((3,), 1 / validators.TEMPERATURE))


def candidate(name, bnm, **health):
    return Candidate(name=name, scores={"bnm": bnm}, health=ModelHealth(**{**HEALTHY.__dict__, **health}))


def test_unhealthy_candidates_are_never_chosen():
    candidates = [
        candidate("plain", 0.4),
        candidate("good", 0.5, source=0.85),
        candidate("forgets", 0.9, source=0.5),
        candidate("collapsed", 0.8, effective_rank=1.1),
        candidate("all alike", 0.8, mean_cosine=0.99),
        candidate("dead critic", 0.7, reversed_norm=[0.0, 0.0]),
        candidate("won", 0.7, critic_accuracy=[1.0, 0.999], reversed_norm=[0.1]),
    ]
    selected = select(candidates, "bnm", baseline="plain")
    assert selected.name == "good" and selected.score == 0.5
    assert set(selected.rejected) == {"forgets", "collapsed", "all alike", "dead critic", "won"}
    assert select([candidates[0], *candidates[2:]], "bnm", baseline="plain").name == "plain"
    assert violations(
        ModelHealth(source=math.nan, effective_rank=1.0, mean_cosine=math.nan), HEALTHY, GuardThresholds()
    )


def test_selection_raises_for_missing_candidates_and_scores():
    with pytest.raises(ConfigError, match=r"no candidate 'plian'.*did you mean 'plain'"):
        select([candidate("plain", 0.4)], "bnm", baseline="plian")
    with pytest.raises(ConfigError, match="'other' has no finite 'bnm'"):
        select([candidate("plain", 0.4), candidate("other", math.nan)], "bnm", baseline="plain")


def test_regret_is_the_lost_oracle_score():
    oracle = {"plain": 0.5, "a": 0.7, "b": 0.6}
    assert regret(oracle, "a") == 0 and regret(oracle, "b") == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="candidate 'c' has no oracle score"):
        regret(oracle, "c")


def test_weighted_spearman_is_1_for_monotone_scores_and_weighs_the_top():
    oracle = np.random.default_rng(0).random(30)
    assert weighted_spearman(np.exp(5 * oracle), oracle) == pytest.approx(1.0)
    assert weighted_spearman(-oracle, oracle) == pytest.approx(-1.0, abs=0.3)
    top, bottom = oracle.copy(), oracle.copy()
    order = np.argsort(oracle)
    top[order[-4:]] = oracle[order[-4:]][::-1] - 2  # the best are ranked last
    bottom[order[:4]] = oracle[order[:4]][::-1] + 2  # the worst are ranked first
    assert weighted_spearman(top, oracle) < 1 and weighted_spearman(bottom, oracle) < 1
    assert weighted_spearman([math.nan, 1.0, 2.0], [0.1, 0.2, 0.3]) > 0.8
    assert math.isnan(weighted_spearman([1.0], [1.0])) and math.isnan(weighted_spearman([1.0, 1.0], [0.0, 1.0]))


def test_effective_rank_and_mean_cosine_of_known_distributions():
    basis = torch.eye(8).repeat(50, 1)
    assert effective_rank(torch.cat([basis, -basis])) == pytest.approx(8.0)
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(1, 8)
    assert effective_rank(line) == pytest.approx(1.0) and effective_rank(torch.ones(5, 3)) == 0.0
    unit = F.normalize(draw(20, 5), dim=1).double()
    cosines = unit @ unit.T
    assert mean_cosine(unit) == pytest.approx(float(cosines[~torch.eye(20, dtype=torch.bool)].mean()))
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1.0)
