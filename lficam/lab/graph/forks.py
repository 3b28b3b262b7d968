"""The process that steps' processes are forked from, once it has imported and drawn what takes seconds each; on Linux.

`lficam reproduce` starts it and holds its stdin: it ends with it, and all it forked do. Steps ask through the socket
LFICAM_FORKS, and so do notebooks for their kernels: (module, arguments, environment, folder, log) gives a process
number, then the exit status; what is sent meanwhile is a signal, and when who asked is gone the process is killed.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..notebooks.kernel import SPIN, without_grammar
from . import plan
from .steps import GRACE, open_log, own_folder

# Not matplotlib: how it draws is chosen by a kernel, before that imports it.
IMPORTED = ("lficam.training.sweep", "papermill", "nbconvert", "ipykernel.ipkernel", "pandas", "scipy.stats")


@contextlib.contextmanager
def served(path: Path) -> Iterator[dict[str, str]]:
    """Steps of the plan can have processes forked meanwhile: what their environment needs; nothing where none can."""
    with socket.socket(socket.AF_UNIX) as door:
        address = _listen(door) if sys.platform == "linux" else None
        if address is None:
            yield {}
            return
        own: Any = {"stdin": subprocess.PIPE, "stderr": subprocess.STDOUT, "pass_fds": [door.fileno()]}
        # One thread: what is forked from must have no others. Each process chooses its own number.
        own["env"] = SPIN | os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", __name__, str(door.fileno()), str(path)]
        with open_log(path.parents[1] / "logs" / "forks.log") as log:
            process: Any = subprocess.Popen(command, stdout=log, **own)
    try:
        yield {"LFICAM_FORKS": str(address)}
    finally:
        process.stdin.close()
        process.wait()
        address.unlink(missing_ok=True)  # where it was killed


def _listen(door: socket.socket) -> Path | None:
    """The address in a folder that nobody else enters; None where there can be none, as where TMPDIR is too long."""
    try:
        address = own_folder() / f"steps-{os.getpid()}"
        address.unlink(missing_ok=True)
        door.bind(str(address))
        door.listen(128)
        return address
    except (InputError, OSError):
        return None


def prepare(path: str) -> None:
    """Import what steps need, and draw the images of the trainings that are to be run, which each would draw again."""
    from ...data import photo_digits

    with without_grammar():
        for name in IMPORTED:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    profile, steps = plan.read(path)
    trainings = [step.values["job"] for step in plan.unfinished(profile, steps.values()) if step.kind == "train"]
    drawn = {}
    for job in map(plan.job_of, trainings):
        if job.dataset in photo_digits.GROUPS:
            drawn[job.dataset, job.size, job.train_count, job.validation_count] = job
    with contextlib.suppress(InputError):  # its training will say what is wrong
        for job in drawn.values():
            job.images("train", job.train_count)
            job.images("validation", job.validation_count)


def serve(door: socket.socket) -> None:
    """Fork what steps ask for, until stdin is closed; then end all."""
    handlers = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    fork, running = multiprocessing.get_context("fork"), dict[Connection, Any]()
    while 0 not in (ready := wait([0, door, *running, *(process.sentinel for process in running.values())])):
        if door in ready:
            asked = Connection(door.accept()[0].detach())
            inherited = [door, *running, asked]
            with contextlib.suppress(EOFError, OSError):  # who asked is gone already
                process = fork.Process(target=_work, args=(inherited, handlers, *asked.recv()))
                process.start()
                running[asked] = process
                asked.send(process.pid)
        for asked, process in [*running.items()]:
            if process.sentinel in ready:
                process.join()
                with contextlib.suppress(OSError):
                    asked.send(process.exitcode)
                running.pop(asked).close()
                asked.close()
            elif asked in ready:
                try:
                    number = asked.recv()
                except (EOFError, OSError):
                    number = signal.SIGKILL
                os.kill(process.pid, number)
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.join(GRACE)
        process.kill()


def _work(
    inherited: Sequence[Connection | socket.socket],
    handlers: Mapping[int, Any],
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    log: str,
) -> None:
    """Be a process of its own, as if started by `python -m MODULE ARGUMENTS`."""
    import torch

    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when what it was forked from is killed
    for one in inherited:
        one.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(os.devnull) as nothing, open(log, "a") as file:
        for target, source in enumerate((nothing, file, file)):
            os.dup2(source.fileno(), target)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        prepare(sys.argv[2])
        serve(listening)
        Path(listening.getsockname()).unlink(missing_ok=True)
