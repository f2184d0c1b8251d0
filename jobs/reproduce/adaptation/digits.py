"""Adapt from digits with labels to digits of another domain without, as in the papers on adversarial adaptation."""

from collections.abc import Mapping, Sequence
from functools import partial

from jobs.reproduce.adaptation.arms import build_arms
from jobs.reproduce.adaptation.digit_learner import DigitLearner
from jobs.reproduce.adaptation.domains import READERS
from jobs.reproduce.adaptation.experiment import AdaptationExperiment, AdaptationSettings
from jobs.reproduce.adaptation.hypotheses import DIGIT_PREDICTIONS

STRENGTHS = {
    "dann": (0.3, 1.0),
    "mmd": (0.3, 1.0),
    "coral": (10.0, 100.0),
    "cdan": (0.3, 1.0),
    "mcc": (0.3, 1.0),
    "bnm": (0.3, 1.0),
    "dann+mcc": (1.0,),
    "source-inverted": (1.0,),
    "views": (1.0,),
    "inverted": (1.0,),
}
ONE_STRENGTH_EACH = {method: (10.0,) if method == "coral" else (1.0,) for method in STRENGTHS}
GREY_STRENGTHS = {method: grid for method, grid in ONE_STRENGTH_EACH.items() if "inverted" not in method}
ORACLE = "source and target with labels"
VIEWS = {
    "Views": "moved, recoloured and noisy. 'inverted' adds negatives, which is knowledge of these two domains: ink is "
    "the negative of what lies behind it. 'source-inverted' has the same views and learns nothing from the target",
}
METRICS = {"accuracy": "accuracy on the target"}


def _digit_experiment(
    name: str,
    title: str,
    intro: str,
    *,
    settings: AdaptationSettings,
    strengths: Mapping[str, Sequence[float]] = ONE_STRENGTH_EACH,
    captions: bool = False,
    **more: object,
) -> AdaptationExperiment:
    return AdaptationExperiment(
        title=title,
        intro=(intro,),
        settings=settings,
        arms=build_arms(strengths, oracle=ORACLE),
        read=READERS[name],
        learner=partial(DigitLearner, captions=True) if captions else DigitLearner,
        validator="bnm",
        primary="accuracy",
        metrics=METRICS,
        chance=0.1,
        predictions=DIGIT_PREDICTIONS,
        **more,  # type: ignore[arg-type]
    )


MNIST_M = _digit_experiment(
    "digits-adaptation",
    "MNIST to an MNIST-M-like set",
    "Labelled digits in black and white; other digits, without labels, each the difference from a piece of a "
    "photograph. The network, the schedules and the recipe are those of Ganin et al. (2016).",
    settings=AdaptationSettings(rows=20_000, steps=3_000, batch_size=32, sgd_rate=0.01),
    strengths=STRENGTHS,
    published={
        "source only (Ganin et al. 2016)": {"accuracy": 0.5225},
        "DANN (Ganin et al. 2016)": {"accuracy": 0.7666},
    },
    facts={
        "Target": "713 photographs of clothing, not BSDS500: the published figures are of another set of pictures",
        "Domains": "no digit is in both; the photographs of train, held-out and test rows are different ones",
        **VIEWS,
    },
)
MNIST_USPS = _digit_experiment(
    "mnist-usps",
    "MNIST to USPS",
    "Two sets of handwritten digits in grey: scanned forms, and envelopes.",
    settings=AdaptationSettings(rows=20_000, steps=1_500, batch_size=32, sgd_rate=0.01),
    strengths=GREY_STRENGTHS,
)
USPS_MNIST = _digit_experiment(
    "usps-mnist",
    "USPS to MNIST",
    "Two sets of handwritten digits in grey: envelopes, and scanned forms.",
    settings=AdaptationSettings(rows=20_000, steps=1_500, batch_size=32, sgd_rate=0.01),
    strengths=GREY_STRENGTHS,
)
CAPTIONS = _digit_experiment(
    "digits-captions",
    "MNIST to an MNIST-M-like set, by captions",
    "The same digits as in digits-adaptation with captions such as 'a photo of the digit three' in place of classes: a "
    "contrastive loss on the source, and an image's class is that of the nearest caption.",
    settings=AdaptationSettings(rows=20_000, steps=3_000, batch_size=32, sgd_rate=0.01),
    captions=True,
    facts={
        "Target": "713 photographs of clothing, not BSDS500",
        "Domains": "no digit is in both; the photographs of train, held-out and test rows are different ones",
        **VIEWS,
    },
)
