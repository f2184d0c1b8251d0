"""Validation between training steps gives the metrics of an evaluation, on any number of ranks."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.config.data import DataConfig
from pipelines.config.evaluate import EvaluateConfig
from pipelines.config.pretrain import PretrainConfig
from pipelines.config.resources import ResourceConfig
from pipelines.config.run import RunOptions
from pipelines.config.validation import ValidationConfig
from pipelines.inference import evaluate
from pipelines.loop import validation
from pipelines.models.loaded_encoder import load_encoder
from pipelines.runtime.events import WorkerGroupStart
from pipelines.runtime.rank import Rank
from pipelines.stages import pretrain
from xmodal import storage
from xmodal.data import synthetic
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.errors import ConfigError, CorpusError, XmodalError
from xmodal.training.engine.schedule import CosineSchedule
from xmodal.training.engine.state import TrainState
from xmodal.training.objectives.contrastive import ContrastiveObjective


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Thirteen rows with five captions each, of which two cannot be read: no number of ranks divides them."""
    folder = tmp_path_factory.mktemp("held-out")
    samples = list(synthetic.scene_samples("photo", 13, 0, start=5000, size=32))
    samples[3][1]["jpg"] = b"no picture"
    samples[11][1]["json"] = b"{}"
    for number, first in enumerate(range(0, 13, 4)):
        storage.write(str(folder / f"{number}.tar"), tar_shard(samples[first : first + 4]))
    return str(folder)


LISTS = ("image=jpg", "text=json:captions")


def open_pairs(untrained, held_out, rows=1000):
    trained = load_encoder(untrained, storage.StorageOptions())
    config = ValidationConfig(corpus=held_out, rows=rows, fields=LISTS, every=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "map_on_cluster", map)
        return trained, validation.open_held_out(
            config, DataConfig(corpus=("x",)), tuple(trained.fields.values()), print
        )


@dataclass(frozen=True)
class RankOfMany(Rank):
    """A rank of several in this process; `others` is what the other ranks contribute to a gather."""

    others: tuple = ()

    def gather(self, values):
        return [*values, *self.others]


def evaluate_on_rank_0(untrained, held_out, ranks):
    """Return the metrics that rank 0 of so many computes."""
    trained, held_out_pairs = open_pairs(untrained, held_out)
    objective = ContrastiveObjective(trained.model())
    state = TrainState.create(objective, schedule=CosineSchedule(peak=1e-3, total_steps=9), seed=0)
    cpu = torch.device("cpu")
    others = [held_out_pairs.evaluator(Rank(i, ranks, cpu)).encode(state) for i in range(1, ranks)]
    metrics = held_out_pairs.evaluator(RankOfMany(0, ranks, cpu, others=tuple(others))).evaluate(state)
    assert objective.training
    return metrics


@pytest.mark.parametrize("ranks", [1, 2, 5, 16])
def test_validation_by_any_number_of_ranks_equals_an_evaluation(untrained, held_out, ranks):
    metrics = evaluate_on_rank_0(untrained, held_out, ranks)
    expected = evaluate.run(EvaluateConfig(checkpoint=untrained, corpus=held_out, fields=LISTS, save=False))
    assert (metrics["validation/rows"], metrics["validation/skipped"]) == (11, 2) == (expected.rows, expected.skipped)
    for name, value in expected.metrics.items():
        assert metrics[f"validation/{name}"] == pytest.approx(value, abs=1e-9), name
    for name, value in expected.chance.items():
        way, _, figure = name.partition("/")
        assert metrics[f"validation/{way}/chance/{figure}"] == pytest.approx(value)
    assert metrics["validation/seconds"] > 0


def test_the_rows_are_spread_over_the_corpus_and_depend_on_nothing_else(scenes):
    corpus = open_corpus(scenes)
    for rows in (2, 7, 50, 239, 240, 1000):
        chosen = validation.spread_rows(corpus, rows)
        assert len(chosen) == len(set(chosen.tolist())) == min(rows, 240)
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < 240
    by_shard = Counter((validation.spread_rows(corpus, 40) // 60).tolist())
    assert sorted(by_shard) == [0, 1, 2, 3] and max(by_shard.values()) - min(by_shard.values()) <= 1


def test_a_validation_corpus_without_readable_rows_stops_all_ranks(untrained, tmp_path):
    storage.write(
        str(tmp_path / "a.tar"), tar_shard([(str(i), {"jpg": b"no", "json": b'{"captions": []}'}) for i in range(3)])
    )
    with pytest.raises(ConfigError, match="none of the rows to validate on can be read"):
        evaluate_on_rank_0(untrained, str(tmp_path), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, r"validation\.every=0 must be at least 1"),
        ({"rows": 1}, r"validation\.rows=1 must be at least 2"),
        ({"fields": ("imag=jpg",)}, "did you mean 'image'"),
    ],
)
def test_bad_values_are_rejected(change, message):
    with pytest.raises(ConfigError, match=message):
        ValidationConfig(**change)


@pytest.mark.ray
def test_problems_of_the_validation_corpus_are_raised_before_a_worker_starts(scenes, held_out, ray_here, tmp_path):
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other" / "a.tar"
    storage.write(str(other), tar_shard([("1", {"png": b"", "json": json.dumps({"a": 1}).encode()})]))
    for corpus, fields, error, message in (
        (str(tmp_path / "nowhere"), (), XmodalError, "nowhere"),
        (str(tmp_path / "empty"), (), XmodalError, "empty"),
        (str(other.parent), (), CorpusError, "text"),
        (held_out, ("image=jpg", "text=json:caption"), CorpusError, "captions"),
    ):
        events = []
        asked = PretrainConfig(
            run=RunOptions(name="a", runs=str(tmp_path / "runs")),
            data=DataConfig(corpus=(scenes,)),
            validation=ValidationConfig(corpus=corpus, fields=fields),
            resources=ResourceConfig(workers=2, address="local"),
        )
        with pytest.raises(error, match=message):
            pretrain.run(asked, events.append)
        assert not any(isinstance(event, WorkerGroupStart) for event in events)
        assert not (tmp_path / "runs" / "a").exists()


@pytest.mark.s3
def test_on_s3_as_on_disk(untrained, held_out, s3_root):
    for path in sorted(Path(held_out).glob("*.tar")):
        storage.write(f"{s3_root}/{path.name}", path.read_bytes())
    there, here = (evaluate_on_rank_0(untrained, corpus, 2) for corpus in (s3_root, held_out))
    assert {name: there[name] for name in there if "seconds" not in name} == {
        name: here[name] for name in here if "seconds" not in name
    }
