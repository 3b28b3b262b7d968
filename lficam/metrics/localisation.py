"""Maps against exact masks, and of each map by itself: pure functions that return a value per image.

Averages and intervals are made in statistics.py. What ends in _unchecked takes maps that are known to be finite and in
range, so that a GPU need not wait for the look at them.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .checks import check_finite

Counts = TypeVar("Counts", Tensor, np.ndarray)


def intersection_over_union(maps: Tensor, masks: Tensor, threshold: float = 100 / 255) -> Tensor:
    """IoU of the map's pixels above the threshold with a mask: maps (N, H, W) in [0, 1], masks bool (N, H, W) -> (N,).

    The default threshold is the LFI-CAM authors' 100 of 255. Two empty sets have IoU 1.
    Raises `InputError` for maps with NaN or of another size, other masks, and a threshold outside [0, 1].
    """
    _check_masks(maps, masks)
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold: expected a number in [0, 1], as 100 / 255, got {threshold!r}.")
    return intersection_over_union_unchecked(maps, masks, threshold)


def intersection_over_union_unchecked(maps: Tensor, masks: Tensor, threshold: float = 100 / 255) -> Tensor:
    marked = maps > threshold
    return agreement((marked & masks).sum((1, 2)).double(), (marked | masks).sum((1, 2)).double())


def agreement(part: Counts, whole: Counts) -> Counts:
    """part / whole, counts of pixels (N,) in float64, tensors or arrays; 1 where there are none: empty sets agree."""
    empty = whole == 0
    return (part + empty) / (whole + empty)


def energy_in_mask(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's mass that lies in the mask: maps (N, H, W) >= 0, masks bool (N, H, W) -> (N,) in [0, 1].

    The energy-based pointing game of Wang et al. (Score-CAM, CVPRW 2020). An empty map has share 0.
    Raises `InputError` for maps with NaN, with negative values or of another size, and other masks.
    """
    _check_masks(maps, masks)
    if (maps < 0).any():
        raise InputError(
            "Maps: expected values of at least 0, got negative ones: use maps.normalise_and_upsample first."
        )
    return energy_in_mask_unchecked(maps, masks)


def energy_in_mask_unchecked(maps: Tensor, masks: Tensor) -> Tensor:
    maps = maps.double()
    total = maps.sum((1, 2))
    return torch.where(total > 0, (maps * masks).sum((1, 2)) / total.clamp(min=1e-300), 0)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """How well the order of the map's pixels finds the mask: maps (N, H, W), masks bool (N, H, W) -> (N,) in [0, 1].

    The mean over the mask's pixels of the mask's share among the pixels that the map puts as high or higher; chance is
    the mask's share of the image. It needs no threshold, and a map may be scaled, shifted or sharpened. An empty mask
    has 0. Raises `InputError` for maps with NaN or of another size, and other masks.
    """
    _check_masks(maps, masks)
    return average_precision_unchecked(maps, masks)


