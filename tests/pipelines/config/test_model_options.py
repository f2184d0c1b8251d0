"""Options of an architecture on the command line are the arguments of its factory, with the same types and values."""

import inspect
from collections.abc import Sequence
from typing import get_args, get_origin, get_type_hints

import pytest

from pipelines.config.architectures import ARCHITECTURES, model_config
from pipelines.config.model import ModelConfig
from xmodal.encoders import architectures
from xmodal.errors import ConfigError

FROM_TOKENIZER = {"vocab_size", "bos_id", "eos_id", "pad_id"}  # set by the run, not by the user


def options_of(model):
    """The default and the type of each option of a model, by name."""
    common = get_type_hints(ModelConfig)
    hints = get_type_hints(type(model))
    return {name: (getattr(model, name), hints[name]) for name in hints if name not in common}


def test_every_architecture_has_options():
    assert set(ARCHITECTURES) == set(architectures.ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_options_are_the_arguments_of_the_factory(name):
    parameters = inspect.signature(architectures.ARCHITECTURES[name]).parameters
    options = options_of(ARCHITECTURES[name])
    assert set(options) == set(parameters) - FROM_TOKENIZER
    for option, (default, kind) in options.items():
        parameter = parameters[option]
        if parameter.default is not parameter.empty:
            assert default == parameter.default, option
        assert accepts(parameter.annotation, kind), option


def accepts(annotation, kind):
    """Whether a factory's annotation takes values of the type of an option."""
    if get_origin(kind) is tuple:
        return annotation == Sequence[get_args(kind)[0]]
    return annotation == kind or set(get_args(annotation) or [annotation]) | {type(None)} == set(get_args(kind))


def test_an_option_that_does_not_exist_names_the_nearest():
    with pytest.raises(ConfigError, match=r"conv-tiny has no option 'hiden_sizes'.* did you mean 'hidden_sizes'"):
        model_config("conv-tiny", hiden_sizes=(8,))
    with pytest.raises(ConfigError, match=r"unknown architecture 'vit-tiney'.* did you mean 'vit-tiny'"):
        model_config("vit-tiney")


def test_an_option_of_none_is_left_to_the_factory():
    assert model_config("hub", image="a", text="b").keywords() == {
        "image": "a", "text": "b", "dim": 512, "pretrained": True, "dropout": 0.0
    }  # fmt: skip
