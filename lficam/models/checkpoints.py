"""Files of weights: written whole or not at all, read without running code, never put silently into another model."""

import csv
import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ..errors import InputError, reason
from ..files import atomic
from .attention import Classifier
from .authors import explainer_state, our_name
from .registry import create

Model = TypeVar("Model", bound=nn.Module)
Trained = Any  # an `attention.Classifier`, or a `learned.Explainer`, a room above


def load_authors(model: Model, state_dict: Mapping[str, Tensor]) -> Model:
    """Put the authors' released weights into a model of ours, by translating parameter names; strict.

    model: made by `lficam.create` or `lficam.attach`. state_dict: {name: tensor}; names may begin with DataParallel's
    "module."; of an explainer's the attention mechanism is taken.
    Raises `InputError` naming the missing, unknown or misshapen entries. Returns the model.
    """
    if not hasattr(model, "card"):
        raise InputError(f"{type(model).__name__}: the authors' weights go into what create or attach made; give that.")
    if not isinstance(state_dict, dict):
        raise InputError(
            f"state_dict: expected {{name: tensor}}, as the authors' file holds it, got {type(state_dict).__name__}."
        )
    if isinstance(model, Classifier):
        translated = {our_name(model, name): tensor for name, tensor in state_dict.items()}
    else:
        translated = explainer_state(state_dict)
    load_state(model, translated, "these weights")
    return model


