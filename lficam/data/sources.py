"""Where pixels come from, memory or files, and how training augments them.

Every random choice is a function of (seed, row): not of the batch an image is in, nor of the process that reads it.
"""

import os
import struct
import warnings

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision import transforms
from torchvision.transforms import functional

from ..errors import InputError

_RECIPES = {
    "classifier": lambda size: [transforms.RandomResizedCrop(size)],
    "photos": lambda size: [transforms.RandomResizedCrop(size, scale=(0.35, 1))],  # few images: more of each is seen
    "explainer": lambda size: [transforms.Resize(_edge(size)), transforms.RandomCrop(size)],
    "evaluation": lambda size: [transforms.Resize(_edge(size)), transforms.CenterCrop(size)],
}
_TOO_LARGE = Image.DecompressionBombError
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError, MemoryError, struct.error, _TOO_LARGE)
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Memory:
    """Pixels (M, 3, S, S) uint8; augmented by a random crop of the zero-padded image and, if asked, by mirroring."""

    def __init__(self, pixels, pad, mirror):
        self.data, self.pad, self.mirror = pixels, pad, mirror

    def read(self, rows, augment, seed):
        if not augment:
            return self.data[rows]
        top, left, flip = self.draw(rows, seed)
        return torch.from_numpy(shift(self.data.numpy()[rows.numpy()], self.pad, top, left, flip))

    def draw(self, rows, seed):
        """The augmentation of images: top, left int64 (B,) of the crop, from 0 to 2 pad, and whether to mirror it."""
        draws = _draws(seed, rows, 3)
        top, left = ((draws[:, i] % np.uint64(2 * self.pad + 1)).astype(np.int64) for i in (0, 1))
        return top, left, (draws[:, 2] >= 2**63) & self.mirror

    def feed(self, sha, rows):
        _feed(sha, self.data, rows)


class Pictures:
    """Image files, or pixels in memory (M, 3, h, w), brought to S x S by torchvision's transforms."""

    def __init__(self, items, size, recipe):
        # Bytes in one array: a list of a million strings would be copied page by page into every worker.
        self.items = items if torch.is_tensor(items) else np.array([os.fsencode(p) for p in items])
        self.plain = evaluation(size)
        self.augmented = transforms.Compose([*_RECIPES[recipe](size), transforms.RandomHorizontalFlip()])

    def read(self, rows, augment, seed):
        return torch.stack([self._one(row, augment, seed) for row in rows.tolist()])

    def _one(self, row, augment, seed):
        image = self._open(row)
        if not augment:
            return functional.pil_to_tensor(self.plain(image))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(_draws(seed, torch.tensor([row]), 1)[0, 0] >> np.uint64(1)))
            return functional.pil_to_tensor(self.augmented(image))

    def _open(self, row):
        if torch.is_tensor(self.items):
            return Image.fromarray(self.items[row].permute(1, 2, 0).contiguous().numpy())
        return open_rgb(os.fsdecode(self.items[row]))

    def feed(self, sha, rows):
        if torch.is_tensor(self.items):
            return _feed(sha, self.items, rows)
        paths = self.items[rows.numpy()]
        looked_at = set(np.linspace(0, len(paths) - 1, 16).astype(int).tolist())
        for i, path in enumerate(paths):
            try:
                sha.update(b"%d\n" % os.stat(path).st_size)
                if i in looked_at:  # uncompressed images of a size are files of a size
                    with open(path, "rb") as file:
                        sha.update(file.read(2**16))
            except OSError:
                sha.update(b"-1\n")  # a dead link, say: whoever reads it is told


class Reader(torch.utils.data.Dataset):
    """Whole batches by their positions; an `InputError` is returned, as a worker would wrap it in a traceback.

    lenient: instead of it the pixels that can be read, or None, and {position: reason} of the others.
    """

    def __init__(self, images, augment, seed, lenient=False):
        self.source, self.rows, self.augment, self.seed = images.source, images.rows, augment, seed
        self.lenient = lenient

    def __getitem__(self, cut):
        try:
            return self.source.read(self.rows[cut], self.augment, self.seed)
        except InputError as error:
            return self._singly(cut) if self.lenient else error

    def _singly(self, cut):
        pixels, reasons = [], {}
        for at in cut.split(1):
            try:
                pixels.append(self.source.read(self.rows[at], self.augment, self.seed))
            except InputError as error:
                reasons[at.item()] = str(error)
        return torch.cat(pixels) if pixels else None, reasons


def open_rgb(path, upright=False):
    """An image file as an 8-bit RGB image, what is transparent in it on white; of several pages or frames the first.

    upright: turn it as its EXIF orientation says, which data sets ignore. Raises `InputError` for a file that cannot be
    read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:  # of odd metadata, and of large files
            image.load()
            rgb = _rgb(image)
            return rgb.transpose(turn) if upright and (turn := _turn(image)) is not None else rgb
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "no image format that is known" if os.path.getsize(path) else "the file is empty"
        why = f"more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels" if isinstance(error, _TOO_LARGE) else why
        raise InputError(f"Cannot read the image {path} ({why}): replace or remove it.") from error


def _rgb(image):
    """8-bit RGB on white; of 16-bit grey the upper 8 bits, as Pillow does for colour, where `convert` would cut at 255.

    Opaque pixels are what `convert` gives, to the bit.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = np.asarray(image)
        grey = np.where(grey == image.info.get("transparency", -1), 255, grey >> 8)  # PNG: one value that is not shown
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit grey values, whose range nobody knows")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _turn(image):
    """How to turn an image that is upright only by its EXIF orientation; None: not at all, or the EXIF is damaged."""
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except _UNREADABLE:
        return None


def evaluation(size):
    """The papers' evaluation preprocessing of an RGB image: the short side to size * 256/224, then the centre."""
    return transforms.Compose(_RECIPES["evaluation"](size))


def _feed(sha, pixels, rows):
    for part in rows.split(1000):
        sha.update(pixels[part].numpy().tobytes())


def shift(pixels, pad, top, left, flip=None):
    """Crops (B, C, S, S) of images with `pad` zeros around, at top, left (B,) from 0 to 2 pad; mirrored where `flip`.

    uint8 arrays, not tensors: numpy copies such windows twice as fast.
    """
    *outer, size, _ = pixels.shape
    padded = np.zeros((*outer, size + 2 * pad, size + 2 * pad), pixels.dtype)
    padded[:, :, pad : pad + size, pad : pad + size] = pixels
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    crops = windows[np.arange(len(pixels)), :, top, left]
    if flip is not None:
        crops[flip] = crops[flip][..., ::-1]
    return crops


def unit(pixels, device):
    """uint8 to float32 in [0, 1]; divided by a tensor, as GPUs turn division by a number into a multiplication."""
    pixels = pixels.to(device, non_blocking=True).float()
    return pixels.div_(torch.full((), 255.0, device=device))


def _edge(size):
    return round(size * 256 / 224)


def permutation(n, seed):
    """A permutation (n,) that is a function of the seed on every machine."""
    return torch.from_numpy(np.argsort(np.random.PCG64(seed % 2**64).random_raw(n), kind="stable"))


def _draws(seed, rows, columns):
    """Random uint64 (B, columns): a function of seed, row and column alone (SplitMix64, Steele et al. 2014)."""
    key = _mix(np.array([seed % 2**64], np.uint64))
    keys = _mix(key + rows.numpy().astype(np.uint64))
    return _mix(keys[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
