"""What every backbone is made of: stem, stages and head, their initialisation, copies without strides."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..maps import check_pixels, check_range

Module = TypeVar("Module", bound=nn.Module)
Scale = float | Sequence[float] | Tensor | None  # one number for all colours, or R, G, B; None is the default
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std


class Backbone(nn.Module):
    """A classifier in parts: `stem` and `stages` give feature maps, `tail` ends them, `head` and `fc` classify them.

    channels: C, the number of feature maps of the last stage.
    statistics: ((mean R, G, B), (std R, G, B)) of the images that its recipe normalises with.
    tail: what the authors apply between attention and pooling, as the last BN and ReLU of pre-activation networks.
    head: from maps (B, C, h, w) to the vectors that `fc` takes; by default their mean over h and w.
    fin, attention_map, attention_norm: how LFI-CAM and ABN were released for this family (see attention.py).
    """

    fin, attention_map, attention_norm = "relu-2-4", "sigmoid", True

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: int,
        num_classes: int,
        statistics: Statistics,
        *,
        tail: nn.Module | None = None,
        head: nn.Sequential | None = None,
        fc: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.tail = tail or nn.Identity()
        self.fc: Any = fc or nn.Linear(channels, num_classes)
        self.channels, self.num_classes, self.statistics = channels, num_classes, statistics
        self.head = head

    def features(self, x: Tensor, stages: slice = slice(None)) -> Tensor:
        """Images (B, 3, H, W), already normalised, -> feature maps (B, C, h, w) of the last of the stages."""
        x = self.stem(x)
        for stage in self.stages[stages]:
            x = stage(x)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """Feature maps of the last stage (B, C, h, w) -> logits (B, K)."""
        x = self.tail(features)
        return self.fc(x.mean((2, 3)) if self.head is None else self.head(x))

    @property
    def linear(self) -> bool:
        """Whether the head is global average pooling and one linear layer, so that class activation maps exist."""
        return isinstance(self.fc, nn.Linear) and all(
            isinstance(part, nn.Flatten | nn.Dropout)
            or (isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1)))
            for part in self.head or ()
        )


def initialise(module: Module) -> Module:
    """He's normal initialisation by fan-out for convolutions, 1 and 0 for batch norm; linear layers keep torch's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
    return module


def unstrided_copy(stage: nn.Module) -> nn.Module:
    """A freshly initialised copy of the stage that keeps the resolution: every stride is 1.

    Where that would shrink the maps (a 2x2 convolution without padding), zeros are added; pooling that halves by
    cutting into tiles goes. Layer scales, which torch cannot initialise anew, are copied as they are.
    """
    stage = copy.deepcopy(stage)
    for parent in stage.modules():
        for name, part in parent.named_children():
            setattr(parent, name, unstrided(part))
            # Convolutions and batch norm are initialised with the branch.
            reset = getattr(part, "reset_parameters", None)
            if reset and not isinstance(part, nn.Conv2d | nn.BatchNorm2d):
                reset()
    return stage


def unstrided(part: nn.Module) -> nn.Module:
    """The layer with stride 1, in place where it can be; other modules than convolution and pooling as they are."""
    if not isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) or part.stride in (1, (1, 1)):
        return part
    sides: tuple[Any, Any] = part.kernel_size, part.padding
    kernel, padding = (side[0] if isinstance(side, tuple) else side for side in sides)
    lost = kernel - 1 - 2 * padding  # pixels that stride 1 would cut off
    if not isinstance(part, nn.Conv2d):
        part.stride = 1
        return nn.Identity() if lost else part
    part.stride = (1, 1)
    before, after = max(lost, 0) // 2, max(lost, 0) - max(lost, 0) // 2
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), part) if lost > 0 else part


class Normalise(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> (pixels - mean) / std, per colour channel. Scale serve for all three channels.

    Raises `InputError` for anything else than a float tensor of such images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Scale, std: Scale) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            try:
                numbers = torch.as_tensor(value, dtype=torch.float32, device="cpu").flatten()
            except (TypeError, ValueError, RuntimeError):
                numbers = torch.empty(0)
            if numbers.numel() not in (1, 3) or (name == "std" and (numbers <= 0).any()):
                raise InputError(f"{name}: expected one number or three (R, G, B), std above 0, got {value!r}.")
            self.register_buffer(name, numbers.expand(3).reshape(3, 1, 1).clone(), persistent=False)
        self.bounded = bool(self.mean.any() or self.std.ne(1).any())

    def forward(self, pixels: Tensor) -> Tensor:
        return (check_pixels(pixels) - self.mean) / self.std

    def enter(self, pixels: Tensor, check: bool = True) -> Tensor:
        """Pixels as they are given to a model or explainer, on any device, as those of this one: its device and type.

        With `check` `InputError` for no image, NaN, and numbers outside [0, 1]; mean 0 and std 1 stand for images that
        are normalised already, which have no bounds.
        """
        check_pixels(pixels)
        if check:
            check_range(pixels, self.bounded)
        return pixels.to(self.mean)


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """As torch's, bit by bit, but maps of the size that is wanted pass as they are, which a GPU can do backwards.

    Of others torch has no deterministic backward pass on a GPU: `InputError` where one is asked for.
    """

    def forward(self, x: Tensor) -> Tensor:
        size: Any = (self.output_size,) * 2 if isinstance(self.output_size, int) else self.output_size
        if x.shape[-2:] == tuple(size):
            return x
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        if torch.are_deterministic_algorithms_enabled() and not warned and x.is_cuda and x.requires_grad:
            raise InputError(
                f"Averaging {x.shape[-2]} x {x.shape[-1]} maps to {size[0]} x {size[1]} has no deterministic gradient "
                "on a GPU: take images of the size that the network is made for, or deterministic=False."
            )
        return super().forward(x)


def steady(network: Module) -> Module:
    """The network, in which adaptive poolings to more than one place are now `AdaptivePool`s, with the same bits."""
    for part in network.modules():
        if type(part) is nn.AdaptiveAvgPool2d and part.output_size not in (1, (1, 1)):
            part.__class__ = AdaptivePool
    return network
