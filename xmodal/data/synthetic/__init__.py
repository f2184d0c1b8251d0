"""A procedural corpus: captioned scenes as a photo and as a sketch, each a pure function of (seed, index)."""

from xmodal.data.synthetic.graph import BACKGROUNDS, COLOURS, Relation, Scene, Thing, scene
from xmodal.data.synthetic.rows import DOMAINS, draw, samples, write_corpus
from xmodal.data.synthetic.shapes import SHAPES
from xmodal.data.synthetic.wording import captions

__all__ = [
    "BACKGROUNDS", "COLOURS", "DOMAINS", "SHAPES", "Relation", "Scene", "Thing", "captions", "draw", "samples",
    "scene", "write_corpus",
]  # fmt: skip
