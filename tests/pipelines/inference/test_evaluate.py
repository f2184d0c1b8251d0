"""An evaluation says what the definitions say, beside chance, and keeps it; what is wrong is said at once."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.evaluate import table
from pipelines.config.evaluate import Config
from pipelines.inference import evaluate
from pipelines.inference.encode import Task, encode_here, encode_texts, load
from xmodal import storage
from xmodal.data import synthetic
from xmodal.data.formats.shard_writer import tar_shard
from xmodal.data.index.corpus import open_corpus
from xmodal.errors import ConfigError, CorpusError, XmodalError

COLOURS = ("red", "green", "blue")


def corpus_of(folder, rows, start=9000, labels=COLOURS):
    """Scenes of three classes in turn; row 2 has no picture, and rows 4 and 5 have one caption in common."""
    samples = list(synthetic.samples("photo", rows, 0, start=start, size=32))
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
    """A run of one's own to store results in."""
    shutil.copytree(untrained, tmp_path / "run")
    return str(tmp_path / "run")


LISTS = ("image=jpg", "text=json:captions")


def config(run, corpus, **changes):
    return Config(checkpoint=run, corpus=corpus, **{"fields": LISTS, "bootstrap": 200} | changes)


def embedded(untrained, corpus, **changes):
    """What an evaluation sees."""
    trained, opened = load(untrained, storage.StorageOptions()), open_corpus(corpus)
    asked = config(untrained, corpus, **changes)
    recipe = evaluate._recipe(asked, opened, trained, ("image", "text"))
    return trained, encode_here(trained, trained.model(), Task(opened, recipe, 64))


def test_retrieval_is_what_the_definition_says_with_several_captions_and_shared_ones(untrained, held_out):
    _, found = embedded(untrained, held_out)
    result = evaluate.run(config(untrained, held_out, save=False))
    assert (result.rows, result.skipped) == (39, 1)
    assert result.settings["captions"] == len(found.text) > 2 * 39
    right = np.array([[any(found.text[j] == t for j in np.flatnonzero(found.owner == i)) for t in found.text]
                      for i in range(39)])  # fmt: skip
    assert right.sum() > len(found.text)  # the shared caption is right for two pictures
    scores = found.vectors["image"].astype(np.float64) @ found.vectors["text"].T.astype(np.float64)
    for way, table_, is_right in (("image_to_text", scores, right), ("text_to_image", scores.T, right.T)):
        rank = [1 + int((row > row[good].max()).sum()) for row, good in zip(table_, is_right, strict=True)]
        for k in (1, 5, 10):
            assert result.metrics[f"{way}/recall@{k}"] == np.mean([r <= k for r in rank])
        assert result.metrics[f"{way}/median_rank"] == np.median(rank)
    for name, (low, high) in result.interval.items():
        assert low <= result.metrics[name] <= high, name
    assert set(result.chance) == set(result.metrics)


def with_embeddings(monkeypatch, change):
    """Evaluations see `change(embeddings)` instead of what the model gives."""
    monkeypatch.setattr(evaluate, "encode_here", lambda *arguments: change(encode_here(*arguments)))


