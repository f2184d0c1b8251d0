"""Typed options of every command: frozen dataclasses that import neither torch nor Ray.

`--help` and a mistake in an argument therefore take no seconds. Comments of fields are the help texts of flags.
"""
