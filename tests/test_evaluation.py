"""The gradient sign attack, by hand on a model whose gradient is known."""

from types import SimpleNamespace

import pytest
import torch

import lficam
from lficam import data
from lficam.backbones import Normalise
from lficam.errors import InputError
from lficam.evaluation import fgsm, perturbed_accuracy


class Brightness(torch.nn.Module):
    """Class 1 for bright images, class 0 for dark ones: the gradient has one sign everywhere."""

    def __init__(self):
        super().__init__()
        self.normalise = Normalise(0.5, 0.25)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        light = self.scale * self.normalise(pixels).mean((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([-light, light], 1))


PIXELS = torch.tensor([0.05, 0.45, 0.55, 0.95])[:, None, None, None].expand(4, 3, 2, 2)


def test_fgsm_by_hand():
    labels = torch.tensor([1, 1, 0, 1])  # darker hurts class 1, brighter hurts class 0
    expected = torch.tensor([0.0, 0.35, 0.65, 0.85])
    model = Brightness()
    torch.testing.assert_close(fgsm(model, PIXELS, labels, 0.1)[:, 0, 0, 0], expected)
    assert model.scale.grad is None
    with torch.inference_mode():
        torch.testing.assert_close(fgsm(model, PIXELS.clone(), labels, 0.1)[:, 0, 0, 0], expected)
    # normalised: -1.8, -0.2, 0.2, 1.8; shifted by 0.1 and clamped to [0, 1]: 0, 0, 0.3, 1; back: 0.5 + 0.25 of that
    authors = fgsm(model, PIXELS, labels, 0.1, space="authors")[:, 0, 0, 0]
    torch.testing.assert_close(authors, torch.tensor([0.5, 0.5, 0.575, 0.75]))


def test_fgsm_of_nothing_is_the_image_in_pixel_space_only():
    labels = torch.zeros(4, dtype=torch.long)
    torch.testing.assert_close(fgsm(Brightness(), PIXELS, labels, 0.0), PIXELS.contiguous())
    assert (fgsm(Brightness(), PIXELS, labels, 0.0, "authors") - PIXELS).abs().max() > 0.4


@pytest.mark.parametrize(("epsilon", "space", "words"), [(0.1, "pixel", "did you mean 'pixels'"), (-1, "pixels", "-1")])
def test_wrong_attacks(epsilon, space, words):
    with pytest.raises(InputError, match=words):
        fgsm(Brightness(), PIXELS, torch.zeros(4, dtype=torch.long), epsilon, space)


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_perturbed_accuracy(method):
    images = data.load("photo-digits", "test", count=6)
    torch.manual_seed(0)
    model = lficam.create(method, "resnet-8", 10)
    hits = perturbed_accuracy(model, images, 0.01, batch_size=4)
    assert hits.shape == (6,)
    assert hits.dtype == torch.bool
    assert all(p.grad is None for p in model.parameters())


def test_attacked_images_may_leave_the_range():
    """Clamped to [0, 1] when normalised, as the authors do, they are up to mean + std when not."""
    model = lficam.create("plain", "resnet-8", 10, mean=0.9, std=0.3)
    images = data.load("photo-digits", "test", count=4)
    assert fgsm(model, images.pixels(range(4)), images.labels, 0.5, "authors").max() > 1.1
    assert len(perturbed_accuracy(model, images, 0.5, "authors")) == 4
