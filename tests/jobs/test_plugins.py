"""A module of a user's own is imported before its names are needed, here and wherever a configuration is sent."""

import os
import pickle
import subprocess
import sys
from importlib import metadata

import pytest

from jobs import evaluate, pretrain
from xmodal import plugins
from xmodal.errors import ConfigError

TOWERS = '''
"""A tower whose width is an option of the command line."""
from collections.abc import Sequence

from xmodal.encoders import architectures


def narrow(*, vocab_size: int, bos_id: int, eos_id: int, pad_id: int, width: int, sizes: Sequence[int] = (4, 8)):
    """Narrow towers, for a test."""
    raise NotImplementedError


architectures.ARCHITECTURES["narrow"] = narrow
'''
FLAGS = ["--architecture", "narrow", "--plugin", "narrow_towers"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The folder of a module that registers an architecture."""
    from xmodal.encoders import architectures

    (tmp_path / "narrow_towers.py").write_text(TOWERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")
    yield tmp_path
    sys.modules.pop("narrow_towers", None)
    architectures.ARCHITECTURES.pop("narrow", None)


def test_options_of_a_registered_architecture_are_flags(plugin, capsys):
    config = pretrain.parse(["vit-tiny", "--corpus", "c", *FLAGS, "--model.width", "8", "--model.sizes", "1", "2"])
    assert config.model.keywords() == {"width": 8, "sizes": (1, 2)} and config.model.vocab_size == 8192
    assert plugins.plugin_modules() == ("narrow_towers",)
    with pytest.raises(SystemExit):
        pretrain.parse(["vit-tiny", "--corpus", "c", *FLAGS])
    assert "--model.width" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"narrow has no option --model\.widht: did you mean '--model\.width'"):
        pretrain.parse(["vit-tiny", "--corpus", "c", *FLAGS, "--model.widht", "8"])


def test_a_configuration_that_is_sent_to_another_process_loads_the_plugin_there(plugin):
    config = pretrain.parse(["vit-tiny", "--corpus", "c", *FLAGS, "--model.width", "8"])
    script = "import pickle, sys; print(pickle.load(sys.stdin.buffer).model.keywords())"
    path = os.pathsep.join([str(plugin), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(config), capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": path, plugins.VARIABLE: ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"{'width': 8, 'sizes': (4, 8)}\n"


def test_commands_that_load_a_model_take_plugins_before_their_positional_arguments(plugin):
    request = evaluate.parse(["--plugin", "narrow_towers", "run", "corpus"])
    assert request.config.checkpoint == "run" and "narrow_towers" in sys.modules


def test_a_module_that_does_not_exist_is_refused_in_one_sentence(plugin):
    with pytest.raises(ConfigError, match=r"--plugin no_towers: there is no such module .* add that folder to PYTHONP"):
        evaluate.parse(["run", "corpus", "--plugin=no_towers"])


def test_a_package_that_a_plugin_misses_is_named_as_python_names_it(plugin):
    (plugin / "broken_towers.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        evaluate.parse(["run", "corpus", "--plugin", "broken_towers"])


def test_without_a_plugin_an_unknown_architecture_names_the_nearest(monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="unknown architecture 'vit-tiney'; did you mean 'vit-tiny'"):
        pretrain.parse(["vit-tiny", "--corpus", "c", "--architecture", "vit-tiney"])


def test_a_plugin_of_an_installed_package_needs_no_flag(plugin, monkeypatch):
    entry = metadata.EntryPoint(name="narrow", value="narrow_towers", group=plugins.GROUP)
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda *, group: [entry] if group == plugins.GROUP else [])
    plugins._load_entry_points.cache_clear()
    try:
        flags = ["--architecture", "narrow", "--model.width", "8"]
        assert pretrain.parse(["vit-tiny", "--corpus", "c", *flags]).model.keywords()["width"] == 8
    finally:
        plugins._load_entry_points.cache_clear()
