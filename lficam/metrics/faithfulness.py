"""Faithfulness: what the classifier says of an image when the map decides what it sees, one value per image.

Masking (Average Drop, Increase in Confidence, Average Gain), insertion and deletion, and ROAD. The functions build the
images and score the answers; running the classifier in between is the caller's. Averages and intervals are made in
statistics.py. What ends in _unchecked takes values that are known to be good, so that a GPU need not wait for the look
at them.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..errors import InputError, choose
from ..explainers import baseline
from .checks import check_finite


def keep_top(maps: Tensor, fraction: float) -> Tensor:
    """Set all but the most relevant pixels of each map to 0; the others keep their values.

    maps: (N, H, W) in [0, 1], already min-maxed and upsampled; fraction: in (0, 1], the share to keep (1, 0.5 and
    0.15 in the papers). Returns maps of the same shape, for fraction 1 the maps themselves.
    As L-CAM and TAME: with p = 1 - fraction the threshold is the int(HWp)-th smallest value; of the pixels that equal
    it, the first in row-major order go until ceil((1 - p)HW) positive ones remain. Both count in floating point, as the
    authors do: ceil((1 - 0.85) * 400) is 61.
    Raises `InputError` for another shape, values outside [0, 1], NaN, or a fraction outside (0, 1].
    Gkartzonika et al. (L-CAM, ECCVW 2022); Ntrougkas et al. (TAME, ISM 2022).
    """
    _check_maps(maps)
    if ((maps < -1e-6) | (maps > 1 + 1e-6)).any():
        raise InputError("Maps: expected values in [0, 1] to keep the top of: use maps.normalise_and_upsample first.")
    if not 0 < fraction <= 1:
        raise InputError(f"fraction: expected the share of pixels to keep, above 0 and at most 1, got {fraction}.")
    return keep_top_unchecked(maps, fraction)


def keep_top_unchecked(maps: Tensor, fraction: float) -> Tensor:
    dropped = round(1 - fraction, 12)  # 1 - 0.3 is 0.7, as a user of the authors' code would write it
    flat = maps.flatten(1)
    n = flat.shape[1]
    k = int(n * dropped)
    if k == 0:
        return maps
    threshold = flat.topk(n - k + 1, sorted=False).values.amin(1, keepdim=True)  # kthvalue is not deterministic on CUDA
    kept = torch.where(flat < threshold, 0, flat)
    excess = (kept > 0).sum(1, keepdim=True) - math.ceil((1 - dropped) * n)
    equal = flat == threshold
    return torch.where(equal & (equal.cumsum(1) <= excess), 0, kept).reshape(maps.shape)


def class_scores(logits: Tensor, classes: Tensor, score: str = "probability") -> Tensor:
    """The classifier's score of one class per image: logits (N, K), classes (N,) integers in [0, K) -> (N,).

    score: "probability" (softmax, the convention of the papers) or "logit"; in the logits' own precision, float32 at
    least, as the authors compare them.
    Raises `InputError` for shapes that do not fit, classes that are not among the K, or an unknown score.
    """
    choose("score", score, baseline.SCORES)
    if logits.ndim != 2 or classes.shape != logits.shape[:1] or classes.is_floating_point():
        raise InputError(
            f"Logits {tuple(logits.shape)} and classes {tuple(classes.shape)}: expected (N, K), (N,) integers."
        )
    if ((classes < 0) | (classes >= logits.shape[1])).any():
        raise InputError(f"Classes: expected numbers from 0 to {logits.shape[1] - 1}, as many as there are logits.")
    return baseline.scores(logits, classes.long(), score)


def average_drop(clean: Tensor, masked: Tensor, relative: bool = True) -> Tensor:
    """Loss of confidence in percent, lower is better: clean, masked (N,) -> (N,), for probabilities in [0, 100].

    clean (Y) and masked (O): scores of the explained class on the image and on the masked image. 100 max(0, Y - O) / Y,
    and 0 where Y is 0, since nothing is there to drop; relative=False: 100 max(0, Y - O), for any score.
    Raises `InputError` for shapes that differ, scores that are not finite, or a relative drop of negative scores.
    Chattopadhay et al. (Grad-CAM++, WACV 2018).
    """
    clean, masked = _check_scores(clean, masked)
    drop = 100 * (clean - masked).clamp(min=0)
    if not relative:
        return drop
    if (clean < 0).any():
        raise InputError("Clean scores: a relative drop needs scores >= 0; give probabilities, or relative=False.")
    return torch.where(clean > 0, drop / clean, 0)


def increase_in_confidence(clean: Tensor, masked: Tensor) -> Tensor:
    """Whether masking raised the score: clean, masked (N,) -> bool (N,), strictly; the share of true, higher is better.

    Raises `InputError` for shapes that differ or scores that are not finite.
    Chattopadhay et al. (Grad-CAM++, WACV 2018).
    """
    clean, masked = _check_scores(clean, masked)
    return masked > clean


def average_gain(clean: Tensor, masked: Tensor) -> Tensor:
    """Gain of confidence in percent of what there is to gain, higher is better: clean, masked (N,) -> (N,) in [0, 100].

    Probabilities Y and O as in `average_drop`: 100 max(0, O - Y) / (1 - Y), and 0 where Y is 1.
    Raises `InputError` for shapes that differ, scores that are not finite or not probabilities.
    Zhang et al. (Opti-CAM, CVIU 2024).
    """
    clean, masked = _check_scores(clean, masked)
    for name, scores in (("Clean", clean), ("Masked", masked)):
        if ((scores < 0) | (scores > 1 + 1e-6)).any():  # a float32 softmax may exceed 1 by a rounding
            raise InputError(f"{name} scores: expected probabilities in [0, 1] for the gain; see class_scores.")
    clean, masked = clean.clamp(max=1), masked.clamp(max=1)
    return torch.where(clean < 1, 100 * (masked - clean).clamp(min=0) / (1 - clean), 0)


def masked_images(pixels: Tensor, maps: Tensor, mean: Sequence[float] | Tensor | None = None) -> Tensor:
    """Multiply images by their maps: pixels (N, 3, H, W) in [0, 1], maps (N, H, W) in [0, 1] -> pixels (N, 3, H, W).

    What the map leaves out is black, as in L-CAM, TAME and T-TAME's evaluation. mean: 3 numbers in [0, 1], the data's
    mean colour, which it is if the map multiplies the image after normalisation; the standard deviation cancels out.
    Raises `InputError` for shapes that do not fit, and maps with NaN.
    """
    _check_shapes(maps, pixels, "Maps")
    _check_maps(maps)
    if mean is not None and len(mean) != pixels.shape[1]:
        raise InputError(f"mean: expected {pixels.shape[1]} numbers, one for each colour channel, got {mean}.")
    return masked_images_unchecked(pixels, maps, mean)


def masked_images_unchecked(pixels: Tensor, maps: Tensor, mean: Sequence[float] | Tensor | None = None) -> Tensor:
    if mean is None:
        return maps[:, None] * pixels
    mean = torch.as_tensor(mean, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    return maps[:, None] * (pixels - mean) + mean


def perturbation_steps(maps: Tensor, steps: int) -> Tensor:
    """When each pixel's turn comes, most relevant first: maps (N, H, W) -> int32 (N, H, W) in 1..steps.

    The steps are equal but for one pixel; ties go in row-major order. Of S steps, `result <= k` are the first k shares
    of the most relevant pixels, and `result > S - k` the k shares of the least relevant.
    Raises `InputError` for another shape, values that are not finite, or steps outside 1..HW.
    """
    _check_maps(maps)
    return perturbation_steps_unchecked(maps, steps)


def perturbation_steps_unchecked(maps: Tensor, steps: int) -> Tensor:
    n = maps.shape[1] * maps.shape[2]
    if not 1 <= steps <= n:
        raise InputError(f"steps: expected 1 to {n}, the number of pixels, got {steps}.")
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    turn = (torch.arange(n, device=maps.device) * steps // n + 1).int()
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, turn.expand_as(order)).reshape(maps.shape)


def deletion(pixels: Tensor, turns: Tensor, step: int, baseline: float | Tensor = 0.0) -> Tensor:
    """The images from which the most relevant pixels have gone, up to a step.

    pixels: (N, 3, H, W); turns: (N, H, W) of `perturbation_steps`; step: at 0 nothing has gone, at the last step all
    pixels. baseline: what comes in their place, a number or a tensor that broadcasts to the pixels (0, black; RISE's
    code has zeros after normalisation, hence the mean colour).
    Raises `InputError` for shapes that do not fit. Petsiuk et al. (RISE, BMVC 2018).
    """
    _check_shapes(turns, pixels, "turns")
    return torch.where((turns <= step)[:, None], baseline, pixels)


def insertion(pixels: Tensor, turns: Tensor, step: int, baseline: float | Tensor) -> Tensor:
    """The images of which only the most relevant pixels are there, up to a step; as `deletion`, the other way round.

    baseline: what is there at step 0; `blurred(pixels)`, made once, as RISE. At the last step the images are whole.
    """
    _check_shapes(turns, pixels, "turns")
    return torch.where((turns <= step)[:, None], pixels, baseline)


def blurred(pixels: Tensor, kernel: int = 11, sigma: float = 5.0) -> Tensor:
    """Blur images for `insertion`: (N, 3, H, W) -> the same shape, a Gaussian of `kernel` x `kernel` pixels.

    RISE has this size and sigma, but folds the Gaussian's tails into its kernel and pads with zeros; here the tails are
    cut and the border is reflected. Raises `InputError` for images too small to reflect.
    """
    if min(pixels.shape[-2:]) <= kernel // 2:
        raise InputError(f"Pixels {tuple(pixels.shape)}: too small for a kernel of {kernel}; give a smaller one.")
    return gaussian_blur(pixels, [kernel, kernel], [sigma, sigma])


def curve_area(scores: Tensor) -> Tensor:
    """Area under the curve of each image by the trapezoid rule, the steps scaled to [0, 1]: (N, steps + 1) -> (N,).

    For probabilities in [0, 1]: lower is better for deletion, higher for insertion.
    Raises `InputError` for fewer than two scores per image or scores that are not finite.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InputError(f"Scores of a curve: expected (N, steps + 1), got {tuple(scores.shape)}.")
    check_finite(scores, "Curves")
    return curve_area_unchecked(scores)


