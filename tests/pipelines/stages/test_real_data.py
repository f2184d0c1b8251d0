"""A run on real images in both formats, mixed, on two workers, with a killed worker. Skipped without the data."""

from pathlib import Path

import pytest

from pipelines.config.architectures import model_config
from pipelines.config.logging import CheckpointConfig, LoggingConfig
from pipelines.config.optimizer import OptimizerConfig
from pipelines.config.run import RunOptions
from pipelines.runtime.cluster import ResourceConfig
from pipelines.stages import pretrain
from pipelines.stages.pretrain import PretrainConfig
from pipelines.stream.corpora import DataConfig
from support.worker_kills import RankKiller, read_weights, same_tensors
from xmodal.data.decode.augment import Augment

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not (DATA / "icons").is_dir(), reason=f"no real data in {DATA}"),
]


def config(folder, indexes):
    return PretrainConfig(
        run=RunOptions(name="a", runs=str(folder)),
        data=DataConfig(
            corpus=(str(DATA / "icons/train.parquet"), str(DATA / "emoji/noto/train-{00000..00004}.tar")),
            weights=(3.0, 1.0),
            fields=("image=image|png", "text=caption|txt"),
            index=str(indexes),
        ),
        model=model_config("conv-tiny", vocab_size=1000),
        augment=Augment(scale=(0.6, 1.0), rotate=8.0, translate=0.05, jitter=0.8, brightness=0.3),
        optim=OptimizerConfig(batch_size=32, steps=12, learning_rate=1e-3),
        logging=LoggingConfig(log_every=2),
        checkpoints=CheckpointConfig(checkpoint_every=4),
        resources=ResourceConfig(workers=2, address="local"),
    )


def test_a_run_on_icons_and_emoji_with_a_killed_worker_yields_identical_weights(ray_here, tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = pretrain.run(config(calm, tmp_path / "indexes"))
    killer = RankKiller(step=6, rank=1)
    disturbed = pretrain.run(config(killed, tmp_path / "indexes"), killer)
    assert len(killer.starts) == 2 and killer.starts[1] >= 4
    assert same_tensors(read_weights(disturbed.run.uri), read_weights(undisturbed.run.uri))
