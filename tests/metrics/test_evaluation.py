"""The gradient sign attack, by hand on a model whose gradient is known; and what float32 means."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from networks import small, small_swin, small_vit
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.ops import FrozenBatchNorm2d

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.lab.photos import explain_photo
from lficam.metrics import conventions, evaluation, scoring
from lficam.metrics.evaluation import fgsm, perturbed_accuracy, randomised
from lficam.models.backbone import Normalise
from lficam.numerics import exact


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
    torch.testing.assert_close(fgsm(model, PIXELS, labels, 0.0), PIXELS.contiguous())
    with pytest.raises(InputError, match="-1"):
        fgsm(model, PIXELS, labels, -1)


@pytest.mark.parametrize("method", ["plain", "abn", "lfi-cam"])
def test_perturbed_accuracy(method):
    images = datasets.load("photo-digits", "test", count=6)
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


def switches():
    """Whether TF32 may be used, by torch's older switches and, where there are any, by its newer ones."""
    b = torch.backends
    newer = [getattr(part, "fp32_precision", "ieee") for part in (getattr(b.cudnn, "conv", None), b.cuda.matmul)]
    return b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision(), *newer


@pytest.fixture
def tf32():
    """A user who wants speed."""
    backends = torch.backends
    before = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    yield switches()
    backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


@pytest.fixture(scope="module")
def photos():
    return datasets.load("photo-digits", "test", count=6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda g: evaluation.predict(g.model, g.images),
        lambda g: evaluation.predicted_labels(g.explainer.classifier, g.images),
        lambda g: evaluation.lficam_steps(g.model, g.pixels[:1]),
        lambda g: fgsm(g.model, g.pixels, torch.zeros(2, dtype=torch.long), 0.1),
        lambda g: perturbed_accuracy(g.model, g.images, 0.1),
        lambda g: scoring.score({"tame": g.explainer}, g.images),
        lambda g: scoring.side_by_side(g.explainer, g.images, right=False),
        lambda g: scoring.cost({"tame": g.explainer}, g.images, 2, 1),
        lambda g: conventions.scores(g.explainer, g.images, {"a": conventions.Convention("")}),
        lambda g: explain_photo(g.explainer, g.pixels[0]),
        lambda g: g.explainer(g.pixels),
        lambda g: g.explainer.maps_and_logits(g.pixels),
        lambda g: g.explainer.classifier(g.pixels),
        lambda g: g.model.explain(g.pixels),
        lambda g: lficam.baseline(g.explainer.classifier, "grad-cam")(g.pixels),
        lambda g: lficam.baseline(g.explainer.classifier, "rise", masks=10)(g.pixels),
    ],
)
def test_float32_is_no_tf32(ask, tf32, photos):
    model, seen = lficam.create("lfi-cam", "resnet-8", 10), []
    explainer = lficam.attach(model, "tame")
    model.backbone.stages[0].register_forward_hook(lambda *_: seen.append(switches()))
    ask(SimpleNamespace(explainer=explainer, model=model, pixels=photos.pixels(range(2)), images=photos))
    assert set(seen) == {(False, False, "highest", "ieee", "ieee")}
    assert switches() == tf32


def test_threads_share_the_switches(tf32):
    """The one that ends first does not put back what the other still needs."""
    inside, leave = threading.Event(), threading.Event()

    def other():
        with exact():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with exact():
        pass
    assert not torch.backends.cudnn.allow_tf32
    leave.set()
    thread.join()
    assert switches() == tf32
