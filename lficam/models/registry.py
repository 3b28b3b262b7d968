"""Classifiers by name, and their backbones by name, in parts, so that attention can act before or after the last stage.

create("lfi-cam", "resnet-20", 10)  plain, abn, lfi-cam: a method is a class of attention.py and a line of METHODS
build("resnet-20", 10)              CIFAR: resnet-N, densenet-bc-DEPTH-GROWTH, resnext-DEPTH-CARDINALITYxWIDTH,
                                    wrn-DEPTH-WIDEN, vgg-N: a function of cifar.py and a line of FAMILIES
build("lfi-resnet50", 1000)         224 pixels, the authors' own: lfi-resnetN, se-resnet-N (imagenet.py)
build("convnext_tiny", 3)           any convolutional network of torchvision under its own name
"""

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch

from ..errors import InputError, choose
from . import cifar, imagenet
from .attention import ABN, LFICAM, Classifier, Plain
from .backbone import Backbone, Scale

METHODS: dict[str, type[Classifier]] = {"plain": Plain, "abn": ABN, "lfi-cam": LFICAM}

_DEPTH = "(18|34|50|101|152)"
FAMILIES: dict[str, Callable[..., Backbone]] = {
    r"resnet-(\d+)": cifar.resnet,
    r"densenet-bc-(\d+)-(\d+)": cifar.densenet,
    r"resnext-(\d+)-(\d+)x(\d+)": cifar.resnext,
    r"wrn-(\d+)-(\d+)": cifar.wide_resnet,
    r"vgg-(\d+)": cifar.vgg,
    f"lfi-resnet{_DEPTH}": imagenet.lfi_resnet,
    f"se-resnet-{_DEPTH}": imagenet.se_resnet,
    f"({'|'.join(imagenet.NAMES)})": imagenet.network,
}
EXAMPLES = (
    *("resnet-20", "resnet-110", "densenet-bc-100-12", "resnext-29-8x64", "resnext-29-16x64", "wrn-28-10", "vgg-8"),
    *("lfi-resnet18", "lfi-resnet50", "se-resnet-50", "resnet50"),
)


@torch.inference_mode(False)  # in which nothing could be trained later
def create(
    method: str, backbone: str, num_classes: int, *, mean: Scale = None, std: Scale = None, **options: Any
) -> Classifier:
    """A classifier: method "plain", "abn" or "lfi-cam", backbone by name, as "resnet-110"; see registry.py for names.

    mean, std: normalisation of pixels in [0, 1], a number or three; by default the backbone's. For inputs that are
    normalised already give mean=0, std=1. The card that rebuilds the model is its attribute `card`.

    options of lfi-cam: fin "released", "relu-all", "relu-2-4" or "1x1" (`FeatureImportanceNetwork`), softmax.
    Of abn: attention_map "released", "sigmoid" or "log-sum" (`AttentionBranch`). Of backbones: dropout (wrn),
    stem_stride (lfi-resnet), weights, a name of torchvision's as "DEFAULT" (its networks and lfi-resnet). Initial
    weights are no part of the card. Without weights the model is randomly initialised.
    Raises `InputError` for an unknown method, backbone or option, or fewer than two classes.
    """
    kind = choose("method", method, METHODS)
    defaults = kind.options | builder(backbone)[2]
    for option in options:
        choose(f"option of {method} {backbone}", option, defaults or ("mean", "std"))
    own = {key: value for key, value in options.items() if key in kind.options}
    parts = build(backbone, num_classes, **{k: v for k, v in options.items() if k not in own})
    model = kind(parts, mean, std, **own)
    model.card = {
        "method": method,
        "backbone": backbone,
        "num_classes": num_classes,
        "mean": model.normalise.mean.flatten().tolist(),
        "std": model.normalise.std.flatten().tolist(),
    } | {key: value for key, value in options.items() if key != "weights" and value != defaults[key]}
    return model


def build(name: str, num_classes: int, **options: Any) -> Backbone:
    """A `Backbone` by name, randomly initialised unless `weights` are given. options: see `create`.

    Raises `InputError` for a name or an option that is not known, or fewer than two classes.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise InputError(f"num_classes: expected an integer of at least 2, got {num_classes!r}.")
    make, arguments, known = builder(name)
    for option in options:
        choose(f"option of {name}", option, known)
    return make(*arguments, num_classes, **options)


def builder(name: str) -> tuple[Callable[..., Backbone], list[int | str], dict[str, Any]]:
    """The function that builds the backbone, its positional arguments, and its options with their defaults.

    Raises `InputError` for a name that is not known.
    """
    for pattern, function in FAMILIES.items():
        if match := re.fullmatch(pattern, str(name)):
            arguments = [int(group) if group.isdigit() else group for group in match.groups()]
            parameters = inspect.signature(function).parameters.values()
            return function, arguments, {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return choose("backbone", name, dict.fromkeys((*EXAMPLES, *imagenet.NAMES)))
