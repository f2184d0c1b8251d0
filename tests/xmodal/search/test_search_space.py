"""Search spaces: parsing, errors in one line, and encoding of values in both directions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.classifier import ClassifierConfig
from pipelines.config.classify import ClassifyConfig
from pipelines.config.data import DataConfig
from pipelines.config.run import RunOptions
from xmodal.errors import ConfigError
from xmodal.search.config_fields import paths, value_at, with_values
from xmodal.search.ranges import ChoiceRange, IntervalRange, NumberRange
from xmodal.search.space import parse_space

UNIT = st.floats(0, 1)
BASE = ClassifyConfig(
    run=RunOptions(name="a"), data=DataConfig(corpus=("c",)), model=ClassifierConfig(classes=("a", "b"))
)
SEARCH = (
    "optim.learning_rate=loguniform(1e-4,1e-2)", "balance.rescale=interval(1,4)", "model.fusion=choice(film,gating)",
    "optim.rows_per_forward=integers(8,64)", "optim.max_grad_norm=choice(none,1,0.5)",
)  # fmt: skip


@given(st.tuples(UNIT, UNIT), st.floats(1e-6, 1e3), st.floats(1.001, 1e3), st.booleans())
def test_interval_ends_are_ordered_and_within_the_range(units, low, factor, log):
    ends = NumberRange(low=low, high=low * factor, log=log)
    a, b = IntervalRange(ends=ends).decode(units)
    assert low <= a <= b <= low * factor


@given(st.lists(UNIT, min_size=6, max_size=6))
def test_decode_and_encode_are_inverse(units):
    space = parse_space(SEARCH, BASE)
    assert space.size == 6
    values = space.decode(units)
    encoded = space.encode(values)
    assert encoded is not None and all(0 <= unit <= 1 for unit in encoded)
    decoded = space.decode(encoded)
    for path, value in values.items():
        expected = value if value is None or isinstance(value, str) else pytest.approx(value, rel=1e-6, abs=1e-9)
        assert decoded[path] == expected
    config = with_values(BASE, values)  # each point is a valid configuration
    assert value_at(config, "balance.rescale") == values["balance.rescale"]


def test_uniform_units_fill_the_triangle_of_intervals_evenly():
    interval = IntervalRange(ends=NumberRange(low=0, high=1))
    steps = [(k + 0.5) / 100 for k in range(100)]
    lows = sorted(interval.decode((u, 0.5))[0] for u in steps)
    assert lows[50] == pytest.approx(1 - 0.5**0.5, abs=0.01)  # half of the triangle's area lies to its left


def test_grid_has_both_ends_and_only_ordered_pairs():
    assert NumberRange(low=1, high=100, log=True).grid(3) == pytest.approx([1, 10, 100])
    assert NumberRange(low=1, high=3, whole=True).grid(9) == [1, 2, 3]
    assert IntervalRange(ends=NumberRange(low=1, high=2)).grid(2) == [(1, 1), (1, 2), (2, 2)]
    assert ChoiceRange(values=("a", "b")).grid(7) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.learning_rat=uniform(0.1,0.2)", "no field 'optim.learning_rat'.* did you mean 'optim.learning_rate'"),
        ("learning_rate=uniform(0.1,0.2)", "did you mean 'optim.learning_rate'"),
        ("optim.learning_rate=logunifrm(1,2)", "no range 'logunifrm'; did you mean 'loguniform'"),
        ("optim.learning_rate", "is not FIELD=RANGE"),
        ("optim.learning_rate=uniform(0.2,0.1)", "needs LOW < HIGH"),
        ("optim.learning_rate=uniform(0.1)", "with two numbers"),
        ("optim.learning_rate=loguniform(0,0.1)", "needs LOW > 0"),
        ("optim.learning_rate=uniform(0.5,2)", r"the run refuses 2.0: learning_rate=2.0 must lie in \(0, 1\)"),
        ("optim.batch_size=uniform(8,16)", r"write optim.batch_size=integers\(LOW,HIGH\)"),
        ("balance.rescale=uniform(1,4)", r"write balance.rescale=interval\(LOW,HIGH\)"),
        ("balance.method=choice(uniform,mmparet)", "'mmparet' cannot be its value: did you mean 'mmpareto'"),
        ("optim.batch_size=choice(8,many)", "'many' cannot be its value"),
        ("optim.batch_size=integers(8,16.5)", "whole numbers"),
        ("balance.gamma=choice(1,1)", "each once"),
        ("run.name=choice(a,b)", "a sweep sets this field itself"),
        ("resources.workers=integers(1,2)", "a sweep sets this field itself"),
    ],
)
def test_invalid_range_raises_one_line_with_the_fix(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        parse_space([text], BASE)
    assert "\n" not in str(error.value)


def test_with_values_replaces_only_the_given_fields():
    assert {"balance.rescale", "optim.betas", "data.corpus", "seed"} <= set(paths(BASE))
    config = with_values(BASE, {"balance.gamma": 2.0, "seed": 3, "optim.steps": 9})
    assert (config.balance.gamma, config.seed, config.optim.steps) == (2.0, 3, 9)
    assert with_values(config, {"balance.gamma": None, "seed": 0, "optim.steps": None}) == BASE
    with pytest.raises(ConfigError, match="twice"):
        parse_space(["balance.gamma=uniform(1,2)", "balance.gamma=uniform(1,3)"], BASE)
