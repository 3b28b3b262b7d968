"""Images on the device: the bits of the CPU's path, in any order, and what happens where they do not fit."""

import dataclasses

import pytest
import torch

import lficam
from benchmarks.fast_path import random_images
from lficam.data import datasets, resident, sources
from lficam.training.loop import fit
from lficam.training.recipes import Recipe


def batches(images, **options):
    return [(b.pixels.contiguous(), b.labels, b.indices) for b in datasets.batches(images, 7, seed=3, **options)]


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_same_bits_as_from_main_memory(mirror, augment, shuffle):
    images = random_images(40, size=9, pad=2, mirror=mirror).subset([*range(30, 4, -1), 35])
    there = resident.place(images, "cpu")
    assert isinstance(there.source, resident.Resident)
    options = {"augment": augment, "shuffle": shuffle}
    expected, found = batches(images, **options), batches(there, **options)
    assert [len(labels) for _, labels, _ in expected] == [7, 7, 7, 6]
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_crop_and_side():
    """All 5 x 5 crops, mirrored and not, against numpy's, given instead of drawn."""
    images = random_images(50, size=6, pad=2)
    places = [(y, x, side) for y in range(5) for x in range(5) for side in (0, 1)]
    top, left, flip = (torch.tensor(column).numpy() for column in zip(*places, strict=True))
    there = resident.place(images, "cpu")
    there.source.draw = lambda rows, seed: (top, left, flip.astype(bool))  # noqa: ARG005 - in place of the drawn
    (found,) = datasets.batches(there, 50, augment=True)
    expected = sources.shift(images.source.data.numpy(), 2, top, left, flip.astype(bool))
    assert torch.equal(found.pixels, sources.unit(torch.from_numpy(expected), "cpu"))


def test_photo_digits_and_new_labels():
    images = datasets.load("photo-digits", "train", count=60)
    there = resident.place(images, "cpu")
    there = dataclasses.replace(there, labels=9 - there.labels)  # as an explainer's are, after it was placed
    (batch,) = datasets.batches(there, 60, shuffle=True, augment=True, seed=1)
    (plain,) = datasets.batches(images, 60, shuffle=True, augment=True, seed=1)
    assert torch.equal(batch.labels, 9 - plain.labels)
    assert torch.equal(batch.pixels, plain.pixels)
    assert there.digest != images.digest  # of the labels
    assert resident.place(images, "cpu").digest == images.digest


def test_files_and_large_sets_stay_where_they_are(monkeypatch, capsys, tmp_path):
    images = random_images(10)
    monkeypatch.setattr(resident, "LIMIT", 10 * 3 * 40 * 40)
    assert resident.place(images, "cpu") is not images
    monkeypatch.setattr(resident, "LIMIT", 10 * 3 * 40 * 40 - 1)
    assert resident.place(images, "cpu") is images
    assert capsys.readouterr().out.startswith("noise: pixels stay in main memory")
    files = dataclasses.replace(images, source=sources.Pictures([tmp_path / "a.png"], 32, "classifier"))
    assert resident.place(files, "cpu") is files


@pytest.mark.parametrize(
    ("reason", "told"), [("out of memory.\nTried to allocate much.", "out of memory."), ("", "OutOfMemoryError")]
)
def test_a_device_without_memory_is_one_line(monkeypatch, capsys, reason, told):
    def full(*_):
        raise torch.OutOfMemoryError(reason)

    monkeypatch.setattr(resident.Resident, "__init__", full)
    images = random_images(10)
    assert resident.place(images, "cpu") is images
    assert capsys.readouterr().out == f"noise: pixels stay in main memory ({told}).\n"


@pytest.mark.parametrize("method", ["plain", "lfi-cam"])
def test_training_has_the_same_bits(method, tmp_path):
    images, recipe = random_images(50), Recipe(epochs=2, batch_size=16, lr=0.05, milestones=(1,))
    models = []
    for name in (False, True):
        torch.manual_seed(0)
        models.append(lficam.create(method, "resnet-8", 10))
        fit(models[-1], images, images.subset(range(20)), recipe, tmp_path / str(name), resident=name)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
