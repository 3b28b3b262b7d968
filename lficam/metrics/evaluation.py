"""A data set through a model."""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..data.datasets import batches
from ..errors import InputError, choose
from ..explainers.features import run
from ..losses import correct
from ..maps import finish
from ..numerics import exact
from .dumps import open_dump, writer


class Predictions(NamedTuple):
    """Of N images, on the CPU: logits (N, K), labels (N,), raw maps (N, h, w)."""

    logits: torch.Tensor
    labels: torch.Tensor
    maps: torch.Tensor


@exact()
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


@exact()
@torch.inference_mode()
def predicted_labels(classifier, images, batch_size=64, workers=0):
    """The classes (N,) that a frozen classifier predicts for the images without augmentation, on the CPU."""
    device = next(classifier.parameters()).device
    parts = batches(images, batch_size, device=device, workers=workers)
    return torch.cat(
        [classifier(pixels.contiguous(memory_format=torch.channels_last)).argmax(1).cpu() for pixels, _, _ in parts]
    )


@exact()
@torch.inference_mode()
def dump(model, images, path, batch_size=256, workers=0, **facts):
    """Write the raw maps of a classifier on a data set to the file `path`, a batch at a time; returns it as a `Dump`.

    facts: what else readers should know, as method="abn", seed=3. Raises `InputError` for maps that are not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    facts = {
        "dataset": images.name,
        "split": images.split,
        "digest": images.digest,
        "image_size": images.size,
    } | facts
    with writer(path, images.ids, **facts) as add:
        for pixels, _, _ in batches(images, batch_size, device=device, workers=workers):
            add(model(pixels.contiguous(memory_format=torch.channels_last)).maps[:, 0].float().cpu())
    return open_dump(path)


def one_class(predicted, labels, classes=None):
    """A sentence when all images are predicted as one class though their labels have more, else "".

    predicted, labels: integers (N,); classes: their names.
    """
    known = labels.unique().numel()
    if not len(predicted) or (predicted != predicted[0]).any() or known < 2:
        return ""
    name = repr(classes[predicted[0]]) if classes and predicted[0] < len(classes) else f"number {predicted[0]}"
    return (
        f"WARNING: all {len(predicted)} images are predicted as one class, {name}, though their labels are of {known}. "
        "The classifier does not look at the images: its maps, and Average Drop and Increase in Confidence of any "
        "explainer of it, mean nothing. Train it anew with a lower learning rate, more epochs or more images, or begin "
        "with ImageNet weights where the network has them (--option weights=DEFAULT)."
    )


@exact()
def fgsm(model, pixels, labels, epsilon, space="pixels"):
    """The fast gradient sign attack (Goodfellow et al., 2015): x + epsilon sign(dL/dx), L the logits' cross-entropy.

    pixels (B, 3, H, W) in [0, 1], labels (B,) -> attacked pixels. space "pixels": epsilon in units of [0, 1], clamped
    to [0, 1]. "authors": as in the LFI-CAM code epsilon is added to the normalised image, which is then itself clamped
    to [0, 1]; this removes all that is darker than the mean, so that even epsilon 0 changes the image.
    Raises `InputError` for an unknown space or a negative epsilon.
    """
    choose("space", space, ("pixels", "authors"))
    if not 0 <= epsilon < float("inf"):
        raise InputError(f"epsilon: expected a number of at least 0, got {epsilon!r}.")
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        clean = pixels.detach().clone().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(clean).logits, labels), clean)[0]
    if space == "pixels":
        return (pixels + epsilon * gradient.sign()).clamp(0, 1)
    attacked = (model.normalise(pixels) + epsilon * gradient.sign()).clamp(0, 1)
    return attacked * model.normalise.std + model.normalise.mean


@exact()
def perturbed_accuracy(model, images, epsilon, space="pixels", batch_size=256, workers=0):
    """Whether each image is still classified correctly under `fgsm`: bool (N,) on the CPU, see `statistics`."""
    device, hits = next(model.parameters()).device, []
    for pixels, labels, _ in batches(images, batch_size, device=device, workers=workers):
        attacked = fgsm(model, pixels, labels, epsilon, space)
        with torch.inference_mode():
            hits.append(correct(run(model, model.normalise(attacked)).float(), labels).cpu())
    return torch.cat(hits)


def randomised(explainer, seed=0):
    """A copy of an explainer whose classifier has random weights (Adebayo et al., NeurIPS 2018); a mechanism stays.

    Every layer that can be initialised anew is. What that does not change (class tokens, position embeddings, layer
    scales, statistics of a frozen batch norm) is shuffled, so that it keeps its scale and signs; a single number is
    multiplied by one between 0.5 and 1.5. All from the seed, the same on any device; the explainer itself and torch's
    random numbers are not touched.
    """
    other = copy.deepcopy(explainer)
    if other.classifier is None:
        return other
    network, device = other.classifier.network, other.classifier.normalise.mean.device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        _randomise(network.cpu())
    network.to(device)
    return other


def _randomise(network):
    before = {name: value.clone() for name, value in _floats(network)}
    anew = set()
    for name, part in network.named_modules():
        # torch's attention has the one with an underscore.
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if reset is not None:
            reset()
            anew.add(name)
    for name, value in _floats(network):
        if value.numel() > 1:
            if torch.equal(value, before[name]):
                value.copy_(value.flatten()[torch.randperm(value.numel())].view_as(value))
        elif name.rpartition(".")[0] not in anew:
            value *= 0.5 + torch.rand(())


def _floats(network):
    """Parameters and saved statistics, by name."""
    return [(name, value) for name, value in network.state_dict().items() if value.is_floating_point()]


def finished_maps(predictions, images):
    """Maps at image size: min-max normalised, then upsampled, (N, size, size) in [0, 1]."""
    return finish(predictions.maps, images.size)


@exact()
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
