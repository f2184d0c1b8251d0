"""A loss that becomes NaN in mid-run stops all ranks at once, and what is stored stays sound."""

import sys
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from jobs import console, pretrain
from pipelines.stages import pretrain as stage
from xmodal import checkpoint
from xmodal.run import read_metrics

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module
pytestmark = [pytest.mark.ray]

TINY = ("image_size=32", "patch_size=8", "width=32", "depth=1", "heads=2",
        "text_width=32", "text_depth=1", "text_heads=2", "context=16", "dim=32")  # fmt: skip
POISONED = 6  # the step, counted from 0


def poisoned(make_state, config, tokenizer, steps, device):
    """A state whose image tower answers NaN for the first row of rank 1 at one step."""
    state = make_state(config, tokenizer, steps, device)

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
        "vit-tiny", "--name", "a", "--runs", str(tmp_path), "--corpus", scenes, "--arguments", *TINY,
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
    found = checkpoint.resolve(str(tmp_path / "a"))
    assert found.step == 5
    for name in ("model.safetensors", "optimizer.safetensors"):
        tensors = load_file(Path(found.uri) / name)
        assert all(tensor.isfinite().all() for tensor in tensors.values() if tensor.is_floating_point())
    assert [line["step"] for line in read_metrics(str(tmp_path / "a"))] == list(range(1, POISONED + 1))
