"""The authors' published checkpoints as safetensors with a card beside them. No code from a checkpoint ever runs."""

import hashlib
import json
from pathlib import Path

import safetensors.torch

from .attention import create
from .checkpoints import load_authors, read_state
from .explainer import METHODS, attach
from .workspace import atomic


def convert(source, target, method, backbone, num_classes=10, **options):
    """Turn an authors' checkpoint into TARGET.safetensors and TARGET.json (method, backbone, source, its SHA-256).

    source: a file that holds a state dict, or the authors' {"state_dict": ..., "epoch": ...}. options: as of `create`.
    Of L-CAM, TAME and T-TAME, backbone is the classifier and options are of `attach`; it knows its number of classes.
    Returns the path of the weights, which `checkpoints.load` reads.
    Raises `InputError` for a missing, foreign or malicious file, and for weights of another model.
    """
    source, target = Path(source), Path(target).with_suffix(".safetensors")
    state = read_state(source)
    make = (
        attach(backbone, method, **options) if method in METHODS else create(method, backbone, num_classes, **options)
    )
    model = load_authors(make, state)
    card = {"card": model.card, "source": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic(target) as file:
        file.write(safetensors.torch.save(weights))
    with atomic(target.with_suffix(".json"), "w") as file:
        json.dump(card, file, indent=1)
    return target
