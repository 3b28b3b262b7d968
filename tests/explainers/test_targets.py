"""What is explained beside classes: functions of logits, margins; networks of one output, of labels, of numbers."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from networks import small
from torch import nn

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.metrics import configuration, conventions, scoring

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
OPTIONS = {
    "grad-cam": {},
    "layer-cam": {},
    "ablation-cam": {},
    "score-cam": {"protocol": "paper"},
    "rise": {"masks": 9},
}


@pytest.fixture(scope="module")
def classifier():
    return freeze(small(), size=32)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_function_of_a_class_is_the_class(classifier, method):
    explainer = lficam.baseline(classifier, method, **OPTIONS[method])
    by_probability = method in ("score-cam", "rise")

    def chosen(logits, classes=(3, 1)):
        return (logits.softmax(1) if by_probability else logits)[:, classes]

    first, second = (explainer(PIXELS, torch.full((3,), k)) for k in (3, 1))
    close(explainer(PIXELS, lambda logits: chosen(logits)[:, 0]), first)
    both = explainer(PIXELS, chosen)
    close(both, torch.stack([first, second], 1))
    assert not both.is_inference()
    close(explainer(PIXELS[:1], lambda logits: chosen(logits, [1])), second[:1, None])


@pytest.mark.parametrize("method", OPTIONS)
def test_margin_is_between_the_two_most_probable(classifier, method):
    explainer = lficam.baseline(classifier, method, **OPTIONS[method])
    maps = explainer(PIXELS, "margin")
    for i, (first, second) in enumerate(classifier(PIXELS).topk(2).indices.tolist()):
        close(maps[i : i + 1], explainer(PIXELS[i : i + 1], lambda y, a=first, b=second: y[:, a] - y[:, b]))


def test_what_cannot_be_explained_says_so(classifier):
    grad = lficam.baseline(classifier, "grad-cam")
    for given, wanted in (
        (lambda y: y.sum(), r"one score an image, \(3,\), or several, \(3, S\).*got \(\)"),
        (lambda y: y[:2, 0], r"got \(2,\)"),
        (lambda y: y[:, :0], r"got \(3, 0\)"),
        (lambda y: y.argmax(1), "of floating-point numbers"),
        (lambda y: 1.0, "got float"),  # noqa: ARG005
        (lambda y: y[:, 7], r"the function fails on logits \(3, 5\): index 7 is out of bounds"),
        (lambda y: y[:, 0].log() * torch.nan, "the function returns NaN or infinity"),
        ("cat", "Unknown target 'cat'"),
    ):
        with pytest.raises(InputError, match=wanted):
            grad(PIXELS, given)
    own = lficam.baseline(lficam.create("plain", "resnet-8", 3), "own")
    for given in ("margin", lambda y: y[:, 0]):
        with pytest.raises(InputError, match="Own explains classes, so it takes their indices"):
            own(PIXELS, given)
        with pytest.raises(InputError, match="expected whole numbers from 0 to 4"):
            lficam.attach(classifier, "tame")(PIXELS, given)


@pytest.fixture(scope="module")
def single():
    return small(1)


def test_one_output_is_two_classes(single):
    network = single
    binary = freeze(network, size=32, outputs="binary", classes=("no", "yes"))
    value = freeze(network, size=32, outputs="regression")
    z = network((PIXELS - binary.normalise.mean) / binary.normalise.std)
    assert z.shape == (3, 1)  # the user's network is what it was
    close(binary.probabilities(binary(PIXELS))[:, 1:], z.sigmoid())
    assert [layer.name for layer in binary.layers] == [layer.name for layer in value.layers]
    assert (binary.describe(1), binary.num_classes, type(binary.network).__name__) == ("yes", 2, "Small")
    yes, number = (lficam.baseline(c, "grad-cam")(PIXELS, k) for c, k in ((binary, 1), (value, 0)))
    close(2 * yes, number)
    assert number.any()
    assert configuration.identity(binary) != configuration.identity(value)
    assert configuration.identity(binary) == configuration.identity(freeze(network, size=32, outputs="binary"))
    images = datasets.load("photo-digits", "test", count=4)
    explainers = {name: lficam.baseline(binary, name, **options) for name, options in OPTIONS.items()}
    explainers |= {"tame": lficam.attach(binary, "tame")}
    table = scoring.score(explainers, images, measures=["masking"])
    said = binary(images.pixels(range(4))).softmax(1).amax(1)
    np.testing.assert_allclose(table.probability[:4], said, atol=1e-5)
    with pytest.raises(InputError, match=r'returns \(2, 1\): a classifier .* outputs="binary" or outputs="regression"'):
        freeze(network, size=32)
    with pytest.raises(InputError, match=r'^outputs="binary" is for a network of one logit .* got \(2, 5\)'):
        freeze(small(), size=32, outputs="binary")
    with pytest.raises(InputError, match=r"frozen with outputs='binary', not 'labels'"):
        freeze(binary, outputs="labels")
    with pytest.raises(InputError, match="leave it out for this Plain"):
        freeze(lficam.create("plain", "resnet-8", 2), outputs="binary")


def test_labels_have_their_own_probabilities():
    labels = freeze(small(), size=32, outputs="labels")
    logits = labels(PIXELS)
    close(labels.probabilities(logits), logits.sigmoid())
    for method, options in OPTIONS.items():
        explainer = lficam.baseline(labels, method, **options)
        link = torch.sigmoid if method in ("score-cam", "rise") else lambda y: y
        close(explainer(PIXELS, [2, 2, 2]), explainer(PIXELS, lambda y, link=link: link(y)[:, 2]))
        close(explainer(PIXELS), explainer(PIXELS, logits.argmax(1)))
    images = datasets.load("photo-digits", "test", count=4)
    explainer = {"rise": lficam.baseline(labels, "rise", masks=9)}
    table = scoring.score(explainer, images)
    np.testing.assert_allclose(table.probability, labels(images.pixels(range(4))).sigmoid().amax(1), atol=1e-6)
    papers = conventions.scores(explainer["rise"], images, {"papers": conventions.CONVENTIONS["papers"]})
    np.testing.assert_allclose(papers.masked, table.masked_100, atol=1e-5)
    with pytest.raises(InputError, match="tame learns by the cross-entropy of classes that exclude each other"):
        lficam.attach(labels, "tame")


def test_numbers_have_no_probability(single):
    value, images = freeze(single, size=32, outputs="regression"), datasets.load("photo-digits", "test", count=4)
    rise = lficam.baseline(value, "rise", masks=9)
    close(rise(PIXELS), rise(PIXELS, lambda y: y[:, 0]))
    with pytest.raises(InputError, match="a margin lies between two classes, and this network has one output"):
        rise(PIXELS, "margin")
    with pytest.raises(InputError, match="Scores are made of probabilities, and a regression has none"):
        scoring.score({"rise": rise}, images)
    of_values = conventions.Convention("in its unit", score="logit", drop="absolute")
    assert len(conventions.average_drops(rise, images, {"values": of_values})) == 1


class Returns(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.network, self.change = small(), change

    def forward(self, x):
        return self.change(self.network(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda y: (y, None),
        lambda y: [y[:, :, None], y],
        lambda y: {"logits": y, "features": y + 1},
        lambda y: {"out": y, "loss": None},
        lambda y: namedtuple("Output", ["loss", "logits"])(None, y),
    ],
)
def test_networks_that_return_more_than_logits(classifier, change):
    frozen = freeze(Returns(change), size=32)
    close(frozen(PIXELS), classifier(PIXELS))
    close(
        lficam.baseline(frozen, "grad-cam", "network.third")(PIXELS),
        lficam.baseline(classifier, "grad-cam", "third")(PIXELS),
    )


def test_networks_that_return_no_logits():
    for change in (lambda y: {"a": y, "b": y}, lambda y: (), lambda y: (y, y), lambda y: y[:, 0]):  # noqa: ARG005
        with pytest.raises(InputError, match=r'has to return logits .* as .logits, under "logits" in a dict'):
            freeze(Returns(change), size=32)


class Patches(nn.Module):
    """Tokens of patches of 8 x 4 pixels behind a class token: 4 x 8 of 32 x 32 pixels; of images of any shape."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.norm, self.head = nn.Conv2d(3, 6, (8, 4), (8, 4)), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x):
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        tokens = self.norm(torch.cat([tokens.mean(1, keepdim=True), tokens], 1))
        return self.head(tokens.relu().mean(1))


@pytest.mark.parametrize(("size", "grid"), [((32, 32), (4, 8)), ((32, 64), (4, 16)), ((64, 16), (8, 4))])
def test_grids_of_tokens_need_not_be_square(size, grid):
    frozen = freeze(Patches(), size=32)
    (tokens,) = (layer for layer in frozen.layers if layer.kind == "tokens")
    assert (tokens.height, tokens.width, tokens.extra) == (4, 8, 1)
    pixels = torch.rand(2, 3, *size)
    explainer = lficam.attach(frozen, "tame", ["norm"])
    (features,), _ = explainer.features(pixels)
    maps = frozen.network.cut(frozen.normalise(pixels))
    close(features, frozen.network.norm(maps.movedim(1, -1)).movedim(-1, 1))  # each patch at its place
    assert explainer(pixels).shape == (2, *grid)
    assert lficam.baseline(frozen, "grad-cam", "norm")(pixels).shape == (2, *grid)
    with pytest.raises(InputError, match=r"Layer 'norm': 15 tokens are no grid in the shape of the image"):
        tokens.maps(torch.rand(2, 16, 6), aspect=2.0)
