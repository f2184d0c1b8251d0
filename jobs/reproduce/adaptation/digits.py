"""Digits of one domain with labels and of another without: the experiments of the papers on adversarial adaptation."""

from collections.abc import Mapping, Sequence
from functools import partial

from jobs.reproduce.adaptation.arms import arms
from jobs.reproduce.adaptation.digit_learner import Digits
from jobs.reproduce.adaptation.domains import NEEDS_M, NEEDS_USPS, READ
from jobs.reproduce.adaptation.experiment import Adaptation, Settings
from jobs.reproduce.adaptation.hypotheses import ALL

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
ONE_EACH = {method: (10.0,) if method == "coral" else (1.0,) for method in STRENGTHS}
OF_GREY = {method: grid for method, grid in ONE_EACH.items() if "inverted" not in method}  # no negatives there
ORACLE = "source and target with labels"
VIEWS = {
    "Views": "moved, recoloured and noisy. 'inverted' adds negatives, which is knowledge of these two domains: ink is "
    "the negative of what lies behind it. 'source-inverted' has the same views and learns nothing from the target",
}
FIGURES = {"accuracy": "accuracy on the target"}


def _digits(
    name: str,
    title: str,
    lead: str,
    *,
    needs: dict[str, str],
    settings: Settings,
    strengths: Mapping[str, Sequence[float]] = ONE_EACH,
    captions: bool = False,
    **more: object,
) -> Adaptation:
    return Adaptation(
        title=title,
        leads=(lead,),
        needs=needs,
        settings=settings,
        arms=arms(strengths, oracle=ORACLE),
        read=READ[name],
        learner=partial(Digits, captions=True) if captions else Digits,
        by="bnm",
        primary="accuracy",
        figures=FIGURES,
        chance=0.1,
        predictions=ALL,
        **more,  # type: ignore[arg-type]
    )


MNIST_M = _digits(
    "digits-adaptation",
    "MNIST to an MNIST-M-like set",
    "Labelled digits in black and white; other digits, without labels, each the difference from a piece of a "
    "photograph. The network, the schedules and the recipe are those of Ganin et al. (2016).",
    needs=NEEDS_M,
    settings=Settings(rows=20_000, steps=3_000, batch_size=32, sgd_rate=0.01),
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
MNIST_USPS = _digits(
    "mnist-usps",
    "MNIST to USPS",
    "Two sets of handwritten digits in grey: scanned forms, and envelopes.",
    needs=NEEDS_USPS,
    settings=Settings(rows=20_000, steps=1_500, batch_size=32, sgd_rate=0.01),
    strengths=OF_GREY,
)
USPS_MNIST = _digits(
    "usps-mnist",
    "USPS to MNIST",
    "Two sets of handwritten digits in grey: envelopes, and scanned forms.",
    needs=NEEDS_USPS,
    settings=Settings(rows=20_000, steps=1_500, batch_size=32, sgd_rate=0.01),
    strengths=OF_GREY,
)
CAPTIONS = _digits(
    "digits-captions",
    "MNIST to an MNIST-M-like set, by captions",
    "The same digits as in digits-adaptation with captions such as 'a photo of the digit three' in place of classes: a "
    "contrastive loss on the source, and a picture's class is that of the nearest caption.",
    needs=NEEDS_M,
    settings=Settings(rows=20_000, steps=3_000, batch_size=32, sgd_rate=0.01),
    captions=True,
    facts={
        "Target": "713 photographs of clothing, not BSDS500",
        "Domains": "no digit is in both; the photographs of train, held-out and test rows are different ones",
        **VIEWS,
    },
)
