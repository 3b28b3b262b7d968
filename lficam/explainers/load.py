"""Checkpoints of ours as what they hold: a classifier, or an explainer with the classifier that it explains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..models import checkpoints
from ..models.attention import Classifier
from .learned import Explainer, attach


def load(
    path: Path | str, device: torch.device | str = "cpu", classifier: nn.Module | Path | str | None = None
) -> Classifier | Explainer:
    """The classifier or explainer of a checkpoint, rebuilt from its card, in eval mode on the device.

    classifier: what an explainer was trained on (an `nn.Module`, a name, a path), where the card's own cannot be found.
    Raises `InputError` when it is another classifier than that, by a hash of its weights and its answer to an image.
    """
    content = checkpoints.read(path, device)
    card = content["card"]
    if "classifier" not in card:
        return checkpoints.build(path, content).to(device)
    checkpoints.check_card(card, path)
    try:
        model = attached(card, path, classifier).to(device).eval()
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    checkpoints.check_answer(model, content, path)
    checkpoints.load_state(model, content["model"], path)
    return model


def attached(card: Mapping[str, Any], path: Path | str, classifier: nn.Module | Path | str | None = None) -> Explainer:
    """The explainer of a card, on its classifier, with weights yet to be loaded."""
    own = card["classifier"]
    name = own["classifier"]
    if classifier is None and not (own.get("weights") or Path(name).suffix):
        raise InputError(
            f"{path} explains a {name} of your own: give that classifier as well "
            "(classifier= in Python; --classifier, with --weights, for a network that has a name)."
        )
    weights = own.get("weights") or "papers"
    images = {key: own[key] for key in ("mean", "std", "size") if key in own}
    model = attach(classifier or name, card["method"], card["layers"], weights=weights, **images, **card["options"])
    if model.classifier.digest != own["sha256"]:
        raise InputError(
            f"{path} was trained on another {name} than this one (its weights differ): an attention mechanism explains "
            "the one classifier that it was trained on. Give that one, or train again."
        )
    return model
