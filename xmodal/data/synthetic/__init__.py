"""A procedural corpus: captioned scenes, each as a photo and as a sketch, which depend on (seed, index) alone."""

from xmodal.data.synthetic.scene_captions import describe_scene
from xmodal.data.synthetic.scene_corpus import DOMAINS, draw_scene, scene_samples, write_corpus
from xmodal.data.synthetic.scene_graph import BACKGROUNDS, COLOURS, Relation, Scene, Thing, make_scene
from xmodal.data.synthetic.shapes import SHAPES

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "DOMAINS",
    "SHAPES",
    "Relation",
    "Scene",
    "Thing",
    "describe_scene",
    "draw_scene",
    "make_scene",
    "scene_samples",
    "write_corpus",
]
