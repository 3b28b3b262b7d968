"""Data sets by name, as images in [0, 1].

===============  ================================================================================================
photo-digits     built-in: MNIST digits on photographs with exact masks; 10 classes, any size (32)
photo-digits-2   the same in two classes: closed loop (0, 6, 8, 9) or no loop (1, 3, 5, 7)
cifar10, -100    32 x 32. The papers choose the best epoch on the test set; here "validation" is the last 5,000 of a
                 fixed permutation of the training images, and "train" the others. Read from torchvision's folder, or
                 from cifar-10-batches-bin, cifar-100-binary: the same images in the same order
stl10            the labelled images, any size (224); "validation" is 500 training images chosen in the same way
folder, catdog   root/{train, val or validation, test}/{class}/image files, any size (224); of val and test one may be
                 missing, then the other serves as both. Or root/{class}/..., split 80/10/10 in each class, always alike
imagenet         root/{train, val}/{class}/image files, any size (224); "validation" and "test" both read val
===============  ================================================================================================

Augmentation for training: a zero-padded crop (CIFAR: 4 pixels, and mirroring; photo-digits: 2 of 32, never mirrored);
elsewhere RandomResizedCrop (folder: of at least 35 % of the image) and mirroring, or with recipe="explainer" Resize,
RandomCrop and mirroring (L-CAM, TAME).
Evaluation: Resize to size * 256/224, CenterCrop. Files are read as RGB on white (of a GIF the first frame); EXIF
orientation is ignored.
"""

import dataclasses
import functools
import hashlib
import typing
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchvision

from .. import files
from ..errors import InputError, check_numbers, choose
from . import CIFAR_STATISTICS, IMAGENET_STATISTICS, cifar, folders, photo_digits
from .resident import Resident
from .sources import Memory, Pictures, Reader, permutation, unit

SPLITS = ("train", "validation", "test")
ONCE = "from lficam.data.datasets import load; load({name!r}, 'train', download=True)"  # a line that downloads
_PHOTO_DIGITS = ((0.48, 0.39, 0.35), (0.28, 0.23, 0.25))  # measured on its train split
_DATASETS = {
    "cifar10": (torchvision.datasets.CIFAR10, 5000),  # and the size of the validation split
    "cifar100": (torchvision.datasets.CIFAR100, 5000),
    "stl10": (torchvision.datasets.STL10, 500),
}


