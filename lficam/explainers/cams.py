"""Training-free explainers by the feature maps F_k of one layer, and by their gradients g_k = dy/dF_k.

y is the logit or the probability of the class.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError, choose, is_a, positive
from ..maps import at_least_float32, weighted_sum
from .baseline import SCORES, Baseline, find_layer, scores
from .frozen import Frozen


class GradCAM(Baseline):
    """Grad-CAM (Selvaraju et al., ICCV 2017): ReLU(sum_k mean(g_k) F_k).

    One pass forward, one back to the layer, for all images at a time. score: y, the "logit" or the "probability".
    A method that differs in what it explains has its own `explained`, in how it joins maps and gradients its `combine`.
    """

    any_target = True
    relu = True

    def __init__(self, classifier: Frozen, layer: str | None = None, score: str = "logit") -> None:
        super().__init__(classifier)
        self.layer, self.score = find_layer(classifier, layer), choose("score", score, SCORES)

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        cut: list[Tensor] = []
        able: list[bool] = []

        def leaf(found: list[Tensor]) -> Tensor:  # the graph starts here; what comes next may write into the copy
            able.append(torch.is_grad_enabled())
            cut.append(found[0].detach().requires_grad_())
            with torch.enable_grad():
                return cut[0].clone()

        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
            _, logits = self._tap(self.classifier.normalise(pixels.clone()), change=leaf)
            if not able[0]:
                self._differentiable(logits)
            if not logits.requires_grad:
                raise InputError(f"Layer {self.layer.name!r} has no part in the logits: choose another one.")
            target = logits.argmax(1) if target is None else target.clone()
            y = self.explained(logits, target)
            (gradients,) = torch.autograd.grad(y.sum(), cut)
        maps = self.combine(at_least_float32(cut[0].detach()), at_least_float32(gradients))
        maps = maps.relu() if self.relu else maps
        return maps.where((y.detach() < torch.inf)[:, None, None], torch.nan)  # gradients of NaN look like any others

    def explained(self, logits: Tensor, target: Tensor) -> Tensor:
        """y (B,), of which the gradients are, for logits (B, K) and classes (B,)."""
        return scores(logits, target, self.score)

    def combine(self, maps: Tensor, gradients: Tensor) -> Tensor:
        """Feature maps and gradients (B, C, h, w) -> maps (B, h, w), before the ReLU."""
        return weighted_sum(maps, gradients.mean((2, 3)))


class LayerCAM(GradCAM):
    """LayerCAM (Jiang et al., TIP 2021): ReLU(sum_k ReLU(g_k) F_k).

    Every pixel of a feature map has its own weight, so that early layers can be explained, too.
    """

    def combine(self, maps: Tensor, gradients: Tensor) -> Tensor:
        return (gradients.relu() * maps).sum(1)


class HiResCAM(GradCAM):
    """HiResCAM (Draelos and Carin, 2020): ReLU(sum_k g_k F_k), each place by its own gradient.

    relu=False: the raw sum, which the statement of the paper is about. Where the layer is the last before global
    average pooling and a linear layer, it adds up to the logit without its bias, and the map is Grad-CAM's.
    """

    def __init__(self, classifier: Frozen, layer: str | None = None, score: str = "logit", relu: bool = True) -> None:
        super().__init__(classifier, layer, score)
        self.relu = relu

    def combine(self, maps: Tensor, gradients: Tensor) -> Tensor:
        return (gradients * maps).sum(1)


class GradCAMPlus(GradCAM):
    """Grad-CAM++ (Chattopadhay et al., WACV 2018): ReLU(sum_k sum(alpha_k ReLU(g_k)) F_k).

    alpha = g^2 / (2 g^2 + sum(F) g^3 + epsilon)

    protocol "authors", the code that L-CAM is compared with: y is the probability, epsilon 1e-7, and sum(F g^3) stands
    for sum(F) g^3. "paper", as in pytorch-grad-cam and so in T-TAME: the logit, 1e-6. The denominator may come close
    to 0, where rounding decides: in single precision the last digits of a map depend on the machine.
    """

    def __init__(self, classifier: Frozen, layer: str | None = None, protocol: str = "authors") -> None:
        authors = choose("protocol", protocol, ("authors", "paper")) == "authors"
        super().__init__(classifier, layer, "probability" if authors else "logit")
        self.inside, self.epsilon = authors, 1e-7 if authors else 1e-6

    def combine(self, maps: Tensor, gradients: Tensor) -> Tensor:
        square, cube = gradients**2, gradients**3
        third = (maps * cube).sum((2, 3), keepdim=True) if self.inside else maps.sum((2, 3), keepdim=True) * cube
        below = 2 * square + third + self.epsilon
        alpha = square / torch.where(below == 0, torch.ones_like(below), below)
        return weighted_sum(maps, (alpha * gradients.relu()).sum((2, 3)))


class FinerCAM(GradCAM):
    """FinerCAM (Zhang et al., CVPR 2025): a map of what sets the class apart from those that are nearly as probable.

    y = mean_i(y_c - gamma y_i), logits, over the references i: those `references` classes whose logits are closest to
    y_c, or the classes `against` (without c itself). base: the method that explains this y.
    protocol "paper": as above, gamma 0.6, as torchcam has it. "authors", the released code and pytorch-grad-cam:
    the mean weighs by the probabilities p_i, through which the gradient goes, too; gamma 1.
    """

    def __init__(
        self,
        classifier: Frozen,
        layer: str | None = None,
        protocol: str = "paper",
        gamma: float | None = None,
        references: int = 3,
        against: Sequence[int] | None = None,
        base: str = "grad-cam",
    ) -> None:
        super().__init__(classifier, layer)
        if classifier.num_classes < 2:
            raise InputError("finer-cam sets a class apart from others, and this classifier has one: use grad-cam.")
        self.weighted = choose("protocol", protocol, ("paper", "authors")) == "authors"
        self.gamma = (1.0 if self.weighted else 0.6) if gamma is None else gamma
        if not is_a(self.gamma, float) or not math.isfinite(self.gamma):
            raise InputError(f"gamma: expected a number, got {gamma!r}.")
        self.references = positive("references", references)
        self.against = None if against is None else classifier.check_classes(against).flatten().unique()
        self.base = choose("base", base, BASES)(classifier, layer)

    def explained(self, logits: Tensor, target: Tensor) -> Tensor:
        y, target = at_least_float32(logits), target[:, None]
        own = y.gather(1, target)
        if self.against is None:
            distance = (y - own).detach().abs().scatter(1, target, torch.inf)
            others = distance.argsort(dim=1, stable=True)[:, : min(self.references, y.shape[1] - 1)]
        else:
            others = self.against.to(y.device).expand(len(y), -1)
        values = y.gather(1, others)
        used = (others != target) & (values > -torch.inf)  # a class that cannot be is no reference
        weights = y.softmax(1).gather(1, others) * used if self.weighted else used.to(y.dtype)
        return (weights * (own - self.gamma * values.where(used, 0))).sum(1) / (weights.sum(1) + 1e-9)

    def combine(self, maps: Tensor, gradients: Tensor) -> Tensor:
        return self.base.combine(maps, gradients)


BASES: dict[str, Callable[..., GradCAM]] = {
    "grad-cam": GradCAM,
    "grad-cam++": partial(GradCAMPlus, protocol="paper"),
    "layer-cam": LayerCAM,
    "hires-cam": HiResCAM,
}


class AblationCAM(Baseline):
    """Ablation-CAM (Desai and Ramaswamy, WACV 2020): ReLU(sum_k (y - y_k) / y F_k), y_k without F_k.

    The weight of F_k is how much of y is lost without it; what is before the layer runs on one image.
    score: y, the "logit", which where it is negative turns the map over, or the "probability".
    """

    any_target = True

    def __init__(
        self, classifier: Frozen, layer: str | None = None, score: str = "logit", batch_size: int | None = None
    ) -> None:
        super().__init__(classifier, batch_size)
        self.layer, self.score = find_layer(classifier, layer), choose("score", score, SCORES)
        self.forward_passes = self.layer.channels
        self.alone, self.counted = self._stands_alone(), 0

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
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
    def _stands_alone(self) -> bool:
        """Whether one image before the layer serves two maps behind it: not where they meet in a concatenation."""
        size, mean = self.classifier.size, self.classifier.normalise.mean
        image = torch.linspace(-1, 1, 3 * size**2, device=mean.device, dtype=mean.dtype).view(1, 3, size, size)
        maps, _ = self._tap(image, stop=True)
        maps = torch.cat([maps, maps + 1])
        with contextlib.suppress(RuntimeError):
            one, two = (self._tap(x, change=lambda _: maps.clone())[1] for x in (image, image.expand(2, -1, -1, -1)))
            return one.shape == two.shape and torch.allclose(one, two, 1e-3, 1e-4 * two.abs().max().item())
        return False
