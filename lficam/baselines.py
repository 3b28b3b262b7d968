"""Training-free explainers of a classifier, called like all others: explainer(pixels, target) -> raw maps.

    explainer = lficam.baseline("resnet50", "score-cam")
    maps = explainer(pixels)                  # (B, 7, 7) raw, of the predicted classes
    maps = explainer(pixels, target)          # of the classes (B,)
    explainer.forward_passes                  # 2048: what the method costs an image, as the papers count
    explainer.counted                         # how many images the last call sent through the classifier

By gradients or by leaving feature maps out: cams.py; by masking the image: masked.py; here a classifier's own map, and
the controls.
"""

import inspect
import zlib

import torch

from . import cams, classifiers, masked
from .cams import Baseline
from .errors import InputError, check_numbers, choose, positive
from .maps import check_pixels, check_range


class Own(Baseline):
    """The map that a classifier brings itself: the attention map of ABN and LFI-CAM, the class activation map of plain.

    So it can be scored beside other explainers of the same classifier. An attention map has no class.
    """

    def __init__(self, classifier, batch_size=None):
        super().__init__(classifier, batch_size)
        if not getattr(classifier.network, "explains", False):
            raise InputError(
                "own: this classifier brings no map, as ABN, LFI-CAM and plain ones with a linear head do: "
                "choose another method, as grad-cam."
            )

    def _maps(self, pixels, target):
        self._count(len(pixels))
        return self.classifier.network.eval().own_maps(self.classifier.normalise(pixels), target)


class Control(Baseline):
    """What a map must beat before it can be said to have found the object. It has no classifier and no class."""

    forward_passes = 0

    def __call__(self, pixels, target=None):
        """Maps (B, h, w) for pixels (B, 3, H, W) in [0, 1]; `InputError` for others."""
        if self.classifier is not None:
            pixels = self.classifier.normalise.enter(pixels)
        else:
            check_range(check_pixels(pixels))
        return self._maps(pixels, target)

    attribute = __call__


class Centre(Control):
    """A round Gaussian in the middle, its standard deviation a quarter of the side."""

    def _maps(self, pixels, target):  # noqa: ARG002 - no class
        """pixels (B, 3, H, W) -> maps (B, h, w) at a quarter of the resolution, on the same device."""
        height, width = (max(1, side // 4) for side in pixels.shape[-2:])
        rows, columns = (torch.linspace(-2, 2, n, device=pixels.device) for n in (height, width))
        bump = torch.exp(-0.5 * (rows[:, None] ** 2 + columns**2))
        return bump.expand(len(pixels), height, width)


class Random(Control):
    """Independent uniform noise on a grid of cells x cells; an image and a seed have always the same map."""

    def __init__(self, classifier, cells=7, seed=0):
        super().__init__(classifier)
        check_numbers(seed=seed)
        self.cells, self.seed = positive("cells", cells), seed

    def _maps(self, pixels, target):  # noqa: ARG002 - no class
        maps = []
        for image in pixels.detach().float().cpu().contiguous().numpy():
            random = torch.Generator().manual_seed(zlib.crc32(image.tobytes(), self.seed & 0xFFFFFFFF))
            maps.append(torch.rand(self.cells, self.cells, generator=random))
        return torch.stack(maps).to(pixels.device)


METHODS = {
    "grad-cam": cams.GradCAM,
    "grad-cam++": cams.GradCAMPlus,
    "layer-cam": cams.LayerCAM,
    "score-cam": masked.ScoreCAM,
    "ablation-cam": cams.AblationCAM,
    "rise": masked.RISE,
    "own": Own,
    "random": Random,
    "centre": Centre,
}


def baseline(classifier, method, layer=None, **options):
    """A training-free explainer of a classifier, by name: see METHODS.

    classifier: whatever `classifiers.find` takes, frozen in place; None does for "random" and "centre".
    layer: a name of `lficam layers`, for the methods that look at one; by default features.29 of VGG-16, layer4 of
    ResNets, or the like. options: of the method's class.
    Raises `InputError` for an unknown method, option, layer or classifier.
    """
    kind = choose("method", method, METHODS)
    options = options if layer is None else {"layer": layer} | options
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options:
        choose(f"option of {method}", option, dict.fromkeys(known))
    if classifier is None and not issubclass(kind, Control):
        raise InputError(f"{method} explains a classifier: give its name, a checkpoint or an nn.Module.")
    return kind(None if classifier is None else classifiers.find(classifier), **options)
