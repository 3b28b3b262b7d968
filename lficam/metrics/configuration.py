"""What decides a table of scores, as plain values with a hash: explainers, classifier, images and settings."""

import dataclasses
import dis
import functools
import hashlib
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import __version__, record
from ..data.datasets import Images
from ..errors import InputError
from ..explainers.baseline import Baseline
from ..explainers.features import Layer
from ..explainers.frozen import Frozen
from ..explainers.learned import Explainer
from ..models.checkpoints import digest
from .measures import Explainers, Plan

PACKAGE = __name__.partition(".")[0]
FORMAT = 3


def configuration(explainers: Explainers, classifier: Frozen, images: Images, plan: Plan, **more: object) -> dict:
    """The configuration of `scoring.score` as JSON has it. images: the whole data set, of which a shard takes a part.

    The batch size and the kind of processor belong to it, as rounding depends on them; the machine does not.
    """
    normalise = classifier.normalise
    config = {
        "format": FORMAT,
        "version": __version__,
        "order": list(explainers),
        "explainers": {name: describe(explainer) for name, explainer in explainers.items()},
        "classifier": identity(classifier),
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


def identity(classifier: Frozen) -> dict:
    """Which function of pixels a `frozen.Frozen` is, as plain values."""
    scale = {name: getattr(classifier.normalise, name).flatten().tolist() for name in ("mean", "std")}
    kind = {} if classifier.outputs == "classes" else {"outputs": classifier.outputs}
    return {"sha256": classifier.digest, "function": function(classifier.network)} | scale | kind


def sha256(config: object) -> str:
    """The hash of a configuration, in hex."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def describe(explainer: object) -> dict:
    """An explainer as plain values: what it is, its options, the hash of its weights, and of its code if that is yours.

    Raises `InputError` where something in it cannot be recognised again by its content.
    """
    if isinstance(explainer, Explainer):  # its classifier is described beside it
        settings = record.plain(explainer.settings) | {"layers": _plain(explainer.layers)}
        settings |= {} if explainer.auxiliary is None else {"auxiliary": identity(explainer.auxiliary)}
        return {"kind": _name(explainer), "weights": digest(explainer.state_dict())} | settings
    if isinstance(explainer, functools.partial):
        given = {"args": explainer.args} | explainer.keywords
        return describe(explainer.func) | {name: _plain(value) for name, value in given.items()}
    if isinstance(explainer, (nn.Module, types.FunctionType)):
        return _plain(explainer)
    if isinstance(explainer, types.MethodType) or not hasattr(explainer, "__dict__"):
        return {"kind": _name(explainer), "content": _reduced(explainer)}
    options = {name: value for name, value in vars(explainer).items() if name not in ("classifier", "counted")}
    return _plain(type(explainer)) | {name: _plain(value) for name, value in options.items()}


def function(network: nn.Module) -> str:
    """The hash of what a network computes, beside its weights: its layers as they print, and what is not saved.

    Of modules that no installed package defines it is their code and their attributes, too.
    """
    saved = network.state_dict()
    printed = re.sub(r" at 0x[0-9a-f]+|, track_running_stats=\w+", "", repr(network))  # the latter: no matter in eval
    parts = [printed, _plain(getattr(network, "card", None))]
    parts += [[name, _hash(value)] for name, value in network.named_buffers() if name not in saved]
    for name, part in network.named_modules():
        if _own(type(part)):
            given = {key: value for key, value in vars(part).items() if key not in vars(nn.Module())}
            parts.append([name, _plain(type(part)), _plain(given)])
    return sha256(parts)


def _plain(value):
    """A value as JSON has it, the same in every process: large ones by their hash, what is of a package by its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, torch.Tensor):
        return _hash(value)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return _sha(f"{value.dtype} {value.shape}", np.ascontiguousarray(value).data)
    if isinstance(value, bytes):
        return _sha("bytes", value)
    if isinstance(value, Layer):
        return value.name
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item) for item in value), key=json.dumps)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, Baseline | Explainer):  # inside of another explainer
        return describe(value) | {"classifier": _plain(value.classifier)}
    if isinstance(value, nn.Module):
        return {"kind": _name(value), "weights": digest(value.state_dict()), "function": function(value)}
    if isinstance(value, (type, types.FunctionType)):
        return {"kind": _name(value)} | ({"code": _code(value)} if _own(value) else {})
    return _reduced(value)


def _reduced(value):
    """Any other object by what `pickle` would store of it."""
    try:
        made = value.__reduce_ex__(4)
    except Exception as error:
        raise InputError(
            f"A {type(value).__qualname__} of an explainer cannot be recognised by its content, so that its scores "
            "could not be found again: score without a path, or let it hold plain numbers, texts and tensors."
        ) from error
    if isinstance(made, str):  # the name that its module has it by
        return f"{getattr(value, '__module__', None) or 'builtins'}.{made}"
    made = (*made, None, None, None)[:5]
    return [_plain(list(part) if isinstance(part, Iterator) else part) for part in made]


def _code(thing):
    """The hash of a function, or of the methods of a class: byte code, constants, defaults, globals and closures.

    Functions and classes of one's own that are used there belong to it.
    """
    todo, found, parts = [thing], [], []
    while todo:
        thing = todo.pop()
        if thing in found:
            continue
        found.append(thing)
        if isinstance(thing, type):
            todo += [part for kind in thing.__mro__ if _own(kind) for part in _methods(kind)]
            continue
        code, known = thing.__code__, thing.__globals__
        closed = [cell.cell_contents for cell in thing.__closure__ or () if cell != types.CellType()]
        used = [thing.__defaults__, thing.__kwdefaults__, *closed]
        used += [known[name] for name in sorted(_globals(code) & known.keys())]
        own = [value for value in used if isinstance(value, (type, types.FunctionType)) and _own(value)]
        todo += own
        parts.append([_said(code), [_name(value) if value in own else _plain(value) for value in used]])
    return sha256(parts)


def _methods(kind):
    """The functions in the body of a class, also those of properties, class methods and the like."""
    for part in vars(kind).values():
        for inside in ("__func__", "fget", "func"):
            part = getattr(part, inside, part)
        if isinstance(part, types.FunctionType):
            yield part


def _globals(code):
    """The names that byte code looks up in its module, with those of the functions inside."""
    inside = (_globals(part) for part in code.co_consts if isinstance(part, types.CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*inside)


def _said(code):
    """What byte code does, without where it stands."""
    constants = [_said(part) if isinstance(part, types.CodeType) else _plain(part) for part in code.co_consts]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), code.co_names, constants]


def _own(thing):
    """Whether a function or class is the user's: of no installed package."""
    top = (thing.__module__ or "builtins").partition(".")[0]
    file = Path(getattr(sys.modules.get(top), "__file__", None) or "")
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return not (installed or top in sys.stdlib_module_names or top == PACKAGE)


def _name(thing):
    """Of a function, a class or an object's class: its name, with the module where that is of another package."""
    thing = thing if hasattr(thing, "__qualname__") else type(thing)
    package = not _own(thing) and not thing.__module__.startswith(f"{PACKAGE}.")
    return f"{thing.__module__}." * package + thing.__qualname__


def _hash(tensor):
    tensor = tensor.detach().cpu().contiguous()
    return _sha(f"{tensor.dtype} {tuple(tensor.shape)}", tensor.flatten().view(torch.uint8).numpy().data)


def _sha(kind, data):
    sha = hashlib.sha256(kind.encode())
    sha.update(data)
    return sha.hexdigest()


def differences(before: dict, now: dict) -> str:
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
