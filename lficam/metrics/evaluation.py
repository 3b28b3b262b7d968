"""A data set through a model."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.datasets import Images, batches
from ..errors import InputError
from ..explainers.frozen import Frozen
from ..losses import correct
from ..maps import normalise_and_upsample
from ..models.attention import LFICAM, Classifier
from ..numerics import exact
from . import dumps
from .measures import Explains

AnyExplainer = TypeVar("AnyExplainer", bound=Explains)


class Predictions(NamedTuple):
    """Of N images, on the CPU: logits (N, K), labels (N,), raw maps (N, h, w)."""

    logits: Tensor
    labels: Tensor
    maps: Tensor


@exact()
@torch.inference_mode()
def predict(model: Classifier, images: Images, batch_size: int = 256, workers: int = 0) -> Predictions:
    """All logits and maps of a classifier on a data set, in the data set's order, on the model's device."""
    parts = []
    for pixels, labels in _batches(model, images, batch_size, workers):
        output = model(pixels)
        parts.append((output.logits.float().cpu(), labels.cpu(), output.maps[:, 0].float().cpu()))
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


@exact()
@torch.inference_mode()
def predicted_labels(classifier: Frozen, images: Images, batch_size: int = 64, workers: int = 0) -> Tensor:
    """The classes (N,) that a frozen classifier predicts for the images without augmentation, on the CPU."""
    parts = _batches(classifier, images, batch_size, workers)
    return torch.cat([classifier(pixels).argmax(1).cpu() for pixels, _ in parts])


def _batches(model: nn.Module, images: Images, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels and labels on the device of a model, which is in eval mode."""
    device = next(model.eval().parameters()).device
    for pixels, labels, _ in batches(images, batch_size, device=device, workers=workers):
        yield pixels.contiguous(memory_format=torch.channels_last), labels


@exact()
@torch.inference_mode()
def of_blank(classifier: Frozen, size: int, fill: float | Sequence[float] = 0.0) -> Tensor:
    """What a classifier says of an image of one colour, as which a mask leaves what it hides: probabilities (K,).

    fill: in [0, 1], a grey value or (red, green, blue); 0 is black. size: height and width in pixels.
    Raises `InputError` for other colours, and sizes that the classifier cannot take.
    """
    colour = list(fill) if isinstance(fill, (list, tuple)) else [fill] * 3
    if len(colour) != 3 or not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in colour):
        raise InputError(f"fill: expected a colour in [0, 1], as 0.5 or (1.0, 0.0, 0.0), got {fill!r}.")
    pixels = torch.tensor(colour).to(classifier.normalise.mean).view(1, 3, 1, 1).expand(1, 3, size, size)
    return classifier.probabilities(classifier.eval()(pixels).float())[0].cpu()


def dump(predictions: Predictions, images: Images, path: Path | str, **facts: object) -> dumps.Dump:
    """Write the raw maps that `predict` gave for the images to the file `path`; returns it as a `Dump`.

    facts: what else readers should know, as method="abn", seed=3. Raises `InputError` for maps that are not finite.
    """
    known = {"dataset": images.name, "split": images.split, "digest": images.digest, "image_size": images.size}
    return dumps.write(path, images.ids, predictions.maps, **known | facts)


def one_class(predicted: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> str:
    """A sentence when all images are predicted as one class though their labels have more, else "".

    predicted, labels: integers (N,); classes: their names.
    """
    known = labels.unique().numel()
    if not len(predicted) or (predicted != predicted[0]).any() or known < 2:
        return ""
    name = repr(classes[int(predicted[0])]) if classes and predicted[0] < len(classes) else f"number {predicted[0]}"
    return (
        f"WARNING: all {len(predicted)} images are predicted as one class, {name}, though their labels are of {known}. "
        "The classifier does not look at the images: its maps, and Average Drop and Increase in Confidence of any "
        "explainer of it, mean nothing. Train it anew with a lower learning rate, more epochs or more images, or begin "
        "with ImageNet weights where the network has them (--option weights=DEFAULT)."
    )


@exact()
def fgsm(model: Classifier, pixels: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The fast gradient sign attack (Goodfellow et al., 2015): x + epsilon sign(dL/dx), L the logits' cross-entropy.

    pixels (B, 3, H, W) in [0, 1], labels (B,), epsilon in units of [0, 1] -> attacked pixels, clamped to [0, 1].
    Raises `InputError` for a negative epsilon.
    """
    if not 0 <= epsilon < float("inf"):
        raise InputError(f"epsilon: expected a number of at least 0, got {epsilon!r}.")
    model.eval()
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        clean = pixels.detach().clone().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(model(clean).logits, labels), clean)[0]
    return (pixels + epsilon * gradient.sign()).clamp(0, 1)


@exact()
def perturbed_accuracy(
    model: Classifier, images: Images, epsilon: float, batch_size: int = 256, workers: int = 0
) -> Tensor:
    """Whether each image is still classified correctly under `fgsm`: bool (N,) on the CPU, see `statistics`."""
    hits = []
    for pixels, labels in _batches(model, images, batch_size, workers):
        attacked = fgsm(model, pixels, labels, epsilon)
        with torch.inference_mode():
            hits.append(correct(model(attacked).logits.float(), labels).cpu())
    return torch.cat(hits)


def randomised(explainer: AnyExplainer, seed: int = 0) -> AnyExplainer:
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


def _randomise(network: nn.Module) -> None:
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


def _floats(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and saved statistics, by name."""
    return [(name, value) for name, value in network.state_dict().items() if value.is_floating_point()]


def finished_maps(predictions: Predictions, images: Images) -> Tensor:
    """Maps at image size: min-max normalised, then upsampled, (N, size, size) in [0, 1]."""
    return normalise_and_upsample(predictions.maps, images.size)


@exact()
@torch.inference_mode()
def lficam_steps(model: LFICAM, pixels: Tensor) -> dict[str, Tensor]:
    """What LFI-CAM computes for one image (1, 3, H, W) on the way to its map, on the CPU.

    pixels (3, H, W), features and masked (C, h, w), grey (h, w), weights (C,) importances, attention (h, w).
    """
    model.eval()
    images = model.normalise(pixels.to(next(model.parameters()).device))
    features = model.backbone.features(images)
    attention = model.attention
    steps = {
        "pixels": pixels,
        "grey": attention.grey(images, features.shape[-2:])[:, 0],
        "features": features,
        "masked": attention.masked_features(features, images),
        "weights": attention.importances(features, images),
        "attention": attention(features, images)[:, 0],
    }
    return {name: value[0].cpu() for name, value in steps.items()}
