"""Many independent trainings, side by side."""

import contextlib
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from .errors import InputError
from .progress import duration, say
from .training import best_device, train


def train_all(jobs, parallel=None, **options):
    """Train {name: Job} in `parallel` processes and return {name: `Run`} in the order given.

    parallel: by default one process a core, or one in all on a GPU. Each has one thread, whatever `parallel` is, so
    that the bits do not depend on it. Finished jobs are found again. options: as of `training.train`.
    A job that fails does not stop the others; then `InputError` is raised at the end, with the first reason.
    """
    parallel = parallel or (1 if best_device().type == "cuda" else os.cpu_count())
    failures, started = [], time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(_quietly, job, options): name for name, job in jobs.items()}
        for done, future in enumerate(as_completed(futures), start=1):
            name = futures[future]
            try:
                best = f"validation {future.result():.1%}"
            except InputError as error:
                failures.append(f"{name}: {error}")
                best = "failed"
            say(f"{done}/{len(jobs)} {name}: {best}, {duration(time.perf_counter() - started)} so far")
    if failures:
        raise InputError(f"{len(failures)} of {len(jobs)} trainings failed; the first: {failures[0]}")
    found = options | {"fresh": False}
    with _silence():
        return {name: train(job, **found) for name, job in jobs.items()}


def _quietly(job, options):
    """A worker's part; many trainings at once would talk over each other. Returns the best validation accuracy."""
    with _silence():
        run = train(job, **options)
    return max(row["validation_accuracy"] for row in run.history)


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
