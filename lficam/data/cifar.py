"""CIFAR's binary files, the original distribution's second form: no pickle, so nothing in them can run.

A record is the label (CIFAR-100: coarse, then fine) and 3,072 bytes of pixels: planes R, G, B of 32 x 32.
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import InputError

_PIXELS = 3 * 32 * 32
_FILES = {  # folder, bytes of labels, images a file, {part: files}, file of class names
    "cifar10": (
        "cifar-10-batches-bin",
        1,
        10_000,
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        "batches.meta.txt",
    ),
    "cifar100": ("cifar-100-binary", 2, None, {"train": ["train.bin"], "test": ["test.bin"]}, "fine_label_names.txt"),
}


def folder(name: str, root: Path) -> Path | None:
    """The folder of a data set's binary files in `root`, None when there is none."""
    path = root / _FILES[name][0] if name in _FILES else None
    return path if path is not None and path.is_dir() else None


def read(name: str, part: str, root: Path) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Pixels (M, 3, 32, 32) uint8, labels (M,) int64 and class names of "train" or "test".

    Raises `InputError` for a file that is missing, cut or of something else.
    """
    inside, labels, count, parts, meta = _FILES[name]
    home = root / inside
    classes = _file(home / meta).decode("utf-8", "replace").split()
    records = [_records(home / file, labels, count or (50_000 if part == "train" else 10_000)) for file in parts[part]]
    table = np.concatenate(records)
    found = torch.from_numpy(table[:, labels - 1].astype(np.int64))
    if found.max() >= len(classes):
        raise InputError(f"{home} has label {found.max()}, but {meta} names {len(classes)} classes: copy it anew.")
    return torch.from_numpy(np.ascontiguousarray(table[:, labels:])).view(-1, 3, 32, 32), found, tuple(classes)


def _records(path, labels, count):
    content, expected = _file(path), count * (labels + _PIXELS)
    if len(content) != expected:
        raise InputError(f"{path} has {len(content):,} bytes instead of {expected:,}: copy or download it anew.")
    return np.frombuffer(content, np.uint8).reshape(count, labels + _PIXELS)


def _file(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {path} ({error.strerror}): copy or download it anew.") from None
