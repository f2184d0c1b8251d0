"""Adapt from emoji of one vendor with names to another without: can text find images in a style without captions?"""

from jobs.reproduce.adaptation.arms import build_arms
from jobs.reproduce.adaptation.emoji_data import read
from jobs.reproduce.adaptation.emoji_learner import EmojiLearner
from jobs.reproduce.adaptation.experiment import AdaptationExperiment, AdaptationSettings
from jobs.reproduce.adaptation.hypotheses import EMOJI_PREDICTIONS

STRENGTHS = {
    "dann": (0.3, 1.0),
    "cdan": (1.0,),
    "mmd": (10.0,),
    "bnm": (1.0,),
    "own": (1.0,),
    "pairs": (1.0,),
    "matching": (1.0,),
    "dann+matching": (1.0,),
}
EXPERIMENT = AdaptationExperiment(
    title="Emoji: from noto to openmoji",
    intro=(
        "Icons and Noto's emoji have captions, OpenMoji's images of the same concepts have none. A text that names an "
        "emoji should find OpenMoji's image of it: among concepts that Noto's training images show, and among concepts "
        "that no training image shows.",
    ),
    settings=AdaptationSettings(steps=600, batch_size=192, adamw_rate=1e-3),
    seeds=(0, 1, 2, 3, 4),
    arms=build_arms(STRENGTHS, oracle="pairs of openmoji too"),
    read=read,
    learner=EmojiLearner,
    validator="mutual_nearest",
    primary="seen_r10",
    metrics={
        "seen_r10": "seen R@10",
        "unseen_r10": "unseen R@10",
        "seen_r1": "seen R@1",
        "unseen_r1": "unseen R@1",
    },
    chance=0.01,
    published={"linear CCA trained on noto": {"seen_r1": 0.105, "unseen_r1": 0.077}},
    facts={
        "Search": "by name and all keywords, among openmoji's pictures: 1,036 seen concepts, 300 unseen ones",
        "Target": "openmoji's train pictures without captions; the bank of texts is noto's train queries",
        "Matching": "supposes that openmoji shows the concepts of noto's texts, each once: here it does. A concept is "
        "guessed by its text and noto's picture of it together",
        "Source": "13,055 icons and 1,036 emoji with captions; the column is R@10 on noto's 300 unseen concepts",
    },
    predictions=EMOJI_PREDICTIONS,
)
