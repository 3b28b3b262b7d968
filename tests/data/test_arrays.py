"""Pixels in memory as a data set: what comes back, what is trained on it, and what is refused."""

import numpy as np
import pytest
import torch

import lficam
from lficam.data import arrays, datasets
from lficam.metrics import scoring
from lficam.training import loop
from lficam.training.recipes import Recipe

PIXELS = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 2


def test_pixels_come_back():
    images = lficam.images(PIXELS.numpy(), LABELS.tolist(), name="mine", split="test")
    assert (images.ids[3], images.classes, images.size, len(images)) == ("mine/test/00003", ("0", "1"), 32, 20)
    assert torch.equal(images.pixels(range(20)), PIXELS / 255)
    same = arrays.images(PIXELS / 255, LABELS, name="mine", split="test")
    assert same.digest == images.digest
    (batch,) = datasets.batches(images, 20, augment=True)
    assert not torch.equal(batch.pixels, PIXELS / 255)
    (batch,) = datasets.batches(arrays.images(PIXELS, LABELS, pad=0), 20, augment=True)
    assert torch.equal(batch.pixels, PIXELS / 255)


def test_normalisation_is_measured_or_given():
    images = arrays.images(PIXELS, LABELS)
    expected = PIXELS.double() / 255
    assert images.mean == pytest.approx(expected.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert images.std == pytest.approx(expected.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    assert min(arrays.images(torch.zeros_like(PIXELS), LABELS).std) > 0
    assert arrays.images(PIXELS, LABELS, mean=(0.5, 0.4, 0.3)).mean == (0.5, 0.4, 0.3)


def test_a_model_learns_and_is_scored(tmp_path):
    bright = torch.where(LABELS[:, None, None, None] == 1, PIXELS // 4 + 192, PIXELS // 4)
    images = lficam.images(bright, LABELS, classes=("dark", "light"), masks=np.ones((20, 32, 32)))
    torch.manual_seed(0)
    model = lficam.create("lfi-cam", "resnet-8", 2, mean=images.mean, std=images.std)
    history = loop.fit(model, images, images, Recipe(epochs=4, batch_size=5, lr=0.05), tmp_path)
    assert max(row["validation_accuracy"] for row in history) == 1
    table = scoring.score({"own": lficam.baseline(model, "own")}, images, measures=("masking", "overlap"))
    assert len(table) == 20


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pixels": PIXELS[:0]}, r"pixels: expected \(N, 3, S, S\)"),
        ({"pixels": torch.full(PIXELS.shape, torch.nan)}, r"pixels: expected .* in \[0, 1\], got NaN"),
        ({"labels": LABELS / 2}, "labels: expected 20 integers from 0"),
        ({"masks": torch.ones(20, 16, 16)}, r"masks: expected \(20, 32, 32\), got \(20, 16, 16\)"),
    ],
)
def test_what_is_refused(change, sentence):
    with pytest.raises(lficam.InputError, match=sentence):
        arrays.images(**{"pixels": PIXELS, "labels": LABELS} | change)
