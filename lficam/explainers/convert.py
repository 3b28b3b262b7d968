"""The authors' published checkpoints as safetensors with a card beside them. No code from a checkpoint ever runs."""

import hashlib
import json
from pathlib import Path

import safetensors.torch

from ..files import atomic
from ..models.attention import create
from ..models.checkpoints import facts, file_hash, load_authors, read_state
from .learned import METHODS, attach


def convert(source, target, method, backbone, num_classes=10, **options):
    """Turn an authors' checkpoint into TARGET.safetensors and TARGET.json (method, backbone, source, SHA-256 of both).

    source: a file that holds a state dict, or the authors' {"state_dict": ..., "epoch": ...}. options: as of `create`.
    Of L-CAM, TAME and T-TAME, backbone is the classifier and options are of `attach`; it knows its number of classes.
    Returns the path of the weights, which `lficam.load` reads.
    Raises `InputError` for a missing, foreign or malicious file, and for weights of another model.
    """
    source, target = Path(source), Path(target).with_suffix(".safetensors")
    state = read_state(source)
    make = (
        attach(backbone, method, **options) if method in METHODS else create(method, backbone, num_classes, **options)
    )
    model = load_authors(make, state)
    card = facts(model.eval()) | {"source": source.name, "sha256": file_hash(source)}
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in card.pop("model").items()})
    card["file"] = hashlib.sha256(data).hexdigest()
    with atomic(target) as file:
        file.write(data)
    with atomic(target.with_suffix(".json"), "w") as file:
        json.dump(card, file, indent=1)
    return target