def curve_area_unchecked(scores: Tensor) -> Tensor:
    return torch.trapezoid(scores.double(), dim=1) / (scores.shape[1] - 1)


def road_impute(
    pixels: Tensor, removed: Tensor, noise: float | Tensor = 0.01, generator: torch.Generator | None = None
) -> Tensor:
    """Fill removed pixels so that their outline tells little: ROAD's noisy linear imputation.

    pixels: (N, 3, H, W) in [0, 1]; removed: bool (N, H, W); noise: standard deviation of the Gaussian noise added to
    the filled pixels, in the unit of the pixels (not clipped to [0, 1]), or that noise itself (N, 3, H, W);
    generator: a torch.Generator of any device.
    Returns pixels of the same shape and type. Each removed pixel is the mean of its eight neighbours with weights 1/6
    (side) and 1/12 (corner), those outside the image left out: one linear system for all, solved to 1e-6 or better.
    Raises `InputError` for shapes that do not fit, pixels that are not finite, or an image without any pixel left.
    Rong et al. (ROAD, ICML 2022).
    """
    _check_shapes(removed, pixels, "removed")
    if removed.dtype != torch.bool:
        raise InputError(f"removed: expected booleans, true where a pixel goes, got {removed.dtype}.")
    check_finite(pixels, "Images")
    if removed.flatten(1).all(1).any():
        raise InputError("removed: expected at least one pixel left in each image to fill the others from.")
    if not isinstance(noise, Tensor):
        where = generator.device if generator else pixels.device
        grain = torch.randn(pixels.shape, dtype=pixels.dtype, device=where, generator=generator)
        noise = noise * grain.to(pixels.device)
    return road_impute_unchecked(pixels, removed, noise)


