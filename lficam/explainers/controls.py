"""A classifier's own map, and the controls, beside which other explainers are judged."""

import zlib
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.datasets import Images, exact_masks
from ..errors import InputError, check_numbers, positive
from ..maps import check_pixels, check_range
from ..models.attention import Classifier
from .baseline import Baseline
from .frozen import Frozen


class Own(Baseline):
    """The map that a classifier brings itself: the attention map of ABN and LFI-CAM, the class activation map of plain.

    So it can be scored beside other explainers of the same classifier. An attention map has no class.
    """

    def __init__(self, classifier: Frozen, batch_size: int | None = None) -> None:
        super().__init__(classifier, batch_size)
        if not (isinstance(classifier.network, Classifier) and classifier.network.explains):
            raise InputError(
                "own: this classifier brings no map, as ABN, LFI-CAM and plain ones with a linear head do: "
                "choose another method, as grad-cam."
            )

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        self._count(len(pixels))
        network = cast(Classifier, self.classifier.network)
        return network.eval().own_maps(self.classifier.normalise(pixels), target)


class Control(Baseline):
    """What a map must beat before it can be said to have found the object. It has no classifier and no class."""

    forward_passes = 0

    def __call__(self, pixels: Tensor, target: Any = None) -> Tensor:
        """Maps (B, h, w) for pixels (B, 3, H, W) in [0, 1]; `InputError` for others."""
        if self.classifier is not None:
            pixels = self.classifier.normalise.enter(pixels)
        else:
            check_range(check_pixels(pixels))
        return self._maps(pixels, target)

    attribute = __call__


class Centre(Control):
    """A round Gaussian in the middle, its standard deviation a quarter of the side."""

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:  # noqa: ARG002 - no class
        """pixels (B, 3, H, W) -> maps (B, h, w) at a quarter of the resolution, on the same device."""
        height, width = (max(1, side // 4) for side in pixels.shape[-2:])
        rows, columns = (torch.linspace(-2, 2, n, device=pixels.device) for n in (height, width))
        bump = torch.exp(-0.5 * (rows[:, None] ** 2 + columns**2))
        return bump.expand(len(pixels), height, width)


class Random(Control):
    """Independent uniform noise on a grid of cells x cells; an image and a seed have always the same map."""

    def __init__(self, classifier: Frozen | None, cells: int = 7, seed: int = 0) -> None:
        super().__init__(classifier)
        check_numbers(seed=seed)
        self.cells, self.seed = positive("cells", cells), seed

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:  # noqa: ARG002 - no class
        maps = []
        for image in pixels.detach().float().cpu().contiguous().numpy():
            random = torch.Generator().manual_seed(zlib.crc32(image.tobytes(), self.seed & 0xFFFFFFFF))
            maps.append(torch.rand(self.cells, self.cells, generator=random))
        return torch.stack(maps).to(pixels.device)


class Ones(Control):
    """1 everywhere but in one corner, which min-max normalisation needs: a mask that hides nothing of the object."""

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:  # noqa: ARG002 - no class
        """pixels (B, 3, H, W) -> maps (B, h, w) at a quarter of the resolution, on the same device."""
        height, width = (max(2, side // 4) for side in pixels.shape[-2:])
        maps = torch.ones(len(pixels), height, width, device=pixels.device)
        maps[:, 0, 0] = 0
        return maps


class ExactMask:
    """The object's exact mask as a map, (B, H, W), which a metric that asks for the object puts first.

    images: a data set with masks, of colour; raises `InputError` for one without. A picture that is none of them has
    the mask of the image with the same colours, pixel by pixel, which a mask in [0, 1] darkens but does not change.
    """

    forward_passes = 0

    def __init__(self, classifier: Frozen | None, images: Images) -> None:
        self.classifier, self.masks = classifier, exact_masks(images)
        self.colours = F.normalize(images.pixels(range(len(images)))).flatten(1)

    def __call__(self, pixels: Tensor, target: Any = None) -> Tensor:  # noqa: ARG002 - no class
        """Maps (B, H, W) of 0 and 1 for pixels (B, 3, H, W) of the size of the images."""
        if pixels[0].numel() != self.colours.shape[1]:
            raise InputError(f"pixels {tuple(pixels.shape)}: expected images of the size of the masks.")
        like = (pixels.cpu().float().flatten(1) @ self.colours.T).argmax(1)
        return self.masks[like].float().to(pixels.device)


class InsideOut:
    """The map of another explainer turned inside out, which a metric that can be trusted puts below it."""

    def __init__(self, explainer: Any) -> None:
        self.explainer, self.classifier = explainer, explainer.classifier
        self.forward_passes = getattr(explainer, "forward_passes", 1)

    def __call__(self, pixels: Tensor, target: Any = None) -> Tensor:
        """Minus the raw maps (B, h, w) of the other one, which raises what it raises."""
        return -self.explainer(pixels, target)


class Borrowed:
    """The maps that an explainer makes of another classifier, as of one with random weights, shown as of this one."""

    def __init__(self, explainer: Any, classifier: Frozen) -> None:
        self.explainer, self.classifier = explainer, classifier
        self.forward_passes = getattr(explainer, "forward_passes", 1)

    def __call__(self, pixels: Tensor, target: Any = None) -> Tensor:
        """The raw maps (B, h, w) of the other one, which raises what it raises."""
        return self.explainer(pixels, target)
