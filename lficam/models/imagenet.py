"""Networks for 224-pixel images: torchvision's convolutional ones in parts, and the authors' ResNets made of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision import models
from torchvision.models.resnet import BasicBlock

from ..data import IMAGENET_STATISTICS
from ..errors import InputError, choose
from .backbone import Backbone, steady

# Not convolutional: their stages cannot be given another resolution.
TRANSFORMERS = ("maxvit", "swin", "vit")
NAMES = [name for name in models.list_models(module=models) if not name.startswith(TRANSFORMERS)]


def load(name: str, num_classes: int, weights: str | None = None) -> Any:
    """torchvision's network, its last layer for that many classes; random, or with its weights by name ("DEFAULT").

    Raises `InputError` for unknown weights, or when they cannot be downloaded.
    """
    if weights is None:
        # Without a word on these two, torchvision warns that their meaning will change.
        quiet = {"googlenet": {"aux_logits": False, "init_weights": True}}
        quiet["inception_v3"] = quiet["googlenet"]
        return models.get_model(name, weights=None, num_classes=num_classes, **quiet.get(name, {}))
    known = choose(f"weights of {name}", weights, dict(models.get_model_weights(name).__members__))
    try:
        net = models.get_model(name, weights=known)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"Cannot download the weights {weights} of {name} ({error}): check the connection, "
            f"or put {known.url.rsplit('/', 1)[-1]} into {torch.hub.get_dir()}/checkpoints."
        ) from error
    if num_classes != len(known.meta["categories"]):
        replace_last_layer(net, num_classes)
    return net


def replace_last_layer(net: nn.Module, num_classes: int) -> None:
    """Give the network a new last layer, linear or (SqueezeNet) a 1x1 convolution, for that many classes."""
    name, last = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    parent, _, child = name.rpartition(".")
    if isinstance(last, nn.Linear):
        setattr(net.get_submodule(parent), child, nn.Linear(last.in_features, num_classes))
    else:
        setattr(net.get_submodule(parent), child, nn.Conv2d(last.in_channels, num_classes, 1))


def network(name: str, num_classes: int, *, weights: str | None = None) -> Backbone:
    """A torchvision network in two parts, split before the last stage; ResNets and their like in stem and four stages.

    The last stage starts at the last layer or block that reduces the resolution. Where only pooling does so, at the
    very end (VGG), it starts after the reduction before that; Inception's starts after its last reduction.
    """
    net = steady(load(name, num_classes, weights))
    if isinstance(net, models.ResNet):
        return resnet_in_parts(net, num_classes)
    units, head = features_and_head(net)
    tail = nn.Sequential(units.pop(), nn.ReLU()) if isinstance(net, models.DenseNet) else None
    shapes = output_shapes(net, units)
    reducing = [i for i in range(len(units)) if shapes[i + 1][-1] < shapes[i][-1]]
    start = reducing[-1]
    if not any(True for unit in units[start:] for _ in unit.parameters()):
        start = reducing[-2] + 1
    if name == "inception_v3":  # its last reduction pools inside a function, which no copy can undo
        start += 1
    # With weights, Inception and GoogLeNet take ImageNet's normalisation and undo it inside: pixels - 0.5, over 0.5.
    statistics = ((0.5,) * 3, (0.5,) * 3) if getattr(net, "transform_input", False) else IMAGENET_STATISTICS
    fc = head.pop() if isinstance(head[-1], nn.Linear) else nn.Identity()
    stages = [nn.Sequential(*units[start:])]
    stem = nn.Sequential(*units[:start])
    backbone = Backbone(
        stem, stages, shapes[-1][1], num_classes, statistics, tail=tail, head=nn.Sequential(*head), fc=fc
    )
    backbone.fin = "relu-all"
    return backbone


def features_and_head(net: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers and blocks of a torchvision network in the order they act: those with feature maps, those after."""
    units: list[nn.Module] = []
    for name, part in net.named_children():
        if not name.lower().startswith("aux"):
            units += part if isinstance(part, nn.Sequential) else [part]
    cut = next(i for i, u in enumerate(units) if isinstance(u, nn.AdaptiveAvgPool2d | nn.Dropout | nn.Linear))
    units, head = units[:cut], units[cut:]
    # What some networks do in their forward method: pooling, and a vector out of the pooled maps.
    if not any(isinstance(part, nn.AdaptiveAvgPool2d) for part in head):
        head.insert(0, nn.AdaptiveAvgPool2d(1))
    if not any(isinstance(part, nn.Flatten) for part in head):
        pool = next(i for i, part in enumerate(head) if isinstance(part, nn.AdaptiveAvgPool2d))
        head.insert(pool + 1, nn.Flatten())
    return units, head


def output_shapes(net: nn.Module, units: list[nn.Module]) -> list[torch.Size]:
    """Shapes (1, C, h, w) of a 224-pixel image and of what each unit makes of it; nothing is computed."""
    x = torch.empty(1, 3, 224, 224, device="meta")
    shapes = [x.shape]
    net.eval()
    for unit in units:
        x = functional_call(unit, {name: value.to("meta") for name, value in unit.state_dict().items()}, x)
        shapes.append(x.shape)
    net.train()
    return shapes


def resnet_in_parts(net: models.ResNet, num_classes: int) -> Backbone:
    """A torchvision ResNet, with its own initialisation or weights, as a `Backbone` of four stages."""
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = [net.layer1, net.layer2, net.layer3, net.layer4]
    backbone = Backbone(stem, stages, net.fc.in_features, num_classes, IMAGENET_STATISTICS, fc=net.fc)
    backbone.fin = "relu-all"
    return backbone


def lfi_resnet(depth: int, num_classes: int, *, stem_stride: int = 1, weights: str | None = None) -> Backbone:
    """LFI-CAM's ResNet for 224 pixels: the first convolution has stride 1, feature maps are 14x14.

    stem_stride=2 is the state of the authors' code before their preprint: torchvision's ResNet, feature maps 7x7, and
    a feature importance network with a ReLU after the second and fourth convolution only.
    """
    if stem_stride not in (1, 2):
        raise InputError(f"stem_stride: expected 1 or 2, got {stem_stride!r}.")
    net = load(f"resnet{depth}", num_classes, weights)
    net.conv1.stride = (stem_stride, stem_stride)
    backbone = resnet_in_parts(net, num_classes)
    backbone.fin = "relu-all" if stem_stride == 1 else "relu-2-4"
    return backbone


class SqueezeExcitationNorm(nn.BatchNorm2d):
    """Batch norm, then each map times its gate (Hu et al., CVPR 2018): sigmoid(W2 ReLU(W1 GAP(x))), reduction 16."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.fc1 = nn.Linear(channels, channels // 16)
        self.fc2 = nn.Linear(channels // 16, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))[..., None, None]


def se_resnet(depth: int, num_classes: int) -> Backbone:
    """SE-ResNet as ABN's authors build it: a gate at the end of every residual block, for any image size.

    Their attention branch differs here: the map is the unbounded sum of log(1 + a) over the K class maps.
    """
    net = load(f"resnet{depth}", num_classes)
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in stage:
            last = "bn2" if isinstance(block, BasicBlock) else "bn3"
            setattr(block, last, SqueezeExcitationNorm(getattr(block, last).num_features))
    backbone = resnet_in_parts(net, num_classes)
    backbone.attention_map = "log-sum"
    return backbone
