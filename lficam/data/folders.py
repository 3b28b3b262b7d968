"""Image files and their labels: class folders, and the list files of L-CAM and TAME."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..progress import say

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_NAMES = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}


class Found(NamedTuple):
    """Files, their labels, unique names, the classes, and what a reader has to know about the split."""

    paths: list[str]
    labels: list[int]
    ids: list[str]
    classes: list[str]
    note: str = ""


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """`InputError` where the system refuses to list a folder."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"Cannot read the folder {error.filename} ({error.strerror}): get the permission to, or remove it."
        ) from error


@readable()
def find(root: Path | str, split: str, name: str) -> Found:
    """The image files of a split under `root`; the layouts are described at `lficam.data.datasets.load`.

    Files in class folders that are no images by their ending (`ENDINGS`) are left out and told once, with their number.
    Raises `InputError` for a missing, empty or forbidden folder, a class without images, or a split whose classes are
    not train's.
    """
    root, give = Path(root), "--data-root (data_root, root)"
    if not root.is_dir():
        raise InputError(f"{name}: there is no folder {root}: create it with the images, or give another one, {give}.")
    found = {s: next((root / n for n in names if (root / n).is_dir()), None) for s, names in _NAMES.items()}
    if name == "imagenet":
        found["test"] = found["validation"]  # the test folder of ImageNet has no labels
    held = {f for s, f in found.items() if s != "train" and f}
    if not found["train"] and not held:
        if name == "imagenet":
            raise InputError(f"imagenet: {root} holds neither train nor val: give the folder that does, {give}.")
        return _cut(_gather(root, root), split)
    folder = found[split] or (next(iter(held), None) if split != "train" else None)
    if folder is None:
        missing = " or ".join(str(root / n) for n in _NAMES[split])
        raise InputError(f"{name}: the split {split!r} needs a folder {missing}: create it with one folder per class.")
    both = split != "train" and len(held) < 2
    note = f"{folder.name} serves as both validation and test." if both else ""
    return _gather(folder, root, _classes(found["train"] or folder))._replace(note=note)