def perfect(found):
    """The same vector for a picture and its captions, another one for every picture."""
    vectors = np.random.default_rng(1).normal(size=(len(found.row), 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return replace(found, vectors={"image": vectors, "text": vectors[found.owner]})


def shuffled(found):
    """A perfect model that is shown the captions of other pictures."""
    right = perfect(found)
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
    trained, found = embedded(untrained, held_out, label="cls")
    names = sorted(COLOURS)
    means = []
    for name in names:
        prompts = encode_texts(trained, trained.model(), [f"a photo of {name}", f"the {name} one."], 8).double()
        mean = (prompts / prompts.norm(dim=1, keepdim=True)).mean(0)
        means.append(mean / mean.norm())
    predicted = (torch.from_numpy(found.vectors["image"]).double() @ torch.stack(means).T).argmax(1)
    assert [*COLOURS][found.row[0] % 3] == found.label[0]
    hits = [names[place] == label for place, label in zip(predicted.tolist(), found.label, strict=True)]
    assert result.metrics["zero_shot/accuracy@1"] == np.mean(hits)
    by_class = [np.mean([h for h, label in zip(hits, found.label, strict=True) if label == name]) for name in names]
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


def test_a_linear_probe_finds_what_is_in_the_vectors(untrained, held_out, tmp_path, monkeypatch):
    train = corpus_of(tmp_path / "train", 36, start=0)
    asked = config(untrained, held_out, label="cls", probe_train=train, save=False, retrieval=False)

    def telling(found):
        """Vectors that say the class and nothing else, with some noise."""
        noise = np.random.default_rng(0).normal(0, 0.1, (len(found.label), 3)).astype(np.float32)
        image = np.eye(3, dtype=np.float32)[[COLOURS.index(x) for x in found.label]] + noise
        return replace(found, vectors={"image": image})

    def silent(found):
        image = np.random.default_rng(1).normal(size=(len(found.label), 3)).astype(np.float32)
        return replace(found, vectors={"image": image})

    # the class embeddings have the width of the model
    monkeypatch.setattr(evaluate, "_zero_shot", lambda *arguments: None)
    with_embeddings(monkeypatch, telling)
    good = evaluate.run(asked)
    assert good.metrics["linear_probe/accuracy"] == 1 and good.settings["linear_probe"]["rows"] == 35
    with_embeddings(monkeypatch, silent)
    blind = evaluate.run(asked)
    assert blind.metrics["linear_probe/accuracy"] < 0.6
    assert blind.chance["linear_probe/accuracy"] == pytest.approx(1 / 3, abs=0.05)


def test_the_result_is_stored_and_only_replaced_by_its_like(run, held_out, tmp_path):
    folder = Path(run, "evaluations")
    first = evaluate.run(config(run, held_out))
    assert first.stored == str(folder / "held-out-step-7.json")
    stored = json.loads(Path(first.stored).read_text())
    assert stored["metrics"] == first.metrics and stored["chance"] == first.chance
    assert {name: tuple(ends) for name, ends in stored["interval"].items()} == first.interval
    assert (stored["step"], stored["rows"], stored["skipped"]) == (7, 39, 1) and stored["versions"]["torch"]
    again = evaluate.run(config(run, held_out))
    assert again.stored == first.stored and json.loads(Path(again.stored).read_text()) == stored
    other = corpus_of(tmp_path / "held-out", 12, start=100)
    aside = evaluate.run(config(run, other))
    assert aside.stored != first.stored and json.loads(Path(first.stored).read_text()) == stored
    classes = evaluate.run(config(run, held_out, label="cls", retrieval=False, fields=("image=jpg",)))
    assert classes.stored == str(folder / "held-out-step-7-classes.json")
    named = evaluate.run(config(run, held_out, name="mine", to=str(tmp_path / "elsewhere")))
    assert named.stored == str(tmp_path / "elsewhere" / "mine.json")
    assert len(list(folder.iterdir())) == 3 and "image -> text" in table(first)


def test_a_checkpoint_outside_a_run_needs_a_place_for_the_result(untrained, held_out, tmp_path):
    checkpoint = next(Path(untrained, "checkpoints").iterdir())
    alone = tmp_path / checkpoint.name
    shutil.copytree(checkpoint, alone)
    with pytest.raises(ConfigError, match=r"lies in no run .* --to, or give --no-save"):
        evaluate.run(config(str(alone), held_out))
    assert evaluate.run(config(str(alone), held_out, to=str(tmp_path / "to"))).stored


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
def test_what_is_missing_is_named(run, held_out, change, message):
    with pytest.raises(XmodalError, match=message):
        evaluate.run(replace(config(run, held_out), **change))
    assert not Path(run, "evaluations").exists()


@pytest.mark.parametrize(
    ("text", "flag", "message"),
    [
        ("a photo", "templates", "the class goes where one {} stands"),
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


def test_corpora_of_which_nothing_can_be_said_are_errors(run, tmp_path):
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
def test_bad_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        config("run", "corpus", **change)


@pytest.mark.ray
def test_encoders_on_the_cluster_find_the_same(untrained, held_out, ray_here, monkeypatch):
    monkeypatch.setattr(evaluate, "ROWS_PER_PART", 16)
    asked = config(untrained, held_out, save=False, label="cls")
    here, there = evaluate.run(asked), evaluate.run(replace(asked, workers=2))
    assert there.metrics == pytest.approx(here.metrics, abs=0.03)  # products of other sizes round otherwise
    assert (there.rows, there.skipped, there.chance) == (here.rows, here.skipped, here.chance)