def load_state(model: nn.Module, state: Mapping[str, Tensor], what: Path | str) -> None:
    """`load_state_dict`, strict, whose refusal is one sentence with the first offending names.

    Raises `InputError` for other names and shapes than the model's, and for weights that are NaN or infinite.
    """
    own = model.state_dict()
    if broken := [k for k, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise InputError(
            f"Cannot load {what}: {_some(broken)} hold values that are not finite (NaN or infinite), as a training "
            "that diverged leaves them. Take the weights of an earlier epoch, or train again with a lower rate."
        )
    problems = {
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unknown": [k for k in state if k not in own],
        "of another shape": [k for k in own if k in state and own[k].shape != state[k].shape],
    }
    found = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in problems.items() if names)
    if found:
        card: dict = getattr(model, "card", {})
        raise InputError(
            f"Cannot load {what} into {card.get('method')} {card.get('backbone')} "
            f"with {card.get('num_classes')} classes: {found}. "
            "Check method, backbone and number of classes."
        )
    model.load_state_dict(state, strict=False)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + " ..." * (len(names) > 3)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of weights {name: tensor}: whose they are, whatever file or device they lie on."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        if name.endswith("num_batches_tracked"):
            continue  # which no output depends on
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def save(path: Path | str, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically; `InputError` when the disk refuses, and the earlier file stays."""
    with atomic(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch covers the system's refusal with an error of its own
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read(path: Path | str, device: torch.device | str = "cpu", lazily: bool = False) -> dict[str, Any]:
    """What `save` or `convert.convert` wrote. Never executes code from the file.

    lazily: for what stands beside the weights; these stay in the file until they are used, and are not checked.
    Raises `InputError` for a missing, damaged or foreign file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the checkpoint in it, as {path / 'best.pt'}.")
    if not path.is_file():
        raise InputError(f"No checkpoint {path}: give the path of a best.pt, last.pt or converted .safetensors file.")
    if path.suffix == ".safetensors":
        content = _safetensors(path, device)
    else:
        content = _load(path, "a checkpoint of lficam", device, lazily)
    if not isinstance(content, dict) or "model" not in content or "card" not in content:
        raise InputError(f"{path} is not a checkpoint of lficam: it has no model and card; give a best.pt.")
    return content


def _safetensors(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Weights and, from the JSON beside them, the card; its checksum, which older ones do not have, is compared."""
    if not path.with_suffix(".json").is_file():
        raise InputError(
            f"{path} is not a checkpoint of lficam: no card, {path.stem}.json, lies beside it: convert its source."
        )
    try:
        card = json.loads(path.with_suffix(".json").read_bytes())
        if card.get("file") not in (None, file_hash(path)):
            raise _damaged(path)
        return card | {"model": safetensors.torch.load_file(path, device=str(device))}
    except (OSError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a checkpoint of lficam, or is damaged ({reason(error)}): convert its source again."
        ) from error


def _load(path: Path, what: str, device: torch.device | str = "cpu", lazily: bool = False) -> Any:
    """What torch saved at the path; of its pickle only tensors and plain values are read.

    `torch.load` does not look at the checksums that `torch.save` writes: they are compared first, unless lazily.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of torch, about files that it then refuses
            zipped = zipfile.is_zipfile(path)  # as all are since torch 1.6
            if zipped and not lazily:
                with zipfile.ZipFile(path) as file:
                    if file.testzip():
                        raise _damaged(path)
            return torch.load(path, map_location=device, weights_only=True, mmap=zipped and lazily)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise InputError(f"{path} is not {what}, or is damaged: give a file that torch.save wrote.") from error
        raise InputError(
            f"{path} holds code or objects beside weights, which could do anything when they are loaded, and is "
            "refused: if you trust it, load it where it was made and save its tensors alone, as model.state_dict()."
        ) from error
    except Exception as error:
        why = "it is empty" if path.stat().st_size == 0 else reason(error).partition(". ")[0]
        why = "it was cut short, or is something else" if not zipped and path.stat().st_size else why
        raise InputError(f"{path} is not {what}, or is damaged ({why}): copy it again, or give another one.") from error


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged, its checksum is wrong: copy it again, or remove it and make it anew.")


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(model: Trained) -> dict[str, Any]:
    """What no training changes: the card; of an explainer its classifier's answer to a fixed image, too."""
    answer = {} if isinstance(model, Classifier) else {"answer": model.classifier.probe()}
    return {"card": model.card} | answer


def facts(model: Trained) -> dict[str, Any]:
    """Card and weights as a checkpoint has them, of an explainer with its classifier's answer to a fixed image."""
    return identity(model) | {"model": model.state_dict()}


def keep(
    model: Trained,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    folder: Path,
    settings: dict[str, Any] | None,
    known: dict[str, Any] | None = None,
) -> None:
    """Write best.pt when the last epoch was the best so far (of an explainer: always), then last.pt and log.csv.

    known: the model's `identity`, if it is: to hash a large classifier takes longer than to write its explainer.
    """
    content = (known or identity(model)) | {"model": model.state_dict(), "epoch": len(history)}
    content["settings"] = settings or {}
    accuracy = [row["validation_accuracy"] for row in history]
    if accuracy[-1] > max(accuracy[:-1], default=-1.0) or "classifier" in content["card"]:
        save(folder / "best.pt", content | {"validation_accuracy": accuracy[-1]})
    save(folder / "last.pt", content | {"optimizer": optimizer.state_dict(), "history": history})
    text = io.StringIO()
    table = csv.DictWriter(text, history[0].keys())
    table.writeheader()
    table.writerows(history)
    with atomic(folder / "log.csv", "w") as file:
        file.write(text.getvalue())


def resume(
    model: Trained, optimizer: torch.optim.Optimizer, path: Path, device: torch.device | str
) -> list[dict[str, float]]:
    """Put a last.pt into model and optimizer; returns its history, empty when there is no file.

    Raises `InputError` when the checkpoint is another model's.
    """
    if not path.is_file():
        return []
    content = read(path, device)
    if content["card"] != (card := model.card):
        theirs = " ".join(str(content["card"].get(k)) for k in ("method", "backbone", "num_classes"))
        raise InputError(
            f"{path} holds another model ({theirs} classes) than the one to train ({card['method']} "
            f"{card['backbone']} {card['num_classes']} classes): choose another folder, or remove it."
        )
    check_answer(model, content, path)
    load_state(model, content["model"], path)
    kernels = [{name: group.get(name) for name in ("fused", "foreach")} for group in optimizer.param_groups]
    optimizer.load_state_dict(content["optimizer"])
    for group, own in zip(optimizer.param_groups, kernels, strict=True):
        group.update(own)  # of this device, which may be another one than the checkpoint's
    return content["history"]


def check_card(card: Mapping[str, Any], path: Path | str) -> None:
    """Raise `InputError` when a card does not say what its file holds."""
    if not {"method", "backbone", "num_classes"} <= set(card):
        raise InputError(f"{path} does not say what it holds: its card must name method, backbone and num_classes.")


def build(path: Path | str, content: dict[str, Any]) -> Classifier:
    """The classifier of a checkpoint's content (`read`), rebuilt from its card, with its weights, in eval mode.

    Raises `InputError` for a card or for weights that make no model.
    """
    check_card(content["card"], path)
    try:
        model = create(**content["card"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    load_state(model, content["model"], path)
    return model.eval()


def check_answer(model: Trained, content: dict[str, Any], path: Path | str) -> None:
    """Raise `InputError` when an explainer's classifier does not answer as it did when the checkpoint was written.

    Equal weights do not make it the same function: strides, for example, are none. Of eight architectures rounding
    (float64, another layout) moved the answer by less than 1e-4 of the logits' standard deviation, one other stride by
    4e-3 and more. Checkpoints of before have no answer, and are not compared.
    """
    if "answer" not in content:
        return
    before = torch.tensor(content["answer"], dtype=torch.float64)
    now = torch.tensor(model.classifier.probe(content["card"]["classifier"]["size"]), dtype=torch.float64)
    allowed = 1e-3 * before.std() + 1e-5 * before.abs().max()
    if before.shape != now.shape or not (before - now).square().mean().sqrt() <= allowed:
        raise InputError(
            f"{path} was trained on another {content['card']['classifier']['classifier']} than this one (its weights "
            "are the same, its logits of an image are not: strides, layers or code differ): give the one that it was "
            "trained on, or train again."
        )


def read_state(path: Path) -> dict[str, Tensor]:
    """{name: tensor} of an authors' checkpoint; only tensors and plain values are read from the pickle."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the file of weights in it.")
    if not path.is_file():
        raise InputError(f"No checkpoint {path}: give the path of the authors' .pth.tar or .pt file.")
    content = _load(path, "a file of weights")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict: expected names and tensors, or those under 'state_dict'.")
    return state
