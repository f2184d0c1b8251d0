"""`import xmodal` is light, and offers exactly what the API page lists."""

import subprocess
import sys

import pytest

import xmodal

CODE = """
import sys, time
began = time.perf_counter()
import xmodal
seconds = time.perf_counter() - began
print([name for name in ("torch", "numpy", "transformers", "ray", "pyarrow") if name in sys.modules])
"""


def test_importing_xmodal_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", xmodal.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(xmodal, name)
    assert isinstance(value, str) or value.__doc__
    assert name in dir(xmodal)


def test_type_checkers_see_the_names_that_exist_at_run_time() -> None:
    import ast
    from pathlib import Path

    tree = ast.parse(Path(xmodal.__file__).read_text())
    checked = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert checked == {(module, name) for name, module in xmodal._MODULES.items()}


def test_an_unknown_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'info_nec'; it has .*info_nce"):
        xmodal.info_nec  # noqa: B018


def test_the_version_is_that_of_the_installation() -> None:
    assert xmodal.__version__[0].isdigit()
