"""The icon benchmark on generated data of the same layout: its corpora, its queries, and its measurements."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.bench import __main__ as bench
from jobs.bench import icons
from jobs.bench.icon_shards import query_text, training_captions, write_corpora
from jobs.bench.real_data import require_data
from xmodal.data.formats.shard_writer import write_shards
from xmodal.data.index.corpus import open_corpus, read_extent
from xmodal.errors import ConfigError

KEYWORDS = ["blood", "fangs", "scary", "teeth"]


def image_bytes(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def emoji(prefix: str, count: int, seed: int) -> list[tuple[str, dict]]:
    texts = [{"name": f"{prefix} {i}", "keywords": [prefix, f"word{i}", "thing"]} for i in range(count)]
    return [(f"{i:04d}", {"png": image_bytes(seed + i), "json": json.dumps(text)}) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 40 icons, 24 emoji to train on, and 12 unseen ones."""
    root = tmp_path_factory.mktemp("data")
    pairs = [(f"{i:04d}", {"image": image_bytes(i), "caption": f"icon number {i}"}) for i in range(40)]
    list(write_shards(pairs, f"{root}/written", format="parquet", file_columns=("image",)))
    (root / "icons").mkdir()
    (root / "written" / "00000.parquet").rename(root / "icons" / "train.parquet")
    for prefix, split, count, seed in (("seen", "train-", 24, 100), ("unseen", "test-", 12, 200)):
        list(write_shards(emoji(prefix, count, seed), f"{root}/emoji/noto", format="tar", prefix=split))
    return root


def captions_of(uri: str) -> list[list[str]]:
    corpus = open_corpus(uri)
    samples = [s for extent in range(len(corpus.extents)) for s in read_extent(corpus, extent)]
    return [json.loads(sample.members["json"])["captions"] for sample in samples]


def test_the_captions_of_an_emoji_are_its_query_and_parts_of_it() -> None:
    captions = training_captions("vampire", KEYWORDS)
    whole = query_text("vampire", KEYWORDS)
    assert whole == "vampire blood fangs scary teeth"
    assert captions.count(whole) >= len(captions) / 3
    for caption in captions:
        words = caption.split()
        assert words and len(set(words)) == len(words) and set(words) <= set(whole.split())
    assert len({caption for caption in captions if caption != whole}) > 3
    assert captions == training_captions("vampire", KEYWORDS), "the corpus is the same in every run"
    assert set(training_captions("vampire", [])) == {"vampire"}


def test_unseen_emoji_have_name_and_keywords_as_query_and_are_in_no_training_data(data: Path, tmp_path: Path) -> None:
    corpora = write_corpora(data, str(tmp_path))
    assert (corpora.icon_rows, corpora.emoji_rows) == (40, 24)
    unseen = captions_of(corpora.unseen)
    assert [[query_text(f"unseen {i}", ["unseen", f"word{i}", "thing"])] for i in range(12)] == unseen
    trained = captions_of(corpora.emoji)
    assert len(trained) == 24 and all("unseen" not in text for texts in trained for text in texts)


def test_missing_data_is_one_error_that_lists_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"(?s)icons/train.parquet +missing.*--data FOLDER or XMODAL_BENCH_DATA"):
        bench.run_one("icons")


def test_the_data_folder_is_taken_from_the_environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_BENCH_DATA", str(data))
    assert require_data("icons", bench.needs_of("icons"), allow_other=True) == data


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_short_run_yields_every_measurement(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icons, "BATCH_SIZE", 32)
    measurements = {item.name: item for item in icons.measure(data, tmp_path, steps=2, workers=1)}
    assert {f"icons.{way}_r{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)} < measurements.keys()
    assert measurements["icons.text_to_image_r10"].detail["chance"] == pytest.approx(10 / 12, abs=1e-4)
    assert measurements["icons.text_to_image_r10"].target == 0.55
    assert measurements["icons.samples_seen"].value == 64
    assert 0 < measurements["icons.train_time"].value < 20
