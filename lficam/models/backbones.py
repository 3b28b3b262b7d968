"""Image classifiers by name, in parts, so that attention can act before or after the last stage.

build("resnet-20", 10)              CIFAR: resnet-N, densenet-bc-DEPTH-GROWTH, resnext-DEPTH-CARDINALITYxWIDTH,
                                    wrn-DEPTH-WIDEN, vgg-N
build("lfi-resnet50", 1000)         224 pixels, the authors' own: lfi-resnetN, se-resnet-N
build("convnext_tiny", 3)           any convolutional network of torchvision under its own name
"""

import difflib
import inspect
import re

from ..errors import InputError, choose
from . import cifar as cifar
from . import resnets as vision
from .backbone import Backbone, Normalise, initialise, unstrided_copy

__all__ = ["Backbone", "Normalise", "build", "find", "initialise", "unstrided_copy"]

_DEPTH = "(18|34|50|101|152)"
FAMILIES = {
    r"resnet-(\d+)": cifar.resnet,
    r"densenet-bc-(\d+)-(\d+)": cifar.densenet,
    r"resnext-(\d+)-(\d+)x(\d+)": cifar.resnext,
    r"wrn-(\d+)-(\d+)": cifar.wide_resnet,
    r"vgg-(\d+)": cifar.vgg,
    f"lfi-resnet{_DEPTH}": vision.lfi_resnet,
    f"se-resnet-{_DEPTH}": vision.se_resnet,
    f"({'|'.join(vision.NAMES)})": vision.network,
}
EXAMPLES = (
    "resnet-20",
    "resnet-110",
    "densenet-bc-100-12",
    "resnext-29-8x64",
    "resnext-29-16x64",
    "wrn-28-10",
    "vgg-8",
    "lfi-resnet18",
    "lfi-resnet50",
    "se-resnet-50",
    "resnet50",
)


def find(name):
    """The function that builds the backbone, its positional arguments, and its options with their defaults.

    Raises `InputError` for a name that is not known.
    """
    for pattern, builder in FAMILIES.items():
        if match := re.fullmatch(pattern, str(name)):
            arguments = [int(group) if group.isdigit() else group for group in match.groups()]
            parameters = inspect.signature(builder).parameters.values()
            return builder, arguments, {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    near = difflib.get_close_matches(str(name), [*EXAMPLES, *vision.NAMES], n=3)
    return choose("backbone", name, dict.fromkeys(near or EXAMPLES))


def build(name, num_classes, **options):
    """A `Backbone` by name, randomly initialised unless `weights` are given. options: see `create`.

    Raises `InputError` for a name or an option that is not known, or fewer than two classes.
    """
    if not isinstance(num_classes, int) or num_classes < 2:
        raise InputError(f"num_classes: expected an integer of at least 2, got {num_classes!r}.")
    builder, arguments, known = find(name)
    for option in options:
        choose(f"option of {name}", option, known)
    return builder(*arguments, num_classes, **options)
