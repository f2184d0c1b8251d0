"""GRID in two rooms: the letter, learned in one of them, heard and seen in the other without labels."""

from functools import partial

from jobs.reproduce.adaptation.arms import SOURCE_ONLY, Arm, arms
from jobs.reproduce.adaptation.experiment import Adaptation, Settings
from jobs.reproduce.adaptation.grid_data import read
from jobs.reproduce.adaptation.grid_learner import MMPARETO, Clips
from jobs.reproduce.grid import SPOKEN

STRENGTHS = {"dann": (0.1, 0.5), f"dann{MMPARETO}": (0.1, 0.5), f"mmd{MMPARETO}": (0.5, 2.0)}
BALANCED = f"{SOURCE_ONLY}{MMPARETO}"
FOUND = arms(STRENGTHS, oracle="both rooms with labels, all losses added up")
EXPERIMENT = Adaptation(
    title="GRID: the letter, in another room",
    leads=(
        "Letters seen and heard at the moment when each is spoken. The first room is the corpus as it is, with labels; "
        "the second has another lamp, another frame and a fan, and no labels. Unimodal losses and their balance "
        "(MMPareto) meet a domain loss at each encoder, which is added after what they decide.",
    ),
    needs={"grid_s1/train-*.tar": "clips of a talking head", "grid_s1/test-*.tar": "clips of a talking head"},
    settings=Settings(steps=600, batch_size=32, sgd_rate=0.05),
    arms={
        SOURCE_ONLY: FOUND[SOURCE_ONLY],
        BALANCED: Arm(summary="no adaptation, MMPareto", method=BALANCED),
        **{name: arm for name, arm in FOUND.items() if name != SOURCE_ONLY},
    },
    read=partial(read, SPOKEN),
    learner=partial(Clips, SPOKEN),
    by="bnm",
    primary="accuracy",
    figures={"accuracy": "accuracy on the target", "audio": "by its sound alone", "video": "by its lips alone"},
    chance=1 / SPOKEN.classes,
    facts={
        "Data": "one speaker of the GRID corpus: 320 clips with labels, 320 others of the second room without, 80 held "
        "out of each, 200 test clips judged in both rooms",
        "Second room": "warm side light at another contrast, a closer frame, pink noise at 10 to 20 dB",
    },
    predictions=("dann-helps", "together", "guards", "choosing-costs"),
)
