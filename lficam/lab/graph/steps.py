"""One step of the graph, as Snakemake starts it: python -m lficam step PLAN STEP.

Two processes: the outer one starts the inner one, which does the work, and tells how it ended even when it was killed;
it ends it when the `lficam reproduce` that started all is gone. What happens is a line in .graph/events.jsonl.
The outer one is light. The inner one is forked from a process that has imported all (`forks`), where there is one.
"""

import contextlib
import fcntl
import json
import os
import platform
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ... import files
from ...errors import InputError
from ...progress import duration
from ..notebooks.kernel import ending
from . import plan

POLL = 0.25  # seconds
STOPPED = 130
GRACE = 10  # seconds that a step has to end before it is killed


def supervise(path: str, name: str) -> int:
    """Run a step in a process of its own, which writes to reports/PROFILE/logs/STEP.log. Returns its exit status."""
    home, title = Path(path).parent, find(path, name)[1].title
    log = home.parent / "logs" / f"{name}.log"
    earlier = [event["code"] for event in events(home) if event["step"] == name and event["event"] == "failed"]
    if 2 in earlier:
        return 2  # wrong input does not get better by trying again
    if not wanted():
        return STOPPED
    with _gpu() as environment, open_log(log, "a" if earlier else "w") as file:
        tell(home, name, "started", f"started  {title}" + " again" * bool(earlier))
        started = time.monotonic()
        code = _wait(_start(["step", path, name, "--inside"], os.environ | environment, file))
    if code == STOPPED:
        tell(home, name, "stopped", f"stopped  {title}")
    elif code:
        reason, code = cause(code, log), code if code > 0 else 3
        told = f"FAILED   {title}: {reason.rstrip('.')}. See {files.short(log)}"
        tell(home, name, "failed", told, code=code, reason=reason)
    else:
        tell(home, name, "finished", f"finished {title} in {duration(time.monotonic() - started)}")
    return code


class Forked:
    """A process that the `lficam reproduce` that started this step forks; it is used as a `subprocess.Popen` is.

    Raises `OSError` or `EOFError` where nothing is forked.
    """

    def __init__(self, address: str, *asked: Any) -> None:
        from multiprocessing.connection import Client

        self.server = Client(address)
        self.server.send(asked)
        self.pid = self.server.recv()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, as of `Popen.wait`; when the server was killed it is killed, too."""
        if not self.server.poll(timeout):
            raise subprocess.TimeoutExpired("step", timeout or 0)
        try:
            return self.server.recv()
        except (EOFError, OSError):
            return -signal.SIGKILL if wanted() else STOPPED

    def send_signal(self, number: int) -> None:
        """A signal; none when it has ended."""
        with contextlib.suppress(OSError):
            self.server.send(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _start(arguments: list[str], environment: dict[str, str], file: IO[str]) -> subprocess.Popen | Forked:
    """The inner process, forked where that is possible."""
    if address := environment.get("LFICAM_FORKS"):
        with contextlib.suppress(OSError, EOFError):
            return Forked(address, "lficam", arguments, environment, os.getcwd(), file.name)
    options: Any = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, "-m", "lficam", *arguments], env=environment, **options)


def _wait(process: subprocess.Popen | Forked) -> int:
    """The status of the process; it is ended when a signal asks for it, or nobody wants it any more."""
    stopped: list[bool] = []
    with ending(lambda *_: stopped.append(True)):
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL)
                return STOPPED if stopped else code
            if stopped or not wanted():
                process.terminate()  # what is started in the background of a script ignores SIGINT
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
                process.kill()
                process.wait()
                return STOPPED


def wanted() -> bool:
    """Whether the `lficam reproduce` that started this step lives and does not end: it holds the other end of stdin.

    Where it said that it does not (on a cluster) nobody asks.
    """
    return "LFICAM_LIFELINE" not in os.environ or not select.select([0], [], [], 0)[0]


def cause(code: int, log: Path) -> str:
    """Why a step failed: the last line of its log, or the signal that ended it."""
    if code < 0:
        likely = ", most likely memory ran out" if -code == signal.SIGKILL else ""
        return f"it was ended by {signal.Signals(-code).name}{likely}"
    told = last_line(log.read_text(encoding="utf-8", errors="replace"))
    return told or f"it ended with status {code} and without a word"


def last_line(text: str) -> str:
    """The last line that says something, without our name before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("lficam: ") if lines else ""


