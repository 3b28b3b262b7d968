"""The authors' published checkpoints as safetensors with a card beside them. No code from a checkpoint ever runs."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch

from .attention import create
from .checkpoints import load_authors
from .errors import InputError
from .workspace import atomic


def convert(source, target, method, backbone, num_classes, **options):
    """Turn an authors' checkpoint into TARGET.safetensors and TARGET.json (method, backbone, source, its SHA-256).

    source: a file that holds a state dict, or the authors' {"state_dict": ..., "epoch": ...}. options: as of `create`.
    Returns the path of the weights, which `checkpoints.load` reads.
    Raises `InputError` for a missing, foreign or malicious file, and for weights of another model.
    """
    source, target = Path(source), Path(target).with_suffix(".safetensors")
    state = read_state(source)
    model = load_authors(create(method, backbone, num_classes, **options), state)
    card = {"card": model.card, "source": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic(target) as file:
        file.write(safetensors.torch.save(weights))
    with atomic(target.with_suffix(".json"), "w") as file:
        json.dump(card, file, indent=1)
    return target


def read_state(path):
    """{name: tensor} of an authors' checkpoint; only tensors and plain values are read from the pickle."""
    if not path.is_file():
        raise InputError(f"No checkpoint {path}: give the path of the authors' .pth.tar or .pt file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(f"{path} is refused: it is damaged, or holds more than weights ({reason}).") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict: expected names and tensors, or those under 'state_dict'.")
    return state
