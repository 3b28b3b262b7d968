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
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor

from .. import files
from ..errors import InputError, check_numbers, choose, reason
from ..progress import say
from . import CIFAR_STATISTICS, IMAGENET_STATISTICS, cifar, folders, photo_digits
from .sources import Memory, Pictures, Resident, Source, permutation, to_float

SPLITS = ("train", "validation", "test")
ONCE = "from lficam.data.datasets import load; load({name!r}, 'train', download=True)"  # a line that downloads
LIMIT = 4 * 2**30  # bytes of a data set on a device
_PHOTO_DIGITS = ((0.48, 0.39, 0.35), (0.28, 0.23, 0.25))  # measured on its train split
_DATASETS = {
    "cifar10": (torchvision.datasets.CIFAR10, 5000),  # and the size of the validation split
    "cifar100": (torchvision.datasets.CIFAR100, 5000),
    "stl10": (torchvision.datasets.STL10, 500),
}
_FOLDERS = ("folder", "catdog", "imagenet")
NAMES = (*photo_digits.GROUPS, *_DATASETS, *_FOLDERS)
Positions = Sequence[int] | Tensor | np.ndarray  # integers or a boolean mask


class Batch(NamedTuple):
    """Pixels (B, 3, S, S) float32 in [0, 1] and labels (B,) on the device asked for; indices (B,) stay on the CPU."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor


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
    labels: Tensor
    ids: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Source
    rows: Tensor  # (N,) of `source`; augmentation follows them, so that a subset is augmented like the whole
    masks: Tensor | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{self.name} {self.split}: {len(self)} images, {self.size} x {self.size}, {len(self.classes)} classes>"

    def pixels(self, indices: Positions, augment: bool = False, seed: int = 0) -> Tensor:
        """Images (B, 3, S, S), float32 in [0, 1]. The augmentation of an image depends on (seed, image) alone.

        Raises `InputError` for a file that cannot be read.
        """
        return to_float(self.source.read(self.rows[_positions(indices)], augment, seed))

    def subset(self, indices: Positions) -> "Images":
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
    def digest(self) -> str:
        """SHA-256, in hex, of ids, labels and pixels; of image files their sizes, and the beginnings of sixteen."""
        sha = hashlib.sha256("\n".join(self.ids).encode())
        sha.update(self.labels.numpy().astype("<i8").tobytes())
        self.source.feed(sha, self.rows)
        return sha.hexdigest()


def load(
    name: str,
    split: str,
    *,
    root: Path | str | None = None,
    size: int | None = None,
    count: int | None = None,
    seed: int = 0,
    download: bool = False,
    list_file: Path | str | None = None,
    num_classes: int | None = None,
    recipe: str = "classifier",
) -> Images:
    """Return the `Images` of a split: "train", "validation" or "test". The names are at the top of this module.

    root: the folder of the data; by default data/cache of the project, and there catdog or imagenet.
    count: the first n images of a fixed order that takes the classes in turn; by default all (photo-digits: each digit
    twice for train, at most ten times). seed: another one renders photo-digits anew, of the same digits.
    download: fetch CIFAR or STL-10 if absent; photo-digits never needs it.
    list_file: instead of class folders, lines "path label" or "path;label" as L-CAM and TAME use them, see
    `folders.listed`; `split` is then only a name, and classes are "0" to the largest label, or `num_classes` of them.
    Raises `InputError`.
    """
    choose("data set", name, NAMES)
    choose("split", split, SPLITS)
    choose("recipe", recipe, ("classifier", "explainer"))
    check_numbers(size=size, count=count, seed=seed, num_classes=num_classes)
    if list_file is not None and name not in _FOLDERS:
        raise InputError(
            f"{name} takes no list of files (--list-file, list_file): leave it out; imagenet, catdog and "
            "folder take one."
        )
    if num_classes is not None and list_file is None:
        raise InputError("num_classes goes with list_file only: elsewhere the data set knows its classes.")
    if name in photo_digits.GROUPS:
        return _photo_digits(name, split, size or 32, count, seed)
    if name in _DATASETS:
        images = _torchvision(name, split, root, size, download, recipe)
    else:
        images = _folder(name, split, root, size or 224, list_file, num_classes, recipe)
    return images if count is None else _first(images, count)


def exact_masks(images: Images) -> Tensor:
    """The masks (N, H, W) of the objects in the images. Raises `InputError` where there are none."""
    if images.masks is None:
        raise InputError(f"{images.name} has no exact masks of its objects: photo-digits has.")
    return images.masks


def batches(
    images: Images,
    batch_size: int,
    *,
    shuffle: bool = False,
    augment: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    failed: list[tuple[str, str]] | None = None,
    share: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Batch]:
    """Iterate over `Batch`es. Order and augmentation follow from `seed` alone: give another one for each epoch.

    workers: processes that read files; sets in memory need none. The bits are the same with any number.
    failed: a list that takes (id, reason) of every file that cannot be read; its batch comes without it, and not at all
    when nothing is left of it. Without such a list that raises `InputError`, as do impossible numbers.
    share: a function from the positions of a batch to those of them that are wanted (`distributed.World.share`).
    """
    check_numbers(batch_size=batch_size, workers=workers)
    if not len(images):
        return iter(())
    order = permutation(len(images), seed) if shuffle else torch.arange(len(images))
    cuts = [share(cut) if share else cut for cut in order.split(batch_size)]
    rows, device = [images.rows[cut] for cut in cuts], torch.device(device)
    parts = images.source.batches(rows, augment, seed, device=device, workers=workers)
    return _batches(images, cuts, parts, device, failed)


def _batches(images, cuts, parts, device, failed):
    # All labels at once, so that no step waits for a copy of its own.
    labels = images.labels[torch.cat(cuts)].to(device, non_blocking=True).split([len(cut) for cut in cuts])
    for cut, known, (pixels, reasons) in zip(cuts, labels, parts, strict=True):
        if reasons:
            if failed is None:
                raise InputError(next(iter(reasons.values())))
            failed.extend((images.ids[cut[place]], why) for place, why in reasons.items())
            left = [place for place in range(len(cut)) if place not in reasons]
            cut, known = cut[left], known[left]
        if len(cut):
            yield Batch(to_float(pixels, device), known, cut)


def place(images: Images, device: torch.device | str) -> Images:
    """The images with their pixels on the device as well; themselves where they are files, too large or do not fit.

    `batches` of them are index operations on the device, with the same bits.
    """
    source, device = images.source, torch.device(device)
    if not isinstance(source, Memory) or isinstance(source, Resident):
        return images
    needed = len(images) * source.data.shape[1] * (images.size + 2 * source.pad) ** 2
    try:
        free = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else LIMIT
        if needed <= min(LIMIT, free):
            return dataclasses.replace(images, source=Resident(source, images.rows, device))
        why = f"{needed / 2**30:.1f} GiB are too many for the device"
    except RuntimeError as error:  # of the device, or memory
        why = reason(error)
    say(f"{images.name}: pixels stay in main memory ({why}).")
    return images


def _photo_digits(name, split, size, count, seed):
    usual, most = photo_digits.counts(name, split)
    _check_count(name, split, count or usual, most)
    rendered = photo_digits.render(name, split, size, count or usual, seed)
    pixels, masks, labels = map(torch.from_numpy, rendered)
    source = Memory(pixels, pad=max(1, size // 16), mirror=False)
    ids, rows = tuple(f"{name}/{split}/{i:05d}" for i in range(len(labels))), torch.arange(len(labels))
    return Images(name, split, tuple(photo_digits.GROUPS[name]), labels, ids, size, *_PHOTO_DIGITS, source, rows, masks)


def _torchvision(name, split, root, size, download, recipe):
    held = _DATASETS[name][1]
    if name != "stl10" and size not in (None, 32):
        raise InputError(f"{name} has images of 32 x 32: leave size out instead of giving {size}.")
    root = Path(root or files.root() / "data" / "cache").expanduser().resolve()
    part = "test" if split == "test" else "train"
    pixels, labels, classes = _fetch(name, part, root, download)
    rows, note = torch.arange(len(labels)), ""
    if part == "train":
        order = permutation(len(labels), 0)
        rows = (order[-held:] if split == "validation" else order[:-held]).sort().values
        note = f"{held} of the {len(labels)} training images are held out for validation."
    size = (size or 224) if name == "stl10" else 32
    source = Pictures(pixels, size, recipe) if name == "stl10" else Memory(pixels, pad=4, mirror=True)
    ids = tuple(f"{name}/{part}/{row:05d}" for row in rows.tolist())
    return Images(name, split, classes, labels[rows], ids, size, *CIFAR_STATISTICS, source, rows, note=note)


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


def _folder(name, split, root, size, list_file, num_classes, recipe):
    if root is None and name == "folder":
        raise InputError("folder: give --data-root (data_root, root), the folder that holds the images.")
    root = Path(root or files.root() / "data" / "cache" / name).expanduser()
    listed = list_file is not None
    found = folders.listed(root, list_file, num_classes) if listed else folders.find(root, split, name)
    kind = "photos" if name == "folder" and recipe == "classifier" else recipe
    source, labels, rows = Pictures(found.paths, size, kind), torch.tensor(found.labels), torch.arange(len(found.ids))
    classes, ids = tuple(found.classes), tuple(found.ids)
    return Images(name, split, classes, labels, ids, size, *IMAGENET_STATISTICS, source, rows, note=found.note)


def _first(images, count):
    """The first `count` images of the order that takes the classes in turn."""
    _check_count(images.name, images.split, count, len(images))
    by_class = torch.argsort(images.labels, stable=True)
    sizes = torch.bincount(images.labels)
    rank = torch.arange(len(images)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    return images.subset(by_class[torch.argsort(rank, stable=True)][:count])


def _check_count(name, split, count, most):
    if count > most:
        much = f"a count of {count} is more than there are"
        raise InputError(f"{name}, {split}: {much}: give at most {most}.")


def _positions(indices):
    """Integers or a boolean mask, as what indexes a tensor."""
    at = torch.as_tensor(indices)
    return at if at.numel() else at.long()
