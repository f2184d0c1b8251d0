"""Augmented views of digits, and adaptation methods joined by a plus."""

import torch

from jobs.reproduce.adaptation.alignment import AlignmentLoss
from jobs.reproduce.adaptation.views import BRIGHTNESS, CONTRAST, augment, random_affine


def test_views_show_the_same_digits_row_by_row():
    torch.manual_seed(0)
    images = torch.zeros(64, 3, 28, 28)
    images[:, :, 10:18, 12:16] = 1
    centre = random_affine(images)[:, 0, 12:16, 13:15].mean((1, 2))
    assert (centre > 0.5).float().mean() > 0.9, "no move is larger than a digit"
    views = augment(images, kind="views")
    assert views.shape == images.shape and not torch.equal(views[0], views[1])
    lighter = views[:, :, 12:16, 13:15].mean((1, 2, 3)) > views[:, :, :3, :3].mean((1, 2, 3))
    assert lighter.float().mean() > 0.9, "ink stays lighter than what is behind it"
    assert (views.mean((2, 3)) - images.mean((2, 3))).abs().max() < CONTRAST + BRIGHTNESS


def test_half_of_the_inverted_views_are_negatives():
    torch.manual_seed(0)
    views = augment(torch.ones(400, 3, 8, 8) * torch.tensor([1.0, 0.0, 1.0])[:, None, None], kind="inverted")
    first = (views[:, 0] - views[:, 1]).mean((1, 2)) > 0
    assert 0.4 < first.float().mean() < 0.6
    assert torch.equal(first, (views[:, 2] - views[:, 1]).mean((1, 2)) > 0), "a picture is inverted as a whole"


def test_joined_methods_add_their_losses():
    torch.manual_seed(0)
    features, hidden, scores = torch.randn(12, 6), torch.randn(12, 5), torch.randn(12, 4)

    def loss(method: str) -> tuple[float, dict[str, float]]:
        torch.manual_seed(1)
        alignment = AlignmentLoss(method, dim=6, hidden=5, classes=4, critic=(3,))
        return float(alignment(features, hidden, scores, 6, 0.5).detach()), alignment.metrics

    both, metrics = loss("dann+mcc")
    (critic, first), (confusion, second) = loss("dann"), loss("mcc")
    assert abs(both - critic - confusion) < 1e-6 and both > critic > confusion > 0
    assert abs(metrics["domain_loss"] - first["domain_loss"] - second["domain_loss"]) < 1e-6
    assert metrics["critic_accuracy"] == first["critic_accuracy"] and "critic_accuracy" not in second
    assert loss("views") == (0.0, {})
