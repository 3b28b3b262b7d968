"""What goes into explainers and what comes out: checks of pixels and maps; the one place of min-max and upsampling.

Pixels are checked where users give them (`backbone.Normalise.enter`), not in the passes of masked and noisy images
behind.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

ROUNDING = 1e-3  # by which pixels may leave [0, 1]: a quarter of a step of 8 bits


def check_pixels(pixels: Any) -> Tensor:
    """The pixels, if they are a float tensor (B, 3, H, W); else `InputError`."""
    wanted = "Images: expected a float tensor (B, 3, H, W) in [0, 1], got"
    if not torch.is_tensor(pixels):
        raise InputError(f"{wanted} {type(pixels).__name__}: make one of arrays with torch.from_numpy, channels first.")
    shape, advice = pixels.shape, ""
    if pixels.ndim == 4 and shape[1] == 3 and pixels.is_floating_point():
        return pixels
    if pixels.ndim == 3:
        advice = "give a batch, pixels[None]"
    elif pixels.ndim == 4 and shape[1] != 3:
        advice = "put the channels first, pixels.permute(0, 3, 1, 2)" if shape[3] == 3 else "give three channels"
    elif not pixels.is_floating_point():
        advice = "divide 8-bit values, pixels / 255"
    raise InputError(f"{wanted} {pixels.dtype} {tuple(shape)}{': ' * bool(advice)}{advice}.")


def check_range(pixels: Tensor, bounded: bool = True) -> None:
    """Raise `InputError` for floating-point pixels outside [0, 1], but for rounding, for NaN, and for no image at all.

    bounded=False: any finite numbers will do. Reads one flag, for which a GPU is waited for.
    """
    if not pixels.numel():
        raise InputError(f"pixels: expected at least one image, got none, {tuple(pixels.shape)}.")
    if _cannot_be_read(pixels):
        return
    low, high = pixels.detach().aminmax()  # NaN where there is one
    good = (low >= -ROUNDING) & (high <= 1 + ROUNDING) if bounded else (low - high).isfinite()
    if not good.item():
        found = "NaN" if low.isnan() else f"values from {low.item():.3g} to {high.item():.3g}"
        wanted = "in [0, 1]" if bounded else "that are finite"
        advice = ": divide 8-bit values by 255, and leave it to the model to normalise" * bounded
        raise InputError(f"pixels: expected floating-point numbers {wanted}, got {found}{advice}.")


def check_finite(maps: Tensor, logits: Tensor | None = None) -> Tensor:
    """The maps, if they and what the classifier says are numbers; else `InputError`. A logit may be minus infinity."""
    if not _cannot_be_read(maps):
        good = maps.isfinite().all() if logits is None else maps.isfinite().all() & (logits < torch.inf).all()
        if not good.item():
            raise InputError("The map or the classifier's answer is not finite: the weights are broken; take others.")
    return maps


def check_classes(classes: Any, num_classes: int, device: torch.device, count: int | None = None) -> Tensor:
    """Class indices as a tensor on the device; `InputError` for those that do not exist, or are not `count`."""
    last, given = num_classes - 1, classes
    try:
        classes = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"Classes: expected whole numbers from 0 to {last}, got {given!r}.") from error
    if count is not None:
        classes = classes.expand(count) if classes.ndim == 0 else classes
        if classes.shape != (count,):
            raise InputError(f"target: expected {count} classes, one an image, got shape {tuple(classes.shape)}.")
    whole = not classes.is_floating_point() and classes.dtype != torch.bool
    if not whole or not ((classes >= 0) & (classes <= last)).all():
        raise InputError(f"Classes: expected whole numbers from 0 to {last}, got {classes.flatten().tolist()[:5]}.")
    return classes.to(device, torch.long)


def _cannot_be_read(tensor: Tensor) -> bool:
    """Whether it has no values yet: it is a shape alone, or what is done with it is being compiled or recorded."""
    recorded = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return tensor.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing() or recorded


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager:
    """The context in which autocast leaves products and sums alone: those of a map are too long for bfloat16."""
    device = tensor.device.type
    on = not tensor.is_meta and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else contextlib.nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in single precision, or in double if it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def weighted_sum(maps: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k F_k of feature maps (B, C, h, w) and weights (B, C), in single precision at least: (B, h, w)."""
    with full_precision(maps):
        return torch.einsum("bchw,bc->bhw", at_least_float32(maps), at_least_float32(weights))


def minmax(x: Tensor, constant: float | Tensor = 0.0) -> Tensor:
    """Scale the last two dimensions of each map to [0, 1].

    x (..., h, w) float -> same shape. A map without range becomes `constant` (a number, or a tensor that broadcasts),
    never NaN; its gradient is zero. Gradients flow through the minimum and the maximum.
    """
    low, span, flat = _low_and_span(x)
    return torch.where(flat, constant, (x - low) / span)  # a number is not made a tensor: a GPU would wait for its copy


def span(x: Tensor) -> Tensor:
    """Maximum minus minimum of each map (..., h, w), 1 for a map without range: (..., 1, 1)."""
    return _low_and_span(x)[1]


def _low_and_span(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The minimum of each map, its span, and whether it is flat."""
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    flat = (found := high - low) == 0
    return low, torch.where(flat, torch.ones_like(found), found), flat


def upsample(maps: Tensor, size: int | Sequence[int]) -> Tensor:
    """Resize maps (B, h, w) bilinearly, corners not aligned, to (B, *size); size is an int or (H, W)."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if maps.ndim != 3 or len(size) != 2 or min(size) < 1:
        raise InputError(f"Maps: expected (B, h, w) and a size of at least 1, got {tuple(maps.shape)} and size {size}.")
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]


def normalise_and_upsample(maps: Tensor, size: int | Sequence[int]) -> Tensor:
    """Raw maps (B, h, w) -> maps to look at or to mask with, (B, H, W) in [0, 1]: min-max first, then upsampling."""
    return upsample(minmax(maps.float()), size)
