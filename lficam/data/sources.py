"""Where pixels come from, memory, the device or files, and how training augments them.

Every random choice is a function of (seed, row): not of the batch an image is in, nor of the process that reads it.
"""

import contextlib
import hashlib
import os
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
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

Parts = Iterable[tuple[Tensor | None, dict[int, str]]]  # images that can be read, {place: why the one there cannot}


class Source:
    """Images by their rows. A source of one's own has `read` and `feed`."""

    def read(self, rows: Tensor, augment: bool, seed: int) -> Tensor:
        """The images of rows (B,): uint8 (B, 3, S, S). Raises `InputError` for what cannot be read."""
        raise NotImplementedError

    def feed(self, sha: "hashlib._Hash", rows: Tensor) -> None:
        """Update a hash with what tells the images of these rows from others."""
        raise NotImplementedError

    def batches(
        self, parts: Sequence[Tensor], augment: bool, seed: int, *, device: torch.device, workers: int
    ) -> Parts:
        """What `read` gives of each of the parts (rows, (B,)) on its way to the device, read by `workers` processes."""
        return torch.utils.data.DataLoader(
            _Reader(self, augment, seed),
            sampler=parts,
            batch_size=None,  # the sampler gives whole batches
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )


class _Reader(torch.utils.data.Dataset):
    """Parts by their rows; reasons are texts, as a worker would wrap an `InputError` in a traceback."""

    def __init__(self, source: Source, augment: bool, seed: int):
        self.source, self.augment, self.seed = source, augment, seed

    def __getitem__(self, rows: Tensor) -> tuple[Tensor | None, dict[int, str]]:
        try:
            return self.source.read(rows, self.augment, self.seed), {}
        except InputError:
            return self._singly(rows)

    def _singly(self, rows):
        pixels, reasons = [], {}
        for place, row in enumerate(rows.split(1)):
            try:
                pixels.append(self.source.read(row, self.augment, self.seed))
            except InputError as error:
                reasons[place] = str(error)
        return torch.cat(pixels) if pixels else None, reasons


class Memory(Source):
    """Pixels (M, 3, S, S) uint8; augmented by a random crop of the zero-padded image and, if asked, by mirroring."""

    def __init__(self, pixels: Tensor, pad: int, mirror: bool):
        self.data, self.pad, self.mirror = pixels, pad, mirror

    def read(self, rows: Tensor, augment: bool, seed: int) -> Tensor:
        if not augment:
            return self.data[rows]
        return torch.from_numpy(shift(self.data.numpy()[rows.numpy()], self.pad, *self.draw(rows, seed)))

    def draw(self, rows: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The augmentation of images: top, left int64 (B,) of the crop, from 0 to 2 pad, and whether to mirror it."""
        drawn = draws(seed, rows, 3)
        top, left = ((drawn[:, i] % np.uint64(2 * self.pad + 1)).astype(np.int64) for i in (0, 1))
        return top, left, (drawn[:, 2] >= 2**63) & self.mirror

    def feed(self, sha: "hashlib._Hash", rows: Tensor) -> None:
        _feed(sha, self.data, rows)

    def batches(self, parts: Sequence[Tensor], augment: bool, seed: int, **_: object) -> Parts:
        return map(_Reader(self, augment, seed).__getitem__, parts)


class Resident(Memory):
    """A `Memory` of which the images of `rows` lie on the device too, padded and channels last: (N, S+2p, S+2p, 3).

    They are augmented there to the same bits. Draws of a whole epoch are made on the CPU, as always, and copied at
    once: no step waits for the host.
    """

    def __init__(self, memory: Memory, rows: Tensor, device: torch.device):
        super().__init__(memory.data, memory.pad, memory.mirror)
        self.rows = rows.unique()
        size, pad = memory.data.shape[-1], memory.pad
        self.held = torch.zeros(len(self.rows), size + 2 * pad, size + 2 * pad, memory.data.shape[1], dtype=torch.uint8)
        self.held[:, pad : pad + size, pad : pad + size] = memory.data[self.rows].permute(0, 2, 3, 1)
        self.held = self.held.to(device)

    def batches(self, parts: Sequence[Tensor], augment: bool, seed: int, **_: object) -> Parts:
        rows, size = torch.cat(tuple(parts)), self.data.shape[-1]
        top, left, flip = map(torch.from_numpy, self.draw(rows, seed))
        if not augment:  # the crop in the middle, which is the image itself
            top, left, flip = torch.full_like(top, self.pad), torch.full_like(left, self.pad), torch.zeros_like(flip)
        lengths, columns = [len(part) for part in parts], (torch.searchsorted(self.rows, rows), top, left, flip)
        # A copy that does not wait; from memory that is not pinned the driver still takes all before it returns.
        there = zip(*(column.to(self.held.device, non_blocking=True).split(lengths) for column in columns), strict=True)
        steps = torch.arange(size, device=self.held.device)
        for at, top, left, flip in there:
            across = torch.where(flip[:, None], size - 1 - steps, steps)
            y, x = top[:, None] + steps, left[:, None] + across  # (B, S)
            pixels = self.held[at[:, None, None], y[:, :, None], x[:, None, :]]  # (B, S, S, 3)
            yield pixels.permute(0, 3, 1, 2), {}


class Pictures(Source):
    """Image files, or pixels in memory (M, 3, h, w), brought to S x S by torchvision's transforms."""

    def __init__(self, items: Tensor | Sequence[str], size: int, recipe: str):
        # Bytes in one array: a list of a million strings would be copied page by page into every worker.
        self.items = items if isinstance(items, Tensor) else np.array([os.fsencode(p) for p in items])
        self.plain = evaluation(size)
        self.augmented = transforms.Compose([*_RECIPES[recipe](size), transforms.RandomHorizontalFlip()])

    def read(self, rows: Tensor, augment: bool, seed: int) -> Tensor:
        return torch.stack([self._one(row, augment, seed) for row in rows.tolist()])

    def _one(self, row, augment, seed):
        image = self._open(row)
        if not augment:
            return functional.pil_to_tensor(self.plain(image))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(draws(seed, torch.tensor([row]), 1)[0, 0] >> np.uint64(1)))
            return functional.pil_to_tensor(self.augmented(image))

    def _open(self, row):
        if torch.is_tensor(self.items):
            return Image.fromarray(self.items[row].permute(1, 2, 0).contiguous().numpy())
        return open_rgb(os.fsdecode(self.items[row]))

    def feed(self, sha: "hashlib._Hash", rows: Tensor) -> None:
        """Of files their sizes, and the beginnings of sixteen."""
        if isinstance(self.items, Tensor):
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


