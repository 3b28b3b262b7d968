"""Training-free explainers of a classifier by name, called like all others: explainer(pixels, target) -> raw maps.

    explainer = lficam.baseline("resnet50", "score-cam")
    maps = explainer(pixels)                  # (B, 7, 7) raw, of the predicted classes
    maps = explainer(pixels, target)          # of the classes (B,)
    explainer.forward_passes                  # 2048: what the method costs an image, as the papers count
    explainer.counted                         # how many images the last call sent through the classifier

A method is a class of its room and a line of METHODS. Those that are trained are in learned.py.
"""

import inspect
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, choose
from . import cams, controls, frozen, perturbation, vit
from .baseline import Baseline

METHODS: dict[str, type[Baseline]] = {
    "grad-cam": cams.GradCAM,
    "grad-cam++": cams.GradCAMPlus,
    "layer-cam": cams.LayerCAM,
    "hires-cam": cams.HiResCAM,
    "finer-cam": cams.FinerCAM,
    "score-cam": perturbation.ScoreCAM,
    "ablation-cam": cams.AblationCAM,
    "opti-cam": perturbation.OptiCAM,
    "rise": perturbation.RISE,
    "rollout": vit.Rollout,
    "legrad": vit.LeGrad,
    "chefer": vit.Chefer,
    "own": controls.Own,
    "random": controls.Random,
    "centre": controls.Centre,
    "ones": controls.Ones,
}


def baseline(
    classifier: nn.Module | Path | str | None, method: str, layer: str | None = None, **options: Any
) -> Baseline:
    """A training-free explainer of a classifier, by name: see METHODS.

    classifier: whatever `frozen.find` takes, frozen in place; None does for "random", "centre" and "ones".
    layer: a name of `lficam layers`, for the methods that look at one; by default features.29 of VGG-16, layer4 of
    ResNets, or the like. options: of the method's class.
    Raises `InputError` for an unknown method, option, layer or classifier.
    """
    kind = choose("method", method, METHODS)
    options = options if layer is None else {"layer": layer} | options
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options:
        choose(f"option of {method}", option, known)
    if classifier is None and not issubclass(kind, controls.Control):
        raise InputError(f"{method} explains a classifier: give its name, a checkpoint or an nn.Module.")
    return kind(None if classifier is None else frozen.find(classifier), **options)