@readable()
def listed(root: Path | str, list_file: Path | str, num_classes: int | None = None) -> Found:
    """The files of a list: a line is "path label" or "path;label", the path relative to `root`.

    As in the authors' readers, ".jpg" is added to a name without a "."; blank lines and spaces at the ends do not
    matter. A bare name is also looked for one folder below, so that their flat lists fit a val folder sorted by class.
    Raises `InputError`, naming file and line, for what is not of this form, is listed twice, does not exist or lies in
    several of these folders, and for a label that is not below `num_classes`.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{list_file}: there is no folder {root} with its images: give --data-root (data_root, root).")
    try:
        lines = Path(list_file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read the list {list_file} ({getattr(error, 'strerror', None) or 'it is no text'}): "
            "give a text file of lines 'path label'."
        ) from error
    labels, paths, where = {}, [], _whereabouts(root)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{list_file}:{number}"
        name, label = _parse(line.strip(), place)
        if name in labels:
            raise InputError(f"{place}: {name} is listed twice: remove one of the lines.")
        if num_classes is not None and label >= num_classes:
            last = f"with {num_classes} classes the labels are 0 to {num_classes - 1}"
            raise InputError(f"{place}: {name} has label {label}, but {last}: correct the list.")
        labels[name] = label
        paths.append(where(name, place))
    if not labels:
        raise InputError(f"The list {list_file} is empty: expected lines 'path label'.")
    classes = [str(c) for c in range(num_classes or max(labels.values()) + 1)]
    return Found(paths, list(labels.values()), list(labels), classes)


def _parse(line, place):
    """Name and label of one line."""
    parts = line.rsplit(";", 1) if ";" in line else line.rsplit(maxsplit=1)
    if len(parts) != 2 or not parts[0].strip():
        raise InputError(f"{place}: expected 'path label' or 'path;label', got {line!r}.")
    name, label = parts[0].strip(), parts[1].strip()
    if not (label.isascii() and label.isdigit()):
        raise InputError(f"{place}: the label must be a whole number from 0 up, got {label!r}.")
    return name if "." in name else name + ".jpg", int(label)


def _whereabouts(root: Path) -> Callable[[str, str], str]:
    """What looks files up in listings of folders: one call a folder, not one a file, which matters on network disks."""
    inside = functools.cache(lambda folder: set(os.listdir(folder)) if folder.is_dir() else set())

    @functools.cache
    def below() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            for file in inside(folder):
                found.setdefault(file, []).append(os.path.join(folder, file))
        return found

    def path(name: str, place: str) -> str:
        folder, _, base = name.rpartition("/")
        if base in inside(root / folder):
            return os.path.join(root, name)
        found = [] if folder else below().get(base, [])
        if not found:
            raise InputError(
                f"{place}: there is no file {root / name}: check the list and --data-root (data_root, root)."
            )
        if len(found) > 1:
            choice = f"{os.path.basename(os.path.dirname(found[0]))}/{base}"
            raise InputError(f"{place}: {name} may be {found[0]} or {found[1]}: write the folder too, as in {choice}.")
        return found[0]

    return path


def _classes(folder):
    return sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))


def _gather(folder, root, expected=None):
    """All images below the class folders of a folder, sorted; names are relative to root."""
    classes = _classes(folder)
    if not classes:
        loose = sum(name.lower().endswith(ENDINGS) for name in os.listdir(folder))
        found = f"{loose} images but no class folders" if loose else "no class folders"
        raise InputError(f"{folder} holds {found}: expected {folder}/<class>/<image files>.")
    expected = expected or classes
    if strange := sorted(set(classes) - set(expected)):
        raise InputError(
            f"{folder / strange[0]} is a class that the train folder lacks: make the classes of the splits equal."
        )
    paths, labels, others = [], [], []
    for name in classes:
        own = images(folder / name, others)
        if not own:
            raise InputError(
                f"The class folder {folder / name} holds no image ({', '.join(ENDINGS)}): add some or remove it."
            )
        paths += own
        labels += [expected.index(name)] * len(own)
    tell(folder, others)
    return Found(paths, labels, [Path(os.path.relpath(p, root)).as_posix() for p in paths], expected)


def images(folder: Path | str, others: list[str]) -> list[str]:
    """The paths of all image files in a folder and below, sorted; hidden files are left out.

    others: a list that takes the paths of files that are no images by their ending. Raises `OSError`.
    """

    def stop(error: OSError) -> None:
        raise error  # or `os.walk` would leave out what it may not list

    walk = os.walk(folder, followlinks=True, onerror=stop)
    paths = [os.path.join(here, name) for here, _, names in walk for name in names if not name.startswith(".")]
    others += [path for path in paths if not path.lower().endswith(ENDINGS)]
    return sorted(path for path in paths if path.lower().endswith(ENDINGS))


def tell(folder: Path | str, others: list[str]) -> None:
    """Say once which files of a folder are left out."""
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        _once(f"{folder}: {count} left out, no image by the ending, as {os.path.relpath(min(others), folder)}.")


_once = functools.cache(say)


def _cut(found, split):
    """80 / 10 / 10 % of each class, by a fixed permutation of its sorted files."""
    labels, chosen = np.array(found.labels), []
    for label, name in enumerate(found.classes):
        own = np.flatnonzero(labels == label)
        if len(own) < 3:
            raise InputError(
                f"The class {name!r} has {len(own)} images, too few to split: add some, or make train and val folders."
            )
        own = own[np.argsort(np.random.PCG64(label).random_raw(len(own)), kind="stable")]
        tenth = max(1, len(own) // 10)
        parts = {"test": own[:tenth], "validation": own[tenth : 2 * tenth], "train": own[2 * tenth :]}
        chosen += sorted(parts[split])
    paths, labels, ids = ([column[i] for i in chosen] for column in found[:3])
    return Found(paths, labels, ids, found.classes, "80 / 10 / 10 % of each class, by a fixed permutation.")
