"""The code of docs/extending.md, run as it stands there: modules, commands, and a training with them on Ray."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from xmodal.data import synthetic

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
MODULES = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.S)
COMMANDS = re.findall(r"```bash\npython -m (.*?)\n```", PAGE, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the modules of the page, and the two corpora that its commands name."""
    folder = tmp_path_factory.mktemp("extending")
    for name, code in MODULES:
        (folder / name).write_text(code)
    synthetic.write_corpus(str(folder / "pairs"), "photo", 40, 0, rows_per_shard=20, size=32)
    (folder / "scans").mkdir()
    with tarfile.open(folder / "scans" / "0.tar", "w") as tar:
        for number in range(40):
            stream = io.BytesIO()
            np.save(stream, np.full((32, 32), number / 40, np.float32))
            for ending, data in (("npy", stream.getvalue()), ("txt", f"a wall {number} metres away".encode())):
                member = tarfile.TarInfo(f"{number:03}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


def test_the_page_shows_a_module_and_a_command_for_each_extension() -> None:
    assert [name for name, _ in MODULES] == ["my_towers.py", "my_depth.py", "my_loss.py"]
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command: str, folder: Path) -> None:
    preview = json.loads(run([*shlex.split(command), "--dry-run"], folder))
    assert preview["config"]["data"]["corpus"]


@pytest.mark.ray
def test_a_modality_and_a_loss_of_a_users_own_train_on_ray(folder: Path) -> None:
    """Two of the page's commands in one: readers, ranks and checkpoint know both plugins."""
    depth = next(command for command in COMMANDS if "my_depth" in command)
    loss = ["--plugin", "my_loss", "--objective", "info_nce_and_uniformity"]
    sizes = ["--steps", "2", "--batch-size", "16", "--vocab-size", "520", "--name", "depth", "--workers", "1"]
    run([*shlex.split(depth), *loss, *sizes], folder)
    metrics = [json.loads(line) for line in (folder / "runs/depth/metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 2 and np.isfinite(metrics[-1]["loss"])
    assert json.loads((folder / "runs/depth/run.json").read_text())["config"]["model"]["architecture"] == "depth-text"
