"""Training-free explainers by the feature maps F of one layer, and what all training-free explainers share.

y is the logit or the probability of the class, g = dy/dF.

    Grad-CAM       ReLU(sum_k mean(g_k) F_k)                        Selvaraju et al., ICCV 2017
    Grad-CAM++     ReLU(sum_k sum(alpha_k ReLU(g_k)) F_k)           Chattopadhay et al., WACV 2018
    LayerCAM       ReLU(sum_k ReLU(g_k) F_k)                        Jiang et al., TIP 2021
    Ablation-CAM   ReLU(sum_k (y - y(without F_k)) / y F_k)         Desai and Ramaswamy, WACV 2020
"""

import contextlib
import copy

import torch

from ..errors import InputError, choose, positive
from ..maps import at_least_float32, check_finite, weighted_sum
from ..numerics import exact
from .features import choose_layers, suggest, tap

SCORES = {"logit": "logit", "probability": "probability"}


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
    _shown = None

    def __init__(self, classifier, batch_size=None):
        self.classifier = classifier
        self.batch_size = None if batch_size is None else positive("batch_size", batch_size)

    @exact()
    def __call__(self, pixels, target=None):
        """Raw maps (B, h, w) for pixels (B, 3, H, W) in [0, 1]: of the classes `target` (B,), else of the predicted.

        Pixels and classes may be on any device, the maps are on the classifier's. Raises `InputError` for pixels of
        another shape or outside [0, 1], for classes that do not exist, and for maps that are not finite.
        """
        pixels = self.classifier.normalise.enter(pixels)
        target = None if target is None else self.classifier.check_classes(target, len(pixels))
        with torch.inference_mode(), self.classifier.fitting(pixels):
            maps = self._once()._maps(pixels.contiguous(memory_format=torch.channels_last), target)
        return check_finite(maps).clone()  # a tensor like any other, also outside inference mode

    attribute = __call__

    def of(self, classifier):
        """The same explainer on a copy of its classifier."""
        other = copy.copy(self)
        other.classifier = classifier
        return other

    def _once(self):
        """The explainer for one call, with a count of its own, which is shown as that of the explainer called."""
        once = self.of(self.classifier)
        once._shown, once.counted = self, 0
        once._count(0)
        return once

    def _count(self, images):
        self.counted += images
        if self._shown is not None:
            self._shown.counted = self.counted

    def _tap(self, images, **options):
        """Normalised images -> the layer's maps (B, C, h, w) and the logits (B, K); options of `features.tap`."""
        (maps,), logits = tap(self.classifier.network, images, [self.layer], **options)
        self._count(len(maps if logits is None else logits))
        return maps, logits


def scores(logits, target, kind):
    """What logits (N, K) say of the classes (N,) or (1,), as the kind "logit" or "probability": (N,), single or double.

    A class that cannot be (probability 0) scores 0: its maps are constant, not NaN.
    """
    values = at_least_float32(logits).softmax(1) if kind == "probability" else at_least_float32(logits)
    return values.gather(1, target.expand(len(values))[:, None])[:, 0]


def find_layer(classifier, name=None):
    """The `features.Layer` of that name, as `lficam layers` lists them; by default the papers', or the like."""
    if not classifier.layers:
        raise InputError("This classifier has no layer with feature maps: use rise, which needs none.")
    if name is None:
        return suggest(classifier.layers, 1)[0]
    if not isinstance(name, str):
        raise InputError(f"layer: expected a name, got {name!r}.")
    return choose_layers(classifier.layers, [name])[0]


class GradCAM(Baseline):
    """One pass forward, one back to the layer, for all images at a time. score: whose gradient, a name of SCORES."""

    def __init__(self, classifier, layer=None, score="logit"):
        super().__init__(classifier)
        self.layer, self.score = find_layer(classifier, layer), choose("score", score, SCORES)

    def _maps(self, pixels, target):
        cut, able = [], []

        def leaf(found):  # the graph starts here; what comes next may write into the copy
            able.append(torch.is_grad_enabled())
            cut.append(found[0].detach().requires_grad_())
            with torch.enable_grad():
                return cut[0].clone()

        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            _, logits = self._tap(self.classifier.normalise(pixels.clone()), change=leaf)
            if not logits.requires_grad and not able[0]:
                raise InputError(
                    f"{type(self.classifier.network).__name__} computes without gradients (torch.no_grad in its "
                    "forward method): take that out, or use an explainer that needs none: score-cam, ablation-cam or "
                    "rise."
                )
            if not logits.requires_grad:
                raise InputError(f"Layer {self.layer.name!r} has no part in the logits: choose another one.")
            target = logits.argmax(1) if target is None else target.clone()
            y = scores(logits, target, self.score)
            (gradients,) = torch.autograd.grad(y.sum(), cut)
        maps = self.combine(at_least_float32(cut[0].detach()), at_least_float32(gradients)).relu()
        return maps.where((y.detach() < torch.inf)[:, None, None], torch.nan)  # gradients of NaN look like any others

    def combine(self, maps, gradients):
        """Feature maps and gradients (B, C, h, w) -> maps (B, h, w), before the ReLU."""
        return weighted_sum(maps, gradients.mean((2, 3)))


