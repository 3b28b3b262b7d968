"""One step of the graph, as Snakemake starts it: python -m lficam step PLAN STEP --attempt N.

Two processes: the outer one starts the inner one, which does the work, and tells how it ended even when it was killed;
it ends it when the `lficam reproduce` that started all is gone. What happens is a line in .graph/events.jsonl.
"""

import contextlib
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ...errors import InputError
from ...files import atomic, refused

POLL = 0.25  # seconds
STOPPED = 130
PATIENCE = 10  # seconds that a step has to end before it is killed


def supervise(path, name, attempt=1):
    """Run a step in a process of its own, which writes to reports/PROFILE/logs/STEP.log. Returns its exit status."""
    home = Path(path).parent
    log, failure = home.parent / "logs" / f"{name}.log", home / f"{name}.failed"
    if attempt > 1 and _told(failure).get("code") == 2:
        return 2  # wrong input does not get better by trying again
    if not lifeline(home):
        return STOPPED
    with _gpu() as environment, open_log(log, attempt) as file:
        event(home, name, "started", attempt=attempt)
        started = time.monotonic()
        command = [sys.executable, "-m", "lficam", "step", str(path), name, "--inside"]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)
        code = _wait(process, home)
    if code == STOPPED:
        event(home, name, "stopped")
        return code
    if code:
        reason = cause(code, log)
        with contextlib.suppress(InputError), atomic(failure, "w") as file:
            json.dump({"code": code if code > 0 else 3, "reason": reason, "log": str(log)}, file)
        event(home, name, "failed", code=code if code > 0 else 3, reason=reason, attempt=attempt)
        return code if code > 0 else 3
    failure.unlink(missing_ok=True)
    event(home, name, "finished", seconds=time.monotonic() - started)
    return 0


def _wait(process, home):
    """The status of the process; it is ended when a signal asks for it, or nobody wants it any more."""
    wanted = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: wanted.append(True))
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(POLL)
            return STOPPED if wanted else code
        if wanted or not lifeline(home):
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            process.wait()
            return STOPPED


def lifeline(home):
    """Whether the `lficam reproduce` that started this step lives; without one (on a cluster) nobody asks."""
    token = os.environ.get("LFICAM_RUN")
    with contextlib.suppress(OSError):
        return not token or ((home / "lock").read_text().split()[1:] == [token] and _held(home / "lock"))
    return False


def _held(path):
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def cause(code, log):
    """Why a step failed: the last line of its log, or the signal that ended it."""
    if code < 0:
        likely = ", most likely memory ran out" if -code == signal.SIGKILL else ""
        return f"it was ended by {signal.Signals(-code).name}{likely}"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("lficam: ") if lines else f"it ended with status {code} and without a word"


def open_log(log, attempt=1):
    """The log, to be written; a further attempt goes below the first. Raises `InputError` where the disk refuses."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("w" if attempt == 1 else "a", encoding="utf-8")
    except OSError as error:
        raise refused(log, error) from error


def _told(path):
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def event(home, name, what, **more):
    """Append a line to events.jsonl; one write, so that lines of several processes do not mix."""
    line = json.dumps({"step": name, "event": what, "pid": os.getpid(), "host": platform.node()} | more) + "\n"
    with contextlib.suppress(OSError):  # the markers tell what is done
        descriptor = os.open(home / "events.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _gpu():
    """The environment that shows a step one GPU of LFICAM_GPUS that no other step of this user has."""
    names = [name for name in os.environ.get("LFICAM_GPUS", "").split(",") if name]
    if not names:
        yield {}
        return
    import fcntl

    folder = own_folder()
    while True:
        for name in names:
            with (folder / f"gpu-{name.replace('/', '-')}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield {"CUDA_VISIBLE_DEVICES": name}
                return
        time.sleep(POLL)


def own_folder():
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


def perform(path, name):
    """The work of a step, in this process; its marker is written when it is truly finished."""
    from . import plan

    profile, steps = plan.read(path)
    if name not in steps:
        raise InputError(f"{path} has no step {name}.")
    step = steps[name]
    facts = {"train": _train, "evaluate": _evaluate, "notebook": _notebook, "report": _report}[step.kind](step, profile)
    plan.mark(profile, step, **facts)


def _train(step, profile):  # noqa: ARG001
    import torch

    from ... import files
    from ...training.jobs import train
    from . import plan

    torch.set_num_threads(1)  # as in `sweep`, so that the bits are the same
    run = train(plan.job_of(step.values["job"]), **step.values["options"])
    return {"folder": str(run.folder.relative_to(files.root()))}


def _evaluate(step, profile):
    """Execute the notebook's own cells; what they leave on the disk is found by the notebook."""
    from ..notebooks import run
    from . import plan

    plan.execute(run.prepare(step.values["notebook"], profile, step.values["overrides"]), ("jobs", "evaluate"))
    return {}


def _notebook(step, profile):
    from ..notebooks import run
    from . import plan

    run.run(step.values["notebook"], profile, step.values["overrides"])
    return {"record": plan.record_digest(profile, step.values["notebook"])}


def _report(step, profile):  # noqa: ARG001
    from ..report.page import write_index
    from . import plan

    return {"page": str(write_index(plan.folder(profile).parent))}
