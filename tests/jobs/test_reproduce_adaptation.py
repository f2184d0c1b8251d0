"""Experiments on adaptation: how the target is made, how strengths are chosen, and small ones end to end."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from jobs.reproduce import __main__ as job
from jobs.reproduce import catalogue
from jobs.reproduce.adaptation import data, domains, emoji_data
from jobs.reproduce.adaptation.arms import ORACLE, SOURCE_ONLY, build_arms
from jobs.reproduce.adaptation.digits import MNIST_M
from jobs.reproduce.adaptation.hypotheses import check_predictions
from jobs.reproduce.adaptation.mnist_m import binarise, blend
from jobs.reproduce.adaptation.model_choice import choose_models, choose_without_guards, rank_correlations
from xmodal.errors import ConfigError

SMALL = {"processes": 1, "allow_other_data": True}
ARMS = build_arms({"dann": (0.1, 1.0), "mcc": (1.0,)}, oracle="all labels")


def point(step: int, target: float, score: float, source: float = 0.9) -> dict:
    health = {
        "source": source,
        "effective_rank": 5.0,
        "mean_cosine": 0.1,
        "reversed_norm": None,
        "critic_accuracy": None,
    }
    return {"step": step, "scores": {"bnm": score, "information": score}, "health": health, "source_test": source,
            "oracle": {"accuracy": target}}  # fmt: skip


def make_trials(seed: int = 0) -> dict[str, list]:
    """Return trials: DANN at 1 is best at its first checkpoint; MCC scores highest, but forgets the source."""

    def trial(arm, *points):
        return {"arm": arm, "seed": seed, "checkpoints": list(points)}

    return {
        SOURCE_ONLY: [trial(SOURCE_ONLY, point(10, 0.5, 0.2), point(20, 0.5, 0.2))],
        "dann-0.1": [trial("dann-0.1", point(10, 0.55, 0.3), point(20, 0.6, 0.5))],
        "dann-1": [trial("dann-1", point(10, 0.75, 0.6), point(20, 0.7, 0.9))],
        "mcc-1": [trial("mcc-1", point(10, 0.4, 0.95, source=0.4), point(20, 0.1, 0.99, source=0.2))],
        ORACLE: [trial(ORACLE, point(20, 0.9, 0.9))],
    }


def test_the_validator_chooses_strength_and_checkpoint_and_regret_is_the_gap_to_the_best():
    choice = choose_models(make_trials(), ARMS, "dann", "bnm", "accuracy")[0]
    assert (choice.arm, choice.step, choice.oracle["accuracy"]) == ("dann-1", 20, 0.7)
    assert choice.regret == pytest.approx(0.05) and choice.best == 0.75 and choice.rejected == 0
    assert rank_correlations(make_trials(), ARMS, "dann", "bnm", "accuracy")[0] > 0.5


def test_guards_fall_back_to_the_model_without_adaptation():
    choice = choose_models(make_trials(), ARMS, "mcc", "bnm", "accuracy")[0]
    assert choice.arm == SOURCE_ONLY and choice.rejected == 2
    assert choose_without_guards(make_trials(), ARMS, "mcc", "bnm", "accuracy")[0] == 0.1


def test_an_oracle_metric_cannot_choose_a_model():
    with pytest.raises(ConfigError, match="may not choose"):
        choose_models(make_trials(), ARMS, "dann", "oracle/accuracy", "accuracy")


def test_predictions_follow_from_the_chosen_models():
    trials = {arm: [run for seed in range(3) for run in make_trials(seed)[arm]] for arm in make_trials()}
    verdicts = [result.confirmed for result in check_predictions(MNIST_M, trials, MNIST_M.predictions)]
    # half of the gap; +20 points; no CDAN; MCC is refused; it would have chosen 0.1; regret 2.5 of 25 points
    assert verdicts == [False, True, None, False, True, False]
    assert [result.confirmed for result in check_predictions(MNIST_M, {}, MNIST_M.predictions)] == [None] * 6


def test_a_target_image_is_the_difference_of_digit_and_photograph():
    grey = np.zeros((2, 28, 28), np.uint8)
    grey[:, 10:14] = 7  # any ink is full ink
    photo = np.full((40, 50, 3), 200, np.uint8)
    photo[..., 2] = 30
    target = blend(grey, [photo], np.random.default_rng(0))
    assert target.dtype == np.uint8 and target[0, 0, 0].tolist() == [200, 200, 30]
    assert target[0, 12, 5].tolist() == [55, 55, 225]  # 8 bits would have wrapped around
    assert set(np.unique(binarise(grey))) == {0, 255} and binarise(grey).shape == (2, 28, 28, 3)
    again = blend(grey, [photo], np.random.default_rng(0))
    assert np.array_equal(target, again)


def png(image: np.ndarray, format: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, format)
    return out.getvalue()


def digits_file(path: Path, count: int, side: int) -> None:
    """Write a file of digits in which a class is a bright row."""
    rows = []
    for i in range(count):
        image = np.zeros((side, side), np.uint8)
        top = (i % 10) * side // 12
        image[top : top + 3, i % 5 :] = 255 - i % 7
        rows.append({"image": {"bytes": png(image), "path": None}, "label": i % 10})
    pq.write_table(pa.Table.from_pylist(rows), path)


def shard(path: Path, samples: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write digits, photographs, icons and emoji, as few as the experiments can run on."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(domains, "HELD_OUT_ROWS", 40)
    monkeypatch.setattr(emoji_data, "HELD_OUT_CONCEPTS", 12)
    monkeypatch.setattr(emoji_data, "VOCABULARY", 600)
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(tmp_path))
    (tmp_path / "digits").mkdir()
    for name, side in (("mnist", 28), ("usps", 16)):
        digits_file(tmp_path / "digits" / f"{name}_train.parquet", 200, side)
        digits_file(tmp_path / "digits" / f"{name}_test.parquet", 60, side)
    photos = {f"{i:03d}.jpg": png(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "JPEG") for i in range(20)}
    shard(tmp_path / "photos" / "00000.tar", photos)
    for vendor in ("noto", "openmoji"):
        for split, count in (("train", 60), ("test", 20)):
            samples = {}
            for i in range(count):
                annotation = {"name": f"{split} thing {i}", "keywords": ["round", f"kind {i % 3}"]}
                samples[f"{i:03d}.json"] = json.dumps(annotation).encode()
                samples[f"{i:03d}.png"] = png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            shard(tmp_path / "emoji" / vendor / f"{split}-00000.tar", samples)
    (tmp_path / "icons").mkdir()
    icons = [{"image": {"bytes": png(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "path": None},
              "caption": f"icon {i}"} for i in range(40)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(icons), tmp_path / "icons" / "train.parquet")
    data.load_parts.cache_clear()
    data.data_checksum.cache_clear()
    return tmp_path


def test_the_domains_share_no_digit_and_are_the_same_in_every_run(material: Path):
    parts = domains.read_mnist_to_mnist_m(material, None)
    sizes = {name: len(fields["label"]) for name, fields in parts.items()}
    assert sizes == {"source/train": 60, "target/train": 60, "source/held": 40, "target/held": 40,
                     "source/test": 30, "target/test": 30}  # fmt: skip
    again = domains.read_mnist_to_mnist_m(material, None)
    assert all(torch.equal(parts[name]["image"], again[name]["image"]) for name in parts)
    assert set(parts["source/train"]["image"].unique().tolist()) == {0, 255}
    with pytest.raises(ConfigError, match=r"rows=61 must lie in 10\.\.60"):
        domains.read_mnist_to_mnist_m(material, 61)


def test_digits_end_to_end(material: Path, capsys: pytest.CaptureFixture):
    to = material / "results"
    common = {"name": "digits-adaptation", "rows": 60, "steps": 8, "batch_size": 10, "to": str(to), **SMALL}
    job.run(job.ReproduceConfig(arms=(SOURCE_ONLY, "dann-1"), seeds=(0,), **common))
    first = json.loads((to / "results.json").read_text())["trials"]
    dann = first["dann-1/0"]
    assert [checkpoint["step"] for checkpoint in dann["checkpoints"]] == [2, 4, 6, 8] and len(dann["data"]) == 16
    assert {"bnm", "information", "snd", "dev", "source_accuracy"} <= set(dann["checkpoints"][0]["scores"])
    assert dann["checkpoints"][-1]["health"]["reversed_norm"] > 0
    assert first[f"{SOURCE_ONLY}/0"]["checkpoints"][0]["health"]["reversed_norm"] is None
    assert dann["series"][-1]["domain_norm"] > 0 and set(dann["gap"]) == {"linear", "mlp", "mmd", "mixing"}
    more_arms = ("cdan-1", "mmd-1", "dann+mcc-1", "inverted-1", "source-inverted-1", ORACLE)
    job.run(job.ReproduceConfig(arms=(SOURCE_ONLY, "dann-1", *more_arms), seeds=(0,), **common))
    assert "2 trials are there, 6 to go" in capsys.readouterr().out
    again = json.loads((to / "results.json").read_text())["trials"]
    assert again["dann-1/0"] == dann and len(again) == 8
    assert len({checkpoint["data"] for checkpoint in again.values()}) == 1
    page = (to / "index.html").read_text()
    for words in ("What choosing without labels costs", "Accuracy of the critic", "gap closed", "A-distance", "t-SNE"):
        assert words in page


def test_digits_with_captions_in_place_of_classes_end_to_end(material: Path):
    to = material / "captions"
    job.run(
        job.ReproduceConfig(
            name="digits-captions",
            rows=60,
            steps=4,
            batch_size=10,
            to=str(to),
            seeds=(1,),
            arms=(SOURCE_ONLY, "cdan-1"),
            **SMALL,
        )
    )
    trial = json.loads((to / "results.json").read_text())["trials"]["cdan-1/1"]
    assert 0 <= trial["checkpoints"][-1]["oracle"]["accuracy"] <= 1 and "projection" not in trial


@pytest.mark.parametrize("name", ["mnist-usps", "usps-mnist"])
def test_grey_digits_of_both_sets_get_the_same_size(material: Path, name):
    parts = catalogue.load_experiment(name).read(material, 50)
    assert parts["source/train"]["image"].shape == (50, 28, 28, 3)
    assert parts["target/test"]["image"].shape == (60, 28, 28, 3)


def test_emoji_end_to_end(material: Path):
    to = material / "emoji-results"
    arms = (SOURCE_ONLY, "cdan-1", "own-1", "pairs-1", "dann+matching-1", ORACLE)
    job.run(
        job.ReproduceConfig(name="emoji-adaptation", steps=4, batch_size=16, to=str(to), arms=arms, seeds=(0,), **SMALL)
    )
    trials = json.loads((to / "results.json").read_text())["trials"]
    assert set(trials) == {f"{arm}/0" for arm in arms}
    last = trials["dann+matching-1/0"]["checkpoints"][-1]
    assert set(last["oracle"]) >= {"seen_r10", "unseen_r10", "seen_r1", "unseen_r1"}
    assert "mutual_nearest" in last["scores"] and "seen R@10" in (to / "index.html").read_text()


def test_rows_of_both_vendors_are_the_same_concepts(material: Path):
    parts = emoji_data.read(material, None)
    assert torch.equal(parts["noto/train"]["query"], parts["openmoji/train"]["query"])
    assert torch.equal(parts["noto/test"]["query"], parts["openmoji/test"]["query"])
    assert parts["noto/train"]["views"].shape[:2] == (48, 6) and len(parts["noto/held"]["query"]) == 12


def test_a_setting_that_the_experiment_lacks_is_rejected(material: Path):
    with pytest.raises(ConfigError, match="digits-adaptation has no epochs; it has rows, steps, batch_size, sgd_rate"):
        job.ReproduceConfig(name="digits-adaptation", epochs=2).settings()
    with pytest.raises(ConfigError, match="has no adamw_rate"):
        job.ReproduceConfig(name="digits-adaptation", adamw_rate=0.1).settings()
    with pytest.raises(ConfigError, match="cg-mnist has no steps"):
        job.ReproduceConfig(name="cg-mnist", steps=2).settings()
