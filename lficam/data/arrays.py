"""Pixels of one's own, in memory, as a data set."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, is_a
from ..maps import check_range
from .datasets import Images
from .sources import Memory


def images(
    pixels: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int],
    classes: Sequence[str] | None = None,
    *,
    name: str = "own",
    split: str = "train",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    pad: int | None = None,
    mirror: bool = False,
    masks: Tensor | np.ndarray | None = None,
) -> Images:
    """Pixels and labels, tensors or numpy arrays, as `datasets.Images`: what trainings, scores and the explorer take.

    pixels (N, 3, S, S): uint8, or floating-point in [0, 1], of which 256 steps are kept. labels (N,): integers from 0.
    classes: their names; by default "0", "1", ... masks (N, S, S): True on the object; with them there are IoU, energy
    and pointing game. name, split: with the position they name each image in tables, "own/train/00017".
    mean, std: the normalisation for models trained on these images, a number for each channel; by default measured on
    them. pad, mirror: augmentation in training, shifts by at most pad pixels (by default S // 8) and mirroring.
    Raises `InputError`.
    """
    data = _pixels(_tensor("pixels", pixels))
    count, size = len(data), data.shape[-1]
    known, names = _labels(_tensor("labels", labels), count, classes)
    masks = None if masks is None else torch.as_tensor(masks).bool()
    if masks is not None and masks.shape != (count, size, size):
        raise InputError(f"masks: expected {(count, size, size)}, got {tuple(masks.shape)}.")
    for what, numbers in {"mean": mean, "std": std}.items():
        if numbers is not None and np.shape(numbers) != (3,):
            raise InputError(f"{what}: expected three numbers, one for each channel, got {numbers!r}.")
    if pad is not None and (not is_a(pad, int) or pad < 0):
        raise InputError(f"pad: expected a whole number of pixels of at least 0, got {pad!r}.")
    measured = statistics(data) if mean is None or std is None else ((), ())
    mean = tuple(map(float, measured[0] if mean is None else mean))
    std = tuple(map(float, measured[1] if std is None else std))
    source = Memory(data, size // 8 if pad is None else pad, mirror)
    ids = tuple(f"{name}/{split}/{i:05d}" for i in range(count))
    return Images(name, split, names, known, ids, size, mean, std, source, torch.arange(count), masks)


def _tensor(what, values):
    """The values as a tensor."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        given = type(values).__name__
        raise InputError(f"{what}: expected a tensor or array of numbers, got {given} {values!r:.60}.") from error


def _labels(labels, count, classes):
    """Checked, as int64, and the names of the classes."""
    kind = labels.dtype
    if labels.shape == (count,) and labels.min() < 0:
        raise InputError(f"labels: expected {count} integers from 0, one an image, got {labels.min()}.")
    if labels.shape != (count,) or kind.is_floating_point or kind == torch.bool:
        raise InputError(f"labels: expected {count} integers from 0, one an image, got {kind} {tuple(labels.shape)}.")
    last = labels.max().item()
    classes = tuple(classes or map(str, range(last + 1)))
    if last >= len(classes):
        raise InputError(
            f"labels: {last} is there, but the {len(classes)} classes that have names count from 0: name one more."
        )
    return labels.long(), classes


def _pixels(pixels):
    """Checked, and as uint8."""
    if pixels.ndim != 4 or not len(pixels) or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
        raise InputError(f"pixels: expected (N, 3, S, S), N images of S x S in colour, got {tuple(pixels.shape)}.")
    if pixels.dtype == torch.uint8:
        return pixels.contiguous()
    if not pixels.is_floating_point():
        raise InputError(f"pixels: expected uint8, or floating-point numbers in [0, 1], got {pixels.dtype}.")
    check_range(pixels)
    return (pixels * 255).round().to(torch.uint8).contiguous()


def statistics(pixels: Tensor) -> tuple[Sequence[float], Sequence[float]]:
    """(mean, std) of pixels (N, C, H, W) uint8, as numbers in [0, 1] for each channel; exact, from histograms."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in pixels.unbind(1)]).double()
    shares, values = counts / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = shares @ values
    std = (shares * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.tolist(), std.clamp_min(1 / 255).tolist()
