"""Checkpoints of ours as what they hold: a classifier, or an explainer with the classifier that it explains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..models import checkpoints
from ..models.attention import Classifier
from .frozen import Function, find, is_function
from .learned import Explainer, attach


def load(
    path: Path | str,
    device: torch.device | str = "cpu",
    classifier: Any = None,
    auxiliary: nn.Module | Path | str | None = None,
) -> Classifier | Explainer:
    """The classifier or explainer of a checkpoint, rebuilt from its card, in eval mode on the device.

    classifier: what an explainer was trained on (an `nn.Module`, a name, a path), where the card's own cannot be found;
    of one with an auxiliary classifier also a function from pixels to its scores. auxiliary: that one, likewise.
    Raises `InputError` when it is another classifier than that, by a hash of its weights and its answer to an image.
    """
    content = checkpoints.read(path, device)
    card = content["card"]
    if "classifier" not in card:
        return checkpoints.build(path, content).to(device)
    checkpoints.check_card(card, path)
    try:
        model = attached(card, path, classifier, auxiliary).to(device).eval()
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from error
    checkpoints.check_answer(model, content, path)
    checkpoints.load_state(model, content["model"], path)
    return model


def attached(card: Mapping[str, Any], path: Path | str, classifier: Any = None, auxiliary: Any = None) -> Explainer:
    """The explainer of a card, on its classifier, with weights yet to be loaded."""
    own, beside = card["classifier"], card.get("auxiliary")
    name = own["classifier"]
    if classifier is None and _nameless(own):
        raise InputError(
            f"{path} explains a {name} of your own: give that classifier as well "
            "(classifier= in Python; --classifier, with --weights, for a network that has a name)."
        )
    images = {key: own[key] for key in ("size",) if key in own}
    images |= {} if is_function(classifier) else {key: own[key] for key in ("mean", "std") if key in own}
    options = dict(card["options"])
    if beside:
        if auxiliary is None and _nameless(beside):
            raise InputError(f"{path} looks by a {beside['classifier']} of your own: give it as well (auxiliary=).")
        seen = {key: beside[key] for key in ("mean", "std", "size")}
        options["auxiliary"] = find(auxiliary or beside["classifier"], beside.get("weights") or "papers", **seen)
    weights = own.get("weights") or "papers"
    model = attach(classifier or name, card["method"], card["layers"], weights=weights, **images, **options)
    for found, known in ((model.classifier, own), (model.auxiliary, beside or {})):
        if found is None or isinstance(found.network, Function):  # which has no weights; its answer will be compared
            continue
        if found.digest != known["sha256"]:
            raise InputError(
                f"{path} was trained on another {known['classifier']} than this one (its weights differ): an attention "
                "mechanism explains the one classifier that it was trained on. Give that one, or train again."
            )
    return model


def _nameless(own: Mapping[str, Any]) -> bool:
    """Whether a classifier's card does not say where to find it."""
    return not (own.get("weights") or Path(own["classifier"]).suffix)
