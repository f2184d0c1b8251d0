"""A procedural corpus: captioned scenes as a photo and as a sketch, each a pure function of (seed, index)."""

from xmodal.data.synthetic.scene_captions import captions
from xmodal.data.synthetic.scene_corpus import DOMAINS, draw, samples, write_corpus
from xmodal.data.synthetic.scene_graph import BACKGROUNDS, COLOURS, Relation, Scene, Thing, scene
from xmodal.data.synthetic.shapes import SHAPES

__all__ = [
    "BACKGROUNDS", "COLOURS", "DOMAINS", "SHAPES", "Relation", "Scene", "Thing", "captions", "draw", "samples",
    "scene", "write_corpus",
]  # fmt: skip
