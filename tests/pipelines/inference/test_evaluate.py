"""Evaluations equal the definitions of their metrics, contain chance, and are stored; mistakes are reported at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.evaluate import table
from pipelines.config.evaluate import EvaluateConfig
from pipelines.inference import evaluate
from pipelines.inference.encode import EncodingTask, encode_here, encode_texts
from pipelines.inference.pair_retrieval import centre_embeddings
from pipelines.models.loaded_encoder import load_encoder
from xmodal import storage
from xmodal.data import synthetic
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.errors import ConfigError, CorpusError, XmodalError

COLOURS = ("red", "green", "blue")


def corpus_of(folder, rows, start=9000, labels=COLOURS):
    """Write scenes of three classes in turn; row 2 has no image, and rows 4 and 5 have one caption in common."""
    samples = list(synthetic.scene_samples("photo", rows, 0, start=start, size=32))
    for number, (_, members) in enumerate(samples):
        record = json.loads(members["json"])
        members["cls"] = labels[number % 3].encode()
        members["json"] = json.dumps({"captions": record["captions"][: 1 + number % 4], "number": number % 3}).encode()
    samples[2][1]["jpg"] = b"no picture"
    shared = json.loads(samples[4][1]["json"])["captions"][0]
    samples[5][1]["json"] = json.dumps({"captions": [shared, "another one"], "number": 2}).encode()
    storage.write(str(folder / "a.tar"), tar_shard(samples[: rows // 2]))
    storage.write(str(folder / "b.tar"), tar_shard(samples[rows // 2 :]))
    return str(folder)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    return corpus_of(tmp_path_factory.mktemp("data") / "held-out", 40)


@pytest.fixture
def run(untrained, tmp_path):
    """Copy the run, to store results in."""
    shutil.copytree(untrained, tmp_path / "run")
    return str(tmp_path / "run")


LISTS = ("image=jpg", "text=json:captions")


def config(run, corpus, **changes):
    return EvaluateConfig(checkpoint=run, corpus=corpus, **{"fields": LISTS, "bootstrap": 200} | changes)


def embedded(untrained, corpus, **changes):
    """Return the loaded encoder and the embeddings of the corpus."""
    trained, opened = load_encoder(untrained, storage.StorageOptions()), open_corpus(corpus)
    asked = config(untrained, corpus, **changes)
    recipe = evaluate._decoder(asked, opened, trained, ("image", "text"))
    return trained, encode_here(trained, trained.model(), EncodingTask(opened, recipe, 64))


def test_centring_removes_a_shift_that_all_rows_share(untrained, held_out):
    _, embeddings = embedded(untrained, held_out)
    image = embeddings.vectors["image"]
    shift = np.linspace(-1, 1, image.shape[1], dtype=np.float32)
    shifted = replace(embeddings, vectors=embeddings.vectors | {"image": image + shift})
    centred, centred_again = centre_embeddings(embeddings), centre_embeddings(shifted)
    for name in ("image", "text"):
        np.testing.assert_allclose(centred.vectors[name], centred_again.vectors[name], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(centred.vectors[name], axis=1), 1, atol=1e-5)
    assert centred.text == embeddings.text


def test_metrics_of_centred_embeddings_are_not_stored(run, held_out):
    result = evaluate.run(config(run, held_out), centred=True)
    assert result.result_uri is None and not Path(run, "evaluations").exists()
    assert result.metrics != evaluate.run(config(run, held_out, save=False)).metrics


def test_retrieval_equals_its_definition_with_several_and_shared_captions(untrained, held_out):
    _, embeddings = embedded(untrained, held_out)
    result = evaluate.run(config(untrained, held_out, save=False))
    assert (result.rows, result.skipped) == (39, 1)
    assert result.settings["captions"] == len(embeddings.text) > 2 * 39
    captions = [{embeddings.text[j] for j in np.flatnonzero(embeddings.owner == i)} for i in range(39)]
    right = np.array([[text in captions[i] for text in embeddings.text] for i in range(39)])
    assert right.sum() > len(embeddings.text)  # the shared caption is right for two pictures
    scores = embeddings.vectors["image"].astype(np.float64) @ embeddings.vectors["text"].T.astype(np.float64)
    for way, table_, is_right in (("image_to_text", scores, right), ("text_to_image", scores.T, right.T)):
        rank = [1 + int((row > row[good].max()).sum()) for row, good in zip(table_, is_right, strict=True)]
        for k in (1, 5, 10):
            assert result.metrics[f"{way}/recall@{k}"] == np.mean([r <= k for r in rank])
        assert result.metrics[f"{way}/median_rank"] == np.median(rank)
    for name, (low, high) in result.interval.items():
        assert low <= result.metrics[name] <= high, name
    assert set(result.chance) == set(result.metrics)


def with_embeddings(monkeypatch, change):
    """Make evaluations use `change(embeddings)` instead of what the model gives."""
    monkeypatch.setattr(evaluate, "encode_here", lambda *arguments: change(encode_here(*arguments)))


def perfect(embeddings):
    """Return the same vector for an image and its captions, and another one for every image."""
    vectors = np.random.default_rng(1).normal(size=(len(embeddings.row), 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return replace(embeddings, vectors={"image": vectors, "text": vectors[embeddings.owner]})


def shuffled(embeddings):
    """Return the vectors of a perfect model whose captions belong to other images."""
    right = perfect(embeddings)
    text = np.random.default_rng(0).permutation(right.vectors["text"])
    return replace(right, vectors=right.vectors | {"text": text})


def test_shuffled_captions_give_chance(untrained, scenes, monkeypatch):
    with_embeddings(monkeypatch, perfect)
    best = evaluate.run(config(untrained, scenes, save=False)).metrics
    assert best["image_to_text/recall@1"] == 1 and best["text_to_image/median_rank"] == 1
    with_embeddings(monkeypatch, shuffled)
    result = evaluate.run(config(untrained, scenes, save=False))
    for name, value in result.metrics.items():
        chance = result.chance[name]
        spread = 0.35 * chance if "median" in name else 4 * (chance / 240) ** 0.5
        assert value == pytest.approx(chance, abs=spread), name


def test_zero_shot_is_the_nearest_mean_of_normalised_prompts(untrained, held_out, tmp_path):
    templates = tmp_path / "templates.txt"
    templates.write_text("a photo of {}\n\nthe {} one.\n")
    result = evaluate.run(config(untrained, held_out, label="cls", templates=str(templates), save=False))
    trained, embeddings = embedded(untrained, held_out, label="cls")
    names = sorted(COLOURS)
    means = []
    for name in names:
        prompts = encode_texts(trained, trained.model(), [f"a photo of {name}", f"the {name} one."], 8).double()
        mean = (prompts / prompts.norm(dim=1, keepdim=True)).mean(0)
        means.append(mean / mean.norm())
    predicted = (torch.from_numpy(embeddings.vectors["image"]).double() @ torch.stack(means).T).argmax(1)
    assert [*COLOURS][embeddings.row[0] % 3] == embeddings.label[0]
    hits = [names[place] == label for place, label in zip(predicted.tolist(), embeddings.label, strict=True)]
    assert result.metrics["zero_shot/accuracy@1"] == np.mean(hits)
    by_class = [
        np.mean([h for h, label in zip(hits, embeddings.label, strict=True) if label == name]) for name in names
    ]
    assert result.metrics["zero_shot/mean_class_recall"] == pytest.approx(np.mean(by_class))
    assert result.chance["zero_shot/accuracy@1"] == pytest.approx(1 / 3)
    assert result.metrics["zero_shot/accuracy@5"] == result.chance["zero_shot/accuracy@5"] == 1


def test_labels_may_be_numbers_of_the_lines_of_a_file_of_classes(untrained, held_out, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join(COLOURS))
    by_number = {"label": "json:number", "classes": str(classes), "retrieval": False, "fields": ("image=jpg",)}
    numbered = evaluate.run(config(untrained, held_out, save=False, **by_number))
    named = evaluate.run(config(untrained, held_out, save=False, **by_number | {"label": "cls"}))
    assert numbered.metrics == named.metrics
    assert set(numbered.metrics) == {f"zero_shot/{m}" for m in ("accuracy@1", "accuracy@5", "mean_class_recall")}
    assert not numbered.searches and numbered.rows == 39


def test_a_linear_probe_separates_classes_that_the_vectors_encode(untrained, held_out, tmp_path, monkeypatch):
    train = corpus_of(tmp_path / "train", 36, start=0)
    asked = config(untrained, held_out, label="cls", probe_train=train, save=False, retrieval=False)

    def telling(embeddings):
        """Return vectors that encode the class alone, with some noise."""
        noise = np.random.default_rng(0).normal(0, 0.1, (len(embeddings.label), 3)).astype(np.float32)
        image = np.eye(3, dtype=np.float32)[[COLOURS.index(x) for x in embeddings.label]] + noise
        return replace(embeddings, vectors={"image": image})

    def silent(embeddings):
        image = np.random.default_rng(1).normal(size=(len(embeddings.label), 3)).astype(np.float32)
        return replace(embeddings, vectors={"image": image})

    # the class embeddings have the width of the model
    monkeypatch.setattr(evaluate, "_zero_shot", lambda *arguments: None)
    with_embeddings(monkeypatch, telling)
    good = evaluate.run(asked)
    assert good.metrics["linear_probe/accuracy"] == 1 and good.settings["linear_probe"]["rows"] == 35
    with_embeddings(monkeypatch, silent)
    blind = evaluate.run(asked)
    assert blind.metrics["linear_probe/accuracy"] < 0.6
    assert blind.chance["linear_probe/accuracy"] == pytest.approx(1 / 3, abs=0.05)


def test_a_stored_result_is_only_replaced_by_one_of_the_same_kind(run, held_out, tmp_path):
    folder = Path(run, "evaluations")
    first = evaluate.run(config(run, held_out))
    assert first.result_uri == str(folder / "held-out-step-7.json")
    stored = json.loads(Path(first.result_uri).read_text())
    assert stored["metrics"] == first.metrics and stored["chance"] == first.chance
    assert {name: tuple(ends) for name, ends in stored["interval"].items()} == first.interval
    assert (stored["step"], stored["rows"], stored["skipped"]) == (7, 39, 1) and stored["versions"]["torch"]
    again = evaluate.run(config(run, held_out))
    assert again.result_uri == first.result_uri and json.loads(Path(again.result_uri).read_text()) == stored
    other = corpus_of(tmp_path / "held-out", 12, start=100)
    aside = evaluate.run(config(run, other))
    assert aside.result_uri != first.result_uri and json.loads(Path(first.result_uri).read_text()) == stored
    classes = evaluate.run(config(run, held_out, label="cls", retrieval=False, fields=("image=jpg",)))
    assert classes.result_uri == str(folder / "held-out-step-7-classes.json")
    named = evaluate.run(config(run, held_out, name="mine", to=str(tmp_path / "elsewhere")))
    assert named.result_uri == str(tmp_path / "elsewhere" / "mine.json")
    assert len(list(folder.iterdir())) == 3 and "image -> text" in table(first)


def test_a_checkpoint_outside_a_run_needs_a_folder_for_the_result(untrained, held_out, tmp_path):
    checkpoint = next(Path(untrained, "checkpoints").iterdir())
    alone = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, alone)
    with pytest.raises(ConfigError, match=r"lies in no run .* --to, or give --no-save"):
        evaluate.run(config(str(alone), held_out))
    assert evaluate.run(config(str(alone), held_out, to=str(tmp_path / "to"))).result_uri


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": "nowhere"}, "nowhere"),
        ({"checkpoint": "no-run"}, "no-run"),
        ({"label": "clas"}, r"clas.*did you mean 'cls'"),
        ({"label": "json:numbr"}, "json:number"),
        ({"label": "cls", "classes": "absent.txt"}, "there is no file absent.txt"),
        ({"fields": ("image=jpg", "text=json:caption")}, "json:captions"),
    ],
)
def test_an_error_names_what_is_missing(run, held_out, change, message):
    with pytest.raises(XmodalError, match=message):
        evaluate.run(replace(config(run, held_out), **change))
    assert not Path(run, "evaluations").exists()


@pytest.mark.parametrize(
    ("text", "flag", "message"),
    [
        ("a photo", "templates", "needs exactly one {} for the class"),
        ("\n", "templates", "is empty: one template a line"),
        ("red", "classes", "needs at least two class names"),
        ("red\nred", "classes", "names 'red' twice"),
        ("red\ngreen", "classes", "no class names, first 'blue'"),
        ("red\n\udcff", "classes", "is no text in UTF-8"),
    ],
)
def test_files_of_classes_and_templates_are_checked(run, held_out, tmp_path, text, flag, message):
    (tmp_path / "file.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        evaluate.run(config(run, held_out, label="cls", **{flag: str(tmp_path / "file.txt")}))


def test_corpora_without_usable_rows_are_errors(run, tmp_path):
    samples = [(str(i), {"jpg": b"no", "txt": b"a", "cls": b"1"}) for i in range(3)]
    storage.write(str(tmp_path / "bad" / "a.tar"), tar_shard(samples))
    with pytest.raises(CorpusError, match=r"none of its 3 rows can be read \(not_an_image\)"):
        evaluate.run(config(run, str(tmp_path / "bad"), fields=()))
    one_class = corpus_of(tmp_path / "one", 12, labels=("red",) * 3)
    with pytest.raises(CorpusError, match=r"all 11 labels are 'red'.*--classes"):
        evaluate.run(config(run, one_class, label="cls"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(XmodalError, match="empty: no file is stored there"):
        evaluate.run(config(run, str(tmp_path / "empty")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"workers": -1}, "workers=-1 must not be negative"),
        ({"classes": "names.txt"}, "--classes needs --label"),
        ({"probe_train": "train"}, "--probe-train needs --label"),
        ({"retrieval": False}, "nothing to evaluate"),
        ({"name": "a b"}, "cannot name"),
    ],
)
def test_bad_values_are_rejected(change, message):
    with pytest.raises(ConfigError, match=message):
        config("run", "corpus", **change)


@pytest.mark.ray
def test_encoders_on_the_cluster_give_the_same_result(untrained, held_out, ray_here, monkeypatch):
    monkeypatch.setattr(evaluate, "ROWS_PER_PART", 16)
    asked = config(untrained, held_out, save=False, label="cls")
    here, there = evaluate.run(asked), evaluate.run(replace(asked, workers=2))
    assert there.metrics == pytest.approx(here.metrics, abs=0.03)  # products of other sizes round otherwise
    assert (there.rows, there.skipped, there.chance) == (here.rows, here.skipped, here.chance)
