"""Import modules of a user that register encoders, inputs, losses or weightings of their own.

A module is named on the command line (`--plugin my_towers`), or by an installed package in its entry-point group
`xmodal.plugins`. Whoever builds a model loads the plugins first: the command itself, and every worker of Ray.
"""

import importlib
import os
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from xmodal.errors import ConfigError

GROUP = "xmodal.plugins"
VARIABLE = "XMODAL_PLUGINS"  # names of the modules, with commas between: child processes load the same ones


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the plugins of installed packages, those of the environment variable XMODAL_PLUGINS, and `modules`.

    A module is imported once, however often this is called. Raises ConfigError for a module that does not exist.
    """
    _load_entry_points()
    names = tuple(dict.fromkeys([*plugin_modules(), *modules]))
    for name in names:
        _import(name)
    if names:
        os.environ[VARIABLE] = ",".join(names)


def plugin_modules() -> tuple[str, ...]:
    """Return the names of the modules that have been loaded by name, for another process to load them as well."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(",")))


def has_plugins() -> bool:
    """Return whether anything has been loaded, by name or from an installed package."""
    return bool(plugin_modules() or _load_entry_points())


@cache
def _load_entry_points() -> tuple[str, ...]:
    entries = tuple(metadata.entry_points(group=GROUP))
    for entry in entries:
        entry.load()
    return tuple(entry.value for entry in entries)


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):  # the plugin itself misses a package
            raise
        raise ConfigError(
            f"--plugin {name}: there is no such module on the Python path; run the command in the folder that holds "
            "it, or add that folder to PYTHONPATH"
        ) from error
