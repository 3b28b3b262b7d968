"""All of a profile: its graph of steps through Snakemake, one line a step, and the report whatever happens.

reports/PROFILE/.graph holds the plan, a marker for each finished step, and the lock: it belongs to the process, so that
what is killed locks nobody out, and names it. Steps end by themselves when it is gone.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time

from ... import files
from ...errors import InputError, choose
from ...progress import duration, say
from ..notebooks import run
from ..notebooks.parameters import short
from ..notebooks.run import RunError
from . import plan
from .steps import POLL, open_log

PATIENCE = 30  # seconds for steps to end after an interruption
ELSEWHERE = ("--executor", "-e", "--workflow-profile", "--profile")  # Snakemake's, for clusters


def reproduce(profile, cores=None, dry_run=False, wait=False, extra=()):
    """Run what is not finished of a profile; what fails does not stop the rest, and a failed step is tried twice.

    cores: by default all of this machine. extra: arguments for Snakemake. wait: for another one of this profile to end.
    The report is written in any case. Raises `InputError` when another one runs, `RunError` with the first failure's
    exit code, 130 when interrupted.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("No module named 'snakemake'", name="snakemake")  # `cli` says what to do
    home = plan.folder(profile)
    choose("profile", profile, run.profiles())
    with locked(home, wait) as token:
        path = prepare(profile, cores or files.cores())
        _, steps = plan.read(path)
        todo = plan.unfinished(profile, list(steps.values()))
        say(f"{len(steps)} steps, {len(steps) - len(todo)} of them finished; logs in {short(home.parent / 'logs')}")
        if dry_run:
            for step in todo:
                say(f"would run {step.title}")
            _check_graph(path, home, extra)
            return
        watch = Watch(home, steps, {step.id for step in todo})
        status, interrupted = _run(_command(path, home, cores, extra), home, token, watch, local=_local(extra))
        _finish(profile, steps, watch, status, interrupted)


def prepare(profile, cores):
    """Write the plan of a profile for this machine: who takes how many cores, and whether a GPU. Returns its path."""
    steps, gpus = plan.collect(profile), len(gpu_names())
    for step in steps:
        whole = cores if step.kind in ("evaluate", "notebook") else step.threads
        step.threads = max(1, min(cores // gpus if gpus else whole, cores))
        step.gpu = int(bool(gpus) and step.kind != "report")
    plan.read.cache_clear()
    return plan.write(profile, steps)


def gpu_names():
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # CUDA takes those before the first wrong name alone: none of "-1"
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] or [str(i) for i in range(count)]


@contextlib.contextmanager
def locked(home, wait=False):
    """Nobody else reproduces this profile meanwhile; yields the token by which steps know whose they are.

    Raises `InputError` naming the process that does, and where the folder cannot be written.
    """
    import fcntl

    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / "lock").open("a+")
    except OSError as error:
        raise files.refused(home / "lock", error) from error
    with file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if _only_looked_at(file):
                    time.sleep(0.01)
                    continue
                file.seek(0)
                pid, profile = (file.read().split() or ["unknown"])[0], home.parent.name
                text = f"`lficam reproduce --profile {profile}` is running already, as process {pid}"
                if not wait:
                    raise InputError(f"{text}: wait for it (--wait), or end it.") from None
                if not told:
                    say(f"{text}; waiting for it ...")
                told = True
                time.sleep(POLL)
        token = secrets.token_hex(8)
        _sign(file, f"{os.getpid()} {token}\n")
        try:
            yield token
        finally:
            _sign(file, f"{os.getpid()}\n")


def _only_looked_at(file):
    """Whether the lock is not held, but some step looks just now whether it is (`steps.lifeline`)."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True


def _sign(file, text):
    file.truncate(0)
    file.write(text)
    file.flush()


def _local(extra):
    return not any(arg.partition("=")[0] in ELSEWHERE for arg in extra)


def _command(path, home, cores, extra):
    """Snakemake's command line. Its own lock would outlive a kill; ours is held."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(files.PACKAGE / "lab" / "graph" / "Snakefile")]
    command += ["--directory", str(home), "--nolock"]
    command += ["--keep-going", "--retries", "1", "--rerun-triggers", "mtime", "--rerun-incomplete", "--scheduler"]
    command += ["greedy", "--quiet", "all", "--nocolor", "--config", f"plan={path}"]
    if _local(extra):
        command += ["--cores", str(cores or files.cores()), "--resources", f"gpu={len(gpu_names())}"]
    return [*command, *extra]


def _check_graph(path, home, extra):
    """Let Snakemake go through the graph without running it; `InputError` with its last word where it does not."""
    command = [*_command(path, home, None, extra), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"Snakemake refuses: {_last_line(done.stdout + done.stderr)}")


def _last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a word")


