"""Many independent trainings, side by side."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from .. import files
from ..errors import InputError
from ..explainers.frozen import Frozen, find
from ..progress import Progress, duration, say
from .jobs import Job, Run, best_device, finished_folder, train


def train_all(jobs: Mapping[str, Job], parallel: int | None = None, **options: Any) -> dict[str, Run]:
    """Train {name: Job} in `parallel` processes and return {name: `Run`} in the order given.

    Classifiers that are explained, or auxiliary, are trained before, each once; so are equal jobs. parallel: by default
    one process a core, or one in all on a GPU. Each has one thread, whatever `parallel` is, so that the bits do not
    depend on it. Finished jobs are found again. options: as of `jobs.train`.
    A job that fails does not stop the others; then `InputError` is raised at the end, with the first reason. A process
    that is killed loses one job, which is begun again once, from its last checkpoint.
    """
    device, fresh = torch.device(options.get("device") or best_device()), options.get("fresh", False)
    parallel = parallel or (1 if device.type == "cuda" else files.cores())
    todo = [(name, job) for name, job in jobs.items() if fresh or not _found(job, device)]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} trainings were finished before.")
    todo = [(name, job) for i, (name, job) in enumerate(todo) if job not in [same for _, same in todo[:i]]]
    asked = [job for _, job in todo]
    needed = classifiers_of(asked)
    missing = [job for job in needed if job not in asked and not _found(job, device)]
    first = [(f"{job.title} {i}", job) for i, job in enumerate(missing, start=1)]
    first += [(name, job) for name, job in todo if job in needed]
    failures = _run(first, parallel, options)
    lost = [job for job, _ in failures]
    ready = [(name, job) for name, job in todo if job not in needed]
    ready = [(name, job) for name, job in ready if not any(one in lost for one in job.needs.values())]
    failures += _run(ready, parallel, options)
    if failures:
        total = len(missing) + len(todo)
        count = total - len(first) - len(ready) + len(failures)
        raise InputError(f"{count} of {total} trainings failed; the first: {failures[0][1]}")
    with _silence():
        return {name: train(job, **options | {"fresh": False}) for name, job in jobs.items()}


def frozen(explained: Mapping[str, Job | Path | str], parallel: int | None = None, **options: Any) -> dict[str, Frozen]:
    """The classifiers to be explained, {name: `frozen.Frozen`}; `Job`s among {name: what} are trained first.

    options: as of `jobs.train`; they lie on its device, as what it returns does.
    """
    device = options.get("device") or best_device()
    runs = train_all({name: what for name, what in explained.items() if isinstance(what, Job)}, parallel, **options)
    places = {name: what for name, what in explained.items() if not isinstance(what, Job)}
    places |= {name: run.folder / "best.pt" for name, run in runs.items()}
    return {name: find(places[name]).to(device) for name in explained}


def classifiers_of(jobs: Iterable[Job]) -> list[Job]:
    """The jobs of the classifiers that others need, explained or auxiliary, each once."""
    found: list[Job] = []
    for one in (one for job in jobs for one in job.needs.values()):
        if one not in found:
            found.append(one)
    return found


def _found(job, device):
    try:
        return finished_folder(job, device) is not None
    except InputError:
        return False  # its training will say what is wrong


def _run(jobs: list[tuple[str, Job]], parallel: int, options: dict[str, Any]) -> list[tuple[Job, str]]:
    """Train the jobs, by name, in worker processes, a line each. Returns those that failed, and why."""
    failures, started = [], time.perf_counter()
    if not jobs:
        return []
    workers = Workers(min(parallel, len(jobs)))
    with ThreadPoolExecutor(workers.count) as lanes, Progress(len(jobs), "trainings") as progress:
        try:
            futures = {lanes.submit(workers.call, name, job, options): (name, job) for name, job in jobs}
            for done, future in enumerate(as_completed(futures), start=1):
                name, job = futures[future]
                try:
                    best = f"validation {future.result():.1%}"
                except InputError as error:
                    failures.append((job, f"{name}: {error}"))
                    best = "failed"
                say(f"{done}/{len(jobs)} {name}: {best}, {duration(time.perf_counter() - started)} so far")
                progress.update()
        except BaseException:
            lanes.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise
        finally:
            workers.close()
    return failures


class Workers:
    """Processes for trainings, a pool each: when one is killed it is known which training it took along."""

    def __init__(self, count: int):
        self.count, self.stopped = count, threading.Event()
        self.free: queue.Queue[ProcessPoolExecutor] = queue.Queue()
        self.own: set[int] = set()  # their ids
        for _ in range(count):
            self.free.put(self._pool())

    @staticmethod
    def _pool():
        # Linux forks each from one server that has imported what takes seconds; elsewhere libraries may not survive it.
        context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            context.set_forkserver_preload(["torch", "torchvision"])
        return ProcessPoolExecutor(1, context, initializer=_begin, initargs=(dict(os.environ),))

    def call(self, title: str, job: Job, options: dict[str, Any], again: bool = True) -> float:
        """Train in the next free process; `InputError` when it is killed, and the one that takes over as well."""
        pool = self.free.get()
        try:
            self.own.add(pool.submit(os.getpid).result())
            if self.stopped.is_set():
                raise InputError("it was not begun.")
            return pool.submit(_quietly, job, options).result()
        except BrokenProcessPool:
            pool.shutdown()
            pool = self._pool()
            if not again or self.stopped.is_set():
                raise InputError(
                    "its process was killed twice, most likely for memory: train fewer at a time (parallel), "
                    "or lower the batch size."
                ) from None
        finally:
            self.free.put(pool)
        say(f"{title}: its process was killed, once more from the last checkpoint")
        return self.call(title, job, options | {"fresh": False}, again=False)

    def stop(self) -> None:
        """End the trainings at once, as they can be continued, and no other process of this one."""
        self.stopped.set()
        for child in multiprocessing.active_children():
            if child.pid in self.own:
                child.terminate()

    def close(self) -> None:
        """Wait for the processes to end."""
        for _ in range(self.count):
            self.free.get().shutdown()


def _begin(environment):
    """A worker's start: the caller's environment, not the server's, and one thread. It ends when the caller is killed;
    Ctrl-C, which all processes of a terminal get, is left to the caller."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()


def _end_with_the_caller():
    if caller := multiprocessing.parent_process():
        caller.join()
        os._exit(1)


def _quietly(job, options):
    """A worker's part; many trainings at once would talk over each other. Returns the best validation accuracy."""
    with _silence():
        run = train(job, **options)
    return max(row["validation_accuracy"] for row in run.history)


@contextlib.contextmanager
def _silence():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
