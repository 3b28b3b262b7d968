"""Trained explainers of a frozen classifier: features -> class maps C -> A = sigmoid(C), trained by masking with A_y.

L-CAM (Gkartzonika et al., 2022), TAME (Ntrougkas et al., 2022), T-TAME (Ntrougkas et al., 2024) and P-TAME (2025)
differ in mechanism, whose layers, what is masked and the weights of the loss: settings of one class.

    explainer = lficam.attach("resnet50", "tame")
    maps = explainer(pixels)                  # (B, 28, 28) raw, of the predicted class
    maps = explainer(pixels, target)          # of the classes (B,)
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from .. import losses, record
from ..errors import InputError, check_fields, choose
from ..maps import check_finite, check_pixels, upsample
from ..models.backbone import Scale
from ..numerics import exact
from .features import Layer, choose_layers, run, suggest, tap
from .frozen import Frozen, find
from .mechanism import LCAM, TAME, Mechanism


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one explainer is, but for classifier and layers.

    masked: what the map multiplies in training, "image" or "features" (of the last layer).
    masks: whose maps area and variation are taken of: "batch" the maps of *all* labels of the batch for every image, as
    the authors' code does; "own" of its own label; "top" of its B most probable classes (T-TAME's "max").
    labels: "model" what the classifier says of the image without augmentation, "truth", or "batch" what it says of the
    very image (T-TAME).
    classifier_mode: "eval", or "train": dropout and batch statistics while training, as in the authors' code for VGG
    and TAME.
    space: the map multiplies "pixels", or the "normalised" image (T-TAME for ViT: masked is then grey, not black).
    class_token: "drop" or "multiply" (T-TAME's variant: tokens times class token).
    cross_entropy, area, variation: weights of the loss (`losses.explanation_loss`); border: the weight of a map's edges
    in the variation, power: of the map's values in the area.
    """

    method: str
    branch: str = ""  # of TAME; "" is L-CAM
    masked: str = "image"
    masks: str = "batch"
    labels: str = "model"
    classifier_mode: str = "eval"
    space: str = "pixels"
    class_token: str = "drop"
    cross_entropy: float = 1.5
    area: float = 2.0
    variation: float = 0.01
    border: float = 0.3
    power: float = 0.3
    added = ("border", "power")  # see `record.plain`

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in CHOICES.items():
            choose(name, getattr(self, name), known)
        for name in LOSS[:-1]:
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}: expected a weight of at least 0, got {getattr(self, name)}.")
        if not 0 < self.power < float("inf"):
            raise InputError(f"power: expected a number above 0, got {self.power}.")


LOSS = ("cross_entropy", "area", "variation", "border", "power")  # what of the settings the loss takes
CHOICES = {
    "masked": ("image", "features"),
    "masks": ("batch", "own", "top"),
    "labels": ("model", "truth", "batch"),
    "classifier_mode": ("eval", "train"),
    "space": ("pixels", "normalised"),
    "class_token": ("drop", "multiply"),
}


class OneProcess:
    """A training by one process: its batch is the whole batch. Of several, see `distributed.World`."""

    def images(self, mine: int) -> int:
        """How many images the batch has, `mine` of them here."""
        return mine

    def gather(self, labels: Tensor) -> tuple[Tensor, int]:
        """Labels (B,) of the whole batch, and the position at which those given begin."""
        return labels, 0


