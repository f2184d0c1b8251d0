"""Describe a scene in true sentences of varied wording and detail."""

import numpy as np

from xmodal.data.synthetic.scene_graph import Relation, Scene, Thing

NOUNS = {
    "circle": ("circle", "disc"), "square": ("square",), "triangle": ("triangle",), "star": ("star",),
    "heart": ("heart",), "ring": ("ring", "hoop"), "crescent": ("crescent", "moon"), "cross": ("cross", "plus sign"),
    "hexagon": ("hexagon",), "arrow": ("arrow",), "house": ("house", "cottage"), "tree": ("tree",),
    "fish": ("fish",), "cup": ("cup", "mug"), "flower": ("flower", "blossom"), "boat": ("boat", "sailboat"),
    "cloud": ("cloud",), "mushroom": ("mushroom", "toadstool"),
}  # fmt: skip

SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
COLOUR_WORDS = {"teal": ("teal", "turquoise"), "purple": ("purple", "violet")}

PLACES = {
    "plain": ("on a plain background", "on an empty background"), "wood": ("on a wooden table", "on wooden boards"),
    "grass": ("on grass", "on a lawn"), "bricks": ("on a brick wall", "against a wall of bricks"),
    "sand": ("on sand", "on a sandy beach"), "water": ("on water", "on the waves"),
    "cloth": ("on a checked cloth", "on a chequered tablecloth"),
}  # fmt: skip

RELATIONS = {  # a {..} b
    "left_of": ("to the left of", "left of", "on the left of"),
    "right_of": ("to the right of", "right of", "on the right of"),
    "above": ("above", "higher up than", "further up than"),
    "below": ("below", "beneath", "lower down than"),
    "inside": ("inside", "within", "in the middle of"),
    "around": ("around", "surrounding", "enclosing"),
    "in_front_of": ("in front of", "partly covering", "overlapping"),
    "behind": ("behind", "partly hidden by", "peeking out from behind"),
}

SIDES = {  # b with a {..}
    "left_of": "to its left", "right_of": "to its right", "above": "above it", "below": "below it",
    "inside": "inside it", "around": "around it", "in_front_of": "in front of it", "behind": "behind it",
}  # fmt: skip

NUMBERS = {2: "two", 3: "three", 4: "four"}

TEMPLATES = (
    "{a} {rel} {b}",
    "{a} is {rel} {b}",
    "there is {a} {rel} {b}",
    "{rel} {b} there is {a}",
    "{b} with {a} {its}",
    "{b} has {a} {its}",
    "a scene with {a} {rel} {b}",
    "you can see {a} {rel} {b}",
    "{a} and {b}, the former {rel} the latter",
    "{a} {rel} {b} can be seen",
    "{place}, {a} is {rel} {b}",
    "{place} there is {a} {rel} {b}",
    "{a} {rel} {b}, {place}",
    "{number} things: {all}",
    "{all}, all {place}",
    "{all}; {the_a} is {rel} {the_b}",
    "{a} {rel} {b}, together with {other}",
    "{a} {rel} {b}, and {other} too",
    "{b}, {a} {its}, and also {other}",
)


def describe_scene(scene: Scene, seed: int, *, count: int = 5) -> list[str]:
    """Return `count` different captions of a scene, each of which names at least two of its things.

    The result depends on the arguments alone.

    >>> from xmodal.data.synthetic.scene_graph import make_scene
    >>> describe_scene(make_scene(seed=0, index=1), seed=0, count=1)
    ['a purple crescent below a blue square, together with a small green toadstool']
    """
    rng = np.random.default_rng((seed, scene.seed, scene.index, 3))
    usable = [t for t in TEMPLATES if len(scene.things) > 2 or "{other}" not in t]
    sentences: dict[str, None] = {}
    while len(sentences) < count:
        sentences[_sentence(rng, scene, str(_choose(rng, usable)))] = None
    return list(sentences)


def _choose(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(rng: np.random.Generator, scene: Scene, template: str) -> str:
    fact = scene.relations[int(rng.integers(len(scene.relations)))]
    words = _words(rng, scene, fact)
    text = template.format_map(words)
    if "{place}" not in template and rng.random() < 0.25:
        text += f", {words['place']}"
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:] + "."
    return text


def _words(rng: np.random.Generator, scene: Scene, fact: Relation) -> dict[str, str]:
    """Return the words for each slot of a template, with the relation `fact` between {a} and {b}."""
    names = [_name(rng, thing) for thing in scene.things]
    others = [n for i, n in enumerate(names) if i not in (fact.subject, fact.object)]
    order = [names[i] for i in rng.permutation(len(names))]
    return {
        "a": names[fact.subject],
        "b": names[fact.object],
        "the_a": "the" + names[fact.subject].removeprefix("an").removeprefix("a"),
        "the_b": "the" + names[fact.object].removeprefix("an").removeprefix("a"),
        "rel": _choose(rng, RELATIONS[fact.kind]),
        "its": SIDES[fact.kind],
        "place": _choose(rng, PLACES[scene.background]),
        "number": NUMBERS[len(names)],
        "all": ", ".join(order[:-1]) + " and " + order[-1],
        "other": _choose(rng, others) if others else "",
    }


def _name(rng: np.random.Generator, thing: Thing) -> str:
    """Return a name such as `a small red star` or, sometimes, `a small star in red`; half of them give the size."""
    noun = _choose(rng, NOUNS[thing.shape])
    colour = _choose(rng, COLOUR_WORDS.get(thing.colour, (thing.colour,)))
    size = f"{_choose(rng, SIZES[thing.size])} " if rng.random() < 0.5 else ""
    name = f"{size}{noun} in {colour}" if rng.random() < 0.1 else f"{size}{colour} {noun}"
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
