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
