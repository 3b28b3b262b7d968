"""How torch computes: one meaning of float32, and runs that can be repeated; afterwards all is as the user had it.

float32 is IEEE's everywhere in lficam: in training, scoring and explaining alike. TF32, cuDNN's default for
convolutions on a GPU, keeps 10 bits of 23; who wants speed asks for bfloat16, and the record says so.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from .errors import InputError

# Deterministic recipes need it on a GPU, and it is read only once: at the first matrix product of the process.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_OPERATIONS = ("matmul", "conv", "rnn")
_before: list = []
_lock, _users = threading.Lock(), 0  # explainers may be shared by threads


@contextlib.contextmanager
def exact(seed: int | None = None, deterministic: bool | None = None) -> Iterator[None]:
    """Compute within as lficam promises: float32 without TF32; also a decorator.

    seed: of torch, on all devices, and numpy, whose streams of random numbers go on afterwards as if nothing had been
    drawn. deterministic: whether kernels whose bits vary from run to run are refused; None leaves that to the user.
    Raises `InputError` naming the operation that a deterministic run is refused.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ieee())
        if seed is not None:
            stack.enter_context(_seeded(seed))
        if deterministic is not None:
            stack.enter_context(_deterministic(deterministic))
        yield


@contextlib.contextmanager
def _ieee():
    """No TF32 as long as anybody is within, in whatever thread."""
    global _users
    with _lock:
        if not _users:
            _before[:] = _forbid_tf32()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            for put_back in [] if _users else _before:
                put_back()


def _forbid_tf32():
    """Set torch's switches, those until torch 2.8 and those since, which have to agree; returns what undoes it."""
    backends, undo = torch.backends, []
    with contextlib.suppress(RuntimeError):  # a user of the newer kind cannot read the older
        undo.append(partial(setattr, backends.cudnn, "allow_tf32", backends.cudnn.allow_tf32))
    with contextlib.suppress(RuntimeError):
        undo.append(partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    parts = [getattr(b, name, None) for b in (backends.cuda, backends.cudnn, backends.mkldnn) for name in _OPERATIONS]
    parts = [part for part in parts if hasattr(part, "fp32_precision")]
    undo += [partial(setattr, part, "fp32_precision", part.fp32_precision) for part in parts]
    backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for part in parts:
        part.fp32_precision = "ieee"
    return undo


@contextlib.contextmanager
def _seeded(seed):
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    cpu, legacy = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - libraries still draw from it
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(legacy)  # noqa: NPY002
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextlib.contextmanager
def _deterministic(wanted):
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill, benchmark = torch.utils.deterministic.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if not (wanted and found):
            raise
        raise InputError(
            f"{found[1]} has no deterministic implementation on this device: give the recipe deterministic=False, "
            "or take another network."
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
