"""Training-free explainers of vision transformers, by the attention A (B, heads, N, N) of their blocks, of N tokens.

A[b, h, i, j] is how much token i takes of token j. A block's attention is seen by computing it once more, in plain
operations through which gradients pass, and putting the result in place of the module's own.
"""

import contextlib
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, choose, is_a, positive
from ..maps import at_least_float32, full_precision
from .baseline import Baseline, scores
from .features import hooked, run
from .frozen import Frozen


class Attentive(Baseline):
    """Reads the attention of the last `blocks` blocks, or of all: what they say of the tokens becomes the map.

    Of networks with nn.MultiheadAttention, as torchvision's, or with timm's attention where that is not fused. A
    method is a `relevance`.
    """

    of_tokens, of_class_token, differentiates, depth = True, False, True, 0

    def __init__(self, classifier: Frozen, blocks: int | None = None, batch_size: int | None = None) -> None:
        super().__init__(classifier, batch_size)
        self.blocks, name = None if blocks is None else positive("blocks", blocks), type(classifier.network).__name__
        method = type(self).__name__.lower()
        if not self.suits(classifier):
            raise InputError(f"{method} explains vision transformers, and {name} has no tokens: use grad-cam.")
        self.layer = [layer for layer in classifier.layers if layer.kind == "tokens"][-1]
        self.names = [name for name, part in classifier.network.named_modules() if name and _shows(part)]
        if not self._sees_all():
            raise InputError(
                f"{method} reads the attention of {name}, which cannot be seen: it is fused, or masked, or neither "
                "nn.MultiheadAttention with batch_first nor timm's. Set fused_attn = False where there is one, or use "
                "grad-cam."
            )
        if self.of_class_token and not self.layer.extra:
            raise InputError(f"{method} asks what the class token attends to, of which {name} has none: use legrad.")
        self.counted = 0

    @torch.inference_mode()
    def _sees_all(self) -> bool:
        """Whether there is attention over all tokens, and the network says with it what it says by itself."""
        size, mean = self.classifier.size, self.classifier.normalise.mean
        image = torch.linspace(-1, 1, 3 * size**2, device=mean.device, dtype=mean.dtype).view(1, 3, size, size)
        tokens = self.layer.extra + self.layer.height * self.layer.width
        with contextlib.suppress(RuntimeError, IndexError):
            attention, logits = Attentive._look(self, image)
            wanted, self.depth = run(self.classifier.network, image), len(attention)
            shown = attention and all(a.ndim == 4 and a.shape[2:] == (tokens, tokens) for a in attention)
            atol = 1e-4 * wanted.nan_to_num().abs().max().item()
            return bool(shown) and torch.allclose(logits, wanted, 1e-3, atol, equal_nan=True)
        return False

    def _maps(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        at_once = self.batch_size or max(1, self._at_once(pixels) // 8)  # what is kept for the way back is much
        parts = pixels.split(at_once)
        targets = [None] * len(parts) if target is None else target.split(at_once)
        return torch.cat([self._explain(*part) for part in zip(parts, targets, strict=True)])

    def _explain(self, pixels: Tensor, target: Tensor | None) -> Tensor:
        with torch.inference_mode(False), torch.set_grad_enabled(self.differentiates):
            attention, logits = self._look(self.classifier.normalise(pixels.clone()))
            target = logits[: len(pixels)].argmax(1) if target is None else target.clone()
            y = scores(logits, target.repeat(len(logits) // len(target)), "logit")
            attention = attention[-(self.blocks or 0) :]
            for value in (*attention, y) if self.differentiates else ():
                self._differentiable(value)
            with full_precision(pixels):
                tokens = self.relevance(attention, y)
        maps = self.layer.maps(tokens.detach()[:, :, None])[:, 0]
        return maps.where((y[: len(maps)].detach() < torch.inf)[:, None, None], torch.nan)  # as for Grad-CAM

    def _look(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised images -> the attention of all blocks, in the order of their calls, and the logits."""
        attention: list[Tensor] = []

        def see(module: nn.Module, inputs: Any, output: Any) -> Any:
            if not isinstance(module, nn.MultiheadAttention):
                return keep(output)
            weights, value = _attention(module, inputs[0])
            return module.out_proj((keep(weights) @ value).transpose(1, 2).flatten(2)), None

        def keep(weights: Tensor) -> Tensor:
            if torch.is_grad_enabled() and not weights.requires_grad:
                weights.requires_grad_()
            attention.append(weights)
            return weights

        parts: dict[str, Any] = dict(self.classifier.network.named_modules())
        with hooked([(getattr(parts[name], "attn_drop", parts[name]), see) for name in self.names]):
            logits = run(self.classifier.network, images)
        self._count(len(images))
        return attention, logits

    def relevance(self, attention: list[Tensor], y: Tensor) -> Tensor:
        """What A [(B, heads, N, N)] of some blocks and the logits of the classes (B,) say of the tokens: (B, N)."""
        raise NotImplementedError


def _shows(part: nn.Module) -> bool:
    """Whether a module is an attention that can be seen."""
    if isinstance(part, nn.MultiheadAttention):
        return part.batch_first and part._qkv_same_embed_dim
    return getattr(part, "fused_attn", None) is False and hasattr(part, "attn_drop")


def _attention(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The weights (B, heads, N, N) of an nn.MultiheadAttention, and the values (B, heads, N, C) that they weigh."""
    projected = F.linear(x, module.in_proj_weight, module.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (query @ key.mT / math.sqrt(module.head_dim)).softmax(-1), value


class _OfClassToken(Attentive):
    """Row 0 of a product R = M_L ... M_1, of a matrix M (B, N, N) a block: what the class token takes of the tokens."""

    of_class_token = True

    def relevance(self, attention: list[Tensor], y: Tensor) -> Tensor:
        matrices = self.matrices(attention, y)
        row = torch.zeros_like(matrices[0][:, :1])
        row[:, :, 0] = 1
        for matrix in reversed(matrices):
            row = row @ matrix
        return row[:, 0]

    def matrices(self, attention: list[Tensor], y: Tensor) -> list[Tensor]:
        """M (B, N, N) of each block."""
        raise NotImplementedError


class Rollout(_OfClassToken):
    """Attention rollout (Abnar and Zuidema, ACL 2020): row 0 of A'_L ... A'_1, A' = (mean_h A_h + I) over its row sums.

    It knows no class: a control. heads: "mean", or "max", "min" over them. discard: the share of the smallest values of
    a block's A that become 0. protocol "paper", or "vit-explain", widely used, which divides columns, not rows, by the
    row sums, and discards 0.9 if nothing else is said.
    """

    differentiates = False

    def __init__(
        self,
        classifier: Frozen,
        blocks: int | None = None,
        protocol: str = "paper",
        heads: str = "mean",
        discard: float | None = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(classifier, blocks, batch_size)
        self.columns = choose("protocol", protocol, ("paper", "vit-explain")) == "vit-explain"
        self.heads = choose("heads", heads, {"mean": torch.mean, "max": torch.amax, "min": torch.amin})
        discard = 0.9 * self.columns if discard is None else discard
        if not (is_a(discard, float) and 0 <= discard < 1):
            raise InputError(f"discard: expected a share from 0 to below 1, got {discard!r}.")
        self.discard = discard

    def matrices(self, attention: list[Tensor], y: Tensor) -> list[Tensor]:  # noqa: ARG002 - no class
        found = []
        for weights in attention:
            flat = self.heads(at_least_float32(weights), 1).flatten(1)
            least = flat.argsort(dim=1, stable=True)[:, : int(flat.shape[1] * self.discard)]
            kept = flat.scatter(1, least, 0)
            kept[:, 0] = flat[:, 0]
            matrix = kept.view_as(weights[:, 0]) + torch.eye(weights.shape[2]).to(kept)
            total = matrix.sum(2)
            found.append(matrix / (total[:, None] if self.columns else total[:, :, None]))
        return found


class Chefer(_OfClassToken):
    """Chefer et al. (ICCV 2021): row 0 of (I + E_L) ... (I + E_1), E = mean_h ReLU(dy/dA_h A_h), y the logit."""

    def matrices(self, attention: list[Tensor], y: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(y.sum(), attention)
        one = torch.eye(attention[0].shape[2]).to(y)
        return [
            one + at_least_float32(g * a.detach()).relu().mean(1) for g, a in zip(gradients, attention, strict=True)
        ]


class LeGrad(Attentive):
    """LeGrad (Bousselham et al., 2024): the mean over blocks, heads and tokens i of ReLU(ds/dA_ij), a map over j.

    s is the logit that the classifier gives the mean of a block's tokens, as if they were those of the last block. By
    default of all blocks; the released code takes the last two.
    """

    means: list[Tensor]
    leaves: list[Tensor]

    def _look(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits (B + L B, K): of the images, and of the mean tokens of each block."""
        outputs: list[Tensor] = []

        def ask(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:  # noqa: ARG001 - torch's signature
            outputs.append(output)
            if len(outputs) < self.depth:
                return None
            self.means = [z.mean(1, keepdim=True) for z in outputs[-(self.blocks or 0) :]]
            self.leaves = [m.detach().requires_grad_(torch.is_grad_enabled()) for m in self.means]
            return torch.cat([output, *(m.expand_as(output) for m in self.leaves)])

        parts = dict(self.classifier.network.named_modules())
        with hooked([(parts[name.rpartition(".")[0]], ask) for name in self.names]):
            return super()._look(images)

    def relevance(self, attention: list[Tensor], y: Tensor) -> Tensor:
        of_means = torch.autograd.grad(y[len(y) // (1 + len(attention)) :].sum(), self.leaves)
        gradients = [  # of each block alone: no gradient passes through later ones
            torch.autograd.grad(mean, a, g, retain_graph=True)[0]
            for mean, a, g in zip(self.means, attention, of_means, strict=True)
        ]
        return torch.stack([at_least_float32(g).relu().mean((1, 2)) for g in gradients]).mean(0)