class Batch(typing.NamedTuple):
    """Pixels (B, 3, S, S) float32 in [0, 1] and labels (B,) on the device asked for; indices (B,) stay on the CPU."""

    pixels: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Images:
    """N labelled images of one split.

    labels (N,) int64; ids: N unique names that stay; size: height and width of what `pixels` gives; mean, std: the
    normalisation of this data set's recipe, for the model to apply; masks (N, S, S) bool: exact foreground of the
    images without augmentation, or None; note: what a reader of results has to know about the split, or "".
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: torch.Tensor
    ids: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: object
    rows: torch.Tensor  # (N,) of `source`; augmentation follows them, so that a subset is augmented like the whole
    masks: torch.Tensor | None = None
    note: str = ""

    def __len__(self):
        return len(self.ids)

    def __repr__(self):
        return f"<{self.name} {self.split}: {len(self)} images, {self.size} x {self.size}, {len(self.classes)} classes>"

    def pixels(self, indices, augment=False, seed=0):
        """Images (B, 3, S, S), float32 in [0, 1]. The augmentation of an image depends on (seed, image) alone.

        Raises `InputError` for a file that cannot be read.
        """
        return unit(self.source.read(self.rows[_positions(indices)], augment, seed), "cpu")

    def subset(self, indices):
        """The images at these positions (integers or a boolean mask), in this order."""
        at = torch.arange(len(self))[_positions(indices)]
        return dataclasses.replace(
            self,
            labels=self.labels[at],
            ids=tuple(self.ids[i] for i in at.tolist()),
            rows=self.rows[at],
            masks=None if self.masks is None else self.masks[at],
        )

    @functools.cached_property
    def digest(self):
        """SHA-256, in hex, of ids, labels and pixels; of image files their sizes, and the beginnings of sixteen."""
        sha = hashlib.sha256("\n".join(self.ids).encode())
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        self.source.feed(sha, self.rows)
        return sha.hexdigest()


def load(
    name,
    split,
    *,
    root=None,
    size=None,
    count=None,
    seed=0,
    download=False,
    list_file=None,
    num_classes=None,
    recipe="classifier",
):
    """Return the `Images` of a split: "train", "validation" or "test". The names are at the top of this module.

    root: the folder of the data; by default data/cache of the project, and there catdog or imagenet.
    count: the first n images of a fixed order that takes the classes in turn; by default all (photo-digits: each digit
    twice for train, at most ten times). seed: another one renders photo-digits anew, of the same digits.
    download: fetch CIFAR or STL-10 if absent; photo-digits never needs it.
    list_file: instead of class folders, lines "path label" or "path;label" as L-CAM and TAME use them, see
    `folders.listed`; `split` is then only a name, and classes are "0" to the largest label, or `num_classes` of them.
    Raises `InputError`.
    """
    asked = SimpleNamespace(**locals())
    return _check(asked)(asked)


def _check(asked):
    """The maker of the data set that is asked for, if the question makes sense."""
    make = choose("data set", asked.name, _MAKERS)
    choose("split", asked.split, SPLITS)
    choose("recipe", asked.recipe, ("classifier", "explainer"))
    check_numbers(**{what: getattr(asked, what) for what in ("size", "count", "seed", "num_classes")})
    if asked.list_file is not None and make is not _folder:
        raise InputError(
            f"{asked.name} takes no list of files (--list-file, list_file): leave it out; imagenet, catdog and "
            "folder take one."
        )
    if asked.num_classes is not None and asked.list_file is None:
        raise InputError("num_classes goes with list_file only: elsewhere the data set knows its classes.")
    return make


def batches(
    images, batch_size, *, shuffle=False, augment=False, seed=0, device="cpu", workers=0, failed=None, share=None
):
    """Iterate over `Batch`es. Order and augmentation follow from `seed` alone: give another one for each epoch.

    workers: processes that read files; sets in memory need none. The bits are the same with any number.
    failed: a list that takes (id, reason) of every file that cannot be read; its batch comes without it, and not at all
    when nothing is left of it. Without such a list that raises `InputError`, as do impossible numbers.
    share: a function from the positions of a batch to those of them that are wanted (`distributed.World.share`).
    """
    check_numbers(batch_size=batch_size, workers=workers)
    order = permutation(len(images), seed) if shuffle else torch.arange(len(images))
    cuts = [share(cut) if share else cut for cut in order.split(batch_size)] if len(order) else []
    reader = Reader(images, augment, seed, lenient=failed is not None)
    return _batches(images, cuts, reader, torch.device(device), workers, failed)


def _batches(images, cuts, reader, device, workers, failed):
    if isinstance(images.source, Resident):
        found = images.source.batches(images.rows, images.labels, cuts, reader.augment, reader.seed)
        yield from (Batch(*both, cut) for both, cut in zip(found, cuts, strict=True))
        return
    if isinstance(images.source, Memory):
        parts = map(reader.__getitem__, cuts)
    else:
        parts = torch.utils.data.DataLoader(
            reader,
            sampler=cuts,
            batch_size=None,  # the sampler gives whole batches
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
    for cut, pixels in zip(cuts, parts, strict=True):
        if isinstance(pixels, InputError):
            raise pixels
        if not torch.is_tensor(pixels):  # what is left of a batch, and why the others are not there
            pixels, reasons = pixels
            failed.extend((images.ids[at], reason) for at, reason in reasons.items())
            cut = torch.tensor([at for at in cut.tolist() if at not in reasons], dtype=torch.long)
            if pixels is None:
                continue
        yield Batch(unit(pixels, device), images.labels[cut].to(device, non_blocking=True), cut)


def _photo_digits(asked):
    size, (usual, most) = asked.size or 32, photo_digits.counts(asked.name, asked.split)
    count = asked.count or usual
    if count > most:
        raise _too_many(asked, most)
    pixels, masks, labels = map(torch.from_numpy, photo_digits.render(asked.name, asked.split, size, count, asked.seed))
    source = Memory(pixels, pad=max(1, size // 16), mirror=False)
    ids = [f"{asked.name}/{asked.split}/{i:05d}" for i in range(count)]
    return _images(asked, photo_digits.GROUPS[asked.name], labels, ids, source, size, _PHOTO_DIGITS, masks=masks)


def _torchvision(asked):
    held = _DATASETS[asked.name][1]
    if asked.name != "stl10" and asked.size not in (None, 32):
        raise InputError(f"{asked.name} has images of 32 x 32: leave size out instead of giving {asked.size}.")
    root = Path(asked.root or files.root() / "data" / "cache").expanduser().resolve()
    part = "test" if asked.split == "test" else "train"
    pixels, labels, classes = _fetch(asked.name, part, root, asked.download)
    rows, note = torch.arange(len(labels)), ""
    if part == "train":
        order = permutation(len(labels), 0)
        rows = (order[-held:] if asked.split == "validation" else order[:-held]).sort().values
        note = f"{held} of the {len(labels)} training images are held out for validation."
    if asked.name == "stl10":
        size = asked.size or 224
        source = Pictures(pixels, size, asked.recipe)
    else:
        size, source = 32, Memory(pixels, pad=4, mirror=True)
    ids = [f"{asked.name}/{part}/{row:05d}" for row in rows.tolist()]
    return _images(asked, classes, labels[rows], ids, source, size, CIFAR_STATISTICS, rows=rows, note=note)


@functools.lru_cache(maxsize=4)
def _fetch(name, part, root, download):
    """Pixels (M, 3, h, w) uint8, labels (M,) and class names: CIFAR's binary files, or what torchvision keeps."""
    if cifar.folder(name, root):
        return cifar.read(name, part, root)
    kind = _DATASETS[name][0]
    which = {"split": part} if name == "stl10" else {"train": part == "train"}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # the pickles are older than this numpy
            data = kind(root, download=download, **which)
    except (RuntimeError, OSError) as error:
        todo = f'get it by `python -c "{ONCE.format(name=name)}"`, '
        todo += f"or give --data-root (data_root, root), what holds {kind.base_folder}"
        if download:
            todo = f"the download failed ({error}); check network and disk, or copy {kind.base_folder} there"
        raise InputError(f"{name} is not, or not whole, in {root}: {todo}.") from error
    pixels = torch.from_numpy(np.ascontiguousarray(data.data))
    labels = torch.as_tensor(data.labels if name == "stl10" else data.targets).long()
    return pixels if name == "stl10" else pixels.permute(0, 3, 1, 2).contiguous(), labels, tuple(data.classes)


