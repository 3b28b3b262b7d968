"""Frozen classifiers, the ones to be explained: any `nn.Module`, a checkpoint of ours, or a network by name.

find("resnet50")                                    # torchvision's, with its ImageNet weights
find("timm/vit_small_patch16_224")                  # timm's, if that is installed
find("runs/photo-digits/plain-resnet-14-.../best.pt")
freeze(my_module, mean=(...), std=(...))            # takes normalised images, returns logits (B, K)
"""

import contextlib
import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision import models

from ..data import IMAGENET_STATISTICS
from ..errors import InputError, choose, positive, reason
from ..files import root
from ..maps import check_classes
from ..models import checkpoints
from ..models.attention import Classifier
from ..models.backbone import Normalise, Scale, steady
from ..models.imagenet import load, replace_last_layer
from ..models.registry import FAMILIES
from ..numerics import exact
from . import features

# What K outputs are: how they become probabilities.
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "classes": lambda logits: logits.softmax(1),  # of which one is right
    "binary": lambda logits: logits.softmax(1),  # one logit z, taken as those of two classes, -z / 2 and z / 2
    "labels": torch.sigmoid,  # of which any number are right
    "regression": lambda values: values,  # numbers, of which none is a probability
}


class Frozen(nn.Module):
    """A classifier that is never trained: pixels (B, 3, H, W) in [0, 1] -> logits (B, K).

    network: what takes normalised images; num_classes: K; size: of the image that its `layers` (features.Layer) were
    listed with; classes: K names, or None; card: how to find it again; outputs: what the K logits are, see `freeze`.
    Called with pixels outside [0, 1] it raises `InputError`; noise may make such pixels, `answer` takes them.
    """

    @torch.inference_mode(False)  # in which nothing could be differentiated later
    def __init__(
        self,
        network: nn.Module,
        mean: Scale,
        std: Scale,
        size: int,
        card: dict[str, Any],
        classes: Sequence[str] | None = None,
        outputs: str = "classes",
    ) -> None:
        super().__init__()
        _check_weights(network)
        self.outputs = choose("outputs", outputs, tuple(OUTPUTS))
        network = two_sided(network) if outputs == "binary" else network
        self.network = steady(network.eval().requires_grad_(False))
        like = next(network.parameters(), torch.zeros(()))
        self.normalise = Normalise(mean, std).to(like)
        self.size, self.card = size, card
        try:
            self.layers, logits = features.spatial_layers(network, torch.zeros(2, 3, size, size).to(like))
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, InputError) or "memory" in str(error) or "CUDA error" in str(error):
                raise
            why = "" if isinstance(error, RuntimeError) and _of_sizes(error) else f" ({reason(error)})"
            raise InputError(
                f"{type(network).__name__} cannot classify an image of {size} x {size}{why}: if it takes images of "
                "another size, give it as size= (--size)."
            ) from error
        if not torch.is_tensor(logits) or logits.ndim != 2 or logits.shape[1] < (2 if outputs == "classes" else 1):
            found = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
            single = torch.is_tensor(logits) and logits.ndim == 2 and logits.shape[1] == 1
            advice = ', or one output and outputs="binary" or outputs="regression" in freeze' * single
            raise InputError(
                f"{type(network).__name__} returns {found}: a classifier has to return logits (B, K) of K >= 2 classes"
                f', alone, as .logits, under "logits" in a dict, or as the only tensor of that shape{advice}.'
            )
        self.num_classes = logits.shape[1]
        self.classes = None if classes is None else tuple(classes)
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise InputError(
                f"classes: {type(network).__name__} knows {self.num_classes} classes, got {len(self.classes)} names: "
                "give one for each, in their order."
            )

    @exact()
    def forward(self, pixels: Tensor) -> Tensor:
        with self.fitting(pixels):
            return self.answer(self.normalise.enter(pixels))

    @contextlib.contextmanager
    def fitting(self, pixels: Tensor) -> Iterator[None]:
        """Within, `InputError` where the network cannot take pixels of another size than its own."""
        try:
            yield
        except (AssertionError, RuntimeError) as error:
            if tuple(pixels.shape[2:]) == (self.size, self.size) or not _of_sizes(error):
                raise
            height, width = pixels.shape[2:]
            raise InputError(
                f"{type(self.network).__name__} cannot take images of {height} x {width}: "
                f"give them in the size that it was made for, as {self.size} x {self.size}."
            ) from error

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) of pixels (B, 3, H, W) that were masked or made noisy, and are not looked at."""
        return features.run(self.network, self.normalise(pixels))

    def probabilities(self, logits: Tensor) -> Tensor:
        """What logits (B, K) say as probabilities, by `outputs`; the values themselves of a regression."""
        return OUTPUTS[self.outputs](logits)

    def check_classes(self, classes: Any, count: int | None = None) -> Tensor:
        """Class indices as a tensor on the device; `InputError` for those that do not exist, or are not `count`."""
        return check_classes(classes, self.num_classes, self.normalise.mean.device, count)

    @property
    def described(self) -> dict[str, Any]:
        """Its card, with what finds it again and tells it from others."""
        scale = {name: getattr(self.normalise, name).flatten().tolist() for name in ("mean", "std")}
        return self.card | scale | {"size": self.size, "sha256": self.digest}

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the weights as they are now: which classifier this is, whatever it is called."""
        return checkpoints.digest(self.network.state_dict())

    @torch.no_grad()
    def probe(self, size: int | None = None) -> list[float]:
        """Its logits, K numbers, of an image that is always the same: classifiers of equal weights may differ in them.

        size: of the image, by default the classifier's own. It has all frequencies, so that strides matter.
        """
        steps, mean = torch.arange(size or self.size), self.normalise.mean
        pixels = torch.stack([k * steps[:, None] * steps % 256 / 255 for k in (1, 2, 3)])[None]
        with torch.autocast(mean.device.type, enabled=False):
            return self(pixels.to(mean))[0].tolist()

    def describe(self, index: int) -> str:
        """The name of a class, or its number."""
        return self.classes[index] if self.classes else str(index)