class Explainer(nn.Module):
    """A frozen classifier with an attention mechanism. Its state dict is the mechanism's alone.

    Called, it gives raw maps, before the sigmoid; `loss` is what it is trained with. classifier: `frozen.Frozen`;
    layers: [features.Layer]; settings: `Settings`; processes: those that train it. Made by `attach`.
    auxiliary: another frozen classifier, whose layers these are (P-TAME): the one explained is called, never opened.
    Several threads may explain with one explainer, or several of one classifier, at once: a pass is seen by its own
    thread alone, and the maps are those of one call after the other. Training is for one thread.
    """

    processes = OneProcess()

    def __init__(
        self,
        classifier: Frozen,
        mechanism: Mechanism,
        layers: list[Layer],
        settings: Settings,
        auxiliary: Frozen | None = None,
    ) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.classifier, self.mechanism, self.layers, self.settings = classifier, mechanism, layers, settings
        if settings.classifier_mode == "train":
            for part in classifier.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.track_running_stats = False  # batch statistics in train mode, yet the running ones stay
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode of the mechanism; the classifier's is a setting."""
        super().train(mode)
        self.classifier.train(mode and self.settings.classifier_mode == "train")
        if self.auxiliary is not None:
            self.auxiliary.eval()
        return self

    def state_dict(self, *args: Any, **options: Any) -> Any:
        return self.mechanism.state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        return self.mechanism.load_state_dict(*args, **options)

    @property
    def card(self) -> dict[str, Any]:
        """What rebuilds the explainer, with a hash of the classifier's weights."""
        options = {k: v for k, v in record.plain(self.settings).items() if k not in ("method", "branch")}
        return {
            "method": self.settings.method,
            "backbone": self.classifier.card["classifier"],
            "num_classes": self.classifier.num_classes,
            "classifier": self.classifier.described,
            "layers": [layer.name for layer in self.layers],
            "options": options,
        } | ({} if self.auxiliary is None else {"auxiliary": self.auxiliary.described})

    @exact()
    def forward(self, pixels: Tensor, target: Any = None) -> Tensor:
        """Raw maps (B, h, w) for pixels (B, 3, H, W) in [0, 1]: of the classes `target` (B,), else of the predicted.

        Pixels and classes may be on any device. With a target nothing is computed behind the last layer. Raises
        `InputError` for pixels of another shape or outside [0, 1], for classes that do not exist, and for maps that are
        not finite.
        """
        if target is None:
            return self.maps_and_logits(pixels)[0][:, 0]
        target = self.classifier.check_classes(target, len(check_pixels(pixels)))
        return check_finite(self.mechanism(self.features(pixels)[0], target[:, None])[:, 0])

    attribute = forward

    @exact()
    def maps_and_logits(self, pixels: Tensor, classes: Any = None) -> tuple[Tensor, Tensor]:
        """Raw maps (B, L, h, w) and the classifier's logits (B, K), in one forward pass.

        classes: (L,) the same for all images, (B, L), or None for the predicted class (L = 1).
        """
        features, logits = self.features(pixels, stop=False)
        classes = logits.argmax(1, keepdim=True) if classes is None else self.classifier.check_classes(classes)
        return check_finite(self.mechanism(features, classes), logits), logits

    def features(self, pixels: Tensor, stop: bool = True) -> tuple[list[Tensor], Any]:
        """Pixels (B, 3, H, W) -> feature maps [(B, C_i, h_i, w_i)] and logits (B, K); None with `stop`."""
        pixels = self.classifier.normalise.enter(pixels)
        with self.classifier.fitting(pixels), (self.auxiliary or self.classifier).fitting(pixels):
            return self._tap(pixels, stop=stop)

    def _tap(self, pixels: Tensor, stop: bool = False, **options: Any) -> tuple[list[Tensor], Any]:
        seen, apart = self.auxiliary or self.classifier, self.auxiliary is not None
        options["multiply"] = self.settings.class_token == "multiply"
        maps, logits = tap(seen.network, seen.normalise(pixels), self.layers, stop=stop or apart, **options)
        return maps, self.classifier.answer(pixels) if apart and not stop else logits

    def loss(self, pixels: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of the training loss (scalars, "total" too), and whether the masked image is still a y: bool (B,).

        pixels (B, 3, H, W) in [0, 1]; labels y (B,), not used with labels="batch".
        """
        options = self.settings
        if options.masked == "features":
            labels = self.classifier.answer(pixels).argmax(1) if options.labels == "batch" else labels
            kept: list[Any] = []

            def mask(features: list[Tensor]) -> Tensor:
                kept[:] = self._masks(features, labels)
                return features[-1] * upsample(kept[2], features[-1].shape[2:])[:, None]

            _, logits = self._tap(pixels, change=mask)
            branches, masks, _ = kept
        else:
            features, clean = self._tap(pixels, stop=options.labels != "batch")
            labels = labels if clean is None else clean.argmax(1)
            branches, masks, own = self._masks(features, labels)
            own = upsample(own, pixels.shape[2:])[:, None]
            grey, normalise = options.space == "normalised", self.classifier.normalise
            masked = own * normalise(pixels) if grey else normalise(own * pixels)
            logits = run(self.classifier.network, masked)
        if torch.is_grad_enabled() and not logits.requires_grad:
            raise InputError(
                f"{type(self.classifier.network).__name__} computes without gradients (torch.no_grad in its forward "
                "method), so that no explainer of it can be trained: take that out."
            )
        if options.masks == "top":
            count = min(self.processes.images(len(logits)), logits.shape[1])
            masks = torch.sigmoid(self.mechanism.fused(branches, logits.topk(count).indices))
        weights = {name: getattr(options, name) for name in LOSS}
        return losses.explanation_loss(logits, labels, masks, **weights), losses.correct(logits.detach(), labels)

    def _masks(self, features: list[Tensor], labels: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The mechanism's branches, sigmoid maps for the loss (B, L, h, w), of each image's own label (B, h, w)."""
        branches = self.mechanism.branches(features)
        if self.settings.masks == "batch":
            everyone, first = self.processes.gather(labels)
            masks = torch.sigmoid(self.mechanism.fused(branches, everyone))  # (B, B, h, w)
            return branches, masks, masks.diagonal(first, 0, 1).movedim(-1, 0)
        masks = torch.sigmoid(self.mechanism.fused(branches, labels[:, None]))
        return branches, masks, masks[:, 0]


_CE = {"cross_entropy": 1.0, "area": 0.0, "variation": 0.0}
# Settings by method; L-CAM takes one layer.
METHODS: dict[str, dict[str, Any]] = {
    "l-cam-fm": {"masked": "features"},
    "l-cam-img": {},
    "l-cam-fm-ce": {"masked": "features"} | _CE,
    "l-cam-img-ce": _CE,
    "tame": {"branch": "tame"},
    "tame-no-skip": {"branch": "no-skip"},
    "tame-no-skip-no-norm": {"branch": "no-skip-no-norm"},
    "tame-sigmoid": {"branch": "sigmoid"},
    "t-tame": {"branch": "tame", "labels": "batch"},
    "p-tame": {"branch": "p-tame", "labels": "batch"},
}
AUXILIARY = {"p-tame": "resnet18"}  # of methods that look by another classifier: by which, where none is given


@torch.inference_mode(False)  # in which nothing could be trained later
def attach(
    classifier: nn.Module | Callable[[Tensor], Any] | Path | str,
    method: str,
    layers: Sequence[str] | None = None,
    *,
    weights: Path | str = "papers",
    mean: Scale = None,
    std: Scale = None,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    auxiliary: nn.Module | Path | str | None = None,
    **options: Any,
) -> Explainer:
    """A trainable explainer of a classifier, which is frozen in place: no weight gradients, eval mode.

    classifier: a name or a checkpoint's path (see `frozen.find`, also for `weights`), a model of `create`, or an
    `nn.Module` from normalised images to logits (mean, std, size, classes: see `frozen.freeze`).
    method: "l-cam-fm", "l-cam-img", with "-ce" trained by cross-entropy alone; "tame", "tame-no-skip",
    "tame-no-skip-no-norm", "tame-sigmoid"; "t-tame"; "p-tame".
    auxiliary: another classifier, as `classifier`, frozen as well, in whose layers the explainer looks: of P-TAME by
    default torchvision's resnet18. Then the classifier may be any function from pixels to scores.
    layers: names of layers (`lficam layers CLASSIFIER`); by default the papers', or the like of them; ["last 2"] are
    the last two of these.
    options: fields of `Settings`. Random, from torch's generator, until it is trained or loaded.
    Raises `InputError` for unknown names, layers without places, more than one layer for L-CAM.
    """
    choose("method", method, METHODS)
    known = [field.name for field in dataclasses.fields(Settings)[2:]]
    for option in options:
        choose(f"option of {method}", option, known)
    settings = Settings(method, **METHODS[method] | options)
    found = {"mean": mean, "std": std, "size": size, "classes": classes}
    found = {name: value for name, value in found.items() if value is not None}
    frozen = find(classifier, weights, **found)
    if frozen.outputs not in ("classes", "binary"):
        raise InputError(
            f"{method} learns by the cross-entropy of classes that exclude each other, and this network has outputs="
            f"{frozen.outputs!r}: use a method without training, as grad-cam or rise."
        )
    beside = _beside(frozen, auxiliary or AUXILIARY.get(method), settings)
    chosen = _layers(beside or frozen, layers, settings)
    channels = [layer.channels for layer in chosen]
    if settings.branch:
        mechanism: Mechanism = TAME(channels, frozen.num_classes, settings.branch)
    else:
        mechanism = LCAM(channels, frozen.num_classes)
    return Explainer(frozen, mechanism.to(frozen.normalise.mean.device), chosen, settings, beside)


def _beside(classifier: Frozen, auxiliary: Any, settings: Settings) -> Frozen | None:
    """The auxiliary classifier, for images as those of the one explained; `InputError` where that cannot be."""
    if auxiliary is None:
        return None
    if settings.masked == "features":
        raise InputError(
            f"auxiliary: {settings.method} masks feature maps of the classifier explained, not another's: "
            "use l-cam-img, t-tame or p-tame."
        )
    found = find(auxiliary, size=classifier.size)
    if found.size != classifier.size:
        raise InputError(
            f"auxiliary: it was frozen for images of {found.size} x {found.size}, the classifier explained takes "
            f"{classifier.size} x {classifier.size}: freeze it with size={classifier.size}."
        )
    return found.to(classifier.normalise.mean.device)


def _layers(classifier: Frozen, names: Sequence[str] | None, settings: Settings) -> list[Layer]:
    """The layers to explain by, those of these names or the suggested ones; `InputError` where they do not fit."""
    if not any(layer.calls == 1 for layer in classifier.layers):
        raise InputError(
            f"{type(classifier.network).__name__} has no layers whose feature maps could explain it: "
            "it needs one with places, called once in a pass."
        )
    count = {"": 1, "p-tame": 4}.get(settings.branch, 3)
    suggested = suggest(classifier.layers, count)
    if names and len(names) == 1 and (last := re.fullmatch(r"last ([1-9])", names[0])):
        names = [layer.name for layer in suggested[-int(last[1]) :]]
    chosen = choose_layers(classifier.layers, names) if names else suggested
    if not settings.branch and len(chosen) != 1:
        raise InputError(f"L-CAM explains by one layer, got {len(chosen)}: choose one, or use TAME.")
    if settings.masked == "features" and chosen[-1].kind == "tokens":
        tokens = f"masks feature maps, but {chosen[-1].name} gives tokens: use l-cam-img or t-tame."
        raise InputError(f"{settings.method} {tokens}")
    return chosen