def open_rgb(path: Path | str, upright: bool = False) -> Image.Image:
    """An image file as an 8-bit RGB image, what is transparent in it on white; of several pages or frames the first.

    upright: turn it as its EXIF orientation says, which data sets ignore. Raises `InputError` for a file that cannot be
    read.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:  # of odd metadata, and of large files
            image.load()
            if upright:
                with contextlib.suppress(Exception):  # of whatever kind, where the EXIF is damaged
                    ImageOps.exif_transpose(image, in_place=True)
            return _rgb(image)
    except _UNREADABLE as error:
        why = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "no image format that is known" if os.path.getsize(path) else "the file is empty"
        why = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels" if isinstance(error, _TOO_LARGE) else why
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


def evaluation(size: int) -> transforms.Compose:
    """The papers' evaluation preprocessing of an RGB image: the short side to size * 256/224, then the centre."""
    return transforms.Compose(_RECIPES["evaluation"](size))


def _feed(sha, pixels, rows):
    for part in rows.split(1000):
        sha.update(pixels[part].numpy().tobytes())


def shift(
    pixels: np.ndarray, pad: int, top: np.ndarray, left: np.ndarray, flip: np.ndarray | None = None
) -> np.ndarray:
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


def to_float(pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 to float32 in [0, 1]; divided by a tensor, as GPUs turn division by a number into a multiplication."""
    pixels = pixels.to(device, non_blocking=True).float()
    return pixels.div_(torch.full((), 255.0, device=device))


def _edge(size):
    return round(size * 256 / 224)


def permutation(n: int, seed: int) -> Tensor:
    """A permutation (n,) that is a function of the seed on every machine."""
    return torch.from_numpy(np.argsort(np.random.PCG64(seed % 2**64).random_raw(n), kind="stable"))


def draws(seed: int, rows: Tensor, columns: int) -> np.ndarray:
    """Random uint64 (B, columns): a function of seed, row and column alone (SplitMix64, Steele et al. 2014)."""
    key = _mix(np.array([seed % 2**64], np.uint64))
    keys = _mix(key + rows.numpy().astype(np.uint64))
    return _mix(keys[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
