"""The authors' published checkpoints as safetensors with a card beside them. No code from a checkpoint ever runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from ..files import atomic
from ..models.checkpoints import facts, file_hash, load_authors, read_state
from ..models.registry import create
from .learned import METHODS, attach


def convert(
    source: Path | str, target: Path | str, method: str, backbone: str, num_classes: int = 10, **options: Any
) -> Path:
    """Turn an authors' checkpoint into TARGET.safetensors and TARGET.json (method, backbone, source, SHA-256 of both).

    source: a file that holds a state dict, or the authors' {"state_dict": ..., "epoch": ...}. options: as of `create`.
    Of L-CAM, TAME and T-TAME, backbone is the classifier and options are of `attach`; it knows its number of classes.
    Returns the path of the weights, which `lficam.load` reads.
    Raises `InputError` for a missing, foreign or malicious file, and for weights of another model.
    """
    source, target = Path(source), Path(target).with_suffix(".safetensors")
    state = read_state(source)
    if method in METHODS:
        model: nn.Module = attach(backbone, method, **options)
    else:
        model = create(method, backbone, num_classes, **options)
    card = facts(load_authors(model, state).eval()) | {"source": source.name, "sha256": file_hash(source)}
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in card.pop("model").items()})
    card["file"] = hashlib.sha256(data).hexdigest()
    with atomic(target) as file:
        file.write(data)
    with atomic(target.with_suffix(".json"), "w") as file:
        json.dump(card, file, indent=1)
    return target
