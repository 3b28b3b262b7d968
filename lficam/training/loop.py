"""The one training loop: SGD with a schedule, checkpoints that survive a kill, and the same bits after a resume.

What is trained has `loss(pixels, labels)` -> ({term: scalar}, hits (B,)): a classifier, or an explainer of one.
"""

import functools
import os
import time
from pathlib import Path

import numpy as np
import torch

from ..data import datasets
from ..data.resident import place
from ..errors import InputError, reason
from ..models import checkpoints
from ..numerics import exact
from ..progress import Progress, say
from .distributed import launched, together, world
from .speed import compiled


def best_device():
    """The GPU when there is one, of a launcher's process its own, else the CPU."""
    own = f"cuda:{os.environ['LOCAL_RANK']}" if launched()[1] > 1 and "LOCAL_RANK" in os.environ else "cuda"
    return torch.device(own if torch.cuda.is_available() else "cpu")


def device_of(name=None):
    """The device of that name, by default the best. Raises `InputError` for one that is not there."""
    try:
        device = torch.device(name or best_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"device: {name!r} is not there: choose one of {', '.join(there)}.") from error
    return device


def memory_format(device, size):
    """The layout in which training is fastest: channels last on GPUs and for small images (benchmarks/attention.py)."""
    return torch.channels_last if device.type != "cpu" or size <= 64 else torch.contiguous_format


def derive(seed, *parts):
    """A seed that depends on all parts, for example (seed, epoch): epochs can then be repeated after a kill."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1)[0])


def sgd(model, recipe):
    """The recipe's optimiser; its rates are set step by step. On a GPU one kernel updates all parameters."""
    groups = recipe.groups(model)
    options = {"fused": True} if groups[0]["params"][0].is_cuda else {}
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, **options)


def set_rates(optimizer, lr, momentum):
    """Give every group its learning rate and momentum."""
    for group in optimizer.param_groups:
        group["lr"], group["momentum"] = lr * group["factor"], momentum


def fit(
    model,
    images,
    validation,
    recipe,
    folder,
    *,
    device="cpu",
    workers=0,
    tensorboard=False,
    label="training",
    settings=None,
    compile=False,
    resident=None,
    sync_batch_norm=True,
):
    """Train a model, continuing from `folder`/last.pt when there is one; a row per epoch goes to `folder`/log.csv.

    After every epoch last.pt (all that a resume needs) and, when it is the one to keep, best.pt are replaced
    atomically. The same seed gives the same bits whether or not the training was cut. Returns the history.
    compile: whether the steps are (`speed.compiled`). resident: whether sets in memory are copied to the device, which
    changes no bit; by default on a GPU. sync_batch_norm: with several processes (`distributed`), whether batch norm
    sees the whole batch; nothing is compiled then.
    """
    folder, device = Path(folder), torch.device(device)
    model.to(device, memory_format=memory_format(device, images.size))
    model.processes, optimizer = world(), sgd(model, recipe)  # an explainer is trained with all labels of the batch
    history = checkpoints.resume(model, optimizer, folder / "last.pt", device)
    identity = checkpoints.identity(model.eval())
    if device.type == "cuda" if resident is None else resident:
        images, validation = place(images, device), place(validation, device)
    loss = loss_of(model, recipe, compile, sync_batch_norm)
    board = open_board(folder, len(history)) if tensorboard and world().rank == 0 else None
    steps = Progress(recipe.epochs * len(images), label, initial=len(history) * len(images))
    with exact(recipe.seed, recipe.deterministic), steps as progress:
        for epoch in range(len(history), recipe.epochs):
            start = time.perf_counter()
            row = {"epoch": epoch + 1} | train_epoch(model, optimizer, images, recipe, epoch, workers, progress, loss)
            check_finite(label, row)
            row |= mean_loss(model, validation, recipe.batch_size, workers)
            row["seconds"] = round(time.perf_counter() - start, 2)
            history.append(row)
            if world().rank == 0:
                checkpoints.keep(model, optimizer, history, folder, settings, identity)
            write_scalars(board, row)
            say(epoch_line(label, row, recipe.epochs))
    if board:
        board.close()
    world().wait()  # until all files are written
    return history


def loss_of(model, recipe, compile, sync_batch_norm):
    """What is called in the place of `model.loss`: averaged over processes, compiled, or None, itself."""
    if world().size > 1:
        return together(model, sync_batch_norm)
    return compiled(model, recipe) if compile else None


def write_scalars(board, row):
    """An epoch's row for TensorBoard, where there is a board."""
    for name in row.keys() - {"epoch"} if board else ():
        board.add_scalar(name, row[name], row["epoch"])


def check_finite(label, row):
    """Raise `InputError` when the epoch's loss is none."""
    if not np.isfinite(row["train_loss"]):
        before = row["epoch"] - 1
        kept = f"the checkpoint of epoch {before} is kept" if before else "there is no earlier checkpoint"
        raise InputError(
            f"{label} diverged in epoch {row['epoch']} (loss {row['train_loss']}): lower lr, "
            f"which was {row['lr']:g}; {kept}."
        )


