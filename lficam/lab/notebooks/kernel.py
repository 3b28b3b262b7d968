"""The kernel of one run: papermill drives it, and it never outlives the runner."""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

from ... import files

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpec

    from .parameters import Prepared

# Threads that wait spinning make small models ten times slower on a shared machine; this long costs nothing.
SPIN = {"GOMP_SPINCOUNT": "10000"}
ANSWER = 300  # seconds for a kernel to start and for its output to arrive; a busy machine is no failure


class Kernel:
    """The kernel of one run: always this interpreter, whatever kernel is installed as "python3"."""

    def __init__(self) -> None:
        self.process: Popen | None = None
        self.interrupted = False

    def execute(self, prepared: "Prepared", folder: Path) -> None:
        """Execute the notebook through papermill; the executed copy in `folder` is saved after every cell."""
        import papermill

        logging.getLogger("papermill").addHandler(logging.NullHandler())  # its warnings are our sentences
        papermill.execute_notebook(
            _verbatim(prepared.source),
            _verbatim(folder / prepared.source.name),
            prepared.parameters | {"profile": prepared.profile, "output": str(folder)},
            kernel_name="python3",
            language="python",
            cwd=prepared.source.parent,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            start_timeout=ANSWER,
            iopub_timeout=ANSWER,
            execution_timeout=prepared.timeout,
            kernel_manager_class=self._manager(prepared),
        )
        if self.interrupted:  # after the last cell
            raise KeyboardInterrupt

    def _manager(self, prepared: "Prepared") -> type:
        from jupyter_client import AsyncKernelManager

        run = {"LFICAM_HEADLESS": "1", "LFICAM_COMMAND": prepared.command, "LFICAM_HOME": str(files.root())}
        run |= {"LFICAM_SETTINGS": json.dumps(prepared.settings)}
        kernel, spec = self, own_spec()
        spec.argv.append("--HistoryManager.enabled=False")  # one file for all kernels of a user
        if "LFICAM_FORKS" in os.environ:  # a step of `lficam reproduce`
            spec.argv.insert(spec.argv.index("-m") + 1, "lficam.lab.graph.steps")

        class ThisInterpreter(AsyncKernelManager):
            kernel_spec = spec

            async def start_kernel(self, **options):
                await super().start_kernel(env=SPIN | os.environ | run, **options)
                kernel.process = self.provisioner.process

        return ThisInterpreter

    @contextlib.contextmanager
    def dies_with_us(self) -> Iterator[None]:
        """A signal that ends us kills the kernel, so that papermill comes back; without one it is KeyboardInterrupt."""

        def stop(*_: object) -> None:
            self.interrupted = True
            if self.process is None or self.process.poll() is not None:
                raise KeyboardInterrupt
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                raise KeyboardInterrupt from None

        with ending(stop):
            yield

    def cause_of_death(self) -> str | None:
        """Why the kernel is gone, from its exit status; None while it lives."""
        status = self.process.poll() if self.process else None
        if status is None:
            return None
        if status >= 0:
            return f"it exited with status {status}"
        likely = "most likely memory ran out: lower the batch size or take a larger machine"
        cause = likely if -status == signal.SIGKILL else "a crash in native code"
        return f"it was ended by {signal.Signals(-status).name}, {cause}"


@contextlib.contextmanager
def ending(stop: Callable[..., object]) -> Iterator[None]:
    """What asks this process to end (SIGINT, SIGTERM, SIGHUP) calls `stop` meanwhile; what is ignored stays so."""
    before = {}
    with contextlib.suppress(ValueError):  # only the main thread can set handlers
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def without_grammar() -> Iterator[None]:
    """Within, `rfc3987_syntax` is not found: jsonschema compiles its grammar for seconds, and no notebook needs it."""
    hidden: Any = None
    if sys.modules.setdefault("rfc3987_syntax", hidden) is not None:
        yield
        return
    try:
        yield
    finally:
        del sys.modules["rfc3987_syntax"]


def own_spec() -> "KernelSpec":
    """The kernel specification of this interpreter, whatever kernel is installed as "python3"."""
    from jupyter_client.kernelspec import KernelSpec

    argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
    return KernelSpec(argv=argv, display_name="Python 3", language="python")


def _verbatim(path: Path) -> str:
    """papermill formats paths as templates."""
    return str(path).replace("{", "{{").replace("}", "}}")
