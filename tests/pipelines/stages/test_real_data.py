"""Real pictures in both formats, mixed, on two workers: a death leaves no trace. Skipped where the data is absent."""

from pathlib import Path

import pytest

from pipelines.config.optimizer import Optim
from pipelines.loop.train import Cadence
from pipelines.models.dual_encoder import Model
from pipelines.runtime.cluster import Resources
from pipelines.stages import pretrain
from pipelines.stages.pretrain import Config
from pipelines.stream.corpora import Data
from support.worker_kills import Killer, same, weights
from xmodal.data.decode.augment import Augment

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not (DATA / "icons").is_dir(), reason=f"no real data in {DATA}"),
]


def config(folder, indexes):
    return Config(
        name="a",
        runs=str(folder),
        data=Data(
            corpus=(str(DATA / "icons/train.parquet"), str(DATA / "emoji/noto/train-{00000..00004}.tar")),
            weights=(3.0, 1.0),
            fields=("image=image|png", "text=caption|txt"),
            index=str(indexes),
        ),
        model=Model(architecture="conv-tiny", vocab_size=1000),
        augment=Augment(scale=(0.6, 1.0), rotate=8.0, translate=0.05, jitter=0.8, brightness=0.3),
        optim=Optim(batch_size=32, steps=12, learning_rate=1e-3),
        cadence=Cadence(log_every=2, checkpoint_every=4),
        resources=Resources(workers=2, address="local"),
    )


def test_icons_and_emoji_survive_a_kill_with_identical_weights(ray_here, tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    undisturbed = pretrain.run(config(calm, tmp_path / "indexes"))
    killer = Killer(step=6, rank=1)
    disturbed = pretrain.run(config(killed, tmp_path / "indexes"), killer)
    assert len(killer.starts) == 2 and killer.starts[1] >= 4
    assert same(weights(disturbed.run.uri), weights(undisturbed.run.uri))