def road_impute_unchecked(pixels: Tensor, removed: Tensor, noise: Tensor) -> Tensor:
    filled = _fill(pixels.double(), removed[:, None]).to(pixels.dtype)
    return torch.where(removed[:, None], filled + noise, pixels)


def _fill(x: Tensor, removed: Tensor) -> Tensor:
    """Conjugate gradients for all images and channels at once: the system is symmetric and positive definite."""
    hole = removed.double()
    weight = hole * _around(torch.ones_like(hole))
    mean = (x * (1 - hole)).sum((2, 3), keepdim=True) / (1 - hole).sum((2, 3), keepdim=True)
    enough = (1e-8 * x.abs().amax()) ** 2
    x = torch.where(removed, mean, x)
    residual = hole * _around(x) - weight * x
    direction, size = residual.clone(), _squared(residual)
    for count in range(most := 10 * sum(x.shape[2:])):  # several times what the widest hole needs
        if count % 10 == 0 and not size.amax() > enough:  # looking makes a GPU wait, so not every time
            return x
        image = weight * direction - hole * _around(direction)
        length = size / (direction * image).sum((2, 3), keepdim=True).clamp(min=1e-300)  # 0 for a solved channel
        x.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        old, size = size, _squared(residual)
        direction.mul_(size / old.clamp(min=1e-300)).add_(residual)
    raise InputError(f"ROAD: removed pixels are not filled after {most} iterations: are the pixels in [0, 1]?")


def _around(x: Tensor) -> Tensor:
    """Each pixel's surroundings weighted 1, 2, 1 both ways, zero outside: sides count twice as much as corners.

    The pixel's own weight stands on both sides of its equation and drops out.
    """
    padded = F.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16


def _squared(x: Tensor) -> Tensor:
    return (x * x).sum((2, 3), keepdim=True)


def _check_scores(clean: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    if clean.ndim != 1 or clean.shape != masked.shape:
        raise InputError(
            f"Clean {tuple(clean.shape)} and masked {tuple(masked.shape)} scores: expected one per image in both, (N,)."
        )
    check_finite(clean, "Clean scores")
    check_finite(masked, "Masked scores")
    return clean.double(), masked.double()


def _check_maps(maps: Tensor) -> None:
    if maps.ndim != 3 or not maps.is_floating_point():
        raise InputError(f"Maps {tuple(maps.shape)} {maps.dtype}: expected floating-point maps (N, H, W).")
    check_finite(maps, "Maps")


def _check_shapes(maps: Tensor, pixels: Tensor, name: str) -> None:
    if maps.ndim != 3 or pixels.ndim != 4 or maps.shape != (len(pixels), *pixels.shape[2:]):
        raise InputError(
            f"{name} {tuple(maps.shape)} and pixels {tuple(pixels.shape)}: expected (N, H, W) and (N, 3, H, W); "
            "upsample the maps first."
        )
