"""What trainings minimise and count: losses, which return their terms by name, "total" among them, and hits."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError, positive


def classification_loss(output: Any, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of every classifier that the output holds, weights 1:1.

    output: what an attention classifier returns, logits (B, K); labels (B,) class indices -> {name: scalar}.
    Plain and LFI-CAM: cross-entropy of the logits. ABN: L = L_att + L_per (Fukui et al., CVPR 2019).
    """
    terms = {"perception": F.cross_entropy(output.logits, labels)}
    if hasattr(output, "attention_logits"):
        terms["attention"] = F.cross_entropy(output.attention_logits, labels)
    return {"total": cast(Tensor, sum(terms.values())), **terms}


def explanation_loss(
    logits: Tensor,
    labels: Tensor,
    masks: Tensor,
    cross_entropy: float = 1.5,
    area: float = 2.0,
    variation: float = 0.01,
    border: float = 0.3,
    power: float = 0.3,
) -> dict[str, Tensor]:
    """The loss of L-CAM and of all TAMEs, each term with its weight; a weight of 0 leaves a term out.

    logits (B, K) of the masked image or features, labels (B,), masks (B, L, h, w) in [0, 1] -> {name: scalar}.
    border: of `mask_variation`; power: of `mask_area`.
    """
    terms = {"cross_entropy": cross_entropy * F.cross_entropy(logits.float(), labels)} if cross_entropy else {}
    terms |= {"area": area * mask_area(masks.float(), power)} if area else {}
    terms |= {"variation": variation * mask_variation(masks.float(), border)} if variation else {}
    return {"total": cast(Tensor, sum(terms.values())), **terms}


def mask_area(masks: Tensor, power: float = 0.3, epsilon: float = 0.0005) -> Tensor:
    """Mean of (M + epsilon)^power over all masks (B, L, h, w): the power makes small values cost, too."""
    return ((masks + epsilon) ** power).mean()


def mask_variation(masks: Tensor, border: float = 0.3) -> Tensor:
    """Squared differences of neighbours and squared values along the four edges, summed, over 2 B; (B, L, h, w).

    A sum over all L maps of an image: with the maps of all labels of the batch, L = B, its weight grows with B.
    """
    down, right = masks.diff(dim=-2), masks.diff(dim=-1)
    edges = sum((edge**2).sum() for edge in (masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1]))
    return ((down**2).sum() + (right**2).sum() + border * edges) / (2 * len(masks))


def correct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Whether the label is among the k largest logits: (N, K), (N,) -> bool (N,).

    Of equal logits the first class counts as the larger one, as in `argmax`: with k=1 this is whether the predicted
    class is the label. bfloat16 has 128 values between two powers of two, so that ties are common there.
    Raises `InputError` for k below 1, and on a CPU for labels that have no logits.
    """
    positive("k", k)
    classes = torch.arange(logits.shape[1], device=logits.device)
    try:
        own = logits.gather(1, labels[:, None])
    except RuntimeError as error:  # which costs nothing; a GPU would have to wait for a look at the labels
        raise InputError(
            f"labels: expected classes from 0 to {len(classes) - 1}, one for each of {len(logits)} images, got "
            f"{tuple(labels.shape)} from {labels.min()} to {labels.max()}."
        ) from error
    rivals = ((logits > own) | ((logits == own) & (classes < labels[:, None]))).sum(1)
    return (rivals < k) & torch.isfinite(own[:, 0])
