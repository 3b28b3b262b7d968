"""The learning-rate range test (Smith, 2017), by which TAME's authors choose the maximum of their schedule."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.datasets import Images
from ..errors import InputError
from ..numerics import exact
from ..progress import Progress
from .jobs import Job, best_device, relabelled
from .loop import Model, memory_format, optimiser, set_rates, train_batches, train_step
from .recipes import Recipe


class LRRange(NamedTuple):
    """lrs (n,), the loss of each step, the smoothed loss, and the learning rate to try: None when nothing falls."""

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None


def lr_range(
    model: Model,
    images: Images,
    recipe: Recipe,
    *,
    start: float = 1e-8,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.9,
    limit: float = 4.0,
    workers: int = 0,
) -> LRRange:
    """Train with a learning rate that rises from start to end, evenly in its logarithm; then restore model and seeds.

    It ends early when the smoothed loss exceeds `limit` times its best. smoothing: of the running mean with bias
    correction; the authors have 0.999 over a whole epoch. Raises `InputError` for settings out of range.
    """
    if not 0 < start < end or steps < 2 or not 0 <= smoothing < 1 or limit <= 1:
        raise InputError(
            "Learning-rate test: expected 0 < start < end, at least 2 steps, smoothing in [0, 1) and limit above 1, "
            f"got {start}, {end}, {steps}, {smoothing}, {limit}."
        )
    state, mode = copy.deepcopy(model.state_dict()), model.training
    lrs, losses = rising(start, end, steps), []
    smoothed: list[float] = []
    epochs = (train_batches(model, images, recipe, epoch, workers) for epoch in itertools.count())
    try:
        optimizer = optimiser(model.train(), recipe)
        with exact(recipe.seed, recipe.deterministic), Progress(steps, "learning-rate test") as progress:
            for (pixels, labels, _), lr in zip(itertools.chain.from_iterable(epochs), lrs, strict=False):
                set_rates(optimizer, lr, recipe.momentum)
                losses.append(train_step(model, optimizer, pixels, labels, recipe)[0]["total"].item())
                smoothed = smooth(losses, smoothing)
                progress.update(1, lr=lr, loss=losses[-1])
                if not math.isfinite(losses[-1]) or smoothed[-1] > limit * min(smoothed):
                    break
    except KeyboardInterrupt:
        text = "the learning-rate test was interrupted: it keeps nothing, and the same command starts it again."
        raise KeyboardInterrupt(text) from None
    finally:
        model.load_state_dict(state)
        model.train(mode)
    if not math.isfinite(losses[-1]):
        losses.pop()
    n = len(losses)
    return LRRange(lrs[:n], losses, smoothed[:n], suggest(lrs[:n], smoothed[:n]))


def rising(start: float, end: float, steps: int) -> list[float]:
    """Learning rates from start to end, each the same multiple of the one before."""
    return [start * (end / start) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: Sequence[float], beta: float) -> list[float]:
    """Exponential running mean with bias correction."""
    mean, out = 0.0, []
    for i, loss in enumerate(losses, start=1):
        mean = beta * mean + (1 - beta) * loss
        out.append(mean / (1 - beta**i))
    return out


def suggest(lrs: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """A tenth of the learning rate at which the smoothed loss is least: still falling, and at a safe distance."""
    best = int(np.argmin(smoothed)) if smoothed else 0
    return lrs[best] / 10 if best else None


def job_range(job: Job, start: float = 1e-8, end: float = 10.0, steps: int = 100, workers: int = 0) -> LRRange:
    """The range test of what a job trains, on its training images. Raises `InputError`."""
    device, images = best_device(), job.images("train", job.train_count)
    if steps * job.recipe.batch_size < len(images):  # labels of no more images than are looked at
        images = images.subset(range(steps * job.recipe.batch_size))
    with exact(job.recipe.seed):
        model = job.model(images).to(device).to(memory_format=memory_format(device, images.size))
    images = relabelled(model, images, workers)
    return lr_range(model, images, job.recipe, start=start, end=end, steps=steps, workers=workers)
