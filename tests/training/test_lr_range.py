"""The learning-rate range test: the authors' numbers, and a model that is as it was."""

import json

import pytest
import torch

import lficam
from lficam.data import datasets
from lficam.training import lr_range
from lficam.training.recipes import Recipe

RECIPE = Recipe(epochs=1, batch_size=16, nesterov=True, bias_lr=2.0)


@pytest.fixture
def finder(pytestconfig):
    return json.loads((pytestconfig.rootpath / "tests" / "golden" / "schedules.json").read_text())["lr_finder"]


@pytest.fixture(scope="module")
def images():
    return datasets.load("photo-digits", "train", count=64)


def test_rates_and_smoothing_equal_the_authors(finder):
    assert lr_range.rising(1e-8, 10, 20) == pytest.approx(finder["lrs_for_20_batches"], rel=1e-9)
    smoothed = lr_range.smooth(finder["loss_in"], 0.999)
    seen = len(finder["smoothed"])
    assert smoothed[:seen] == pytest.approx(finder["smoothed"], rel=1e-9)
    assert finder["stopped_at_batch"] == seen + 1
    assert smoothed[seen] > 4 * min(smoothed[:seen])
    assert smoothed[seen - 1] <= 4 * min(smoothed[:seen])


def test_suggestion_is_a_tenth_of_where_the_loss_is_least():
    assert lr_range.suggest([1e-3, 1e-2, 1e-1, 1.0], [4.0, 3.0, 2.0, 9.0]) == pytest.approx(1e-2)
    assert lr_range.suggest([1e-3, 1e-2], [4.0, 5.0]) is None


@pytest.mark.parametrize("method", ["plain", "tame"])
def test_the_model_and_its_mode_are_restored(images, method):
    model = lficam.create("plain", "resnet-8", 10)
    if method == "tame":
        model = lficam.attach(model, method)
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = lr_range.lr_range(model, images, RECIPE, start=1e-4, end=1.0, steps=9)
    assert len(found.lrs) == len(found.losses) == len(found.smoothed) == 9  # more than the four batches of an epoch
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = lr_range.lr_range(model, images, RECIPE, start=1e-4, end=1.0, steps=9)
    assert again.losses == found.losses


def test_divergence_ends_the_test(images):
    torch.manual_seed(0)  # the loss of some weights never falls
    model = lficam.create("plain", "resnet-8", 10)
    found = lr_range.lr_range(model, images, RECIPE, start=1e-3, end=1e12, steps=60, smoothing=0.0)
    assert len(found.losses) < 60
    assert all(loss == loss and loss < float("inf") for loss in found.losses)
    assert found.suggestion < 1
