"""Min-max normalisation and upsampling of maps: the one place where either happens after an explainer."""

import torch
import torch.nn.functional as F


def minmax(x, constant=0.0):
    """Scale the last two dimensions of each map to [0, 1].

    x (..., h, w) float -> same shape. A map without range becomes `constant` (a number, or a tensor that broadcasts),
    never NaN; its gradient is zero. Gradients flow through the minimum and the maximum.
    """
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    span = high - low
    flat = span == 0
    scaled = (x - low) / torch.where(flat, torch.ones_like(span), span)
    return torch.where(flat, constant, scaled)  # a number is not made a tensor: a GPU would wait for its copy


def upsample(maps, size):
    """Resize maps (B, h, w) bilinearly, corners not aligned, to (B, *size); size is an int or (H, W)."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def finish(maps, size):
    """Raw maps (B, h, w) -> maps to look at or to mask with, (B, H, W) in [0, 1]: min-max first, then upsampling."""
    return upsample(minmax(maps.float()), size)
