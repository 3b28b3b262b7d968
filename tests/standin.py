"""A stand-in for a GPU: a device that is not the CPU and yet computes, so that every test run has one.

with Standin() as standin:
    model.to(DEVICE)(pixels.to(DEVICE))    # CPU tensors among those of the device raise, as on CUDA
    standin.waits                          # {(what, place): how often} the host waited for the device

Its tensors keep their values on the CPU. Views, backward passes, autocast and factories work as on any device.
"""

import collections
import os
import sys

import pytest
import torch
from torch.utils import backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import lficam

if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch cannot have a device written in Python", allow_module_level=True)

PACKAGE = os.path.dirname(lficam.__file__)
aten = torch.ops.aten
# What gives a number of values that the host has to know.
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal", "is_nonzero"}
COPIES = {"_to_copy", "copy_", "_copy_from"}
_waits = collections.Counter()


class Backend(registration._DummyBackendModule):
    def is_available(self):  # or tests of other things would look for it
        return False

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


class Hook(registration._DummyPrivateUse1Hook):
    def is_available(self):
        return False


registration._setup_privateuseone_for_python_backend("standin", Backend(), Hook())
DEVICE = torch.device("standin", 0)


class Held(torch.Tensor):
    """A tensor of the device; `held` is the CPU tensor with its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        with torch.inference_mode(False):  # or views of a parameter could not be made in inference mode
            return torch.Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **like)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def __repr__(self):
        return f"{self.held!r} on {DEVICE}"

    def __format__(self, spec):
        return format(self.cpu(), spec)

    def tolist(self):
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol):  # saved as a CPU tensor
        _wait("copy")
        return self.held.__reduce_ex__(protocol)


class Standin(TorchDispatchMode):
    """While entered, factories and copies know the device. waits: since `waits.clear()`, of all of them."""

    waits = _waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


def _call(func, args, kwargs):
    name, tensors = func.overloadpacket.__name__, [t for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
    own, wanted = any(isinstance(t, Held) for t in tensors), kwargs.get("device")
    here = own if wanted is None else torch.device(wanted).type == DEVICE.type
    if not (own or here):
        return func(*args, **kwargs)
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
        with Standin():
            return func.decompose(*args, **kwargs)  # in inference mode it comes whole
    if name in COPIES:
        here = isinstance(args[0], Held) if name == "copy_" else here
        _notice_copy(name, args, kwargs, here)
    elif own:
        _refuse_mixed(func, name, args, tensors)
    if name in READS:
        _wait(name)
    options = kwargs if wanted is None else kwargs | {"device": "cpu" if here else wanted}
    found = func(*tree_map(_values, args), **tree_map(_values, options))
    if not here or name == "_local_scalar_dense":
        return found
    found = tree_map(lambda x: Held(x) if torch.is_tensor(x) else x, found)
    return found if wanted is not None else return_and_correct_aliasing(func, args, kwargs, found)


def _values(x):
    return x.held if isinstance(x, Held) else x


def _notice_copy(name, args, kwargs, here):
    source = args[1] if name == "copy_" else args[0]
    waits = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
    if isinstance(source, Held) != here and waits:
        _wait("copy")


def _refuse_mixed(func, name, args, tensors):
    """As CUDA does: of CPU tensors only single values may join, and what indexes, which is copied."""
    host = [t for t in tensors if not isinstance(t, Held)]
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        chosen = [t for t in args[1] if t is not None]
        masks = any(t.dtype in (torch.bool, torch.uint8) for t in chosen)
        if masks and not (name != "index" and args[2].numel() == 1):  # else it is filled where the mask is
            _wait("index by a mask")
        if isinstance(args[0], Held) and any(not isinstance(t, Held) for t in chosen):
            _wait("copy of an index")
            host = [t for t in host if not any(t is other for other in chosen)]
    if any(t.ndim for t in host):
        raise RuntimeError(f"Expected all tensors to be on the same device, {func} got {DEVICE} and cpu")


def _wait(what):
    frame, place = sys._getframe(1), "elsewhere"
    while frame and place == "elsewhere":
        if frame.f_code.co_filename.startswith(PACKAGE):
            place = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    _waits[what, place] += 1


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):  # noqa: ARG001
    return Held(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    _notice_copy("_copy_from", (source,), {"non_blocking": non_blocking}, isinstance(target, Held))
    _values(target).copy_(_values(source))
    return target


# What `torch.load` is to put on the device stays where it was read, for the model to copy.
torch.serialization.register_package(5, lambda _: None, lambda x, place: x if place.startswith("standin") else None)

# `torch.tensor(numbers, device=...)` asks neither mode nor subclass, but these two.
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")


def _in_bfloat16(func):
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def call(*args):
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            return func(*tree_map(lambda x: x.bfloat16() if torch.is_tensor(x) else x, args))

    return call


_everything = torch.library.Library("_", "IMPL")
_everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _name in ("conv2d", "linear", "matmul", "mm", "bmm"):
    _library.impl(_name, _in_bfloat16(getattr(aten, _name)), "AutocastPrivateUse1")
