"""GRID in two rooms: classify the letter, with labels in the first room only."""

from functools import partial

from jobs.reproduce.adaptation.arms import SOURCE_ONLY, AdaptationArm, build_arms
from jobs.reproduce.adaptation.experiment import AdaptationExperiment, AdaptationSettings
from jobs.reproduce.adaptation.grid_data import read
from jobs.reproduce.adaptation.grid_learner import MMPARETO, ClipLearner
from jobs.reproduce.grid import LETTER_WORD

STRENGTHS = {"dann": (0.1, 0.5), f"dann{MMPARETO}": (0.1, 0.5), f"mmd{MMPARETO}": (0.5, 2.0)}
SOURCE_ONLY_MMPARETO = f"{SOURCE_ONLY}{MMPARETO}"
ALL_ARMS = build_arms(STRENGTHS, oracle="both rooms with labels, all losses added up")
EXPERIMENT = AdaptationExperiment(
    title="GRID: the letter, in another room",
    intro=(
        "Letters seen and heard at the moment when each is spoken. The first room is the corpus as it is, with labels; "
        "the second has another lamp, another camera frame and a fan, and no labels. A domain loss at each encoder is "
        "added to the gradient that MMPareto, or the plain sum, makes of the multimodal and unimodal losses.",
    ),
    settings=AdaptationSettings(steps=600, batch_size=32, sgd_rate=0.05),
    arms={
        SOURCE_ONLY: ALL_ARMS[SOURCE_ONLY],
        SOURCE_ONLY_MMPARETO: AdaptationArm(summary="no adaptation, MMPareto", method=SOURCE_ONLY_MMPARETO),
        **{name: arm for name, arm in ALL_ARMS.items() if name != SOURCE_ONLY},
    },
    read=partial(read, LETTER_WORD),
    learner=partial(ClipLearner, LETTER_WORD),
    validator="bnm",
    primary="accuracy",
    metrics={"accuracy": "accuracy on the target", "audio": "by its sound alone", "video": "by its lips alone"},
    chance=1 / LETTER_WORD.classes,
    facts={
        "Data": "one speaker of the GRID corpus: 320 clips with labels, 320 others of the second room without, 80 held "
        "out of each, 200 test clips judged in both rooms",
        "Second room": "warm side light at another contrast, a closer frame, pink noise at 10 to 20 dB",
    },
    predictions=("dann-helps", "together", "guards", "choosing-costs"),
)
