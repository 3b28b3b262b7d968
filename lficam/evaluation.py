"""A data set through a model."""

from typing import NamedTuple

import torch

from .data import batches
from .maps import finish


class Predictions(NamedTuple):
    """Of N images, on the CPU: logits (N, K), labels (N,), raw maps (N, h, w)."""

    logits: torch.Tensor
    labels: torch.Tensor
    maps: torch.Tensor


@torch.inference_mode()
def predict(model, images, batch_size=256, workers=0):
    """All logits and maps of a classifier on a data set, in the data set's order, on the model's device."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for pixels, labels, _ in batches(images, batch_size, device=device, workers=workers):
        output = model(pixels.contiguous(memory_format=torch.channels_last))
        parts.append((output.logits.float().cpu(), labels.cpu(), output.maps[:, 0].float().cpu()))
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def finished_maps(predictions, images):
    """Maps at image size: min-max normalised, then upsampled, (N, size, size) in [0, 1]."""
    return finish(predictions.maps, images.size)


@torch.inference_mode()
def lficam_steps(model, pixels):
    """What LFI-CAM computes for one image (1, 3, H, W) on the way to its map, on the CPU.

    pixels (3, H, W), features and masked (C, h, w), grey (h, w), weights (C,) importances, attention (h, w).
    """
    model.eval()
    images = model.normalise(pixels.to(next(model.parameters()).device))
    features = model.backbone.features(images)
    steps = {
        "pixels": pixels,
        "grey": model.attention.grey(images, features.shape[-2:])[:, 0],
        "features": features,
        "masked": model.attention.masked_features(features, images),
        "weights": model.attention.importances(features, images),
        "attention": model.attention(features, images)[:, 0],
    }
    return {name: value[0].cpu() for name, value in steps.items()}
