"""The one training loop: a schedule, checkpoints that survive a kill, and the same bits after a resume.

What is trained has `loss(pixels, labels)` -> ({term: scalar}, hits (B,)): a classifier, or an explainer of one.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import Batch, Images, batches, place
from ..errors import InputError, reason
from ..explainers.learned import Explainer
from ..models import checkpoints
from ..models.attention import Classifier
from ..numerics import exact
from ..progress import Progress, say
from .distributed import ALONE, World, distributed_loss, launched
from .recipes import Recipe

Model = Classifier | Explainer  # what has `loss`
Loss = Callable[[Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]  # (pixels, labels) -> terms, hits (B,)
Row = dict[str, float]  # of an epoch, by column


def best_device() -> torch.device:
    """The GPU when there is one, of a launcher's process its own, else the CPU."""
    own = f"cuda:{os.environ['LOCAL_RANK']}" if launched()[1] > 1 and "LOCAL_RANK" in os.environ else "cuda"
    return torch.device(own if torch.cuda.is_available() else "cpu")


def device_of(name: torch.device | str | None = None) -> torch.device:
    """The device of that name, by default the best. Raises `InputError` for one that is not there."""
    try:
        device = torch.device(name or best_device())
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"device: {name!r} is not there: choose one of {', '.join(there)}.") from error
    return device


def memory_format(device: torch.device, size: int) -> torch.memory_format:
    """The layout in which training is fastest: channels last on GPUs and for small images (benchmarks/attention.py)."""
    return torch.channels_last if device.type != "cpu" or size <= 64 else torch.contiguous_format


def epoch_seed(seed: int, *parts: int) -> int:
    """A seed that depends on all parts, for example (seed, epoch): epochs can then be repeated after a kill."""
    return int(np.random.SeedSequence((seed, *parts)).generate_state(1)[0])


