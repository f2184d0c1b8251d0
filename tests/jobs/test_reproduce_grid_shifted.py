"""GRID in two rooms: what the second room changes, and the experiment end to end on a few clips."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.bench.tar_members import sample_members
from jobs.reproduce import __main__ as job
from jobs.reproduce.adaptation import data, grid_data
from jobs.reproduce.adaptation.arms import ORACLE, SOURCE_ONLY
from jobs.reproduce.adaptation.grid_shifted import EXPERIMENT, SOURCE_ONLY_MMPARETO
from jobs.reproduce.grid import LETTER_WORD, grey_mouths
from support.clip_shards import write_clips

CLIPS = 24


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Write clips of moving shapes with tones in the layout of GRID; the fifth word is the whole clip."""
    root = tmp_path_factory.mktemp("material")
    for name, rows, seed in (("train", CLIPS, 0), ("test", 12, 1)):
        write_clips(str(root / name), rows, seed, seconds=0.6, size=32, rows_per_shard=rows)
        (root / "grid_s1").mkdir(exist_ok=True)
        with tarfile.open(root / "grid_s1" / f"{name}-00000.tar", "w") as tar:
            for i, sample in enumerate(sample_members(str(root / name))):
                annotation = {"words": [[0.0, 0.6]] * 5, "class_ids": {"letter": i % LETTER_WORD.classes}}
                for ending, content in (("mp4", sample["mp4"]), ("json", json.dumps(annotation).encode())):
                    info = tarfile.TarInfo(f"{i:03d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return root


def test_the_rooms_share_no_training_clip_and_are_the_same_in_every_run(material: Path) -> None:
    parts = grid_data.read(LETTER_WORD, material, None)
    labels = {name: sorted(fields["label"].tolist()) for name, fields in parts.items()}
    whole = sorted(
        x for domain in ("source", "target") for part in ("train", "held") for x in labels[f"{domain}/{part}"]
    )
    assert whole == list(range(CLIPS)) and len(labels["source/held"]) == len(labels["target/held"]) == 2
    assert labels["source/test"] == labels["target/test"]  # the same clips in both rooms
    assert not torch.equal(parts["source/test"]["video"], parts["target/test"]["video"])
    again = grid_data.read(LETTER_WORD, material, None)
    assert all(torch.equal(x, again[name][field]) for name, fields in parts.items() for field, x in fields.items())


def test_the_second_room_is_darker_and_has_noise_of_the_drawn_ratio() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(90, 110, (4, 112, 112, 3), dtype=np.uint8)
    waveform = np.sin(np.arange(16_000) / 20).astype(np.float32)
    first_room, _ = grey_mouths(frames, waveform, 3)
    second_room, noisy = grid_data.second_room(frames, waveform, 3)
    assert second_room.shape == first_room.shape and second_room.mean() < 0.7 * first_room.mean()
    assert second_room[..., :10].mean() > 1.2 * second_room[..., -10:].mean()  # the lamp stands on the left
    ratio = 10 * np.log10(np.square(waveform).mean() / np.square(noisy - waveform).mean())
    assert grid_data.SNR_DB[0] - 0.1 < ratio < grid_data.SNR_DB[1] + 0.1
    other, _ = grid_data.second_room(frames, waveform, 4)
    assert not np.array_equal(second_room, other)


def test_the_experiment_end_to_end(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(material))
    data.load_parts.cache_clear()
    data.data_checksum.cache_clear()
    to, arms = material / "results", (SOURCE_ONLY, SOURCE_ONLY_MMPARETO, "dann+mmpareto-0.1", ORACLE)
    job.run(job.ReproduceConfig(name="grid-shifted", steps=4, batch_size=4, arms=arms, seeds=(1,), processes=1,
                                to=str(to), allow_other_data=True))  # fmt: skip
    trials = json.loads((to / "results.json").read_text())["trials"]
    assert set(trials) == {f"{arm}/1" for arm in arms}
    for trial in trials.values():
        assert set(trial["checkpoints"][-1]["oracle"]) == {"accuracy", "audio", "video"} == set(EXPERIMENT.metrics)
    dann = trials["dann+mmpareto-0.1/1"]["checkpoints"][-1]["health"]
    assert dann["reversed_norm"] > 0 and 0 <= dann["critic_accuracy"] <= 1
    assert trials[f"{SOURCE_ONLY_MMPARETO}/1"]["checkpoints"][-1]["health"]["reversed_norm"] is None
    page = (to / "index.html").read_text()
    assert "in another room" in page and "DANN and MMPareto together" in page
