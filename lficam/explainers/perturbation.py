"""Training-free explainers that mask the image: Score-CAM and RISE.

    Score-CAM      ReLU(sum_k y(image seen through F_k) F_k)        Wang et al., CVPR Workshops 2020
    RISE           mean_n y(image seen through M_n) M_n / p         Petsiuk et al., BMVC 2018; M_n random

y is the probability or the logit of the class, F are the feature maps of a layer.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import InputError, check_numbers, choose, is_a, positive
from ..maps import at_least_float32, full_precision, minmax, weighted_sum
from .cams import SCORES, Baseline, find_layer, scores
from .features import run

SPACES = {"normalised": "normalised", "pixels": "pixels"}


class Masked(Baseline):
    """Sends many masked images through the classifier, in the layout that convolutions like.

    space: what a mask multiplies, the "normalised" image (masked is grey) or its "pixels" (masked is black).
    """

    def __init__(self, classifier, space, batch_size):
        super().__init__(classifier, batch_size)
        self.space = choose("space", space, SPACES)

    def _once(self):
        return super()._once().of(channels_last(self.classifier))

    def _canvas(self, pixels):
        return self.classifier.normalise(pixels) if self.space == "normalised" else pixels

    def _seen(self, canvas, masks, target, score):
        """Scores (N,) of `_canvas` images (N or 1, 3, H, W), seen through masks (N, H, W)."""
        images = (canvas * masks[:, None].to(canvas.dtype)).contiguous(memory_format=torch.channels_last)
        images = self.classifier.normalise(images) if self.space == "pixels" else images
        logits = run(self.classifier.network, images)
        self._count(len(logits))
        return scores(logits, target, score)

    def _at_once(self, pixels):
        return self.batch_size or max(1, 2 ** (19 if pixels.device.type == "cpu" else 23) // pixels[0, 0].numel())


def channels_last(network):
    """A copy of the network whose convolutions' weights lie channels last, and which shares all else with it.

    The network itself stays as it is, as others may use it meanwhile.
    """
    copies, weights = {}, {}
    for module in network.modules():
        copies[module] = object.__new__(type(module))
        vars(copies[module]).update(vars(module))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            laid = parameter.detach().contiguous(memory_format=torch.channels_last)
            weights[parameter] = nn.Parameter(laid, requires_grad=False)
    for module, copy in copies.items():
        copy._modules = {name: copies.get(part) for name, part in module._modules.items()}
        copy._parameters = {name: weights.get(value, value) for name, value in module._parameters.items()}
    return copies[network]


class Masks(NamedTuple):
    """How Score-CAM makes masks of feature maps, and weights of what is seen through them."""

    lift: bool  # (F - min) / (max - min), else R = ReLU(F) / (max - min), which is then what is summed, too
    late: bool  # minimum and maximum are those of the upsampled map
    corners: bool  # upsampled with aligned corners
    softmax: bool  # weights are the softmax of the logits over the channels, else the probabilities


class ScoreCAM(Masked):
    """Every feature map is a mask through which the classifier sees the image; what it then says weighs the map.

    protocol "authors": the code that L-CAM is compared with; its masks keep their minimum, its map is sum_k p_k R_k.
    "paper": masks from 0 to 1, sum_k p_k F_k. "torchcam", "grad-cam" (pytorch-grad-cam, in T-TAME): what these
    libraries do; their softmax over the channels makes all weights nearly equal.
    space: what is masked, the "normalised" image, as in all of them, or "pixels".

    Equal masks of an image are seen once; masks of zeros not at all where they have no say (authors, paper).
    """

    PROTOCOLS = {  # noqa: RUF012 - read only
        "authors": Masks(lift=False, late=True, corners=False, softmax=False),
        "paper": Masks(lift=True, late=True, corners=False, softmax=False),
        "torchcam": Masks(lift=True, late=False, corners=False, softmax=True),
        "grad-cam": Masks(lift=True, late=True, corners=True, softmax=True),
    }

    def __init__(self, classifier, layer=None, protocol="authors", space="normalised", batch_size=None):
        super().__init__(classifier, space, batch_size)
        self.layer, self.how = find_layer(classifier, layer), choose("protocol", protocol, self.PROTOCOLS)
        self.forward_passes = self.layer.channels

    def _maps(self, pixels, target):
        how, canvas = self.how, self._canvas(pixels)
        maps, logits = self._tap(self.classifier.normalise(pixels), stop=target is not None)
        target = logits.argmax(1) if target is None else target
        maps = at_least_float32(maps)
        shapes = minmax(maps) if how.lift else maps.relu() / span(maps.relu())
        first, kinds = distinct(shapes, blank=how.softmax)
        rows, weights = shapes.flatten(0, 1), []
        for part in first.split(self._at_once(pixels)):
            masks = F.interpolate(rows[part][:, None], pixels.shape[2:], mode="bilinear", align_corners=how.corners)
            masks, scale = masks[:, 0], 1 if how.lift else span(masks).flatten()
            masks = (minmax(masks) if how.late else masks) if how.lift else masks / scale[:, None, None]
            owner = part // maps.shape[1]
            weight = self._seen(canvas[owner], masks, target[owner], "logit" if how.softmax else "probability")
            weights.append(weight / scale)
        weights = torch.cat([*weights, maps.new_zeros(1)])[kinds]  # kind -1: not seen
        weights = weights.softmax(1) if how.softmax else weights
        return weighted_sum(maps if how.lift else shapes, weights).relu()


def span(maps):
    """Maximum minus minimum of maps (..., h, w), 1 for a map without range: (..., 1, 1)."""
    wide = maps.amax((-2, -1), keepdim=True) - maps.amin((-2, -1), keepdim=True)
    return torch.where(wide == 0, torch.ones_like(wide), wide)


def distinct(masks, blank):
    """Masks (B, C, h, w) -> where among the B * C the first of each kind stands (N,), and each one's kind (B, C).

    Masks of one image are of one kind where they are equal to the bit. blank: masks of zeros are a kind, else -1.
    """
    known, first, kinds = {}, [], []
    for number, row in enumerate(masks.flatten(0, 1).flatten(1).cpu().numpy()):
        key = number // masks.shape[1], row.tobytes()
        if key not in known:
            known[key] = len(first) if blank or row.any() else -1
            first += [number] if known[key] >= 0 else []
        kinds.append(known[key])
    first, kinds = (torch.tensor(x, dtype=torch.long, device=masks.device) for x in (first, kinds))
    return first, kinds.view(masks.shape[:2])


class RISE(Masked):
    """The mean of random masks, weighted by what the classifier says of the image seen through them. Of any classifier.

    masks: how many (L-CAM's authors: 4000 for VGG-16, 8000 for ResNet-50), or a pair of grids (N, s, s) of 0 and 1 and
    shifts (N, 2), down and right in pixels, that somebody drew. A mask is a grid of `cells` x `cells`, each 1 with the
    probability `keep`, enlarged by cells + 1 over cells, shifted at random by less than a cell, and cropped.
    seed: the same masks for every image, whatever its size and batch_size. space: what is masked, the "normalised"
    image, as L-CAM's authors do, or "pixels". score: "probability", or "logit" (T-TAME).
    """

    def __init__(
        self,
        classifier,
        masks=4000,
        cells=7,
        keep=0.5,
        seed=0,
        space="normalised",
        score="probability",
        batch_size=None,
    ):
        super().__init__(classifier, space, batch_size)
        self.score = choose("score", score, SCORES)
        if not (is_a(keep, float) and 0 < keep <= 1):
            raise InputError(f"keep: expected a probability above 0, got {keep!r}.")
        check_numbers(seed=seed)
        self.keep = keep
        if isinstance(masks, tuple):
            self.grid, self.shifts = (torch.as_tensor(x) for x in masks)
            if self.grid.ndim != 3 or self.shifts.shape != (len(self.grid), 2):
                found = tuple(self.grid.shape), tuple(self.shifts.shape)
                raise InputError(f"masks: expected grids (N, s, s) and shifts (N, 2), got {found[0]} and {found[1]}.")
        else:
            random = torch.Generator().manual_seed(seed)
            size = positive("masks", masks), positive("cells", cells)
            self.grid = torch.rand(size[0], size[1], size[1], generator=random) < keep
            self.shifts = torch.rand(size[0], 2, generator=random)  # in cells, which are as large as the image says
        self.forward_passes = len(self.grid)

    def _maps(self, pixels, target):
        if target is None:
            target = self.classifier.answer(pixels).argmax(1)
            self._count(len(pixels))
        canvas = self._canvas(pixels)
        total = torch.zeros_like(pixels[:, 0], dtype=torch.float32)
        for part in torch.arange(len(self.grid)).split(self._at_once(pixels)):
            with full_precision(pixels):
                masks = self.draw(part, pixels.shape[2:], pixels.device)
            for i in range(len(pixels)):
                weights = self._seen(canvas[i : i + 1], masks, target[i : i + 1], self.score)
                with full_precision(pixels):
                    total[i] += torch.tensordot(weights.float(), masks, 1)
        return total / (len(self.grid) * self.keep)

    def draw(self, numbers, size, device="cpu"):
        """The masks of these numbers (N,) for images of that size (H, W): (N, H, W) in [0, 1]."""
        cells, sides = self.grid.shape[1], []
        for axis in (0, 1):
            matrix, shifts = enlarge(cells, size[axis]), self.shifts[numbers, axis]
            shifts = (shifts * (len(matrix) // (cells + 1))).long() if shifts.is_floating_point() else shifts
            sides.append(matrix[shifts[:, None] + torch.arange(size[axis])].to(device))  # (N, H or W, cells)
        return sides[0] @ self.grid[numbers].float().to(device) @ sides[1].mT


def enlarge(cells, size):
    """Linear interpolation as a matrix (cells + 1) ceil(size / cells) x cells; mirrored at the ends, as RISE's is."""
    length = (cells + 1) * math.ceil(size / cells)
    place = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
    low = place.floor()
    matrix = torch.zeros(length, cells, dtype=torch.float64)
    for index, weight in ((low, 1 - place + low), (low + 1, place - low)):
        index = index.abs().long()
        index = torch.where(index < cells, index, 2 * (cells - 1) - index).clamp(0)
        matrix.scatter_add_(1, index[:, None], weight[:, None])
    return matrix.float()
