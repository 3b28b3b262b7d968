"""Attention classifiers: trained as classifiers, their attention map is part of the forward pass.

    features F -> attention map M -> (1 + M) F -> classification

ABN (Fukui et al., CVPR 2019) and LFI-CAM (Lee et al., ICCV 2021) differ in how M is made and where it acts.
Below: the plain classifier with Zhou et al.'s class activation map, then the two methods in the order of their papers.

    model = lficam.create("lfi-cam", "resnet-20", num_classes=10)
    logits, maps = model(pixels)          # pixels (B, 3, H, W) in [0, 1]; maps (B, 1, h, w)
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, choose
from ..losses import classification_loss, correct
from ..maps import at_least_float32, check_classes, check_finite, full_precision, minmax
from ..numerics import exact
from .backbone import Backbone, Normalise, Scale, initialise, unstrided_copy


class Output(NamedTuple):
    """What a classifier gives: logits (B, K) and maps (B, 1, h, w)."""

    logits: Tensor
    maps: Tensor


class ABNOutput(NamedTuple):
    """`Output` of the perception branch, and the logits (B, K) of the attention branch, which is trained too."""

    logits: Tensor
    maps: Tensor
    attention_logits: Tensor


class Classifier(nn.Module):
    """What plain, ABN and LFI-CAM share: pixels are normalised inside, and the model is an explainer of itself.

    options: the method's own options of `create`, with their defaults. card: what rebuilds the model.
    """

    options: ClassVar[dict[str, Any]] = {}  # read only
    card: dict[str, Any]

    def __init__(self, backbone: Backbone, mean: Scale = None, std: Scale = None) -> None:
        super().__init__()
        default_mean, default_std = backbone.statistics
        self.normalise = Normalise(default_mean if mean is None else mean, default_std if std is None else std)
        self.backbone = backbone

    @property
    def explains(self) -> bool:
        """Whether `explain` gives a map of its own."""
        return True

    def classify_and_attend(self, images: Tensor) -> Output | ABNOutput:
        """The output for normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Output | ABNOutput:
        """`Output` for pixels (B, 3, H, W) in [0, 1], on any device; in eval mode `InputError` for others."""
        return self.classify_and_attend(self.normalise(self.normalise.enter(pixels, check=not self.training)))

    def loss(self, pixels: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of `losses.classification_loss`, and whether each image is classified correctly: bool (B,)."""
        output = self.classify_and_attend(self.normalise(pixels))
        return classification_loss(output, labels), correct(output.logits.detach(), labels)

    @exact()
    def explain(self, pixels: Tensor, target: Any = None) -> Tensor:
        """Raw low-resolution maps (B, h, w) for pixels (B, 3, H, W) in [0, 1], under the explainers' common interface.

        The attention of ABN and LFI-CAM has no class: `target` (B,) matters for the plain classifier alone.
        Raises `InputError` for other pixels, classes that do not exist, and maps that are not finite.
        """
        pixels = self.normalise.enter(pixels)
        if target is not None:
            target = check_classes(target, self.backbone.num_classes, pixels.device, len(pixels))
        return check_finite(self.own_maps(self.normalise(pixels), target))

    attribute = explain

    def own_maps(self, images: Tensor, target: Tensor | None = None) -> Tensor:  # noqa: ARG002 - the common interface
        """The maps (B, h, w) of `explain` for normalised images."""
        return self.classify_and_attend(images).maps[:, 0]


class Plain(Classifier):
    """The backbone as it is. Its maps are class activation maps (Zhou et al., CVPR 2016, eq. 2) of the predicted class.

        M = sum_k w_k F_k, w = the class's row of the linear layer

    They cost one contraction and no gradient: the baseline that needs no attention mechanism. Where the head is more
    than pooling and one linear layer (VGG, MobileNetV3) they do not exist: `forward` then gives the mean of the feature
    maps, which explains no class, and `explain` raises `InputError`.
    """

    def classify_and_attend(self, images: Tensor) -> Output:
        features = self.backbone.features(images)  # (B, C, h, w)
        logits = self.backbone.classify(features)
        return Output(logits, self.class_activation_map(features, logits.argmax(1)))

    @torch.no_grad()
    def class_activation_map(self, features: Tensor, target: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) and classes (B,) -> class activation maps (B, 1, h, w)."""
        if not self.backbone.linear:
            return features.mean(1, keepdim=True)
        return torch.einsum("bc,bchw->bhw", self.backbone.fc.weight[target], self.backbone.tail(features))[:, None]

    @property
    def explains(self) -> bool:
        """Whether the head is global average pooling and one linear layer."""
        return self.backbone.linear

    def own_maps(self, images: Tensor, target: Tensor | None = None) -> Tensor:
        if not self.explains:
            raise InputError(
                "A class activation map needs global average pooling and one linear layer after the feature maps, "
                "which this backbone does not have: use another explainer, or a backbone such as resnet50."
            )
        if target is None:
            return super().own_maps(images)
        return self.class_activation_map(self.backbone.features(images), target)[:, 0]


class AttentionBranch(nn.Module):
    """ABN's attention branch (Fukui et al., CVPR 2019): K feature maps, classified and fused into one map.

    a = ReLU(BN(conv1x1(BN(stage(x)))))         K maps at the resolution of x: `stage` is the last one with stride 1
    logits = GAP(conv1x1(a)),  M = sigmoid(BN(conv3x3(a)))

    attention_map "log-sum", the authors' choice for SE-ResNet: M = sum_k log(1 + a_k), without bound.
    """

    def __init__(self, backbone: Backbone, attention_map: str = "sigmoid") -> None:
        super().__init__()
        classes, channels = backbone.num_classes, backbone.channels
        self.stage = unstrided_copy(backbone.stages[-1])
        self.norm = nn.BatchNorm2d(channels)
        self.normed = backbone.attention_norm  # the authors make a norm for ResNeXt too, but never apply it
        self.to_classes = nn.Conv2d(channels, classes, 1, bias=False)
        self.class_norm = nn.BatchNorm2d(classes)
        self.to_logits = nn.Conv2d(classes, classes, 1, bias=False)
        self.to_map = None
        if choose("attention_map", attention_map, {"sigmoid": True, "log-sum": False}):
            self.to_map = nn.Conv2d(classes, 1, 3, padding=1, bias=False)
            self.map_norm = nn.BatchNorm2d(1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps before the last stage (B, C', h, w) -> attention maps (B, 1, h, w), logits (B, K)."""
        a = self.stage(x)  # (B, C, h, w)
        a = self.norm(a) if self.normed else a
        a = F.relu(self.class_norm(self.to_classes(a)))  # (B, K, h, w)
        logits = self.to_logits(a).mean((2, 3))
        if self.to_map is None:
            return a.log1p().sum(1, keepdim=True), logits
        return torch.sigmoid(self.map_norm(self.to_map(a))), logits


class ABN(Classifier):
    """Attention branch network: x' = (1 + M) x before the last stage, which with the head is the perception branch."""

    options = {"attention_map": "released"}  # noqa: RUF012 - read only

    def __init__(
        self, backbone: Backbone, mean: Scale = None, std: Scale = None, attention_map: str = "released"
    ) -> None:
        super().__init__(backbone, mean, std)
        self.attention = AttentionBranch(
            backbone, backbone.attention_map if attention_map == "released" else attention_map
        )

    def classify_and_attend(self, images: Tensor) -> ABNOutput:
        x = self.backbone.features(images, stages=slice(-1))  # (B, C', h, w)
        maps, attention_logits = self.attention(x)
        logits = self.backbone.classify(self.backbone.stages[-1](x * maps + x))
        return ABNOutput(logits, maps, attention_logits)


class FeatureImportanceNetwork(nn.Module):
    """LFI-CAM's feature importance network (Lee et al., ICCV 2021): four convolutions, then one score a feature map.

    variant: "relu-all" a ReLU after every 3x3 convolution, as released for 224 pixels; "relu-2-4" after the second and
    fourth only, as released for CIFAR; "1x1" as that, but 1x1 convolutions C-C-C/2-C-C: the authors' earlier one.
    """

    def __init__(self, channels: int, variant: str = "relu-2-4") -> None:
        super().__init__()
        relu_after = choose("fin", variant, {"relu-all": (1, 2, 3, 4), "relu-2-4": (2, 4), "1x1": (2, 4)})
        kernel, middle = (1, channels // 2) if variant == "1x1" else (3, channels)
        widths = (channels, channels, middle, channels, channels)
        layers: list[nn.Module] = []
        for i in range(1, 5):
            layers.append(nn.Conv2d(widths[i - 1], widths[i], kernel, padding=kernel // 2, bias=False))
            layers.append(nn.BatchNorm2d(widths[i]))
            layers += [nn.ReLU()] if i in relu_after else []
        self.layers = nn.Sequential(*layers)

    def forward(self, masked: Tensor) -> Tensor:
        """Normalised feature maps times the grey image (B, C, h, w) -> scores (B, C)."""
        return self.layers(masked).mean((2, 3))


class LFIAttention(nn.Module):
    """The attention of LFI-CAM: a sum of feature maps, weighted by importances that a network learns.

    F~ = minmax(F) * grey(x)         feature maps as masks of the small grey image  (grey = mean of the normalised RGB)
    w  = softmax(FIN(F~))            importances of the C feature maps, sum 1
    M  = minmax(ReLU(sum_k w_k F_k))

    softmax=False: the raw scores of the network are the importances.
    """

    def __init__(self, channels: int, fin: str = "relu-2-4", softmax: bool = True) -> None:
        super().__init__()
        if not isinstance(softmax, bool):
            raise InputError(f"softmax: expected True or False, got {softmax!r}.")
        self.importance_network = FeatureImportanceNetwork(channels, fin)
        self.softmax = softmax
        initialise(self)

    def grey(self, images: Tensor, size: Sequence[int]) -> Tensor:
        """Normalised images (B, 3, H, W) -> their channel mean at the size (h, w) of the maps, (B, 1, h, w); signed."""
        return F.interpolate(images.mean(1, keepdim=True), size, mode="bilinear", align_corners=False)

    def masked_features(self, features: Tensor, images: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) and normalised images (B, 3, H, W) -> masked grey images F~ (B, C, h, w)."""
        # A feature map without range is worth 1 everywhere, a dead one 0; an exact 0 stays 0, also among negatives.
        normalised = torch.where(features == 0, torch.zeros_like(features), minmax(features, constant=1.0))
        return normalised * self.grey(images, features.shape[-2:])

    def importances(self, features: Tensor, images: Tensor) -> Tensor:
        """Importances w (B, C) of the feature maps; with softmax each image's sum is 1."""
        scores = at_least_float32(self.importance_network(self.masked_features(features, images)))
        return scores.softmax(1) if self.softmax else scores

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) and normalised images (B, 3, H, W) -> attention maps (B, 1, h, w) in [0, 1]."""
        weights = self.importances(features, images)
        with full_precision(features):
            maps = F.relu(torch.einsum("bc,bchw->bhw", weights, at_least_float32(features)))[:, None]
            return minmax(maps, constant=maps)


class LFICAM(Classifier):
    """LFI-CAM: attention over the feature maps F of the last stage, F' = (1 + M) F, classification of F'."""

    options = {"fin": "released", "softmax": True}  # noqa: RUF012 - read only

    def __init__(
        self, backbone: Backbone, mean: Scale = None, std: Scale = None, fin: str = "released", softmax: bool = True
    ) -> None:
        super().__init__(backbone, mean, std)
        self.attention = LFIAttention(backbone.channels, backbone.fin if fin == "released" else fin, softmax)

    def classify_and_attend(self, images: Tensor) -> Output:
        features = self.backbone.features(images)  # (B, C, h, w)
        maps = self.attention(features, images)
        return Output(self.backbone.classify(maps * features + features), maps)
