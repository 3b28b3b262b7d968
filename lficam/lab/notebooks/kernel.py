"""The kernel of one run: papermill drives it, and it never outlives the runner."""

import contextlib
import logging
import os
import signal
import sys

from ... import files

PATIENCE = 300  # seconds for a kernel to start and for its output to arrive; a busy machine is no failure


class Kernel:
    """The kernel of one run: always this interpreter, whatever kernel is installed as "python3"."""

    def __init__(self):
        self.process, self.interrupted = None, False

    def execute(self, plan, folder):
        """Execute the notebook through papermill; the executed copy in `folder` is saved after every cell."""
        import papermill

        logging.getLogger("papermill").addHandler(logging.NullHandler())  # its warnings are our sentences
        papermill.execute_notebook(
            _verbatim(plan.source),
            _verbatim(folder / plan.source.name),
            plan.parameters | {"profile": plan.profile, "output": str(folder)},
            kernel_name="python3",
            language="python",
            cwd=plan.source.parent,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            start_timeout=PATIENCE,
            iopub_timeout=PATIENCE,
            execution_timeout=plan.timeout,
            kernel_manager_class=self._manager(plan.command),
        )
        if self.interrupted:  # after the last cell
            raise KeyboardInterrupt

    def _manager(self, command):
        from jupyter_client import AsyncKernelManager

        run = {"LFICAM_HEADLESS": "1", "LFICAM_COMMAND": command, "LFICAM_HOME": str(files.root())}
        # Threads that wait spinning make small models ten times slower on a shared machine; this long costs nothing.
        spin = {"GOMP_SPINCOUNT": "10000"}
        kernel = self

        class ThisInterpreter(AsyncKernelManager):
            kernel_spec = own_spec()

            async def start_kernel(self, **options):
                await super().start_kernel(env=spin | os.environ | run, **options)
                kernel.process = self.provisioner.process

        return ThisInterpreter

    @contextlib.contextmanager
    def dies_with_us(self):
        """A signal that ends us kills the kernel, so that papermill comes back; without one it is KeyboardInterrupt."""

        def stop(*_):
            self.interrupted = True
            if self.process is None or self.process.poll() is not None:
                raise KeyboardInterrupt
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                raise KeyboardInterrupt from None

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

    def cause_of_death(self):
        """Why the kernel is gone, from its exit status; None while it lives."""
        status = self.process and self.process.poll()
        if status is None:
            return None
        if status >= 0:
            return f"it exited with status {status}"
        likely = "most likely memory ran out: lower the batch size or take a larger machine"
        cause = likely if -status == signal.SIGKILL else "a crash in native code"
        return f"it was ended by {signal.Signals(-status).name}, {cause}"


def own_spec():
    """The kernel specification of this interpreter, whatever kernel is installed as "python3"."""
    from jupyter_client.kernelspec import KernelSpec

    argv = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
    return KernelSpec(argv=argv, display_name="Python 3", language="python")


def _verbatim(path):
    """papermill formats paths as templates."""
    return str(path).replace("{", "{{").replace("}", "}}")
