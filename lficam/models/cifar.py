"""Networks for 32-pixel images, feature maps 32x32, 16x16 and 8x8, as the LFI-CAM and ABN authors build them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..data import CIFAR_STATISTICS
from ..errors import InputError
from .backbone import Backbone, initialise


def layers_per_stage(name: str, depth: int, rule: str, per: int, extra: int) -> int:
    """n of a depth written as `per` n + `extra`; `InputError` when there is none."""
    n, rest = divmod(depth - extra, per)
    if rest or n < 1:
        raise InputError(f"Backbone {name}: the depth is {rule}, for example {2 * per + extra} or {3 * per + extra}.")
    return n


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def resnet(depth: int, num_classes: int) -> Backbone:
    """ResNet of 6n+2 layers (He et al., CVPR 2016, section 4.2).

    The authors switch to bottlenecks from depth 44 on and keep n = (depth - 2) / 6 blocks a stage, so that their
    "ResNet-110" has 3 x 18 bottlenecks and 164 layers (data/deviations.csv).
    """
    blocks = layers_per_stage(f"resnet-{depth}", depth, "6n+2", 6, 2)
    block = BasicBlock if depth < 44 else Bottleneck
    stem = nn.Sequential(conv3x3(3, 16), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
    stages, channels = resnet_stages(block, 16, 16, blocks)
    return initialise(Backbone(stem, stages, channels, num_classes, CIFAR_STATISTICS))


def resnext(depth: int, cardinality: int, width: int, num_classes: int) -> Backbone:
    """ResNeXt of 9n+2 layers (Xie et al., CVPR 2017), e.g. 29, 8x64: 8 groups of 64 channels in the first stage.

    The authors' attention branch makes a batch norm here that it never applies.
    """
    name = f"resnext-{depth}-{cardinality}x{width}"
    blocks = layers_per_stage(name, depth, "9n+2", 9, 2)
    if cardinality < 1 or width < 1:
        raise InputError(f"Backbone {name}: cardinality and width are at least 1.")
    stem = nn.Sequential(conv3x3(3, 64), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    stages, channels = resnet_stages(Bottleneck, 64, 64, blocks, groups=cardinality, base_width=width)
    backbone = initialise(Backbone(stem, stages, channels, num_classes, CIFAR_STATISTICS))
    nn.init.kaiming_normal_(backbone.fc.weight)
    nn.init.zeros_(backbone.fc.bias)
    backbone.attention_norm = False
    return backbone


def resnet_stages(
    block: type[BasicBlock | Bottleneck], inputs: int, width: int, blocks: int, **groups: int
) -> tuple[list[nn.Sequential], int]:
    """Three stages of residual blocks, widths 1, 2, 4 times the first, the later two halving; and their channels."""
    stages = []
    for factor, stride in ((1, 1), (2, 2), (4, 2)):
        stages.append(resnet_stage(block, inputs, factor * width, blocks, stride, **groups))
        inputs = factor * width * block.expansion
    return stages, inputs


def resnet_stage(
    block: type[BasicBlock | Bottleneck], inputs: int, width: int, blocks: int, stride: int, **groups: int
) -> nn.Sequential:
    """Residual blocks, the first with that stride and, where the shape changes, a 1x1 convolution on the shortcut."""
    outputs = width * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, width, stride, shortcut, **groups)
    return nn.Sequential(first, *(block(outputs, width, **groups) for _ in range(blocks - 1)))


class DenseLayer(nn.Module):
    """Bottleneck layer of DenseNet-BC: x (B, C, h, w) -> x and `growth` new maps, (B, C + growth, h, w)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = conv3x3(4 * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(F.relu(self.bn1(x)))
        return torch.cat((x, self.conv2(F.relu(self.bn2(new)))), 1)


def densenet(depth: int, growth: int, num_classes: int) -> Backbone:
    """DenseNet-BC of 6n+4 layers (Huang et al., CVPR 2017), transitions halve the maps and their number.

    The last BN and ReLU come after the attention: feature maps are the raw concatenation, of either sign.
    """
    name = f"densenet-bc-{depth}-{growth}"
    layers = layers_per_stage(name, depth, "6n+4", 6, 4)
    if growth < 1:
        raise InputError(f"Backbone {name}: the growth rate is at least 1.")
    channels, stages = 2 * growth, []
    stem = nn.Sequential(conv3x3(3, channels))
    for last in (False, False, True):
        block = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
        channels += layers * growth
        if not last:
            shrink = nn.Conv2d(channels, channels // 2, 1, bias=False)
            block = nn.Sequential(
                block, nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), shrink, nn.AvgPool2d(2))
            )
            channels //= 2
        stages.append(block)
    tail = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    return initialise(Backbone(stem, stages, channels, num_classes, CIFAR_STATISTICS, tail=tail))


class WideBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions, dropout between; a wider shortcut starts from the activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        return out + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(depth: int, widen: int, num_classes: int, *, dropout: float = 0.0) -> Backbone:
    """Wide ResNet of 6n+4 layers (Zagoruyko and Komodakis, BMVC 2016); ABN's recipe has dropout 0.3.

    LFI-CAM was not released for it: as with DenseNet, our feature maps come before the last BN and ReLU.
    """
    name = f"wrn-{depth}-{widen}"
    blocks = layers_per_stage(name, depth, "6n+4", 6, 4)
    if widen < 1 or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"Backbone {name}: the width is at least 1 and dropout in [0, 1), got dropout {dropout!r}.")
    inputs, stages = 16, []
    for width, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
        first = WideBlock(inputs, width, stride, dropout)
        stages.append(nn.Sequential(first, *(WideBlock(width, width, 1, dropout) for _ in range(blocks - 1))))
        inputs = width
    tail = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
    stem = nn.Sequential(conv3x3(3, 16))
    backbone = initialise(Backbone(stem, stages, inputs, num_classes, CIFAR_STATISTICS, tail=tail))
    nn.init.zeros_(backbone.fc.bias)
    return backbone


def vgg(depth: int, num_classes: int, *, dropout: float = 0.0) -> Backbone:
    """VGG of 3n+2 layers for small images (after Simonyan and Zisserman, 2015), with batch norm; vgg-8 is the smallest.

    Three stages of n 3x3 convolutions with 32, 64 and 128 maps, max-pooling after each; then, other than there, the
    mean over places, and two fully connected layers with dropout between.
    Feature maps are taken before the last pooling, as L-CAM takes them from VGG-16.
    """
    convolutions = layers_per_stage(f"vgg-{depth}", depth, "3n+2", 3, 2)
    inputs, stages = 3, list[nn.Module]()
    for width in (32, 64, 128):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
        for _ in range(convolutions):
            layers += [conv3x3(inputs, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
        stages.append(nn.Sequential(*layers))
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head = nn.Sequential(*pool, nn.Linear(inputs, inputs), nn.ReLU(inplace=True), nn.Dropout(dropout))
    fc = nn.Linear(inputs, num_classes)
    tail = nn.MaxPool2d(2)
    return initialise(
        Backbone(nn.Identity(), stages, inputs, num_classes, CIFAR_STATISTICS, tail=tail, head=head, fc=fc)
    )
