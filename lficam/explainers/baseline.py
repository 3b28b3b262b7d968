"""What all training-free explainers share: the call, its checks and its counts.

A method is a class with `_maps`: GradCAM and the like in cams.py, by feature maps and gradients of one layer; by masked
images Score-CAM, Opti-CAM and RISE in perturbation.py; by attention those of vit.py; controls in controls.py.
registry.py knows them by name.
"""

import copy
from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor

from ..errors import InputError, choose, positive
from ..maps import at_least_float32, check_finite
from ..numerics import exact
from .features import Layer, choose_layers, suggest, tap
from .frozen import Frozen
from .targets import Target, margin, of_function

SCORES = ("logit", "probability")


class Baseline:
    """A frozen classifier and a rule for looking into it, which leaves no trace in the classifier.

    classifier: `frozen.Frozen`. forward_passes: images through the classifier per explanation of a given class, as
    the papers count: without the clean pass of Score-CAM and Ablation-CAM, without backward passes. counted: images
    that went through the classifier, or through what is behind the layer (Ablation-CAM), in the last call, in all.
    batch_size: how many at a time; by default what a processor's cache or an accelerator likes at that size.
    Several threads may call one explainer, or several of one classifier, at once: each call has what it changes for
    itself, and the maps are those of one call after the other.
    """

    forward_passes = 1
    counted = 0
    any_target = False  # whether the method explains scores that are no class's, too
    of_tokens = False
    layer: Layer
    _shown: Self | None = None

    def __init__(self, classifier: Frozen | None, batch_size: int | None = None) -> None:
        self.classifier = cast(Frozen, classifier)  # None of a control alone
        self.batch_size = None if batch_size is None else positive("batch_size", batch_size)

    @classmethod
    def suits(cls, classifier: Frozen) -> bool:
        """Whether the method is one for such networks: some are for transformers alone."""
        return not cls.of_tokens or any(layer.kind == "tokens" for layer in classifier.layers)

    @exact()
    def __call__(self, pixels: Tensor, target: Any = None) -> Tensor:
        """Raw maps (B, h, w) for pixels (B, 3, H, W) in [0, 1]: of the classes `target` (B,), else of the predicted.

        target may be a function of logits (B, K), differentiable for methods by gradients, that gives one score an
        image, (B,), or several, (B, S), of which the maps are (B, S, h, w); or "margin", the logit of the first class
        minus that of the second. They stand for the class's logit or probability, whatever the method's options.
        Pixels and classes may be on any device, the maps are on the classifier's. Raises `InputError` for pixels of
        another shape or outside [0, 1], for classes that do not exist, and for maps that are not finite.
        """
        pixels = self.classifier.normalise.enter(pixels)
        with torch.inference_mode(), self.classifier.fitting(pixels):
            once = self._once()
            found, several = once._targets(pixels, target)
            laid = pixels.contiguous(memory_format=torch.channels_last)
            maps = [once._maps(laid, cast(Tensor | None, one)) for one in found]
        return check_finite(torch.stack(maps, 1) if several else maps[0]).clone()  # also outside inference mode

    attribute = __call__

    def _targets(self, pixels: Tensor, target: Any) -> tuple[Sequence[Tensor | Target | None], bool]:
        """What `_maps` is called for, one after the other, and whether the target has several scores."""
        classifier = self.classifier
        if isinstance(target, str) or callable(target):
            if not self.any_target:
                raise InputError(
                    f"target: {type(self).__name__} explains classes, so it takes their indices: give these, or use "
                    "grad-cam, layer-cam, score-cam, ablation-cam or rise."
                )
            if callable(target):
                return of_function(target, torch.zeros(len(pixels), classifier.num_classes).to(pixels))
            choose("target", target, ("margin",))
        elif classifier.outputs in ("classes", "binary") or not self.any_target:
            return [None if target is None else classifier.check_classes(target, len(pixels))], False
        if target is None or isinstance(target, str):
            logits = classifier.answer(pixels)
            self._count(len(logits))
            if target is not None:
                return [margin(logits)], False
            target = logits.argmax(1)
        target = classifier.check_classes(target, len(pixels))
        return [Target(lambda logits, kind, own: scores(logits, own, kind, classifier), target)], False

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        """Raw maps (B, h, w) for checked pixels and classes; None: of the predicted classes. In inference mode."""
        raise NotImplementedError

    def of(self, classifier: Frozen) -> Self:
        """The same explainer on a copy of its classifier."""
        other = copy.copy(self)
        other.classifier = classifier
        return other

    def _once(self) -> Self:
        """The explainer for one call, with a count of its own, which is shown as that of the explainer called."""
        once = self.of(self.classifier)
        once._shown, once.counted = self, 0
        once._count(0)
        return once

    def _count(self, images: int) -> None:
        self.counted += images
        if self._shown is not None:
            self._shown.counted = self.counted

    def _at_once(self, pixels: Tensor) -> int:
        return self.batch_size or max(1, 2 ** (19 if pixels.device.type == "cpu" else 23) // pixels[0, 0].numel())

    def _differentiable(self, logits: Tensor) -> None:
        """Raise `InputError` for logits that know no gradient."""
        if not logits.requires_grad:
            raise InputError(
                f"{type(self.classifier.network).__name__} computes without gradients (torch.no_grad in its forward "
                "method): take that out, or use an explainer that needs none: score-cam, ablation-cam or rise."
            )

    def _tap(self, images: Tensor, **options: Any) -> tuple[Tensor, Any]:
        """Normalised images -> the layer's maps (B, C, h, w) and the logits (B, K); options of `features.tap`."""
        (maps,), logits = tap(self.classifier.network, images, [self.layer], **options)
        self._count(len(maps if logits is None else logits))
        return maps, logits


def scores(logits: Tensor, target: Tensor | Target, kind: str, classifier: Frozen | None = None) -> Tensor:
    """What logits (N, K) say of the classes (N,) or (1,), as the kind "logit" or "probability": (N,), single or double.

    classifier: whose probabilities, by default those of classes that exclude each other.
    A class that cannot be (probability 0) scores 0: its maps are constant, not NaN.
    """
    values = at_least_float32(logits)
    if isinstance(target, Target):
        return target(values, kind)
    if kind == "probability":
        values = values.softmax(1) if classifier is None else classifier.probabilities(values)
    return values.gather(1, target.expand(len(values))[:, None])[:, 0]


def find_layer(classifier: Frozen, name: str | None = None) -> Layer:
    """The `features.Layer` of that name, as `lficam layers` lists them; by default the papers', or the like."""
    if not classifier.layers:
        raise InputError("This classifier has no layer with feature maps: use rise, which needs none.")
    if name is None:
        return suggest(classifier.layers, 1)[0]
    if not isinstance(name, str):
        raise InputError(f"layer: expected a name, got {name!r}.")
    return choose_layers(classifier.layers, [name])[0]
