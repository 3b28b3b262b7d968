"""Attention mechanisms of L-CAM, TAME and T-TAME: feature maps of a frozen classifier -> a map for every class.

    F_1 ... F_n -> class maps C (B, K, h, w), and A = sigmoid(C)

What they are put on and how they are trained is in learned.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, choose


def class_maps(weight: Tensor, maps: Tensor, classes: Tensor) -> Tensor:
    """A 1x1 convolution, of whose outputs only those for some classes are computed.

    weight (K, C, 1, 1), maps (B, C, h, w); classes: (L,) the same for all images or (B, L) -> (B, L, h, w).
    """
    rows = weight[:, :, 0, 0][classes]  # (L, C) or (B, L, C)
    return (rows @ maps.flatten(2)).unflatten(2, maps.shape[2:])


class Mechanism(nn.Module):
    """Feature maps of some layers -> class maps, in two steps: a loss may ask for the maps of other classes as well."""

    fuse: Any  # the 1x1 convolution to the K classes that ends it

    def branches(self, features: list[Tensor]) -> list[Tensor]:
        """What `fused` takes of feature maps [(B, C_i, h_i, w_i)]: in L-CAM themselves."""
        return features

    def fused(self, branches: list[Tensor], classes: Tensor) -> Tensor:
        """The class maps of `forward`."""
        raise NotImplementedError

    def forward(self, features: list[Tensor], classes: Tensor) -> Tensor:
        """Feature maps [(B, C_i, h_i, w_i)], classes (L,) or (B, L) -> class maps before the sigmoid (B, L, h, w)."""
        return self.fused(self.branches(features), classes)


class LCAM(Mechanism):
    """L-CAM's attention mechanism: one 1x1 convolution from the C feature maps of one layer to the K classes."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        (inputs,) = channels
        self.fuse = nn.Conv2d(inputs, num_classes, 1)

    def fused(self, branches: list[Tensor], classes: Tensor) -> Tensor:
        return class_maps(self.fuse.weight, branches[0], classes) + self.fuse.bias[classes][..., None, None]


class TAME(Mechanism):
    """TAME's attention mechanism: a branch per layer, all brought to the resolution of the first, then fused.

        Z_i = ReLU(BN(conv1x1(F_i)) + F_i)
        C   = conv1x1(concatenation of the upsampled Z_i)    at h = min(h_1, 56)

    Fusing is linear and so is upsampling, so each branch is fused *before* it is upsampled: the same maps with a
    fraction of the arithmetic, and of the K classes only those that are asked for.

    branch "tame", or the authors' ablations: "no-skip" (no F_i added, and conv1x1 to K maps instead of C_i),
    "no-skip-no-norm" (neither, to C_i maps), "sigmoid" (in place of ReLU). "p-tame": at h_1 in full, up to which the
    others are doubled step by step, and without a bias of the fusing convolution.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, branch: str = "tame") -> None:
        super().__init__()
        choose("branch", branch, ("tame", "no-skip", "no-skip-no-norm", "sigmoid", "p-tame"))
        widths = [num_classes] * len(channels) if branch == "no-skip" else channels
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in zip(channels, widths, strict=True))
        norm = nn.Identity if branch == "no-skip-no-norm" else nn.BatchNorm2d
        self.norms = nn.ModuleList(norm(width) for width in widths)
        self.doubles = branch == "p-tame"
        self.fuse = nn.Conv2d(sum(widths), num_classes, 1, bias=not self.doubles)
        self.skip = branch in ("tame", "sigmoid", "p-tame")
        self.activation = torch.sigmoid_ if branch == "sigmoid" else torch.relu_

    def branches(self, features: list[Tensor]) -> list[Tensor]:
        """Feature maps [(B, C_i, h_i, w_i)] -> Z_i of the same resolutions."""
        found = []
        for maps, conv, norm in zip(features, self.convs, self.norms, strict=True):
            z = norm(conv(maps))
            z = z.add_(maps) if self.skip else z  # in place: nothing else holds it, and memory is what this costs
            found.append(self.activation(z))
        return found

    def fused(self, branches: list[Tensor], classes: Tensor) -> Tensor:
        size = [side if self.doubles else min(side, 56) for side in branches[0].shape[2:]]
        weights = self.fuse.weight.split([conv.out_channels for conv in self.convs], dim=1)
        total: Any = 0 if self.fuse.bias is None else self.fuse.bias[classes][..., None, None]
        for z, weight in zip(branches, weights, strict=True):
            maps = class_maps(weight, z, classes)
            while self.doubles and maps.shape[2] < size[0]:
                maps = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
            if self.doubles and list(maps.shape[2:]) != size:
                raise InputError(
                    f"p-tame doubles the feature maps up to those of the first layer, and {z.shape[2]} x {z.shape[3]} "
                    f"never become {size[0]} x {size[1]}: give layers, or images of a size, where they do."
                )
            total = total + (maps if self.doubles else F.interpolate(maps, size, mode="bilinear", align_corners=False))
        return total
