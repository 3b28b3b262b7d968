"""Metrics: pure functions that return a value per image; averages and intervals are made in results.py."""

import torch

from .errors import InputError


def correct(logits, labels, k=1):
    """Whether the label is among the k largest logits: (N, K), (N,) -> bool (N,). Ties go against the label."""
    own = logits.gather(1, labels[:, None])
    rivals = (logits >= own).sum(1) - 1
    return (rivals < k) & torch.isfinite(own[:, 0])


def intersection_over_union(maps, masks, threshold=100 / 255):
    """IoU of the map's pixels above the threshold with a mask: maps (N, H, W) in [0, 1], masks bool (N, H, W) -> (N,).

    The default threshold is the LFI-CAM authors' 100 of 255. Two empty sets have IoU 1.
    """
    _check_shapes(maps, masks)
    marked = maps > threshold
    both = (marked & masks).sum((1, 2)).double()
    either = (marked | masks).sum((1, 2)).double()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def energy_in_mask(maps, masks):
    """Share of the map's mass that lies in the mask: maps (N, H, W) >= 0, masks bool (N, H, W) -> (N,) in [0, 1].

    The energy-based pointing game of Wang et al. (Score-CAM, CVPRW 2020). An empty map has share 0.
    """
    _check_shapes(maps, masks)
    maps = maps.double()
    total = maps.sum((1, 2))
    return torch.where(total > 0, (maps * masks).sum((1, 2)) / total.clamp(min=1e-300), torch.zeros_like(total))


def _check_shapes(maps, masks):
    if maps.shape != masks.shape:
        raise InputError(
            f"Maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have one shape: upsample the maps first."
        )
