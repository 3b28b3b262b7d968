"""What decides a table of scores, as plain values with a hash: explainers, classifier, images and settings."""

import dataclasses
import functools
import hashlib
import json

import torch
from torch import nn

from . import __version__
from .features import Layer

FORMAT = 1


def configuration(explainers, classifier, images, plan, **more):
    """The configuration of `scoring.score` as JSON has it. images: the whole data set, of which a shard takes a part.

    The batch size and the kind of processor belong to it, as rounding depends on them; the machine does not.
    """
    normalise = classifier.normalise
    config = {
        "format": FORMAT,
        "version": __version__,
        "order": list(explainers),
        "explainers": {name: describe(explainer) for name, explainer in explainers.items()},
        "classifier": {
            "sha256": classifier.digest,
            "mean": normalise.mean.flatten().tolist(),
            "std": normalise.std.flatten().tolist(),
        },
        "images": {
            "name": images.name,
            "split": images.split,
            "count": len(images),
            "size": images.size,
            "digest": images.digest,
            "masks": None if images.masks is None else _hash(images.masks),
        },
        "device": normalise.mean.device.type,
    }
    return json.loads(json.dumps(config | dataclasses.asdict(plan) | more))


def sha256(config):
    """The hash of a configuration, in hex."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def describe(explainer):
    """An explainer as plain values: its card and the hash of its weights, else its class, or name, and its options."""
    if isinstance(explainer, nn.Module):
        card = {"card": explainer.card} if hasattr(explainer, "card") else {}
        return card | {"kind": type(explainer).__qualname__, "weights": _state(explainer)}
    if isinstance(explainer, functools.partial):
        given = {"args": explainer.args} | explainer.keywords
        return describe(explainer.func) | {name: _plain(value) for name, value in given.items()}
    options = {name: value for name, value in vars(explainer).items() if name not in ("classifier", "counted")}
    kind = getattr(explainer, "__qualname__", type(explainer).__qualname__)  # of a function its own name
    return {"kind": kind} | {name: _plain(value) for name, value in options.items()}


def _plain(value):
    if isinstance(value, torch.Tensor):
        return _hash(value)
    if isinstance(value, nn.Module):
        return _state(value)
    if isinstance(value, Layer):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)  # no address, which would differ in every run


def _state(module):
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        sha.update(name.encode() + _hash(value).encode())
    return sha.hexdigest()


def _hash(tensor):
    tensor = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def differences(before, now):
    """Where two configurations differ, in words, at most four of them."""
    found = list(_differences(before, now, ""))
    return ", ".join(found[:4]) + f" and {len(found) - 4} more" * (len(found) > 4)


def _differences(before, now, where):
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            texts = [json.dumps(value) for value in (before, now)]
            yield f"{where} {texts[0]}, now {texts[1]}" if max(map(len, texts)) < 60 else f"another {where}"
        return
    for key in sorted(set(before) | set(now)):
        inside = f"{where} {key}".strip()
        if key in before and key in now:
            yield from _differences(before[key], now[key], inside)
        else:
            yield f"{inside} only {'before' if key in before else 'now'}"
