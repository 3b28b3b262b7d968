"""Average Drop by convention: each against a slow computation image by image, and the papers' against `scoring`."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import small

import lficam
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers import features
from lficam.explainers.frozen import freeze
from lficam.metrics import conventions, scoring, statistics
from lficam.metrics.conventions import CONVENTIONS, OTHERS, Convention


@pytest.fixture(scope="module")
def images():
    return datasets.load("photo-digits", "test", count=12)


@pytest.fixture(scope="module")
def classifier():
    frozen = freeze(small(10, seed=1), size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    with torch.no_grad():
        list(frozen.network.parameters())[-2].mul_(4)  # the last layer: answers that differ from image to image
    return frozen


@pytest.fixture(scope="module")
def explainers(classifier):
    torch.manual_seed(2)
    made = {"tame": lficam.attach(classifier, "tame"), "grad-cam": lficam.baseline(classifier, "grad-cam")}
    return made | {"random": lficam.baseline(classifier, "random", cells=4)}


def unit(values):
    span = values.max() - values.min()
    return (values - values.min()) / span if span else torch.zeros_like(values)  # Grad-CAM may have found nothing


def grown(values):
    return F.interpolate(values[None, None], (32, 32), mode="bilinear", align_corners=False)[0, 0]


def slow(explainer, images, name):
    """Drops and scores (N,) by the words of a convention, one image at a time."""
    found, mean, std = [], torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    network = partial(features.run, explainer.classifier.network)
    for i in range(len(images)):
        pixels = images.pixels([i])[0]
        logits = network(((pixels - mean) / std)[None])[0]
        k = int(images.labels[i] if name == "truth" else logits.argmax())
        raw = explainer(pixels[None], torch.tensor([k]))[0].detach()
        mask = grown(unit(raw))
        mask = unit(grown(raw)) if name == "upsampled" else grown(torch.sigmoid(raw)) if name == "sigmoid" else mask
        masked = mask * (pixels - mean) / std if name == "normalised" else (mask * pixels - mean) / std
        scale = (lambda x: x) if name == "logit" else partial(torch.softmax, dim=0)
        clean, after = scale(logits)[k].item(), scale(network(masked[None])[0])[k].item()
        found.append((max(0, clean - after), clean))
    return np.array(found).T


@pytest.mark.parametrize("method", ["tame", "grad-cam", "random"])
def test_equals_a_slow_computation(explainers, images, method):
    rows = conventions.average_drops(explainers[method], images, batch_size=5).set_index("convention")
    assert rows.index.tolist() == list(CONVENTIONS)
    for name in CONVENTIONS:
        drop, clean = slow(explainers[method], images, name)
        wanted = {"absolute": drop.mean(), "sums": drop.sum() / clean.sum()}.get(name, (drop / clean).mean())
        assert rows.reproduced[name] == pytest.approx(100 * wanted, abs=2e-3, rel=1e-4)
        assert rows.low[name] <= rows.reproduced[name] <= rows.high[name]
        assert rows.N[name] == 12


def test_the_papers_convention_is_that_of_the_scores(explainers, images):
    rows = conventions.average_drops(explainers["tame"], images)
    wanted = scoring.summary(scoring.score({"tame": explainers["tame"]}, images)).set_index("measure").loc["AD 100"]
    assert rows.convention.tolist() == list(CONVENTIONS)
    for column in ("reproduced", "low", "high", "N"):
        assert rows[column][0] == pytest.approx(wanted[column], abs=1e-3)


def test_passes_are_shared(explainers, classifier, images):
    seen = []
    handle = classifier.network.first.register_forward_hook(lambda *a: seen.append(len(a[1][0])))
    try:
        conventions.average_drops(explainers["tame"], images)
    finally:
        handle.remove()
    assert seen == [12] * 6  # clean; papers, normalised, truth, sigmoid, upsampled: no pass larger than a batch


def test_truth_differs_where_the_prediction_is_wrong(explainers, images):
    table = conventions.scores(explainers["grad-cam"], images)
    papers, truth = (table[table.convention == name] for name in ("papers", "truth"))
    assert truth["class"].tolist() == images.labels.tolist()
    right = papers["class"].to_numpy() == truth["class"].to_numpy()
    np.testing.assert_allclose(papers.masked[right], truth.masked.to_numpy()[right], atol=1e-5)
    assert not right.all()
    assert (papers.masked.to_numpy() != truth.masked.to_numpy())[~right].all()


def test_the_logit_convention_is_torchcams(images):
    metrics = pytest.importorskip("torchcam.metrics")
    torch.manual_seed(3)
    classifier = freeze(small(10), size=32, mean=0.0, std=1.0)  # pixels are what it normalises to
    explainer = lficam.attach(classifier, "tame")

    class Logits(torch.nn.Module):
        def forward(self, images):
            return features.run(classifier.network, images)

    class Extractor:
        model = Logits()

        def __call__(self, class_idx, scores, normalized=True):  # noqa: ARG002
            return [conventions.minmax(explainer(images.pixels(range(12)), torch.tensor(class_idx)).detach())]

        fuse_cams = staticmethod(lambda cams: cams[0])
        _hooks_off = staticmethod(lambda: torch.no_grad())

    metric = metrics.ClassificationMetric(Extractor())
    metric.update(images.pixels(range(12)))
    rows = conventions.average_drops(explainer, images).set_index("convention")
    assert rows.reproduced["logit"] == pytest.approx(100 * metric.summary()["avg_drop"], rel=1e-3)
    assert rows.reproduced["normalised"] == pytest.approx(rows.reproduced["papers"], abs=1e-3)  # of mean 0, the same


def test_sums_by_hand():
    values, weights = conventions.drops([0.8, 0.2], [0.4, 0.2], CONVENTIONS["sums"])
    assert statistics.average(values, weights)["reproduced"] == pytest.approx(40)  # 0.4 of 1.0
    assert statistics.average(values, weights)["low"] == pytest.approx(0)
    assert statistics.average(values, weights)["high"] == pytest.approx(50)
    values, weights = conventions.drops([0.8, 0.2], [0.4, 0.2], CONVENTIONS["papers"])
    assert statistics.average(values, weights)["reproduced"] == pytest.approx(25)


def test_the_others(explainers, images):
    values, weights = conventions.drops([0.8, 0.2, 0.5], [0.4, 0.2, 0.25], OTHERS["dropped"])
    assert statistics.average(values, weights)["reproduced"] == pytest.approx(50)  # of two, not of three
    assert statistics.average(*conventions.drops([0.2, 0.5], [0.2, 0.6], OTHERS["dropped"]))["high"] == 0

    class Ramp:  # the lower half of the image is the top half of the map
        classifier = explainers["random"].classifier

        def __call__(self, pixels, target=None):  # noqa: ARG002
            return torch.arange(1024.0).view(1, 32, 32).expand(len(pixels), -1, -1)

    rows = conventions.scores(Ramp(), images, OTHERS)
    rows = rows[rows.convention == "top-half"]
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    seen = (images.pixels(range(12)) - mean) / std
    seen[:, :, :16] = 0  # the mean colour
    said = features.run(Ramp.classifier.network, seen).softmax(1)
    np.testing.assert_allclose(rows.masked, said[torch.arange(12), rows["class"].tolist()].detach(), atol=1e-5)


def test_maps_that_are_not_finite(classifier, images):
    class Broken:
        def __call__(self, pixels, target):  # noqa: ARG002
            return torch.where(torch.arange(len(pixels))[:, None, None] == 1, torch.nan, pixels.mean(1))

    broken = Broken()
    broken.classifier = classifier
    with pytest.raises(InputError, match=r"papers, masked: NaN .* 1 of 12, the first .* image 'photo.*1'"):
        conventions.scores(broken, images)


def test_errors(explainers, images):
    unknown = dataclasses.replace(images, labels=images.labels + 5)
    with pytest.raises(InputError, match="Unknown score"):
        Convention("", score="odds")
    with pytest.raises(InputError, match="sums over sums"):
        Convention("", average="sums", drop="absolute")
    with pytest.raises(InputError, match="classes 0 to 9"):
        conventions.average_drops(explainers["tame"], unknown)
    assert len(conventions.scores(explainers["tame"], unknown, {"papers": CONVENTIONS["papers"]})) == 12
