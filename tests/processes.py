"""Processes of a test's own, which have torch imported when they begin."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    CONTEXT.set_forkserver_preload(["torch", "torchvision", "pandas", "scipy.stats"])


def begin(call, *arguments, output=os.devnull, **environment):
    """A process that calls a function of a test's file: this one's environment and threads, but hashes of its own.

    output: the file for all that it prints.
    """
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    process = CONTEXT.Process(target=_run, args=(environment, torch.get_num_threads(), output, call, arguments))
    process.start()
    return process


def _run(environment, threads, output, call, arguments):
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    with Path(output).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(call(*arguments))


def finish(process):
    """Wait for a process and return its exit code."""
    process.join(120)
    assert process.exitcode is not None, "it did not end"
    return process.exitcode


def execute(code, *arguments):
    """Python code, as by `python -c`."""
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})


def command(arguments):
    """The command line, by its exit code; Ctrl-C is heard where the tests run in the background, too."""
    from lficam.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main(arguments)
