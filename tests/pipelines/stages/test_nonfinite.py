"""A loss that becomes NaN during a run stops all ranks at once, and the stored checkpoints are finite."""

import sys
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from jobs import console, pretrain
from pipelines.stages import pretrain as stage
from support.model_flags import model_flags
from xmodal import checkpoint
from xmodal.run import read_metrics

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = [pytest.mark.ray]

POISONED = 6  # the step, counted from 0


def poisoned(make_state, config, steps, tokenizer, device):
    """Make a state whose image tower returns NaN for the first row of rank 1 at one step."""
    state = make_state(config, steps, tokenizer, device)

    def spoil(tower, inputs, output):
        if state.step == POISONED and torch.distributed.get_rank() == 1:
            output = output.clone()
            output[0] = float("nan")
        return output

    state.objective.model.tower("image").register_forward_hook(spoil)
    return state


def test_all_ranks_stop_with_exit_code_4_and_the_rows_are_named(scenes, ray_here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stage, "make_state", partial(poisoned, stage.make_state))
    arguments = [
        "vit-tiny", "--name", "a", "--runs", str(tmp_path), "--corpus", scenes, *model_flags(),
        "--vocab-size", "600", "--batch-size", "24", "--steps", "20", "--rows-per-task", "48", "--log-every", "1",
        "--checkpoint-every", "5", "--workers", "2", "--address", "local",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as exit:
        console.main(lambda: pretrain.run(arguments))
    assert exit.value.code == 4
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    (error,) = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert f"step {POISONED}: the loss is nan" in error and "no optimizer moved on any rank" in error
    row = int(error.partition("rank 1: ")[2].partition(".")[0])  # exactly one row, and none of rank 0
    assert 0 <= row < 240 and "rank 0" not in error
    assert stderr.count("start at step") == 1  # a restart would only meet it again
    newest = checkpoint.resolve(str(tmp_path / "a"))
    assert newest.step == 5
    for name in ("model.safetensors", "optimizer.safetensors"):
        tensors = load_file(Path(newest.uri) / name)
        assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    assert [line["step"] for line in read_metrics(str(tmp_path / "a"))] == list(range(1, POISONED + 1))