def train_epoch(model, optimizer, images, recipe, epoch, workers, progress, loss=None):
    """One pass over the images; sums stay on the device, so the loop never waits for it."""
    torch.manual_seed(derive(recipe.seed, epoch, 0, *[world().rank] * (world().rank > 0)))  # dropout
    model.train()
    steps = -(-len(images) // recipe.batch_size)
    sums = 0
    for step, (pixels, labels, _) in enumerate(train_batches(model, images, recipe, epoch, workers)):
        count = min(recipe.batch_size, len(images) - step * recipe.batch_size)  # of all processes
        weight, factor = world().begin(count)
        set_rates(optimizer, *recipe.rates(epoch * steps + step, steps))
        terms, hits = train_step(model, optimizer, pixels, labels, recipe, loss, weight)
        sums = sums + factor * summed(terms, hits)
        progress.update(count)
    *values, hits = (world().total(sums) / len(images)).tolist()
    row = {"lr": recipe.rates(epoch * steps + step, steps)[0]}
    return row | named("train", terms, values) | {"train_accuracy": hits}


def train_batches(model, images, recipe, epoch, workers=0):
    """The epoch's batches, on the model's device."""
    device = next(model.parameters()).device
    options = {"shuffle": True, "augment": recipe.augment, "seed": derive(recipe.seed, epoch, 1)}
    options |= {"share": world().share} if world().size > 1 else {}
    return datasets.batches(images, recipe.batch_size, device=device, workers=workers, **options)


def summed(terms, hits):
    """Terms that are means over the images (B,) of `hits`, as sums over them, and the number of hits; float64."""
    return torch.stack([*(term.detach().double() * len(hits) for term in terms.values()), hits.sum().double()])


def train_step(model, optimizer, pixels, labels, recipe, loss=None, weight=1.0):
    """One step of the optimiser; returns what the model's `loss` does.

    loss: the same, compiled or on several processes; weight: of this process's part in the gradient.
    """
    device = pixels.device
    # First, so that no gradient of the step before lies in memory that a compiled step records anew.
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision_of(recipe, device) == "bfloat16"):
        pixels = pixels.contiguous(memory_format=memory_format(device, pixels.shape[-1]))
        terms, hits = (loss or model.loss)(pixels, labels)
    (terms["total"] if weight == 1 else weight * terms["total"]).backward()
    update(optimizer)
    return terms, hits


def update(optimizer):
    """The optimiser's step; where its fused kernel refuses, the plain one from then on."""
    groups = optimizer.param_groups
    try:
        for group in groups:  # one by one, so that none is updated twice
            optimizer.param_groups = [group]
            try:
                optimizer.step()
            except RuntimeError as error:
                if not group.get("fused"):
                    raise
                say(f"The optimiser goes on without its fused kernel ({reason(error)}).")
                for other in groups:
                    other["fused"] = None
                optimizer.step()
    finally:
        optimizer.param_groups = groups


@functools.cache
def precision_of(recipe, device):
    """What the recipe's precision means on this device: "float32" or "bfloat16"."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"auto": "bfloat16" if able else "float32"}.get(recipe.precision, recipe.precision)


def named(split, terms, values):
    """Values by column: "total" is the loss; the other terms have columns of their own where there are several."""
    columns = {"loss" if name == "total" else name: value for name, value in zip(terms, values, strict=True)}
    return {f"{split}_{name}": value for name, value in columns.items() if name == "loss" or len(columns) > 2}


@torch.no_grad()
def mean_loss(model, images, batch_size, workers=0):
    """Terms of `model.loss` and share of hits over a data set in eval mode, as columns of the history.

    In float32 whatever the training has: the best epoch is chosen by it, and evaluation is in float32 too.
    """
    model.eval()
    device, sums = next(model.parameters()).device, 0
    options = {"share": world().share} if world().size > 1 else {}
    for step, (pixels, labels, _) in enumerate(
        datasets.batches(images, batch_size, device=device, workers=workers, **options)
    ):
        _, factor = world().begin(min(batch_size, len(images) - step * batch_size))
        pixels = pixels.contiguous(memory_format=memory_format(device, images.size))
        terms, hits = model.loss(pixels, labels)
        sums = sums + factor * summed(terms, hits)
    *values, hits = (world().total(sums) / len(images)).tolist()
    return named("validation", terms, values) | {"validation_accuracy": hits}


def open_board(folder, done):
    """A TensorBoard writer that continues after `done` epochs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard was asked for but is not installed: pip install 'lficam[tensorboard]'."
        ) from error
    return SummaryWriter(folder / "tensorboard", purge_step=done + 1)


def epoch_line(label, row, epochs):
    """One line a person can follow the training by."""
    return (
        f"{label}: epoch {row['epoch']}/{epochs}  lr {row['lr']:.3g}  loss {row['train_loss']:.3f}  "
        f"train {row['train_accuracy']:.1%}  "
        f"validation {row['validation_accuracy']:.1%}  {row['seconds']:.1f} s"
    )