def optimiser(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser; its rates are set step by step. On a GPU one kernel updates all parameters."""
    groups = recipe.groups(model)
    options: dict[str, Any] = {"fused": True} if groups[0]["params"][0].is_cuda else {}
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), amsgrad=True, **options)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, **options)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Give every group its learning rate and momentum, which of AdamW is the first beta."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
        group |= {"betas": (momentum, group["betas"][1])} if "betas" in group else {"momentum": momentum}


def fit(
    model: Model,
    images: Images,
    validation: Images,
    recipe: Recipe,
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    tensorboard: bool = False,
    label: str = "training",
    settings: dict[str, Any] | None = None,
    compile: bool = False,
    processes: World = ALONE,
) -> list[Row]:
    """Train a model, continuing from `folder`/last.pt when there is one; a row per epoch goes to `folder`/log.csv.

    After every epoch last.pt (all that a resume needs) and, when it is the one to keep, best.pt are replaced
    atomically. The same seed gives the same bits whether or not the training was cut. Returns the history.
    On a GPU sets in memory are copied there. settings: kept in the checkpoints. compile: whether the steps are
    (`compiled_loss`); not with several processes (`distributed`).
    """
    folder, device = Path(folder), torch.device(device)
    model.to(device).to(memory_format=memory_format(device, images.size))
    if isinstance(model, Explainer):
        model.processes = processes  # it is trained with all labels of the batch
    optimizer = optimiser(model, recipe)
    history = checkpoints.resume(model, optimizer, folder / "last.pt", device)
    identity = checkpoints.identity(model.eval())
    if device.type == "cuda":
        images, validation = place(images, device), place(validation, device)
    loss: Loss | None = distributed_loss(model) if processes.size > 1 else None
    if compile and not loss:
        loss = compiled_loss(model, recipe)
    board = open_board(folder, len(history)) if tensorboard and processes.rank == 0 else None
    steps = Progress(recipe.epochs * len(images), label, initial=len(history) * len(images))
    with exact(recipe.seed, recipe.deterministic), steps as progress:
        for epoch in range(len(history), recipe.epochs):
            start = time.perf_counter()
            row = train_epoch(model, optimizer, images, recipe, epoch, workers, progress, loss, processes)
            row = {"epoch": epoch + 1} | row
            check_finite(label, row)
            row |= mean_loss(model, validation, recipe.batch_size, workers, processes)
            row["seconds"] = round(time.perf_counter() - start, 2)
            history.append(row)
            if processes.rank == 0:
                checkpoints.keep(model, optimizer, history, folder, settings, identity)
            if board:
                for name in row.keys() - {"epoch"}:
                    board.add_scalar(name, row[name], row["epoch"])
            say(epoch_line(label, row, recipe.epochs))
    if board:
        board.close()
    processes.everyone(None)  # until all files are written
    return history


def compiled_loss(model: Model, recipe: Recipe) -> Loss | None:
    """`model.loss` compiled, for full batches; the others, each size of which would be compiled anew, take it as it is.

    Rounded otherwise, and on a GPU with fewer launches. Deterministic recipes are not compiled, as compiled kernels may
    round otherwise, nor are explainers, whose hooks on the classifier torch.compile cannot follow: that is said, and
    the result None. Its first call raises `InputError` where compiling fails.
    """
    refusal = "an explainer hooks into its classifier" if isinstance(model, Explainer) else ""
    refusal = "the recipe is deterministic" if recipe.deterministic else refusal
    if refusal:
        say(f"compile: {refusal}, so the training is not compiled.")
        return None
    mode = "reduce-overhead" if next(model.parameters()).is_cuda else None
    fast, first = torch.compile(model.loss, fullgraph=True, dynamic=False, mode=mode), True

    def loss(pixels: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        nonlocal first
        if len(labels) < recipe.batch_size:
            return model.loss(pixels, labels)
        torch.compiler.cudagraph_mark_step_begin()  # results of the step before may be overwritten
        try:
            found = fast(pixels, labels)
        except Exception as error:
            if not first or isinstance(error, InputError):
                raise
            raise InputError(f"compile: failed ({type(error).__name__}: {reason(error)}): train without it.") from error
        first = False
        return found

    return loss


def check_finite(label: str, row: Row) -> None:
    """Raise `InputError` when the epoch's loss is none."""
    if not np.isfinite(row["train_loss"]):
        before = row["epoch"] - 1
        kept = f"the checkpoint of epoch {before} is kept" if before else "there is no earlier checkpoint"
        raise InputError(
            f"{label} diverged in epoch {row['epoch']} (loss {row['train_loss']}): lower lr, "
            f"which was {row['lr']:g}; {kept}."
        )


def train_epoch(
    model: Model,
    optimizer: torch.optim.Optimizer,
    images: Images,
    recipe: Recipe,
    epoch: int,
    workers: int,
    progress: Progress,
    loss: Loss | None = None,
    processes: World = ALONE,
) -> Row:
    """One pass over the images; sums stay on the device, so the loop never waits for it."""
    torch.manual_seed(epoch_seed(recipe.seed, epoch, 0, *[processes.rank] * (processes.rank > 0)))  # dropout
    model.train()
    steps, sums = -(-len(images) // recipe.batch_size), torch.zeros(())
    for step, (pixels, labels, _) in enumerate(train_batches(model, images, recipe, epoch, workers, processes)):
        count = min(recipe.batch_size, len(images) - step * recipe.batch_size)  # of all processes
        weight, factor = processes.begin(count)
        set_rates(optimizer, *recipe.rates(epoch * steps + step, steps))
        terms, hits = train_step(model, optimizer, pixels, labels, recipe, loss, weight)
        sums = sums + factor * summed(terms, hits)
        progress.update(count)
    *values, accuracy = (processes.total(sums) / len(images)).tolist()
    row = {"lr": recipe.rates(epoch * steps + step, steps)[0]}
    return row | named("train", terms, values) | {"train_accuracy": accuracy}


def train_batches(
    model: Model, images: Images, recipe: Recipe, epoch: int, workers: int = 0, processes: World = ALONE
) -> Iterator[Batch]:
    """The epoch's batches, on the model's device."""
    device, seed = next(model.parameters()).device, epoch_seed(recipe.seed, epoch, 1)
    return batches(
        images,
        recipe.batch_size,
        shuffle=True,
        augment=recipe.augment,
        seed=seed,
        device=device,
        workers=workers,
        share=processes.share,
    )


def summed(terms: Mapping[str, Tensor], hits: Tensor) -> Tensor:
    """Terms that are means over the images (B,) of `hits`, as sums over them, and the number of hits; float64."""
    return torch.stack([*(term.detach().double() * len(hits) for term in terms.values()), hits.sum().double()])


def train_step(
    model: Model,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    loss: Loss | None = None,
    weight: float = 1.0,
) -> tuple[dict[str, Tensor], Tensor]:
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


def update(optimizer: torch.optim.Optimizer) -> None:
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
def precision_of(recipe: Recipe, device: torch.device) -> str:
    """What the recipe's precision means on this device: "float32" or "bfloat16"."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return {"auto": "bfloat16" if able else "float32"}.get(recipe.precision, recipe.precision)


def named(split: str, terms: Mapping[str, Tensor], values: Sequence[float]) -> Row:
    """Values by column: "total" is the loss; the other terms have columns of their own where there are several."""
    columns = {"loss" if name == "total" else name: value for name, value in zip(terms, values, strict=True)}
    return {f"{split}_{name}": value for name, value in columns.items() if name == "loss" or len(columns) > 2}


@torch.no_grad()
def mean_loss(model: Model, images: Images, batch_size: int, workers: int = 0, processes: World = ALONE) -> Row:
    """Terms of `model.loss` and share of hits over a data set in eval mode, as columns of the history.

    In float32 whatever the training has: the best epoch is chosen by it, and evaluation is in float32 too.
    """
    model.eval()
    device, sums = next(model.parameters()).device, torch.zeros(())
    parts = batches(images, batch_size, device=device, workers=workers, share=processes.share)
    for step, (pixels, labels, _) in enumerate(parts):
        _, factor = processes.begin(min(batch_size, len(images) - step * batch_size))
        pixels = pixels.contiguous(memory_format=memory_format(device, images.size))
        terms, hits = model.loss(pixels, labels)
        sums = sums + factor * summed(terms, hits)
    *values, accuracy = (processes.total(sums) / len(images)).tolist()
    return named("validation", terms, values) | {"validation_accuracy": accuracy}


def open_board(folder: Path, done: int) -> Any:
    """A TensorBoard `SummaryWriter` that continues after `done` epochs."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "TensorBoard was asked for but is not installed: pip install 'lficam[tensorboard]'."
        ) from error
    return SummaryWriter(folder / "tensorboard", purge_step=done + 1)


def epoch_line(label: str, row: Row, epochs: int) -> str:
    """One line a person can follow the training by."""
    return (
        f"{label}: epoch {row['epoch']}/{epochs}  lr {row['lr']:.3g}  loss {row['train_loss']:.3f}  "
        f"train {row['train_accuracy']:.1%}  "
        f"validation {row['validation_accuracy']:.1%}  {row['seconds']:.1f} s"
    )