def _run(command, home, token, watch, local):
    """Snakemake's exit status, and whether a signal asked for the end."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if local:
        environment |= {"LFICAM_RUN": token, "LFICAM_GPUS": ",".join(gpu_names())}
    log, asked = home.parent / "logs" / "snakemake.log", []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: asked.append(time.monotonic()))
    try:
        with open_log(log) as file:
            options = {"stdout": file, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "env": environment}
            process = subprocess.Popen(command, preexec_fn=_die_with_us(), **options)
            while process.poll() is None:
                watch.look()
                if asked:
                    _stop(process, home, watch)
                time.sleep(POLL)
        watch.look()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode, bool(asked)


def _die_with_us():
    """What a Snakemake calls before it begins, so that it starts no further steps when its caller was killed.

    Linux; elsewhere nothing (None): its steps refuse to start. All is looked up here, since between fork and exec
    nothing may be loaded.
    """
    prctl, caller = getattr(ctypes.CDLL(None), "prctl", None), os.getpid()

    def ask():
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != caller:  # it was killed before
            os._exit(1)

    return prctl and ask


def _stop(process, home, watch):
    """Ask Snakemake to start nothing more and all steps to end (their token is gone); then wait, and at last kill."""
    with (home / "lock").open("r+") as file:
        _sign(file, f"{os.getpid()}\n")
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        watch.look()
        time.sleep(POLL)
    process.kill()
    process.wait()


class Watch:
    """What the steps tell in events.jsonl, as a line each; keeps which failed, in order: {step: (code, reason)}."""

    def __init__(self, home, steps, todo):
        self.path, self.steps, self.done, self.at = home / "events.jsonl", steps, len(steps) - len(todo), 0
        self.failed, self.running = {}, set()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        for old in home.glob("*.failed"):
            old.unlink()

    def look(self):
        """Tell what is new."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.at += len(line)
                with contextlib.suppress(ValueError, KeyError):  # half a line of a full disk; the markers tell the rest
                    self._tell(json.loads(line))

    def _tell(self, event):
        name, what = event["step"], event["event"]
        title, log = self.steps[name].title, f"{self.path.parents[1].name}/logs/{name}.log"
        if what == "started":
            self.running.add(name)
            text = f"started  {title}" + (" again" if event["attempt"] > 1 else "")
        elif what == "finished":
            self.running.discard(name)
            self.failed.pop(name, None)
            self.done += 1
            text = f"finished {title} in {duration(event['seconds'])}"
        elif what == "stopped":
            self.running.discard(name)
            text = f"stopped  {title}"
        else:
            self.running.discard(name)
            self.failed[name] = event["code"], event["reason"]
            text = f"FAILED   {title}: {event['reason'].rstrip('.')}. See reports/{log}"
        say(f"[{self.done}/{len(self.steps)}] {text}")


def _finish(profile, steps, watch, status, interrupted):
    """Mark what could not run, write the report, and raise for the first failure."""
    home = plan.folder(profile)
    for name in watch.running if status and not interrupted else ():
        watch.failed[name] = 3, "its process was killed, most likely memory ran out"
        say(f"[{watch.done}/{len(steps)}] FAILED   {steps[name].title}: {watch.failed[name][1]}", sys.stderr)
    if watch.failed and not interrupted:
        try:
            _blame(profile, steps, watch.failed)
        except InputError as error:  # which must not hide the first failure
            say(f"lficam: {error}", sys.stderr)
    if page := run.page(home.parent):
        say(f"Report: {short(page)}")
    if interrupted:
        raise RunError("interrupted; the same command continues.", 130)
    left = len(plan.unfinished(profile, [step for step in steps.values() if step.kind != "report"]))
    if watch.failed:
        first, (code, reason) = next(iter(watch.failed.items()))
        text = f"{len(watch.failed)} of {len(steps)} steps failed and {left - len(watch.failed)} need them"
        raise RunError(f"{text}; the first: {steps[first].title}: {reason}", code)
    if status:
        log = home.parent / "logs" / "snakemake.log"
        told = _last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise RunError(f"Snakemake ended with status {status}: {told}; see {short(log)}", 1)


def _blame(profile, steps, failed):
    """Leave with every notebook that was not run the reason, for the report."""
    lost = {name: reason for name, (_, reason) in failed.items()}
    for step in steps.values():  # in the order of needs
        cause = next((name for name in step.needs if name in lost), None)
        if cause is None or step.id in lost or step.kind == "report":
            continue
        lost[step.id] = lost[cause] if steps[cause].kind != "train" else f"{steps[cause].title} failed: {lost[cause]}"
        if step.kind == "notebook":
            prepared = run.prepare(step.values["notebook"], profile)
            run.keep(prepared, prepared.source.parent, 1, f"Not run, because {lost[step.id]}")