class Function(nn.Module):
    """A function from pixels (B, 3, H, W) in [0, 1] to scores (B, K), a tensor or an array; called, never opened."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: Tensor) -> Tensor:
        try:
            scores = torch.as_tensor(self.function(pixels))
        except (TypeError, AttributeError, LookupError) as error:
            name = getattr(self.function, "__name__", type(self.function).__name__)
            raise InputError(
                f"classifier: {name} fails with pixels {tuple(pixels.shape)} ({reason(error)}): give a function from "
                "pixels (B, 3, H, W) to scores (B, K), or an nn.Module with its weights."
            ) from error
        return scores.to(pixels.device, torch.promote_types(scores.dtype, torch.float32))


def is_function(what: Any) -> bool:
    """Whether it is to be called as it is: neither a module nor a class."""
    return callable(what) and not isinstance(what, nn.Module | type)


def _check_weights(network: nn.Module) -> None:
    """Raise `InputError` for a network that cannot be explained as it is."""
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError(
            f"{name} is a torch.jit module, whose layers nobody can look into: give the module it was made of."
        )
    for value in (*network.parameters(), *network.buffers()):
        if value.is_inference():
            raise InputError(
                f"{name} was made in torch.inference_mode, so that it cannot be differentiated: make it outside."
            )
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"{name} has weights of {value.dtype}, too coarse for explanations: give it as network.float()."
            )


class _TwoSided:
    """Of a network that gives one logit z those of two classes, z / 2 for the second: their softmax is the sigmoid."""

    def forward(self, images: Tensor) -> Tensor:
        z = features.logits_of(super().forward(images))  # type: ignore[misc]
        if not torch.is_tensor(z) or tuple(z.shape[1:]) not in ((), (1,)):
            found = tuple(z.shape) if torch.is_tensor(z) else type(z).__name__
            raise InputError(f'outputs="binary" is for a network of one logit an image, (B, 1), got {found}.')
        return torch.stack([-z.flatten() / 2, z.flatten() / 2], 1)


def two_sided(network: nn.Module) -> nn.Module:
    """A network of two classes with the layers and weights of one that gives one logit, which stays as it is."""
    kind = type(network)
    if isinstance(network, _TwoSided | Classifier):
        raise InputError(
            f'outputs="binary" is for networks that give one logit: leave it out for this {kind.__name__}.'
        )
    twin = copy.copy(network.eval())
    twin.__class__ = type(kind.__name__, (_TwoSided, kind), {"__module__": kind.__module__})
    return twin


def _of_sizes(error: Exception) -> bool:
    """Whether an error is about the size of images, in words that say little to who does not know torch."""
    return bool(re.search(r"shapes|[sS]ize|width|height", str(error))) and "memory" not in str(error)


def freeze(
    classifier: nn.Module | Callable[[Tensor], Any],
    *,
    mean: Scale = None,
    std: Scale = None,
    size: int | None = None,
    card: dict[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    outputs: str | None = None,
) -> Frozen:
    """A `Frozen` classifier. Its parameters no longer require gradients and it is in eval mode: in place, no copy.

    classifier: what `create` makes; or an `nn.Module` that takes images normalised with mean and std (a number or
    three; by default ImageNet's) and returns logits (B, K), or an object with `.logits`, a dict with "logits", a tuple
    or dict in which they are the only (B, K); or a function, of which see `Function`: p-tame and rise explain it, as no
    layer is seen.
    size: of an image to list its layers with; by default what the module says itself, else 32 or 224.
    outputs: "classes", of which one is right (softmax), the default; "binary", one logit, taken as those of two
    classes; "labels", of which any number are right (sigmoid); "regression", numbers, which have no probability.
    Raises `InputError` for a module that is no classifier of such images, of torch.jit, or of less than single
    precision, and for names that are not one a class.
    """
    if isinstance(classifier, Frozen):
        for name, value in {"mean": mean, "std": std}.items():
            kept = getattr(classifier.normalise, name).flatten()
            if value is not None and not torch.allclose(kept, torch.as_tensor(value).to(kept), atol=1e-6):
                raise InputError(
                    f"This classifier was frozen with {name} {kept.tolist()}, not {value}: give one of them."
                )
        if outputs not in (None, classifier.outputs):
            raise InputError(f"This classifier was frozen with outputs={classifier.outputs!r}, not {outputs!r}.")
        if classes is not None and tuple(classes) != classifier.classes:
            raise InputError(
                f"This classifier was frozen with classes {classifier.classes}, not {tuple(classes)}: give one of them."
            )
        return classifier
    if not isinstance(classifier, nn.Module) and not is_function(classifier):
        raise _no_module(classifier, "")
    if size is not None:
        positive("size", size)
    own: tuple[Scale, Scale] = IMAGENET_STATISTICS
    if not isinstance(classifier, nn.Module):
        card = card or {"classifier": getattr(classifier, "__name__", type(classifier).__name__)}
        own, classifier = (0.0, 1.0), Function(classifier)
    if isinstance(classifier, Classifier):
        own = classifier.normalise.mean, classifier.normalise.std
    card = card or {"classifier": type(classifier).__name__}
    mean, std = own[0] if mean is None else mean, own[1] if std is None else std
    return Frozen(classifier, mean, std, size or native_size(classifier), card, classes, outputs or "classes")


def _no_module(given: Any, others: str) -> InputError:
    name = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
    return InputError(f"classifier: expected an nn.Module with its weights{others}, got {name}.")


def native_size(network: nn.Module) -> int:
    """The image size that a network is made for, as far as it says: 32 for our CIFAR backbones, else 224."""
    if isinstance(network, Classifier):
        name = network.card["backbone"]
        return 32 if "-" in name and not name.startswith(("lfi-", "se-")) else 224
    said = getattr(network, "image_size", None) or getattr(network, "pretrained_cfg", {}).get("input_size", (0,))[-1]
    return said if isinstance(said, int) and said > 0 else 224


@torch.inference_mode(False)  # in which nothing could be differentiated later
def find(what: Any, weights: Path | str = "papers", **options: Any) -> Frozen:
    """A `Frozen` classifier by name or file.

    what: a name of torchvision's, "timm/NAME", the path of a checkpoint of ours, or what `freeze` takes.
    weights, of torchvision: a name as "IMAGENET1K_V2", the path of a file with a state dict, "papers" (IMAGENET1K_V1
    where it exists, what L-CAM and TAME explain), or "random". Of timm: "papers" (pretrained) or "random".
    options: of `freeze`. Raises `InputError` for names, files and downloads that fail.
    """
    if isinstance(what, nn.Module) or is_function(what):
        return freeze(what, **options)
    if not isinstance(what, str | os.PathLike):
        raise _no_module(what, ", a name or a path")
    what = str(what)
    if what.endswith((".pt", ".safetensors")):
        path = _at_home(what)
        content = checkpoints.read(path, lazily=True)
        if "classifier" in content["card"]:
            raise InputError(f"{what} holds an explainer: give the classifier, {content['card']['backbone']}.")
        network = checkpoints.build(path, checkpoints.read(path))
        card = {"classifier": str(path.relative_to(root()) if path.is_relative_to(root()) else path)}
        names = (content.get("settings") or {}).get("classes")
        fit = names is not None and len(names) == content["card"]["num_classes"]
        found: dict[str, Any] = {"classes": names if fit else None, "size": trained_size(content)}
        return freeze(network, card=card, **found | options)
    if what.startswith("timm/"):
        return _timm(what, weights, options)
    if Path(what).is_dir():
        raise InputError(f"{what} is a folder: give the checkpoint in it, as {Path(what) / 'best.pt'}.")
    names = models.list_models(module=models)
    if what not in names and any(re.fullmatch(family, what) for family in FAMILIES):
        raise InputError(
            f"{what} comes without weights: train it (`lficam train --method plain --backbone {what}`), and give its "
            "best.pt as the classifier."
        )
    known = models.get_model_weights(choose("classifier", what, names))
    card = {"classifier": what, "weights": str(weights)}
    path = Path(str(weights)).expanduser()
    classes = next(iter(known)).meta["categories"]
    if path.suffix or path.is_file():
        network = _with_file(what, path)
        classes = classes if network.card["num_classes"] == len(classes) else None
    elif weights == "random":
        network = load(what, 1000)
    else:
        first = "IMAGENET1K_V1" if "IMAGENET1K_V1" in known.__members__ else "DEFAULT"
        card["weights"] = first if weights == "papers" else str(weights)
        network = load(what, 1000, card["weights"])
    return freeze(network, card=card, **{"classes": classes} | options)


def _at_home(what: str) -> Path:
    """The file of this path, which may be relative to the project as well, so that a project can be moved."""
    path = Path(what).expanduser()
    return next((p for p in (path.resolve(), root() / path) if p.is_file()), path)


def trained_size(content: Mapping[str, Any]) -> int | None:
    """The image size that a checkpoint's content (`checkpoints.read`) was trained with; None if it does not say."""
    job = (content.get("settings") or {}).get("job") or {}
    usual = dict.fromkeys(("cifar10", "cifar100", "photo-digits", "photo-digits-2"), 32)
    usual |= dict.fromkeys(("stl10", "folder", "catdog", "imagenet"), 224)
    return job.get("size") or usual.get(job.get("dataset", ""))


def _with_file(name: str, path: Path) -> Any:
    """torchvision's network with the weights of a file; its number of classes is what the file's last layer has."""
    if not path.is_file():
        raise InputError(f"No file of weights {path}: give the path of a state dict, .pth or .safetensors.")
    try:
        state = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else checkpoints.read_state(path)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a file of safetensors, or is damaged ({reason(error)}): copy it again, or give another one."
        ) from error
    state = {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in state.items()
    }
    network = load(name, 1000)
    last = [name for name, part in network.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1]
    classes = len(state.get(f"{last}.weight", range(1000)))  # files need not be in the order of the layers
    if classes != 1000:
        replace_last_layer(network, classes)
    network.card = {"method": "the classifier", "backbone": name, "num_classes": classes}
    checkpoints.load_state(network, state, path)
    return network


def _timm(what: str, weights: Path | str, options: dict[str, Any]) -> Frozen:
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{what} needs timm, which is not installed: pip install timm.") from error
    name = what.removeprefix("timm/")
    if not timm.is_model(name):
        raise InputError(f"timm knows no model {name!r}: `timm.list_models()` lists them.")
    try:
        network = timm.create_model(name, pretrained=weights != "random")
    except (OSError, RuntimeError) as error:
        raise InputError(f"Cannot get the weights of {what} ({error}): check the connection.") from error
    scale = {"mean": network.pretrained_cfg["mean"], "std": network.pretrained_cfg["std"]}
    return freeze(network, card={"classifier": what, "weights": weights}, **scale | options)
