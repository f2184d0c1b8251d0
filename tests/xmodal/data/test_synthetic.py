"""The procedural corpus: captions are true of the image, and every byte depends on (seed, index) alone."""

import json
import re
import tarfile
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.data import synthetic
from xmodal.data.synthetic import scene_captions
from xmodal.data.synthetic.raster import fill_polygons, to_canvas
from xmodal.data.synthetic.scene_graph import Scene, Thing
from xmodal.data.synthetic.shapes import shape_parts
from xmodal.errors import ConfigError

INDEX = st.integers(0, 10**9)
SEED = st.integers(0, 2**32)


def _spellings(words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {spelling: name for name, spellings in words.items() for spelling in spellings}


COLOURS = {c: c for c in synthetic.COLOURS} | _spellings(scene_captions.COLOUR_WORDS)
SHAPES, SIZES, KINDS = (_spellings(w) for w in (scene_captions.NOUNS, scene_captions.SIZES, scene_captions.RELATIONS))
SIDES = {phrase: kind for kind, phrase in scene_captions.SIDES.items()}


def _any(words: dict[str, str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


NAME = re.compile(
    rf"\b(?:an?|the) (?:(?P<size>{_any(SIZES)}) )?(?:(?P<colour>{_any(COLOURS)}) )?(?P<shape>{_any(SHAPES)})"
    rf"(?: in (?P<late>{_any(COLOURS)}))?\b"
)
CLAIMS = [
    (re.compile(rf"<(?P<a>\d)>(?: is)? (?P<rel>{_any(KINDS)}) <(?P<b>\d)>"), KINDS),
    (re.compile(rf"(?:^|, )(?P<rel>{_any(KINDS)}) <(?P<b>\d)> there is <(?P<a>\d)>"), KINDS),
    (re.compile(rf"<(?P<a>\d)> and <(?P<b>\d)>, the former (?P<rel>{_any(KINDS)}) the latter"), KINDS),
    (re.compile(rf"<(?P<b>\d)>(?: with| has|,) <(?P<a>\d)> (?P<rel>{_any(SIDES)})"), SIDES),
]


def _parse_caption(text: str, scene: Scene) -> tuple[str, set[int]]:
    """Replace each name in a caption by the number of the thing that it names; assert that there is one."""
    mentioned = set()

    def number(match: re.Match[str]) -> str:
        colour, shape = COLOURS[match["colour"] or match["late"]], SHAPES[match["shape"]]
        [thing] = [i for i, t in enumerate(scene.things) if (t.colour, t.shape) == (colour, shape)]
        assert match["size"] is None or SIZES[match["size"]] == scene.things[thing].size
        mentioned.add(thing)
        return f"<{thing}>"

    return NAME.sub(number, text[0].lower() + text[1:]), mentioned


def _relations_of(text: str) -> list[tuple[int, str, int]]:
    return [(int(m["a"]), kinds[m["rel"]], int(m["b"])) for pattern, kinds in CLAIMS for m in pattern.finditer(text)]


def _mask(thing: Thing, size: int = 128) -> np.ndarray:
    covers = [
        fill_polygons([to_canvas(c, thing, size) for c in p.contours], (size, size)) for p in shape_parts(thing.shape)
    ]
    return np.maximum.reduce(covers) > 0.5


def _is_true(scene: Scene, a: int, kind: str, b: int) -> bool:
    """Return whether a relation holds by coordinates and covered pixels, independently of the scene's own rules."""
    first, second = scene.things[a], scene.things[b]
    gap = np.hypot(first.x - second.x, first.y - second.y)
    overlap = (_mask(first) & _mask(second)).sum()
    match kind:
        case "left_of" | "right_of":
            return (
                overlap == 0
                and (first.x < second.x) == (kind == "left_of")
                and abs(first.y - second.y) < abs(first.x - second.x)
            )
        case "above" | "below":
            return (
                overlap == 0
                and (first.y < second.y) == (kind == "above")
                and abs(first.x - second.x) < abs(first.y - second.y)
            )
        case "inside":
            return a > b and gap + first.radius < second.radius
        case "around":
            return b > a and gap + second.radius < first.radius
        case "in_front_of":
            return a > b and overlap > 0.03 * _mask(second).sum()
    return kind == "behind" and b > a and overlap > 0.03 * _mask(first).sum()


@given(seed=SEED, index=INDEX)
@settings(max_examples=150, deadline=None)
def test_captions_are_true_of_the_scene(seed: int, index: int) -> None:
    scene = synthetic.make_scene(seed, index)
    for text in synthetic.describe_scene(scene, seed):
        parsed, mentioned = _parse_caption(text, scene)
        assert len(mentioned) >= 2, text
        claims = _relations_of(parsed)
        assert claims or re.search(r"things: |, all |^<\d>.* and <\d>[.,]?", parsed), (text, parsed)
        assert all(_is_true(scene, *claim) for claim in claims), (text, claims)
        for background, phrases in scene_captions.PLACES.items():
            assert background == scene.background or not any(p in parsed for p in phrases), text
        for number, word in scene_captions.NUMBERS.items():
            assert f"{word} things" not in parsed or number == len(scene.things) == len(mentioned), text


@given(seed=SEED, index=INDEX)
@settings(max_examples=40, deadline=None)
def test_captions_that_name_a_side_are_false_of_the_mirrored_scene(seed: int, index: int) -> None:
    scene = synthetic.make_scene(seed, index)
    mirrored = Scene(
        seed=seed, index=index, background=scene.background,
        things=tuple(Thing(**{**vars(t), "x": 1 - t.x}) for t in scene.things),
    )  # fmt: skip
    sided = [c for text in synthetic.describe_scene(scene, 1) for c in _relations_of(_parse_caption(text, scene)[0])
             if c[1] in ("left_of", "right_of")]  # fmt: skip
    assert not any(_is_true(mirrored, *claim) for claim in sided)


@given(seed=SEED, index=INDEX)
@settings(max_examples=100, deadline=None)
def test_every_thing_is_inside_the_image_and_mostly_visible(seed: int, index: int) -> None:
    scene = synthetic.make_scene(seed, index)
    assert 2 <= len(scene.things) <= 4
    assert len({t.colour for t in scene.things}) == len({t.shape for t in scene.things}) == len(scene.things)
    for i, thing in enumerate(scene.things):
        assert thing.radius <= thing.x <= 1 - thing.radius
        assert thing.radius <= thing.y <= 1 - thing.radius
        hidden = np.zeros((128, 128), bool)
        for other in scene.things[i + 1 :]:
            hidden |= _mask(other)
        assert (hidden & _mask(thing)).sum() < 0.6 * _mask(thing).sum()


@pytest.mark.parametrize("domain", synthetic.DOMAINS)
def test_samples_are_the_same_bytes_in_any_order(domain: str) -> None:
    whole = list(synthetic.scene_samples(domain, 12, 7, size=64))
    tail = list(synthetic.scene_samples(domain, 4, 7, start=8, size=64))
    assert whole[8:] == tail
    assert [next(synthetic.scene_samples(domain, 1, 7, start=i, size=64)) for i in reversed(range(12))] == whole[::-1]
    assert list(synthetic.scene_samples(domain, 12, 8, size=64)) != whole


def test_a_sample_holds_an_image_captions_and_the_scene() -> None:
    key, members = next(synthetic.scene_samples("photo", 1, 3, start=5, size=80))
    assert key == "photo-00000005"
    image = cv2.imdecode(np.frombuffer(members["jpg"], np.uint8), cv2.IMREAD_COLOR_RGB)
    record = json.loads(members["json"])
    drawn = synthetic.draw_scene(synthetic.make_scene(3, 5), "photo", 80)
    assert image.shape == (80, 80, 3)
    assert np.abs(image.astype(int) - drawn).mean() < 6
    assert members["txt"].decode() == record["captions"][0]
    assert len(set(record["captions"])) == 5
    assert record["scene"]["index"] == 5
    assert record["domain"] == "photo"


def test_captions_of_held_out_pairs_are_mostly_unique() -> None:
    for start in (0, 1_000_000):
        texts = [synthetic.describe_scene(synthetic.make_scene(0, start + i), 0, count=1)[0] for i in range(1500)]
        plain = {t.lower().rstrip(".") for t in texts}
        assert len(plain) > 0.995 * len(texts)


def test_captions_vary_in_wording() -> None:
    texts = [c for i in range(300) for c in synthetic.describe_scene(synthetic.make_scene(1, i), 1)]
    parsed = [_parse_caption(t, synthetic.make_scene(1, i // 5))[0] for i, t in enumerate(texts)]
    templates = {re.sub(r"<\d>", "_", s).rstrip(".") for s in parsed}
    assert len(templates) > 300
    assert len({t.colour for i in range(300) for t in synthetic.make_scene(1, i).things}) >= 9
    assert len({t.shape for i in range(300) for t in synthetic.make_scene(1, i).things}) >= 14


def _pair(index: int) -> tuple[np.ndarray, np.ndarray]:
    scene = synthetic.make_scene(2, index)
    return synthetic.draw_scene(scene, "photo", 64), synthetic.draw_scene(scene, "sketch", 64)


def test_the_domains_differ_in_brightness() -> None:
    photos, sketches = zip(*(_pair(i) for i in range(60)), strict=True)
    bright = [np.mean([p.mean() for p in domain]) for domain in (photos, sketches)]
    white = [np.mean([(p.min(axis=2) > 215).mean() for p in domain]) for domain in (photos, sketches)]
    assert bright[1] > bright[0] + 50
    assert white[1] > 0.5 > 0.1 > white[0]
    worst_sketch = min(p.mean() for p in sketches)
    assert np.mean([p.mean() < worst_sketch for p in photos]) > 0.9  # one number tells the domains apart


def _layout(image: np.ndarray) -> np.ndarray:
    """Return a map of where the image differs from its border, whatever the style of drawing."""
    lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 0), 2).astype(np.float32)
    border = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    difference = np.linalg.norm((lab - np.median(border, axis=0)) * (0.4, 1, 1), axis=2)
    difference = cv2.GaussianBlur(difference.astype(np.float32), (0, 0), 2).ravel()
    return (difference - difference.mean()) / np.linalg.norm(difference - difference.mean())


def test_both_domains_show_the_same_layout() -> None:
    photos, sketches = (
        np.stack([_layout(p) for p in domain]) for domain in zip(*(_pair(i) for i in range(60)), strict=True)
    )
    is_nearest = (photos @ sketches.T).argmax(axis=1) == np.arange(60)
    assert is_nearest.mean() > 0.8


@pytest.mark.parametrize("domain", synthetic.DOMAINS)
def test_things_are_drawn_in_their_colour(domain: str) -> None:
    names = list(synthetic.COLOURS)
    colours: dict[str, list[np.ndarray]] = {n: [] for n in names}
    for i in range(150):
        scene = synthetic.make_scene(4, i)
        image = synthetic.draw_scene(scene, domain, 128).astype(np.float32)
        for k, thing in enumerate(scene.things):
            visible = _mask(thing)
            for other in scene.things[k + 1 :]:
                visible &= ~_mask(other)
            colours[thing.colour].append(image[visible].mean(axis=0))
    centre = np.stack([np.mean(colours[n], axis=0) for n in names])
    correct = [np.linalg.norm(centre - c, axis=1).argmin() == names.index(n) for n in names for c in colours[n]]
    assert np.mean(correct) > 0.9


def test_the_error_for_an_unknown_domain_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'photo'"):
        synthetic.draw_scene(synthetic.make_scene(0, 0), "foto")
    with pytest.raises(ConfigError, match="valid: photo, sketch"):
        list(islice(synthetic.scene_samples("painting", 3, 0), 1))


def test_writing_a_corpus_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for copy in ("a", "b"):
        synthetic.write_corpus(str(tmp_path / copy), "sketch", 10, 5, rows_per_shard=4, size=32, start=90)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["sketch-00000.tar", "sketch-00001.tar", "sketch-00002.tar"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_both_formats_hold_the_samples(tmp_path: Path) -> None:
    expected = list(synthetic.scene_samples("photo", 5, 1, size=32))
    for shard_format in ("tar", "parquet"):
        synthetic.write_corpus(str(tmp_path), "photo", 5, 1, rows_per_shard=3, size=32, format=shard_format)
    members_in_tars = {}
    for i in range(2):
        with tarfile.open(tmp_path / f"photo-0000{i}.tar") as tar:
            members_in_tars |= {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert members_in_tars == {f"{key}.{ext}": data for key, members in expected for ext, data in members.items()}
    rows = pq.read_table([tmp_path / f"photo-0000{i}.parquet" for i in range(2)]).to_pylist()
    assert [(r["key"], r["image"]["bytes"], r["text"].encode(), r["json"].encode()) for r in rows] == [
        (key, m["jpg"], m["txt"], m["json"]) for key, m in expected
    ]


def test_write_corpus_rejects_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        synthetic.write_corpus(str(tmp_path), "photo", 5, 1, format="parket")
    with pytest.raises(ConfigError, match="must be at least 1"):
        synthetic.write_corpus(str(tmp_path), "photo", 0, 1)
    assert not list(tmp_path.iterdir())
