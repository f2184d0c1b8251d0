"""Label-free scores: their ranges and limits, what the guards reject, and that nothing sealed may choose."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from xmodal.errors import ConfigError
from xmodal.metrics import validators
from xmodal.metrics.model_selection import (
    Candidate,
    Health,
    Limits,
    complaints,
    effective_rank,
    mean_cosine,
    regret,
    select,
    weighted_spearman,
)
from xmodal.metrics.validators import VALIDATORS, Evidence, bank_scores, score, scores, validator

SOUND = Health(source=0.9, effective_rank=10.0, mean_cosine=0.2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sure_of(classes, kinds=4):
    return 60.0 * F.one_hot(torch.as_tensor(classes), kinds).float()


@pytest.mark.parametrize("name", ["oracle/text_to_image/recall@10", "oracle/accuracy", "oracle"])
def test_what_is_sealed_can_choose_nothing(name):
    candidates = [Candidate(name="plain", scores={name: 1.0}, health=SOUND)]
    for asked in (lambda: validator(name), lambda: score(name, Evidence()),
                  lambda: select(candidates, name, baseline="plain")):  # fmt: skip
        with pytest.raises(ConfigError, match="labels or pairs of the target and may not choose"):
            asked()


def test_an_unknown_validator_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'information'"):
        validator("informatoin")
    with pytest.raises(ConfigError, match="needs texts"):
        score("mutual_nearest", Evidence(target_features=draw(3, 2)))


def test_validators_order_guessing_collapse_and_knowledge():
    rows = torch.arange(40) % 4
    unsure, collapsed, knowing = torch.zeros(40, 4), sure_of(0 * rows), sure_of(rows)
    found = {name: [score(name, Evidence(target=x)) for x in (unsure, collapsed, knowing)]
             for name in ("entropy", "information", "bnm")}  # fmt: skip
    assert found["entropy"] == pytest.approx([-1.0, 0.0, 0.0], abs=1e-6)  # collapse is as good: hence the guards
    assert found["information"] == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    assert found["bnm"] == pytest.approx([1 / 4, 1 / 2, 1.0], abs=1e-6)


def test_neighbourhoods_are_dense_where_rows_gather():
    dense = score("snd", Evidence(target=sure_of(torch.arange(40) % 4)))
    alone = score("snd", Evidence(target=sure_of(torch.arange(40), 40)))
    assert dense == pytest.approx(math.log(9), abs=1e-3)
    assert alone == pytest.approx(math.log(39), abs=1e-3)  # all others are equally far: the known flaw of this score
    spread = score("snd", Evidence(target=draw(40, 4)))
    assert 0 < spread < dense + 1


def test_mutual_neighbours_of_a_perfect_and_of_a_random_space():
    unit = F.normalize(draw(50, 16), dim=1)
    both = Evidence(target_features=unit, texts=unit[torch.randperm(50)])
    assert score("mutual_nearest", both) == 1.0
    strangers = Evidence(target_features=unit, texts=F.normalize(draw(50, 16, seed=1), dim=1))
    assert score("mutual_nearest", strangers) < 0.6


def test_dev_is_the_source_risk_without_a_shift_and_follows_the_target_with_one():
    """Rows right of 0 are predicted badly; a target that lies there has a high risk, which the source's mean hides."""
    features, train = draw(4000, 1), draw(4000, 1, seed=1)
    label = torch.zeros(4000, dtype=torch.int64)
    logits = torch.where(features > 0.5, -2.0, 2.0) * torch.tensor([[0.5, -0.5]])
    risk = float(F.cross_entropy(logits, label))

    def dev(target):
        evidence = Evidence(source=logits, source_label=label, source_features=features, train_features=train,
                            target_features=target)  # fmt: skip
        return -score("dev", evidence)

    assert dev(draw(4000, 1, seed=2)) == pytest.approx(risk, abs=0.05)
    moved = draw(4000, 1, seed=2) + 1
    truth = float(torch.where(moved > 0.5, math.log1p(math.exp(2)), math.log1p(math.exp(-2))).mean())
    assert abs(dev(moved) - truth) < 0.3 * abs(risk - truth)


def test_all_scores_come_with_the_evidence_for_them():
    evidence = Evidence(target=draw(20, 3), source=draw(20, 3), source_label=torch.arange(20) % 3)
    assert set(scores(evidence)) == {"source_accuracy", "entropy", "information", "bnm", "snd"}
    assert all(np.isfinite(value) for value in scores(evidence).values())
    assert set(VALIDATORS) > set(scores(evidence))
    unit = F.normalize(draw(3, 2), dim=1)
    torch.testing.assert_close(bank_scores(unit, unit).diagonal(), torch.full((3,), 1 / validators.TEMPERATURE))


def candidate(name, bnm, **health):
    return Candidate(name=name, scores={"bnm": bnm}, health=Health(**{**SOUND.__dict__, **health}))


def test_a_collapsed_candidate_is_not_chosen_whatever_it_scores():
    trials = [
        candidate("plain", 0.4),
        candidate("good", 0.5, source=0.85),
        candidate("forgets", 0.9, source=0.5),
        candidate("collapsed", 0.8, effective_rank=1.1),
        candidate("all alike", 0.8, mean_cosine=0.99),
        candidate("dead critic", 0.7, reversed_norm=[0.0, 0.0]),
        candidate("won", 0.7, critic_accuracy=[1.0, 0.999], reversed_norm=[0.1]),
    ]
    found = select(trials, "bnm", baseline="plain")
    assert found.name == "good" and found.score == 0.5
    assert set(found.rejected) == {"forgets", "collapsed", "all alike", "dead critic", "won"}
    assert select([trials[0], *trials[2:]], "bnm", baseline="plain").name == "plain"
    assert complaints(Health(source=math.nan, effective_rank=1.0, mean_cosine=math.nan), SOUND, Limits())


def test_selection_names_what_is_missing():
    with pytest.raises(ConfigError, match=r"no candidate 'plian'.*did you mean 'plain'"):
        select([candidate("plain", 0.4)], "bnm", baseline="plian")
    with pytest.raises(ConfigError, match="'other' has no finite 'bnm'"):
        select([candidate("plain", 0.4), candidate("other", math.nan)], "bnm", baseline="plain")


def test_regret_is_what_the_choice_cost():
    oracle = {"plain": 0.5, "a": 0.7, "b": 0.6}
    assert regret(oracle, "a") == 0 and regret(oracle, "b") == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="no candidate 'c' was judged"):
        regret(oracle, "c")


def test_weighted_spearman_is_one_for_any_monotone_score_and_cares_about_the_top():
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


def test_rank_and_cosine_of_known_clouds():
    basis = torch.eye(8).repeat(50, 1)
    assert effective_rank(torch.cat([basis, -basis])) == pytest.approx(8.0)
    line = torch.linspace(-1, 1, 20)[:, None] * torch.ones(1, 8)
    assert effective_rank(line) == pytest.approx(1.0) and effective_rank(torch.ones(5, 3)) == 0.0
    unit = F.normalize(draw(20, 5), dim=1).double()
    cosines = unit @ unit.T
    assert mean_cosine(unit) == pytest.approx(float(cosines[~torch.eye(20, dtype=torch.bool)].mean()))
    assert mean_cosine(torch.ones(5, 3)) == pytest.approx(1.0)
