"""Image classifiers in parts, stem -> stages -> head, so that attention can act before or after the last stage.

`build("resnet-20", 10)` gives the CIFAR ResNet of He et al. (2016), section 4.2, as the LFI-CAM and ABN authors use it.
"""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .errors import InputError, choose

CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Backbone(nn.Module):
    """A classifier in parts: `stem` and `stages` give feature maps, `tail` ends them, `fc` classifies their mean.

    channels: C, the number of feature maps of the last stage.
    statistics: ((mean R, G, B), (std R, G, B)) of the images that its recipe normalises with.
    """

    def __init__(self, stem, stages, channels, num_classes, statistics, tail=None):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.tail = tail or nn.Identity()
        self.fc = nn.Linear(channels, num_classes)
        self.channels, self.num_classes, self.statistics = channels, num_classes, statistics
        initialise(self)

    def features(self, x, stages=slice(None)):
        """Images (B, 3, H, W), already normalised, -> feature maps (B, C, h, w) of the last of the stages."""
        x = self.stem(x)
        for stage in self.stages[stages]:
            x = stage(x)
        return x

    def classify(self, features):
        """Feature maps of the last stage (B, C, h, w) -> logits (B, K): global average pooling, linear layer."""
        return self.fc(self.tail(features).mean((2, 3)))


def initialise(module):
    """He's normal initialisation by fan-out for convolutions, 1 and 0 for batch norm; linear layers keep torch's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


def cifar_resnet(depth, num_classes):
    """ResNet of 6n+2 layers for 32-pixel images; feature maps 32x32, 16x16, 8x8.

    The authors switch to bottlenecks from depth 44 on and keep n = (depth - 2) / 6 blocks a stage, so that their
    "ResNet-110" has 3 x 18 bottlenecks and 164 layers (data/deviations.csv).
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise InputError(
            f"Backbone resnet-{depth}: the depth of a CIFAR ResNet is 6n+2, for example resnet-20 or resnet-110."
        )
    block = BasicBlock if depth < 44 else Bottleneck
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    inputs, stages = 16, []
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        stages.append(resnet_stage(block, inputs, width, blocks, stride))
        inputs = width * block.expansion
    return Backbone(stem, stages, inputs, num_classes, CIFAR_STATISTICS)


def resnet_stage(block, inputs, width, blocks, stride):
    """Residual blocks, the first with that stride and, where the shape changes, a 1x1 convolution on the shortcut."""
    outputs = width * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, width, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, width) for _ in range(blocks - 1)))


FAMILIES = {"resnet": cifar_resnet}


def build(name, num_classes):
    """A randomly initialised `Backbone` by name; "resnet-N" with N = 6n+2.

    Raises `InputError` for a name that is not known, or fewer than two classes.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise InputError(f"num_classes: expected an integer of at least 2, got {num_classes!r}.")
    family, _, depth = str(name).partition("-")
    if family not in FAMILIES or not depth.isdigit():
        choose("backbone", name, {"resnet-20": 0, "resnet-32": 0, "resnet-56": 0, "resnet-110": 0})
    return choose("backbone", family, FAMILIES)(int(depth), num_classes)


class Normalise(nn.Module):
    """Pixels in [0, 1] -> (pixels - mean) / std, per colour channel. Numbers serve for all three channels."""

    def __init__(self, mean, std):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            numbers = torch.as_tensor(value, dtype=torch.float32).flatten()
            if numbers.numel() not in (1, 3) or (name == "std" and (numbers <= 0).any()):
                raise InputError(f"{name}: expected one number or three (R, G, B), std above 0, got {value!r}.")
            self.register_buffer(name, numbers.expand(3).reshape(3, 1, 1).clone(), persistent=False)

    def forward(self, pixels):
        return (pixels - self.mean) / self.std
