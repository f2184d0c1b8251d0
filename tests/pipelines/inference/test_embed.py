"""Embeddings of a corpus: every row is stored once or listed, also after kills; a folder has one checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch

from pipelines.inference import embed, encode
from pipelines.inference.embed import EmbedConfig
from pipelines.models.loaded_encoder import load_encoder
from support.embedding_tables import read_embeddings
from xmodal import storage
from xmodal.batch import Batch
from xmodal.data import synthetic
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.errors import ConfigError, CorpusError

pytestmark = [pytest.mark.ray]

LISTS = ("image=jpg", "text=json:captions")


def config(untrained, corpus, to, *, workers=1, **changes):
    """Configure one encoder unless a test is about several: each of them imports torch."""
    return EmbedConfig(
        checkpoint=untrained, corpus=str(corpus), to=str(to), fields=LISTS, rows_per_part=32, workers=workers, **changes
    )


@pytest.fixture(scope="module")
def whole(untrained, scenes, ray_here, tmp_path_factory):
    """Write the embeddings of an uninterrupted run."""
    to = tmp_path_factory.mktemp("vectors")
    assert embed.run(config(untrained, scenes, to, workers=2)).rows == 240
    return to


def parts_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("part-*.parquet"))}


def test_every_image_and_every_caption_is_stored_once_with_the_vector_of_the_model(whole, untrained, scenes):
    table = read_embeddings(str(whole))
    counts = Counter(zip(*(table[name].to_pylist() for name in ("modality", "row", "item")), strict=True))
    expected = Counter([("image", row, 0) for row in range(240)])
    expected += Counter(("text", row, item) for row in range(240) for item in range(5))
    assert counts == expected
    vectors = np.stack(table["vector"].to_numpy())
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    trained = load_encoder(untrained, storage.StorageOptions())
    texts = table.filter(np.array(table["modality"].to_pylist()) == "text")
    model = trained.model()
    again = encode.encode_texts(trained, model, texts["text"].to_pylist(), 64).numpy()
    assert np.stack(texts["vector"].to_numpy()) == pytest.approx(again, abs=1e-5)
    record = json.loads((whole / "embeddings.json").read_text())
    assert record["step"] == 7 and record["rows"] == 240 and record["vectors"] == 1440 and record["dim"] == 32
    assert record["finished"] and record["done"] == record["parts"] > 3
    assert record["fingerprint"] == open_corpus(scenes).fingerprint


def test_pandas_reads_the_folder(whole):
    frame = pq.read_table(whole / "part-00000.parquet").to_pandas()
    assert list(frame.columns) == ["row", "key", "item", "modality", "text", "vector"]
    assert frame.text.isna().sum() == (frame.modality == "image").sum()
    assert frame.key[0] == "photo-00000000" and len(frame.vector[0]) == 32 and frame.vector[0].dtype == np.float32


def test_a_finished_folder_is_not_written_again(whole, untrained, scenes):
    before = parts_of(whole)
    stamps = [path.stat().st_mtime_ns for path in whole.glob("part-*")]
    result = embed.run(config(untrained, scenes, whole))
    assert result.reused_parts == result.parts and result.rows == 240
    assert parts_of(whole) == before and [path.stat().st_mtime_ns for path in whole.glob("part-*")] == stamps


def test_after_kill_9_the_same_command_computes_what_is_missing_and_nothing_else(whole, untrained, scenes, tmp_path):
    """It runs on the cluster of the other tests, where an encoder may live on for a moment and finish one more part."""
    address = ray.get_runtime_context().gcs_address
    command = [
        sys.executable, "-m", "jobs.embed", untrained, scenes, "--to", str(tmp_path), "--fields", *LISTS,
        "--rows-per-part", "32", "--workers", "1", "--address", address,
    ]  # fmt: skip
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("part-*.parquet")):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    survived = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.parquet")}
    result = embed.run(config(untrained, scenes, tmp_path))
    assert result.reused_parts >= len(survived) >= 1 and result.rows == 240
    assert survived == {name: (tmp_path / name).stat().st_mtime_ns for name in survived}
    assert parts_of(tmp_path) == parts_of(whole)


def test_a_damaged_part_is_written_again(whole, untrained, scenes, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    part = tmp_path / "copy" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    (tmp_path / "copy" / "part-00002.parquet").unlink()
    result = embed.run(config(untrained, scenes, tmp_path / "copy"))
    assert result.reused_parts == result.parts - 2
    assert parts_of(tmp_path / "copy") == parts_of(whole)


def test_an_encoder_that_dies_is_replaced_and_its_parts_are_done_again(whole, untrained, scenes, tmp_path):
    options = storage.StorageOptions()
    trained = load_encoder(untrained, options)
    corpus = open_corpus(scenes)
    cluster = embed.connect_encoders(1, config(untrained, scenes, tmp_path))
    chosen = config(untrained, scenes, tmp_path)
    task = encode.EncodingTask(corpus, embed._decoder(chosen, corpus, trained), 256)
    died = tmp_path / "died"

    def rows_unless_killed(part, embeddings):  # kills its encoder at the third part, the first time
        if part.number == 2 and not died.exists():
            died.write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        return embeddings.row.tolist()

    todo = encode.cut_into_parts(corpus, 32)
    rows = dict(encode.encode_on_cluster(trained, task, todo, rows_unless_killed, cluster))
    assert died.exists()
    assert sorted(row for part in todo for row in rows[part]) == list(range(240))


@pytest.fixture
def faulty(tmp_path):
    """Write twelve rows: one image is invalid, one row has no caption, one caption of a list is no text."""
    samples = list(synthetic.scene_samples("photo", 12, 0, size=32))
    samples[3][1]["jpg"] = b"no picture"
    samples[5][1]["json"] = json.dumps({"captions": ["", None]}).encode()
    samples[7][1]["json"] = json.dumps({"captions": ["a good one", "\ud800 a bad one"]}).encode()
    storage.write(str(tmp_path / "corpus" / "a.tar"), tar_shard(samples))
    return tmp_path / "corpus"


def test_rows_that_cannot_be_read_are_counted_and_listed(faulty, untrained, ray_here, tmp_path):
    result = embed.run(config(untrained, faulty, tmp_path / "to"))
    assert (result.rows, result.skipped, result.vectors) == (10, 2, 10 + 9 * 5 + 1)
    listed = [json.loads(line) for line in (tmp_path / "to" / "skipped.jsonl").read_text().splitlines()]
    seen = [(one["row"], one["item"], one["field"], one["reason"]) for one in listed]
    assert seen == [(3, None, "image", "not_an_image"), (5, None, "text", "no_caption"), (7, 1, "text", "bad_utf8")]
    assert listed[0]["key"] == "photo-00000003" and listed[0]["shard"] == "a.tar"


def test_float16_and_one_modality(untrained, faulty, ray_here, tmp_path):
    result = embed.run(replace(config(untrained, faulty, tmp_path / "to"), modalities=("image",), dtype="float16"))
    table = read_embeddings(str(tmp_path / "to"))
    assert result.rows == len(table) == 11 and set(table["modality"].to_pylist()) == {"image"}
    assert table.schema.field("vector").type.value_type == "halffloat"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "with dtype=float32"),
        ({"modalities": ("image",)}, "with modalities="),
        ({"rows_per_part": 64}, "with rows_per_part=32"),
        ({"fields": ("image=jpg", "text=txt")}, "with fields="),
    ],
)
def test_a_folder_of_other_settings_is_rejected(whole, untrained, scenes, change, message):
    with pytest.raises(ConfigError, match=message) as refused:
        embed.run(replace(config(untrained, scenes, whole), **change))
    assert "--overwrite" in str(refused.value)


def test_a_folder_of_another_corpus_or_checkpoint_is_rejected(whole, untrained, faulty, scenes, tmp_path):
    with pytest.raises(ConfigError, match=r"embeddings of the corpus .*scenes"):
        embed.run(config(untrained, faulty, whole))
    other = tmp_path / "run" / "checkpoints"
    files = tmp_path / "files"
    shutil.copytree(Path(untrained) / "checkpoints" / "step-000000007.attempt-1", files)
    (files / "COMMITTED.json").unlink()
    weights = bytearray((files / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (files / "model.safetensors").write_bytes(weights)
    from xmodal.checkpoint import commit

    commit(files, str(other), step=8, attempt=1, run_id="b")
    with pytest.raises(ConfigError, match=r"embeddings of the checkpoint .*\(step 7\)"):
        embed.run(config(str(tmp_path / "run"), scenes, whole))


def test_overwrite_replaces_embeddings_but_no_foreign_files(whole, untrained, faulty, ray_here, tmp_path):
    shutil.copytree(whole, tmp_path / "to")
    result = embed.run(config(untrained, faulty, tmp_path / "to", overwrite=True))
    assert result.rows == 10 and len(list((tmp_path / "to").glob("part-*"))) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-00000.parquet.bak").write_text("mine")
    with pytest.raises(ConfigError, match="choose an empty folder"):
        embed.run(config(untrained, faulty, tmp_path / "mine", overwrite=True))


def test_a_corpus_without_readable_rows_is_an_error(untrained, ray_here, tmp_path):
    samples = [(f"{i}", {"jpg": b"no", "json": b"{}"}) for i in range(3)]
    storage.write(str(tmp_path / "corpus" / "a.tar"), tar_shard(samples))
    with pytest.raises(CorpusError, match="none of its 3 rows can be read"):
        embed.run(replace(config(untrained, tmp_path / "corpus", tmp_path / "to"), modalities=("image",),
                          fields=("image=jpg",)))  # fmt: skip


def test_bad_values_are_rejected(untrained, scenes, tmp_path):
    for change, message in (
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"modalities": ("text", "text")}, "name each once"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(config(untrained, scenes, tmp_path), **change)


def test_invalid_rows_do_not_change_the_vectors_of_others(untrained, faulty):
    """The embeddings are those that the model gives for the valid rows alone."""
    trained = load_encoder(untrained, storage.StorageOptions())
    corpus = open_corpus(str(faulty))
    recipe = embed._decoder(config(untrained, faulty, "to"), corpus, trained)
    model = trained.model()
    embeddings = encode.encode_here(trained, model, encode.EncodingTask(corpus, recipe, 4))
    items = encode.read_evaluation_rows(encode.ExtentChunk.from_corpus(corpus, np.arange(len(corpus.extents))), recipe)
    assert embeddings.row.tolist() == [row for row in range(12) if row not in (3, 5)]
    one = Batch(
        torch.zeros(1).long(), torch.ones(1).bool(), {"image": torch.from_numpy(items.columns["image"][3:4].copy())}
    )
    with torch.no_grad():
        assert embeddings.vectors["image"][3] == pytest.approx(model.encode("image", one)[0].numpy(), abs=1e-5)


@pytest.mark.s3
def test_on_s3_as_on_disk(whole, untrained, scenes, s3_root, ray_here):
    result = embed.run(config(untrained, scenes, f"{s3_root}/vectors"))
    assert result.rows == 240
    stored = {e.uri.rpartition("/")[2]: storage.read(e.uri) for e in storage.list_files(f"{s3_root}/vectors")}
    assert {name: data for name, data in stored.items() if name.startswith("part-")} == parts_of(whole)
    assert embed.run(config(untrained, scenes, f"{s3_root}/vectors")).reused_parts == result.parts