class LayerCAM(GradCAM):
    """Every pixel of a feature map has its own weight, so that early layers can be explained, too."""

    def combine(self, maps, gradients):
        return (gradients.relu() * maps).sum(1)


class GradCAMPlus(GradCAM):
    """Grad-CAM++: the weight of F_k is sum(alpha ReLU(g)), alpha = g^2 / (2 g^2 + sum(F) g^3 + epsilon).

    protocol "authors", the code that L-CAM is compared with: y is the probability, epsilon 1e-7, and sum(F g^3) stands
    for sum(F) g^3. "grad-cam" (pytorch-grad-cam, in T-TAME): the logit, 1e-6, the sum as in the paper. The denominator
    may come close to 0, where rounding decides: in single precision the last digits of a map depend on the machine.
    """

    PROTOCOLS = {"authors": ("probability", 1e-7, True), "grad-cam": ("logit", 1e-6, False)}  # noqa: RUF012

    def __init__(self, classifier, layer=None, protocol="authors"):
        kind, self.epsilon, self.inside = choose("protocol", protocol, self.PROTOCOLS)
        super().__init__(classifier, layer, kind)

    def combine(self, maps, gradients):
        square, cube = gradients**2, gradients**3
        third = (maps * cube).sum((2, 3), keepdim=True) if self.inside else maps.sum((2, 3), keepdim=True) * cube
        below = 2 * square + third + self.epsilon
        alpha = square / torch.where(below == 0, torch.ones_like(below), below)
        return weighted_sum(maps, (alpha * gradients.relu()).sum((2, 3)))


class AblationCAM(Baseline):
    """The weight of F_k is how much of y is lost without it, (y - y_k) / y; what is before the layer runs on one image.

    score: y, the "logit", which where it is negative turns the map over, or the "probability".
    """

    def __init__(self, classifier, layer=None, score="logit", batch_size=None):
        super().__init__(classifier, batch_size)
        self.layer, self.score = find_layer(classifier, layer), choose("score", score, SCORES)
        self.forward_passes = self.layer.channels
        self.alone, self.counted = self._stands_alone(), 0

    def _maps(self, pixels, target):
        images = self.classifier.normalise(pixels)
        maps, logits = self._tap(images)
        target = logits.argmax(1) if target is None else target
        y, lost = scores(logits, target, self.score), torch.zeros_like(at_least_float32(maps[:, :, 0, 0]))
        at_once = self.batch_size or max(1, 2 ** (22 if maps.device.type == "cpu" else 26) // maps[0].numel())
        for i in range(len(maps)):
            used = maps[i].flatten(1).any(1).nonzero()[:, 0]  # without a map of zeros nothing is lost
            for part in used.split(at_once):
                altered = maps[i].repeat(len(part), 1, 1, 1)
                altered[torch.arange(len(part)), part] = 0
                image = images[i : i + 1] if self.alone else images[i : i + 1].expand(len(part), -1, -1, -1)
                logits = self._tap(image, change=lambda _, altered=altered: altered)[1]
                lost[i, part] = y[i] - scores(logits, target[i : i + 1], self.score)
        weights = lost / torch.where(y == 0, torch.ones_like(y), y)[:, None]
        return weighted_sum(maps, weights).relu()

    @torch.inference_mode()
    def _stands_alone(self):
        """Whether one image before the layer serves two maps behind it: not where they meet in a concatenation."""
        size, mean = self.classifier.size, self.classifier.normalise.mean
        image = torch.linspace(-1, 1, 3 * size**2, device=mean.device, dtype=mean.dtype).view(1, 3, size, size)
        maps, _ = self._tap(image, stop=True)
        maps = torch.cat([maps, maps + 1])
        with contextlib.suppress(RuntimeError):
            one, two = (self._tap(x, change=lambda _: maps.clone())[1] for x in (image, image.expand(2, -1, -1, -1)))
            return one.shape == two.shape and torch.allclose(one, two, 1e-3, 1e-4 * two.abs().max().item())
        return False