def average_precision_unchecked(maps: Tensor, masks: Tensor) -> Tensor:
    values, inside = maps.double().flatten(1), masks.flatten(1)
    known = values.where(inside, -torch.inf)
    above, found = (n.shape[1] - torch.searchsorted(n.sort(1).values, values) for n in (values, known))
    return (inside * found / above).sum(1) / inside.sum(1).clamp(min=1)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the map's maximum lies in the mask: maps (N, H, W), masks bool (N, H, W) -> bool (N,).

    Of several maxima the first in row-major order counts. Raises `InputError` for maps with NaN or of another size.
    Zhang et al. (Excitation Backprop, ECCV 2016), without their tolerance of 15 pixels.
    """
    _check_masks(maps, masks)
    return pointing_game_unchecked(maps, masks)


def pointing_game_unchecked(maps: Tensor, masks: Tensor) -> Tensor:
    return masks.flatten(1).gather(1, maps.flatten(1).argmax(1, keepdim=True))[:, 0]


def mask_correlation(maps: Tensor, masks: Tensor) -> Tensor:
    """Pearson's correlation of each map with its mask: maps (N, H, W), masks bool (N, H, W) -> (N,) in [-1, 1].

    Below 0 the map is turned inside out: it is brighter beside the object than on it. Without range in map or mask 0.
    Raises `InputError` for maps with NaN or of another size, and other masks.
    """
    _check_masks(maps, masks)
    return mask_correlation_unchecked(maps, masks)


def mask_correlation_unchecked(maps: Tensor, masks: Tensor) -> Tensor:
    a, b = (values.flatten(1).double() for values in (maps, masks))
    a = a - a[:, :1]  # of a constant map 0, where its mean would be rounded
    return _cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def sparsity(maps: Tensor) -> Tensor:
    """Gini index of each map's magnitudes, higher is sparser: maps (N, H, W) -> (N,) in [0, 1).

    0 for a constant map and for an empty one; 1 - 1/HW for a single pixel. Raises `InputError` for maps with NaN.
    Hurley and Rickard (IEEE Trans. Information Theory 2009); Chalasani et al. (ICML 2020).
    """
    check_finite(maps, "Maps")
    return sparsity_unchecked(maps)


def sparsity_unchecked(maps: Tensor) -> Tensor:
    values = maps.flatten(1).double().abs().sort(1).values
    n, total = values.shape[1], values.sum(1)
    weights = 2 * torch.arange(1, n + 1, device=maps.device) - n - 1
    gini = (values * weights).sum(1) / (n * total.clamp(min=1e-300))
    return torch.where(values[:, 0] < values[:, -1], gini, 0)


def complexity(maps: Tensor) -> Tensor:
    """Mean magnitude of each map, lower is simpler: maps (N, H, W) -> (N,), in [0, 1] for maps that are.

    The L1 norm over the number of pixels. A map of zeros has 0: it is the simplest of all, and explains nothing.
    Raises `InputError` for maps with NaN. Poppi et al. (ADCC, CVPR Workshops 2021).
    """
    check_finite(maps, "Maps")
    return complexity_unchecked(maps)


def complexity_unchecked(maps: Tensor) -> Tensor:
    return maps.flatten(1).double().abs().mean(1)


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """How alike an explainer's map and its map of the masked image are: (N, H, W) both -> (N,) in [0, 1].

    (r + 1) / 2 with Pearson's r over the pixels. maps: of the images; again: of the images times these maps, for the
    same class. NaN where one of the two is constant, and no r exists. Raises `InputError` for maps with NaN or of
    different sizes. Poppi et al. (ADCC, CVPR Workshops 2021).
    """
    _check_shapes(maps, again, "maps")
    check_finite(maps, "Maps")
    check_finite(again, "Maps")
    return coherency_unchecked(maps, again)


def coherency_unchecked(maps: Tensor, again: Tensor) -> Tensor:
    ranges = [values.flatten(1).amax(1) > values.flatten(1).amin(1) for values in (maps, again)]
    found = (mask_correlation_unchecked(maps, again) + 1) / 2
    return torch.where(ranges[0] & ranges[1], found, torch.nan)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation of two maps of an image: a, b (N, H, W) -> (N,) in [-1, 1]; equal values share a rank.

    A map without range ranks nothing: 0. Raises `InputError` for maps with NaN or of different sizes.
    As in the randomisation tests of Adebayo et al. (Sanity Checks for Saliency Maps, NeurIPS 2018).
    """
    _check_shapes(a, b, "maps")
    check_finite(a, "Maps")
    check_finite(b, "Maps")
    return rank_correlation_unchecked(a, b)


def rank_correlation_unchecked(a: Tensor, b: Tensor) -> Tensor:
    return _cosine(_centred_ranks(a), _centred_ranks(b))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of centred values (N, P), 0 where either are all 0."""
    scale = ((a * a).sum(1) * (b * b).sum(1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(1) / scale.clamp(min=1e-300), 0).clamp(-1, 1)


def _centred_ranks(maps: Tensor) -> Tensor:
    """Average rank of each value among its map's, minus the mean rank: (N, H, W) -> (N, HW)."""
    ordered, order = maps.flatten(1).sort(1)
    below, up_to = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
    ranks = (below + up_to - ordered.shape[1]).double() / 2
    return torch.empty_like(ranks).scatter_(1, order, ranks)


def _check_masks(maps: Tensor, masks: Tensor) -> None:
    _check_shapes(maps, masks, "masks")
    if masks.dtype != torch.bool:
        raise InputError(f"masks: expected bool, True on the object, got {masks.dtype}.")
    check_finite(maps, "Maps")


def _check_shapes(maps: Tensor, others: Tensor, name: str) -> None:
    if maps.shape != others.shape:
        raise InputError(
            f"Maps {tuple(maps.shape)} and {name} {tuple(others.shape)} must have one shape: upsample the maps first."
        )
