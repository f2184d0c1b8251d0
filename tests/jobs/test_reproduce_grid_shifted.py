"""GRID in two rooms: what the second room changes, and the experiment from end to end on a few clips."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.reproduce import __main__ as job
from jobs.reproduce.adaptation import data, grid_data
from jobs.reproduce.adaptation.arms import ORACLE, SOURCE_ONLY
from jobs.reproduce.adaptation.grid_shifted import BALANCED, EXPERIMENT
from jobs.reproduce.grid import SPOKEN, unchanged
from jobs.reproduce.tar_members import members
from xmodal.data.synthetic.clips import write_clips

CLIPS = 24


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """Moving shapes that sound, in the place of a talking head: the fifth word is the whole clip."""
    root = tmp_path_factory.mktemp("material")
    for name, rows, seed in (("train", CLIPS, 0), ("test", 12, 1)):
        write_clips(str(root / name), rows, seed, seconds=0.6, size=32, rows_per_shard=rows)
        (root / "grid_s1").mkdir(exist_ok=True)
        with tarfile.open(root / "grid_s1" / f"{name}-00000.tar", "w") as tar:
            for i, sample in enumerate(members(str(root / name))):
                said = {"words": [[0.0, 0.6]] * 5, "class_ids": {"letter": i % SPOKEN.classes}}
                for ending, content in (("mp4", sample["mp4"]), ("json", json.dumps(said).encode())):
                    info = tarfile.TarInfo(f"{i:03d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return root


def test_the_rooms_share_no_training_clip_and_are_the_same_every_time(material: Path) -> None:
    parts = grid_data.read(SPOKEN, material, None)
    labels = {name: sorted(fields["label"].tolist()) for name, fields in parts.items()}
    whole = sorted(
        x for domain in ("source", "target") for part in ("train", "held") for x in labels[f"{domain}/{part}"]
    )
    assert whole == list(range(CLIPS)) and len(labels["source/held"]) == len(labels["target/held"]) == 2
    assert labels["source/test"] == labels["target/test"]  # the same clips, judged in both rooms
    assert not torch.equal(parts["source/test"]["video"], parts["target/test"]["video"])
    again = grid_data.read(SPOKEN, material, None)
    assert all(torch.equal(x, again[name][field]) for name, fields in parts.items() for field, x in fields.items())


def test_the_second_room_is_darker_and_noisier_by_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(90, 110, (4, 112, 112, 3), dtype=np.uint8)
    waveform = np.sin(np.arange(16_000) / 20).astype(np.float32)
    plain, _ = unchanged(pictures, waveform, 3)
    seen, heard = grid_data.other_room(pictures, waveform, 3)
    assert seen.shape == plain.shape and seen.mean() < 0.7 * plain.mean()
    assert seen[..., :10].mean() > 1.2 * seen[..., -10:].mean()  # the lamp stands on the left
    ratio = 10 * np.log10(np.square(waveform).mean() / np.square(heard - waveform).mean())
    assert grid_data.SNR_DB[0] - 0.1 < ratio < grid_data.SNR_DB[1] + 0.1
    other, _ = grid_data.other_room(pictures, waveform, 4)
    assert not np.array_equal(seen, other)


def test_from_end_to_end(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(material))
    data.parts.cache_clear()
    data.checksum.cache_clear()
    to, arms = material / "results", (SOURCE_ONLY, BALANCED, "dann+mmpareto-0.1", ORACLE)
    job.run(job.Config(name="grid-shifted", steps=4, batch_size=4, arms=arms, seeds=(1,), processes=1, to=str(to)))
    found = json.loads((to / "results.json").read_text())["trials"]
    assert set(found) == {f"{arm}/1" for arm in arms}
    for trial in found.values():
        assert set(trial["checkpoints"][-1]["oracle"]) == {"accuracy", "audio", "video"} == set(EXPERIMENT.figures)
    dann = found["dann+mmpareto-0.1/1"]["checkpoints"][-1]["health"]
    assert dann["reversed_norm"] > 0 and 0 <= dann["critic_accuracy"] <= 1
    assert found[f"{BALANCED}/1"]["checkpoints"][-1]["health"]["reversed_norm"] is None
    shown = (to / "index.html").read_text()
    assert "in another room" in shown and "DANN and MMPareto together" in shown
