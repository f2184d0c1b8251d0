"""Training steps of real towers: chunks, recomputed activations, patch dropout, resume and two ranks."""

import pytest
import torch

from support.gloo_ranks import run
from support.toy_encoder import part_of
from xmodal.batch import Batch
from xmodal.distributed.ranks import current_rank, world_size
from xmodal.encoders import DualEncoder
from xmodal.training.engine.accumulation import backward
from xmodal.training.engine.compilation import compile_towers
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.engine.state_io import load_state, state_json, state_tensors
from xmodal.training.engine.step import train_step
from xmodal.training.objectives.contrastive import ContrastiveObjective

SCHEDULE = CosineSchedule(peak=1e-3, total_steps=100, warmup_steps=3)
SIZES = {"width": 32, "depth": 2, "heads": 2, "text_width": 32, "text_depth": 2, "text_heads": 2, "dim": 16}
WORDS = {"vocab_size": 60, "bos_id": 58, "eos_id": 59, "pad_id": 0, "context": 8}


def encoder(architecture: str, **sizes: int) -> DualEncoder:
    torch.manual_seed(0)
    if architecture == "vit-tiny":
        return DualEncoder.create(architecture, image_size=16, patch_size=4, **SIZES | sizes, **WORDS)
    sizes = {"hidden_sizes": (8, 16), "depths": (1, 1), "text_width": 32, "text_depth": 1, "text_heads": 2, "dim": 16}
    return DualEncoder.create(architecture, image_size=16, **sizes, **WORDS)


def state_of(model: DualEncoder, rows_per_forward: int | None = None) -> TrainState:
    objective = ContrastiveObjective(model, mask_duplicates=True)
    return TrainState.create(objective, schedule=SCHEDULE, seed=5, rows_per_forward=rows_per_forward)


def pairs(rows: int, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, 16, 16, 3), generator=draw, dtype=torch.uint8)
    text = torch.randint(3, 58, (rows, 8), generator=draw, dtype=torch.int32)
    text[:, 0], text[:, 5], text[:, 6:] = 58, 59, 0
    fields = {"image": image, "text": text, "text_length": torch.full((rows,), 6, dtype=torch.int32)}
    fields["text_id"] = torch.randint(0, 10, (rows,), generator=draw)
    return Batch(torch.arange(rows), torch.arange(rows) != 3, fields)


def gradients(state: TrainState, batch: Batch) -> dict[str, torch.Tensor]:
    backward(state, batch)
    result = {n: p.grad.clone() for n, p in state.objective.named_parameters() if p.requires_grad}
    state.optimizer.zero_grad()
    return result


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Compare to float32 rounding, relative to the largest entry of each parameter's gradient."""
    for name, x in expected.items():
        worst = (actual[name] - x).abs().max() / x.abs().max().clamp(min=1e-4)
        assert worst < 1e-3, f"{name}: {worst:.2e}"


def test_chunks_and_recomputed_activations_do_not_change_the_gradients():
    batch = pairs(12)
    expected = gradients(state_of(encoder("vit-tiny")), batch)
    assert_close(gradients(state_of(encoder("vit-tiny"), 5), batch), expected)
    recomputing = encoder("vit-tiny")
    recomputing.checkpoint_activations()
    assert_close(gradients(state_of(recomputing, 5), batch), expected)


def test_recomputed_activations_drop_the_same_patches():
    plain, recomputing = encoder("vit-tiny"), encoder("vit-tiny")
    recomputing.checkpoint_activations()
    for model in (plain, recomputing):
        model.drop_patches(0.5)
    assert_close(gradients(state_of(recomputing, 5), pairs(12)), gradients(state_of(plain, 5), pairs(12)))


@pytest.mark.parametrize("architecture", ["vit-tiny", "conv-tiny"])
def test_resume_from_a_directory_is_bit_identical(architecture, tmp_path):
    whole, first = (state_of(encoder(architecture), 5) for _ in range(2))
    expected = [train_step(whole, pairs(12, seed)) for seed in range(4)]
    actual = [train_step(first, pairs(12, seed)) for seed in range(2)]
    first.objective.model.save_pretrained(tmp_path)
    second = state_of(DualEncoder.from_pretrained(tmp_path), 5)
    load_state(second, state_tensors(first), state_json(first))
    actual += [train_step(second, pairs(12, seed)) for seed in range(2, 4)]
    assert actual == expected
    for name, x in whole.objective.state_dict().items():
        assert torch.equal(x, second.objective.state_dict()[name]), name


def compiled_against_eager() -> None:
    compiled, eager = (encoder("vit-tiny", depth=1, text_depth=1) for _ in range(2))
    compile_towers(compiled.towers, backend="eager")  # traces and guards, without minutes of code generation
    batch = part_of(pairs(12), current_rank(), world_size())
    assert_close(gradients(state_of(compiled, 3), batch), gradients(state_of(eager, 3), batch))


def test_compiled_towers_have_the_gradients_of_eager_ones():
    """Runs in other processes: the shape checks of the tests cannot be traced."""
    run(compiled_against_eager, 2)


def rank_gradients() -> list[dict[str, torch.Tensor]]:
    batch = part_of(pairs(12), current_rank(), world_size())
    return [gradients(state_of(encoder("vit-tiny"), rows), batch) for rows in (None, 4)]


def test_two_ranks_have_the_gradients_of_one():
    expected = gradients(state_of(encoder("vit-tiny")), pairs(12))
    for by_chunks in run(rank_gradients, 2):
        for chunked in by_chunks:
            assert_close(chunked, expected)
