"""One training on several processes: each has its part of every batch, and the result is that of one process.

torchrun --standalone --nproc-per-node 8 -m lficam train --method lfi-cam --backbone resnet50 --dataset imagenet

Launchers (torchrun, accelerate launch) tell each process its RANK; without them all here does nothing. Gradients are
averaged by DistributedDataParallel; batch norm sees the whole batch; files are written by process 0 alone.
"""

import atexit
import contextlib
import datetime
import os
import signal

import torch
import torch.nn.functional as F
from torch import distributed as dist
from torch import nn

from .errors import InputError, reason

PATIENCE = datetime.timedelta(minutes=10)  # how long a process waits for the others


def launched():
    """(rank, size): which process this is, and of how many, as the launcher says; (0, 1) without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class LostError(InputError):
    """Another process of the training failed or was killed."""

    code = 1


class World:
    """The processes of one training: rank of size. sizes: each one's images of the batch at hand, if it is shared."""

    def __init__(self, rank=0, size=1):
        self.rank, self.size, self.sizes = rank, size, []

    def share(self, cut):
        """This process's part of a batch (n,): the r-th of `size` slices. All of it where there are too few images."""
        n, size = len(cut), self.size
        if n < size:
            return cut
        return cut[n * self.rank // size : n * (self.rank + 1) // size]

    def begin(self, n):
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

    def total(self, sums):
        """The sum of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(sums)
        return sums

    def images(self, mine):
        """How many images the batch at hand has in all, where this process has `mine`."""
        return sum(self.sizes) if self.sizes else mine

    def gather(self, labels):
        """Labels (n,) of the whole batch from those of each process (B,), and the position at which its own begin."""
        if not self.sizes:
            return labels, 0
        padded = F.pad(labels, (0, max(self.sizes) - len(labels)))
        parts = [torch.empty_like(padded) for _ in self.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, self.sizes, strict=True)]), sum(self.sizes[: self.rank])

    def agree(self, value, text):
        """Raise `InputError` with the text where the processes do not all have the same value."""
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
            if any(other != value for other in values):
                raise InputError(text)

    def spread(self, call, images, at_once):
        """`call(images)`, integers (N,) on the CPU, each process doing its part of the images, cut between batches."""
        if self.size == 1:
            return call(images)
        cuts = torch.arange(len(images)).split(at_once)
        mine = cuts[len(cuts) * self.rank // self.size : len(cuts) * (self.rank + 1) // self.size]
        found = [call(images.subset(torch.cat(mine)))] if mine else []
        parts = [None] * self.size
        dist.all_gather_object(parts, found)
        return torch.cat([part for some in parts for part in some])

    def wait(self):
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()
_current = ALONE


def world():
    """The processes that train together now; `ALONE` outside of `joined`."""
    return _current


def together(model, sync_batch_norm=True):
    """What several processes call in the place of `model.loss`: gradients are averaged."""
    if sync_batch_norm:
        synchronise(model)
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else None
    # A static graph: layers that are never used, as ABN's ResNeXt has, need no search in every step.
    return nn.parallel.DistributedDataParallel(Loss(model), devices, static_graph=True)


class Loss(nn.Module):
    """A model whose forward pass is its loss: what DistributedDataParallel wraps."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels, labels):
        return self.model.loss(pixels, labels)


@contextlib.contextmanager
def joined(device):
    """The `World` of the launcher's processes, for a training within; yields `ALONE` without a launcher.

    Raises `InputError` when the processes do not find each other, `LostError` when one of them is lost.
    """
    global _current
    rank, size = launched()
    if size == 1 or _current is not ALONE:
        yield _current
        return
    if torch.device(device).type == "cuda":
        there = torch.cuda.device_count()
        if torch.device(device).index not in range(there):
            raise InputError(f"More processes were started than there are GPUs: start {there} on this machine.")
        torch.cuda.set_device(device)
    try:
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"Process {rank} of {size} does not find the others ({reason(error)}): "
            "start all of them by one torchrun, or unset RANK and WORLD_SIZE."
        ) from error
    lost = f"Process {rank} of {size} was left by another one, which failed or was killed: start the same command again"
    lost += ", the training continues after its last finished epoch."

    def stop(signum, frame):  # noqa: ARG001 - the launcher's signal to those that are left
        signal.signal(signum, before)
        raise LostError(lost)

    atexit.unregister(leave)  # whoever fails must not wait for the others
    before = signal.signal(signal.SIGTERM, stop)
    _current = World(rank, size)
    try:
        yield _current
        atexit.register(leave)  # no earlier, as there may be a next training
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(w in str(error) for w in ("gloo", "Connection", "NCCL")):
            raise
        # The launcher's signal is still to come: it must not end us before we have said so.
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, before))
        raise LostError(lost) from error
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)
        _current = ALONE


def leave():
    """Destroy the group of processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def synchronise(model):
    """Let batch norms that use a batch's statistics in training use those of the whole batch; in place, same names."""
    was = model.training
    model.train()
    for name, part in list(model.named_modules()):
        if not (isinstance(part, nn.BatchNorm2d) and part.training):
            continue
        if next(model.parameters()).is_cuda:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, nn.SyncBatchNorm.convert_sync_batchnorm(part))
        else:
            part.__class__ = BatchNormOfAll
    model.train(was)


class Sum(torch.autograd.Function):
    """The sum over all processes; what flows back is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return world().total(x.clone())

    @staticmethod
    def backward(ctx, gradient):  # noqa: ARG004
        return world().total(gradient.clone())


class BatchNormOfAll(nn.BatchNorm2d):
    """Batch norm over the images of all processes on CPUs, where torch's SyncBatchNorm does not run."""

    def forward(self, x):
        if not self.training or not world().sizes:
            return super().forward(x)
        n = world().total(x.new_full((), x.numel() / x.shape[1]))
        mean = Sum.apply(x.sum((0, 2, 3))) / n
        x = x - mean[:, None, None]
        variance = Sum.apply((x * x).sum((0, 2, 3))) / n
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale[:, None, None] + self.bias[:, None, None]
