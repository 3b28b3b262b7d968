"""One training on several processes: each has its part of every batch, and the result is that of one process.

torchrun --standalone --nproc-per-node 8 -m lficam train --method lfi-cam --backbone resnet50 --dataset imagenet

Launchers (torchrun, accelerate launch) tell each process its RANK; without them all here does nothing. Gradients are
averaged by DistributedDataParallel; batch norm sees the whole batch; files are written by process 0 alone.
"""

import atexit
import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import distributed as dist

from ..data.datasets import Images
from ..errors import InputError, reason
from ..explainers.learned import Explainer, OneProcess
from ..models.attention import Classifier
from ..progress import say

PATIENCE = datetime.timedelta(minutes=10)  # how long a process waits for the others
Value = TypeVar("Value")


def launched() -> tuple[int, int]:
    """(rank, size): which process this is, and of how many, as the launcher says; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class LostError(InputError):
    """Another process of the training failed or was killed."""

    code = 1  # of the command line, which says it at once


class World(OneProcess):
    """The processes of one training: rank of size. sizes: each one's images of the batch at hand, if it is shared."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size
        self.sizes: list[int] = []

    def share(self, cut: Tensor) -> Tensor:
        """This process's part of a batch (n,): the r-th of `size` slices. All of it where there are too few images."""
        n, size = len(cut), self.size
        if n < size:
            return cut
        return cut[n * self.rank // size : n * (self.rank + 1) // size]

    def begin(self, n: int) -> tuple[float, float]:
        """Note that the batch at hand has n images in all.

        Returns (weight, factor): of this process's mean loss, so that the average over processes is the batch's mean,
        and of its sums, so that their sum is the batch's.
        """
        if self.size == 1:
            return 1.0, 1.0
        if n < self.size:
            self.sizes = []  # every process has all of it
            return 1.0, 1 / self.size
        self.sizes = [n * (r + 1) // self.size - n * r // self.size for r in range(self.size)]
        return self.sizes[self.rank] * self.size / n, 1.0

    def images(self, mine: int) -> int:
        """How many images the batch at hand has in all, where this process has `mine`."""
        return sum(self.sizes) if self.sizes else mine

    def gather(self, labels: Tensor) -> tuple[Tensor, int]:
        """Labels (n,) of the whole batch from those of each process (B,), and the position at which its own begin."""
        if not self.sizes:
            return labels, 0
        padded = F.pad(labels, (0, max(self.sizes) - len(labels)))
        parts = [torch.empty_like(padded) for _ in self.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, self.sizes, strict=True)]), sum(self.sizes[: self.rank])

    def total(self, sums: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(sums)
        return sums

    def everyone(self, value: Value) -> list[Value]:
        """The value of each process; returns when all of them have come here."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def spread(self, call: Callable[[Images], Tensor], images: Images, at_once: int) -> Tensor:
        """`call(images)`, integers (N,) on the CPU, each process doing its part of the images, cut between batches."""
        if self.size == 1:
            return call(images)
        cuts = torch.arange(len(images)).split(at_once)
        mine = cuts[len(cuts) * self.rank // self.size : len(cuts) * (self.rank + 1) // self.size]
        found = call(images.subset(torch.cat(mine))) if mine else torch.arange(0)
        return torch.cat(self.everyone(found))


ALONE = World()


class DistributedLoss(nn.Module):
    """A model whose forward pass is its loss: what DistributedDataParallel wraps."""

    def __init__(self, model: Classifier | Explainer):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return self.model.loss(pixels, labels)


def distributed_loss(model: Classifier | Explainer) -> nn.Module:
    """What several processes call in the place of `model.loss`: gradients are averaged."""
    synchronise(model)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    # A static graph: layers that are never used, as ABN's ResNeXt has, need no search in every step.
    return nn.parallel.DistributedDataParallel(DistributedLoss(model), devices, static_graph=True)


def synchronise(model: Classifier | Explainer) -> None:
    """Let batch norms see the whole batch in training; in place, same names. torch has that on GPUs alone."""
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        say("On CPUs batch norm sees each process's own part of a batch: the training is not that of one process.")


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The `World` of the launcher's processes, for a training within; `ALONE` without a launcher.

    Raises `InputError` when the processes do not find each other, `LostError` when one of them is lost.
    """
    rank, size = launched()
    if size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        there = torch.cuda.device_count()
        if device.index not in range(there):
            raise InputError(f"More processes were started than there are GPUs: start {there} on this machine.")
        torch.cuda.set_device(device)
    try:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"Process {rank} of {size} does not find the others ({reason(error)}): "
            "start all of them by one torchrun, or unset RANK and WORLD_SIZE."
        ) from error
    atexit.unregister(leave)  # whoever fails must not wait for the others
    try:
        yield World(rank, size)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(w in str(error) for w in ("gloo", "Connection", "NCCL")):
            raise
        raise LostError(
            f"Process {rank} of {size} was left by another one, which failed or was killed: start the same command "
            "again, the training continues after its last finished epoch."
        ) from error
    atexit.register(leave)  # no earlier, as there may be a next training


def leave() -> None:
    """Destroy the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()
