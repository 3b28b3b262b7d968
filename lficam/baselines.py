"""Training-free explainers, called like all others: explainer(pixels, target) -> maps."""

import torch

from .errors import choose


class Centre:
    """A control that looks at no pixel: a round Gaussian in the middle, its standard deviation a quarter of the side.

    What a map must beat before it can be said to have found the object.
    """

    def __init__(self, classifier):
        self.classifier = classifier

    def __call__(self, pixels, target=None):  # noqa: ARG002 - the common interface
        """pixels (B, 3, H, W) -> maps (B, h, w) at a quarter of the resolution, on the same device."""
        height, width = (max(1, side // 4) for side in pixels.shape[-2:])
        rows, columns = (torch.linspace(-2, 2, n, device=pixels.device) for n in (height, width))
        bump = torch.exp(-0.5 * (rows[:, None] ** 2 + columns**2))
        return bump.expand(len(pixels), height, width)

    attribute = __call__


METHODS = {"centre": Centre}


def baseline(classifier, method, **options):
    """A training-free explainer of a classifier by name: "centre". Raises `InputError` for an unknown method."""
    return choose("method", method, METHODS)(classifier, **options)
