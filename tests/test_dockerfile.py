"""The Dockerfile's steps in a fresh folder: copied files exist, installations can be built, the command runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VARIABLE = re.compile(r"\$\{(\w+)\}")


def steps() -> list[tuple[str, str]]:
    """Every instruction of the Dockerfile with its arguments on one line."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def copy_into(folder: Path, arguments: str) -> None:
    """Do what COPY does, relative to the image's working directory."""
    *sources, target = [word for word in shlex.split(arguments) if not word.startswith("--")]
    for source in sources:
        place = folder / target / Path(source).name if target.endswith("/") else folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)


def run(words: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory as the Dockerfile fills it; each installation is tried without its dependencies."""
    folder = tmp_path_factory.mktemp("image")
    for name, arguments in steps():
        if name == "COPY":
            copy_into(folder, arguments)
        elif name == "RUN":
            assert (folder / "constraints.txt").is_file()
            for command in arguments.split("&&"):
                words = shlex.split(command)
                assert words[:4] == ["pip", "install", "--constraint", "constraints.txt"]
                if words[4].startswith("."):
                    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
                    run([*install, "--target", str(folder / "installed"), "."], folder)
    return folder


def test_the_base_image_is_rays_of_the_tested_release_for_both_variants() -> None:
    defaults = dict(rest.split("=") for name, rest in steps() if name == "ARG")
    base = next(rest for name, rest in steps() if name == "FROM")
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned and defaults == {"VARIANT": "cpu", "RAY_VERSION": pinned[1]}
    assert VARIABLE.sub(lambda match: defaults[match[1]], base) == f"rayproject/ray:{pinned[1]}-py311-cpu"
    assert base.endswith("-${VARIANT}")


def test_every_extra_that_is_installed_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {name for command, rest in steps() if command == "RUN" for name in re.findall(r"\[(\w+)\]", rest)}
    assert asked == {"all"} and "all" in extras


def test_only_the_library_is_installed(image: Path) -> None:
    packages = {path.name for path in (image / "installed").iterdir() if path.is_dir() and "dist-info" not in path.name}
    assert packages == {"xmodal"}


def test_the_command_of_the_image_runs_from_anywhere(image: Path, tmp_path: Path) -> None:
    environment = dict(word.split("=") for name, rest in steps() if name == "ENV" for word in rest.split())
    assert environment["PYTHONPATH"] == next(rest for name, rest in steps() if name == "WORKDIR")
    command = json.loads(next(rest for name, rest in steps() if name == "CMD"))
    words = [sys.executable, *command[1:], "--help"]
    assert "jobs.doctor" in run(words, tmp_path, PYTHONPATH=str(image))