def open_log(log: Path, mode: str = "w") -> IO[str]:
    """The log, to be written. Raises `InputError` where the disk refuses."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open(mode, encoding="utf-8")
    except OSError as error:
        raise files.refused(log, error) from error


def tell(home: Path, name: str, event: str, text: str, **more: Any) -> None:
    """Append what happens to a step to events.jsonl; one write, so that lines of several processes do not mix.

    text: the line that `lficam reproduce` shows.
    """
    facts = {"step": name, "event": event, "text": text, "pid": os.getpid(), "host": platform.node()} | more
    with contextlib.suppress(OSError):  # the markers tell what is done
        descriptor = os.open(home / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, (json.dumps(facts) + "\n").encode())
        finally:
            os.close(descriptor)


def events(home: Path) -> list[dict[str, Any]]:
    """All that was told since `lficam reproduce` began, in order; half a line, as of a full disk, is none."""
    found, path = [], home / "events.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and {"step", "event", "text", "pid"} <= event.keys():
                found.append(event)
    return found


@contextlib.contextmanager
def _gpu() -> Iterator[dict[str, str]]:
    """The environment that shows a step one GPU of LFICAM_GPUS that no other step of this user has."""
    names = [name for name in os.environ.get("LFICAM_GPUS", "").split(",") if name]
    folder = own_folder() if names else None
    while folder and wanted():
        for name in names:
            with (folder / f"gpu-{name.replace('/', '-')}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield {"CUDA_VISIBLE_DEVICES": name}
                return
        time.sleep(POLL)
    yield {}


def own_folder() -> Path:
    """A folder beside others' temporary files in which only this user can put anything, a link neither.

    Raises `InputError` where somebody else was there before.
    """
    folder = Path(tempfile.gettempdir()) / f"lficam-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(
            f"{folder} is no folder of yours alone (mode 0700): remove it, or set TMPDIR to another place."
        )
    return folder


# --- The work itself


def find(path: str, name: str) -> tuple[str, plan.Step]:
    """(profile, step) of a plan. Raises `InputError`."""
    profile, steps = plan.read(path)
    if name not in steps:
        raise InputError(f"{path} has no step {name}.")
    return profile, steps[name]


def perform(path: str, name: str) -> None:
    """The work of a step, in this process; its marker is written when it is truly finished.

    A signal that asks it to end is `KeyboardInterrupt`.
    """
    profile, step = find(path, name)
    work = {"train": _train, "evaluate": _evaluate, "notebook": _notebook, "report": _report}[step.kind]
    with ending(signal.default_int_handler):
        plan.mark(profile, step, **work(profile, step.values))


def _train(_: str, values: dict[str, Any]) -> dict[str, str]:
    import torch

    from ...training.jobs import train

    torch.set_num_threads(1)  # as in `sweep`, so that the bits are the same
    trained = train(plan.job_of(values["job"]), **values["options"])
    return {"folder": str(trained.folder.relative_to(files.root()))}


def _evaluate(profile: str, values: dict[str, Any]) -> dict[str, str]:
    """Execute the notebook's own cells; what they leave on the disk is found by the notebook."""
    from ..notebooks import run

    plan.execute(run.prepare(profile=profile, **values), ("jobs", "evaluate"))
    return {}


def _notebook(profile: str, values: dict[str, Any]) -> dict[str, str]:
    from ..notebooks import run

    run.execute(run.prepare(profile=profile, **values))
    return {"record": plan.record_digest(profile, **values)}


def _report(profile: str, _: dict[str, Any]) -> dict[str, str]:
    from ..report.page import write_index

    return {"page": str(write_index(plan.folder(profile).parent))}


def be_forked(module: str, *arguments: str) -> None:
    """Stand for a forked process of python -m MODULE ARGUMENTS, whose output goes where ours does; or become it."""
    try:
        log = os.readlink("/proc/self/fd/1")
        process = Forked(os.environ["LFICAM_FORKS"], module, arguments, dict(os.environ), os.getcwd(), log)
    except (OSError, EOFError):
        os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
    signal.signal(signal.SIGINT, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    be_forked(*sys.argv[1:])
