"""Many independent trainings, side by side."""

import contextlib
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

from .errors import InputError
from .progress import duration, say
from .training import best_device, is_finished, train


def train_all(jobs, parallel=None, **options):
    """Train {name: Job} in `parallel` processes and return {name: `Run`} in the order given.

    parallel: by default one process a core, or one in all on a GPU. Each has one thread, whatever `parallel` is, so
    that the bits do not depend on it. Finished jobs are found again. options: as of `training.train`.
    A job that fails does not stop the others; then `InputError` is raised at the end, with the first reason.
    """
    parallel = parallel or (1 if best_device().type == "cuda" else os.cpu_count())
    todo = {name: job for name, job in jobs.items() if options.get("fresh") or not _found(job)}
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} trainings were finished before.")
    if todo:
        _run(todo, parallel, options)
    with _silence():
        return {name: train(job, **options | {"fresh": False}) for name, job in jobs.items()}


def _found(job):
    try:
        return is_finished(job)
    except InputError:
        return False  # its training will say what is wrong


def _run(jobs, parallel, options):
    """Train the jobs in worker processes, a line each."""
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
            title = " ".join(map(str, name)) if isinstance(name, tuple) else name
            say(f"{done}/{len(jobs)} {title}: {best}, {duration(time.perf_counter() - started)} so far")
    if failures:
        raise InputError(f"{len(failures)} of {len(jobs)} trainings failed; the first: {failures[0]}")


def _quietly(job, options):
    """A worker's part; many trainings at once would talk over each other. Returns the best validation accuracy."""
    with _silence():
        run = train(job, **options)
    return max(row["validation_accuracy"] for row in run.history)


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
