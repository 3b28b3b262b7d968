"""Training-free explainers that mask the image. y is the probability or the logit of the class."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, check_numbers, choose, is_a, positive
from ..maps import at_least_float32, full_precision, minmax, span, weighted_sum
from ..models.backbone import Module
from .baseline import SCORES, Baseline, find_layer, scores
from .features import run
from .frozen import Frozen

SPACES = ("normalised", "pixels")


class Masked(Baseline):
    """Sends many masked images through the classifier, in the layout that convolutions like.

    space: what a mask multiplies, the "normalised" image (masked is grey) or its "pixels" (masked is black).
    """

    any_target = True

    def __init__(self, classifier: Frozen, space: str, batch_size: int | None) -> None:
        super().__init__(classifier, batch_size)
        self.space = choose("space", space, SPACES)

    def _once(self) -> Self:
        return super()._once().of(channels_last(self.classifier))

    def _canvas(self, pixels: Tensor) -> Tensor:
        return self.classifier.normalise(pixels) if self.space == "normalised" else pixels

    def _seen(self, canvas: Tensor, masks: Tensor, target: Tensor, score: str) -> Tensor:
        """Scores (N,) of `_canvas` images (N or 1, 3, H, W), seen through masks (N, H, W)."""
        images = (canvas * masks[:, None].to(canvas.dtype)).contiguous(memory_format=torch.channels_last)
        images = self.classifier.normalise(images) if self.space == "pixels" else images
        logits = run(self.classifier.network, images)
        self._count(len(logits))
        return scores(logits, target, score)


@torch.inference_mode(False)  # in which weights could not be saved for the way back
def channels_last(network: Module) -> Module:
    """A copy of the network whose convolutions' weights lie channels last, and which shares all else with it.

    The network itself stays as it is, as others may use it meanwhile.
    """
    copies: dict[Any, Any] = {None: None}
    weights: dict[Any, nn.Parameter] = {}
    for module in network.modules():
        copies[module] = object.__new__(type(module))
        vars(copies[module]).update(vars(module))
    for parameter in network.parameters():
        if parameter.ndim == 4:
            laid = parameter.detach().contiguous(memory_format=torch.channels_last)
            weights[parameter] = nn.Parameter(laid, requires_grad=False)
    for module in network.modules():
        copy = copies[module]
        copy._modules = {name: copies[part] for name, part in module._modules.items()}
        copy._parameters = {name: weights.get(value, value) for name, value in module._parameters.items()}
    return copies[network]


class ScoreCAM(Masked):
    """Score-CAM (Wang et al., CVPR Workshops 2020): ReLU(sum_k y(image seen through F_k) F_k).

    Every feature map is a mask through which the classifier sees the image; what it then says weighs the map.
    protocol "authors": the code that L-CAM is compared with; R = ReLU(F) over its span is the mask, which keeps its
    minimum, the map is sum_k p_k R_k. "paper": masks from 0 to 1, sum_k p_k F_k. "grad-cam": what pytorch-grad-cam,
    in T-TAME, does; its softmax of logits over the channels makes all weights nearly equal.
    space: what is masked, the "normalised" image, as in all of them, or "pixels".

    Equal masks of an image are seen once; masks of zeros not at all where they have no say (authors, paper).
    """

    def __init__(
        self,
        classifier: Frozen,
        layer: str | None = None,
        protocol: str = "authors",
        space: str = "normalised",
        batch_size: int | None = None,
    ) -> None:
        super().__init__(classifier, space, batch_size)
        self.layer = find_layer(classifier, layer)
        self.protocol = choose("protocol", protocol, ("authors", "paper", "grad-cam"))
        self.forward_passes = self.layer.channels

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        authors, library = self.protocol == "authors", self.protocol == "grad-cam"
        maps, logits = self._tap(self.classifier.normalise(pixels), stop=target is not None)
        target = logits.argmax(1) if target is None else target
        canvas, maps = self._canvas(pixels), at_least_float32(maps)
        shapes = maps.relu() / span(maps.relu()) if authors else minmax(maps)
        first, kinds = distinct(shapes, blank=library)
        rows, seen = shapes.flatten(0, 1), []
        for part in first.split(self._at_once(pixels)):
            masks = F.interpolate(rows[part][:, None], pixels.shape[2:], mode="bilinear", align_corners=library)[:, 0]
            reach, owner = span(masks), part // maps.shape[1]
            masks = masks / reach if authors else minmax(masks)
            weights = self._seen(canvas[owner], masks, target[owner], "logit" if library else "probability")
            seen.append(weights / reach.flatten() if authors else weights)
        weights = torch.cat([*seen, maps.new_zeros(1)])[kinds]  # kind -1, the zero: not seen
        weights = weights.softmax(1) if library else weights
        return weighted_sum(shapes if authors else maps, weights).relu()


def distinct(masks: Tensor, blank: bool) -> tuple[Tensor, Tensor]:
    """Masks (B, C, h, w) -> where among the B * C the first of each kind stands (N,), and each one's kind (B, C).

    Masks of one image are of one kind where they are equal to the bit. blank: masks of zeros are a kind, else -1.
    """
    known: dict[tuple[int, bytes], int] = {}
    first: list[int] = []
    kinds: list[int] = []
    for number, row in enumerate(masks.flatten(0, 1).flatten(1).cpu().numpy()):
        key = number // masks.shape[1], row.tobytes()
        if key not in known:
            known[key] = len(first) if blank or row.any() else -1
            first += [number] if known[key] >= 0 else []
        kinds.append(known[key])
    to_tensor = partial(torch.tensor, dtype=torch.long, device=masks.device)
    return to_tensor(first), to_tensor(kinds).view(masks.shape[:2])


class OptiCAM(Masked):
    """Opti-CAM (Zhang et al., CVIU 2024): m = minmax(up(sum_k softmax(w)_k F_k)), a mask of the image at its full size.

    The weights w are sought for every image, by Adam from equal ones: `steps` steps of rate lr that make the logit of
    the image seen through m large. objective: "plain", or "norm", as large as that of the whole image. scale: "minmax",
    or what else puts the map between 0 and 1: "sigmoid", "max" (over its maximum). space: what is masked, the "pixels"
    or the "normalised" image. early_stop, as in the released code: all images of a batch stop when the sum of their
    objectives, looked at ten times, is worse than the time before, so that a map depends on the other images, too.
    """

    any_target = False

    def __init__(
        self,
        classifier: Frozen,
        layer: str | None = None,
        steps: int = 50,
        lr: float = 0.1,
        objective: str = "plain",
        scale: str = "minmax",
        space: str = "pixels",
        early_stop: bool = False,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(classifier, space, batch_size)
        self.layer, self.early_stop = find_layer(classifier, layer), early_stop
        self.forward_passes = positive("steps", steps)
        if not (is_a(lr, float) and 0 < lr < math.inf):
            raise InputError(f"lr: expected a rate above 0, got {lr!r}.")
        self.lr, self.norm = lr, choose("objective", objective, ("plain", "norm")) == "norm"
        scales = {"minmax": minmax, "sigmoid": torch.sigmoid, "max": lambda m: m / m.amax((1, 2), True).clamp(1e-30)}
        self.scale: Callable[[Tensor], Tensor] = choose("scale", scale, scales)

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        maps, logits = self._tap(self.classifier.normalise(pixels))
        target = logits.argmax(1) if target is None else target
        given = at_least_float32(maps), self._canvas(pixels), target, scores(logits, target, "logit")
        with torch.inference_mode(False), torch.enable_grad():
            given_parts = (x.clone().split(self._at_once(pixels)) for x in given)
            return torch.cat([self._sought(*part) for part in zip(*given_parts, strict=True)])

    def _sought(self, maps: Tensor, canvas: Tensor, target: Tensor, whole: Tensor) -> Tensor:
        """The masks (B, H, W) of feature maps, images, classes, and the classes' logits without a mask."""
        rows, columns = (  # as products, whose gradients are the same in every run on a GPU, too
            F.interpolate(torch.eye(n)[None], side, mode="linear")[0].to(maps)
            for n, side in zip(maps.shape[2:], canvas.shape[2:], strict=True)
        )
        weights = torch.full_like(maps[:, :, 0, 0], 0.5).requires_grad_()
        adam, best = torch.optim.Adam([weights], self.lr), math.inf
        for step in range(self.forward_passes + 1):
            with full_precision(canvas):
                masks = self.scale(rows.mT @ weighted_sum(maps, weights.softmax(1)) @ columns)
            if step == self.forward_passes:
                break
            seen = self._seen(canvas, masks, target, "logit")
            self._differentiable(seen)
            lost = ((whole - seen).abs() if self.norm else whole - seen).sum()
            (weights.grad,) = torch.autograd.grad(lost, weights)
            adam.step()
            if self.early_stop and step % max(1, self.forward_passes // 10) == 0:
                if lost > best:
                    break
                best = lost.item()
        return masks.detach().where((seen.detach() < torch.inf)[:, None, None], torch.nan)  # as for Grad-CAM


class RISE(Masked):
    """RISE (Petsiuk et al., BMVC 2018): mean_n y(image seen through M_n) M_n / p, random masks M_n. Of any classifier.

    masks: how many (L-CAM's authors: 4000 for VGG-16, 8000 for ResNet-50). A mask is a grid of `cells` x `cells`, each
    1 with the probability `keep`, enlarged by cells + 1 over cells, shifted at random by less than a cell, and cropped.
    seed: the same masks for every image, whatever its size and batch_size. space: what is masked, the "normalised"
    image, as L-CAM's authors do, or "pixels". score: "probability", or "logit" (T-TAME).
    """

    def __init__(
        self,
        classifier: Frozen,
        masks: int = 4000,
        cells: int = 7,
        keep: float = 0.5,
        seed: int = 0,
        space: str = "normalised",
        score: str = "probability",
        batch_size: int | None = None,
    ) -> None:
        super().__init__(classifier, space, batch_size)
        self.score = choose("score", score, SCORES)
        if not (is_a(keep, float) and 0 < keep <= 1):
            raise InputError(f"keep: expected a probability above 0, got {keep!r}.")
        check_numbers(seed=seed)
        random, self.keep = torch.Generator().manual_seed(seed), keep
        self.forward_passes = count = positive("masks", masks)
        self.grid = torch.rand(count, positive("cells", cells), cells, generator=random) < keep
        self.shifts = torch.rand(count, 2, generator=random)  # in cells, which are as large as the image says

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
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

    def draw(self, numbers: Tensor, size: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The masks of these numbers (N,) for images of that size (H, W): (N, H, W) in [0, 1]."""
        cells, sides = self.grid.shape[1], []
        for axis in (0, 1):
            matrix = enlarge(cells, size[axis])
            shifts = (self.shifts[numbers, axis] * (len(matrix) // (cells + 1))).long()
            sides.append(matrix[shifts[:, None] + torch.arange(size[axis])].to(device))  # (N, H or W, cells)
        return sides[0] @ self.grid[numbers].float().to(device) @ sides[1].mT


def enlarge(cells: int, size: int) -> Tensor:
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
