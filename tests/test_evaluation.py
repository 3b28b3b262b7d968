"""The gradient sign attack, by hand on a model whose gradient is known."""

import copy
from types import SimpleNamespace

import pytest
import torch
from networks import small, small_swin, small_vit
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.ops import FrozenBatchNorm2d

import lficam
from lficam import data
from lficam.backbones import Normalise
from lficam.classifiers import freeze
from lficam.errors import InputError
from lficam.evaluation import fgsm, perturbed_accuracy, randomised


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


def small_convnext():
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=4)


class OfNoLayer(nn.Module):
    """Weights that no layer has, a single number, statistics, and a layer that initialises half of what it has."""

    class Half(nn.Linear):
        def __init__(self):
            super().__init__(6, 4)
            self.scale = nn.Parameter(torch.rand(4))

        def forward(self, x):
            return super().forward(x) * self.scale

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 6, 3, 2, 1), FrozenBatchNorm2d(6), self.Half()
        self.place, self.temperature = nn.Parameter(torch.rand(6, 1, 1)), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.last((self.norm(self.conv(x)) + self.place).relu().mean((2, 3))) / self.temperature


@pytest.mark.parametrize("build", [small, small_vit, small_swin, small_convnext, OfNoLayer])
def test_every_weight_is_random_anew(build):
    """Those that training moved; then no value is left but the constants that layers begin with."""
    torch.manual_seed(4)
    network = build()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1)
    explainer = lficam.baseline(freeze(network, size=32), "rise", masks=4)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    other = randomised(explainer, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    after = other.classifier.network.state_dict()
    assert [n for n, value in after.items() if value.is_floating_point() and torch.equal(value, before[n])] == []
    assert other(torch.rand(2, 3, 32, 32)).isfinite().all()
    again, third = (randomised(explainer, seed).classifier.digest for seed in (3, 4))
    assert again == other.classifier.digest
    assert len({explainer.classifier.digest, again, third}) == 3


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_convolutional_networks_are_initialised_layer_by_layer(method):
    """In the order of their layers, each by its own rule, from torch's stream of the seed."""
    torch.manual_seed(5)
    network = lficam.create(method, "resnet-8", 4)
    for value in network.parameters():
        value.data.uniform_(0.1, 1)
    found = randomised(lficam.baseline(network, "grad-cam"), seed=2).classifier.network.state_dict()
    by_hand = copy.deepcopy(network)
    torch.manual_seed(2)
    for part in by_hand.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(torch.equal(value, found[name]) for name, value in by_hand.state_dict().items())
    control = lficam.baseline(None, "centre")
    assert randomised(control).classifier is None