def _folder(asked):
    if asked.root is None and asked.name == "folder":
        raise InputError("folder: give --data-root (data_root, root), the folder that holds the images.")
    root = Path(asked.root or files.root() / "data" / "cache" / asked.name).expanduser()
    if asked.list_file is None:
        found = folders.find(root, asked.split, asked.name)
    else:
        found = folders.listed(root, asked.list_file, asked.num_classes)
    size, labels = asked.size or 224, torch.tensor(found.labels)
    own = asked.name == "folder" and asked.recipe == "classifier"
    source = Pictures(found.paths, size, "photos" if own else asked.recipe)
    return _images(asked, found.classes, labels, found.ids, source, size, IMAGENET_STATISTICS, note=found.note)


_MAKERS = {
    **dict.fromkeys(photo_digits.GROUPS, _photo_digits),
    **dict.fromkeys(_DATASETS, _torchvision),
    **dict.fromkeys(("folder", "catdog", "imagenet"), _folder),
}


def _images(asked, classes, labels, ids, source, size, scale, rows=None, **more):
    """Images, cut down to the first `count` of the order that takes the classes in turn."""
    rows = torch.arange(len(labels)) if rows is None else rows
    images = Images(
        asked.name, asked.split, tuple(classes), labels, tuple(ids), size, *scale, source=source, rows=rows, **more
    )
    if asked.count is None or asked.name in photo_digits.GROUPS:
        return images
    if asked.count > len(images):
        raise _too_many(asked, len(images))
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    rank = torch.arange(len(labels)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return images.subset(by_class[torch.argsort(rank, stable=True)][: asked.count])


def _too_many(asked, most):
    much = f"a count of {asked.count} is more than there are"
    return InputError(f"{asked.name}, {asked.split}: {much}: give at most {most}.")


def _positions(indices):
    """Integers or a boolean mask, as what indexes a tensor."""
    at = torch.as_tensor(indices)
    return at if at.numel() else at.long()
