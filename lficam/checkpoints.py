"""Files of weights: written whole or not at all, read without running code, never put silently into another model."""

import csv
import io
import json
from pathlib import Path

import safetensors.torch
import torch

from .authors import explainer_state, our_name
from .errors import InputError
from .workspace import atomic


def load_authors(model, state_dict):
    """Put the authors' released weights into a model of ours, by translating parameter names; strict.

    model: made by `lficam.create` or `lficam.attach`. state_dict: {name: tensor}; names may begin with DataParallel's
    "module."; of an explainer's the attention mechanism is taken.
    Raises `InputError` naming the missing, unknown or misshapen entries. Returns the model.
    """
    if hasattr(model, "mechanism"):
        translated = explainer_state(state_dict)
    else:
        translated = {our_name(model, name): tensor for name, tensor in state_dict.items()}
    load_state(model, translated, "these weights")
    return model


def load_state(model, state, what):
    """`load_state_dict`, strict, whose refusal is one sentence with the first offending names."""
    own = model.state_dict()
    problems = {
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unknown": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    found = "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:3])}{' ...' * (len(names) > 3)})"
        for kind, names in problems.items()
        if names
    )
    if found:
        card = getattr(model, "card", {})
        raise InputError(
            f"Cannot load {what} into {card.get('method')} {card.get('backbone')} "
            f"with {card.get('num_classes')} classes: {found}. "
            "Check method, backbone and number of classes."
        )
    model.load_state_dict(state, strict=False)


def save(path, content):
    """Write tensors and plain values atomically; `InputError` when the disk refuses, and the earlier file stays."""
    with atomic(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch covers the system's refusal with an error of its own
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read(path, device="cpu"):
    """What `save` or `convert.convert` wrote. Never executes code from the file.

    Raises `InputError` for a missing, damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"No checkpoint {path}: give the path of a best.pt, last.pt or converted .safetensors file.")
    try:
        if path.suffix == ".safetensors":
            card = json.loads(path.with_suffix(".json").read_bytes())
            return card | {"model": safetensors.torch.load_file(path, device=str(device))}
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(
            f"{path} is not a checkpoint of lficam, or is damaged: {str(error).splitlines()[0][:120]}"
        ) from error
    if not isinstance(content, dict) or "model" not in content or "card" not in content:
        raise InputError(f"{path} is not a checkpoint of lficam: it has no model and card.")
    return content


def keep(model, optimizer, history, folder, settings):
    """Write best.pt when the last epoch was the best so far (of an explainer: always), then last.pt and log.csv."""
    content = {
        "card": model.card,
        "model": model.state_dict(),
        "epoch": len(history),
        "settings": settings or {},
    }
    accuracy = [row["validation_accuracy"] for row in history]
    if accuracy[-1] > max(accuracy[:-1], default=-1.0) or "classifier" in model.card:
        save(folder / "best.pt", content | {"validation_accuracy": accuracy[-1]})
    save(folder / "last.pt", content | {"optimizer": optimizer.state_dict(), "history": history})
    text = io.StringIO()
    table = csv.DictWriter(text, history[0].keys())
    table.writeheader()
    table.writerows(history)
    with atomic(folder / "log.csv", "w") as file:
        file.write(text.getvalue())


def resume(model, optimizer, path, device):
    """Put a last.pt into model and optimizer; returns its history, empty when there is no file.

    Raises `InputError` when the checkpoint is another model's.
    """
    if not path.is_file():
        return []
    content = read(path, device)
    if content["card"] != model.card:
        theirs = " ".join(str(content["card"].get(k)) for k in ("method", "backbone", "num_classes"))
        raise InputError(
            f"{path} holds another model ({theirs} classes) than the one to train ({model.card['method']} "
            f"{model.card['backbone']} {model.card['num_classes']} classes): choose another folder, or remove it."
        )
    load_state(model, content["model"], path)
    kernels = [{name: group.get(name) for name in ("fused", "foreach")} for group in optimizer.param_groups]
    optimizer.load_state_dict(content["optimizer"])
    for group, own in zip(optimizer.param_groups, kernels, strict=True):
        group.update(own)  # of this device, which may be another one than the checkpoint's
    return content["history"]


def load(path, device="cpu", classifier=None):
    """The classifier or explainer of a checkpoint, rebuilt from its card, in eval mode on the device.

    classifier: what an explainer was trained on (an `nn.Module`, a name, a path), where the card's own cannot be found.
    Raises `InputError` when it is another classifier than that, by a hash of its weights.
    """
    from .attention import create

    content = read(path, device)
    card = content["card"]
    model = attached(card, path, classifier) if "classifier" in card else create(**card)
    model = model.to(device)
    load_state(model, content["model"], path)
    return model.eval()


def attached(card, path, classifier=None):
    """The explainer of a card, on its classifier, with weights yet to be loaded."""
    from .explainer import attach

    own = card["classifier"]
    name = own["classifier"]
    if classifier is None and not (own.get("weights") or Path(name).suffix):
        raise InputError(
            f"{path} explains a {name} of your own: give it as classifier=... (Python), --classifier (command line)."
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
