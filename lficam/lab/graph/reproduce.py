"""All of a profile: its graph of steps through Snakemake, one line a step, and the report whatever happens.

reports/PROFILE/.graph holds all state: the plan, a marker for each finished step, and what happens (events.jsonl). Who
reproduces a profile locks that file: the lock belongs to the process, so that what is killed locks nobody out. It also
holds the other end of Snakemake's and the steps' stdin: when that is closed, be it by SIGKILL, they end.
"""

import contextlib
import fcntl
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ... import files
from ...errors import InputError, choose
from ...files import short
from ...progress import say
from ..notebooks import run
from ..notebooks.kernel import ending
from ..notebooks.run import RunError
from ..report.verify import text, verify
from . import forks, plan
from .steps import GRACE, POLL, events, last_line, open_log, tell

ELSEWHERE = ("--executor", "-e", "--workflow-profile", "--profile")  # Snakemake's, for clusters


def reproduce(
    profile: str,
    cores: int | None = None,
    dry_run: bool = False,
    wait: bool = False,
    extra: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> None:
    """Run what is not finished of a profile; what fails does not stop the rest, and a failed step is tried twice.

    seeds: of several runs that differ in nothing else; the results of each lie in reports/PROFILE/seed-SEED.
    cores: by default all of this machine. extra: arguments for Snakemake. wait: for another one of this profile to end.
    The report is written in any case. Raises `InputError` when another one runs, `RunError` with the first failure's
    exit code, 130 when interrupted.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("No module named 'snakemake'", name="snakemake")  # `cli` says what to do
    if cores is not None and cores < 1:
        raise InputError(f"--cores: expected at least 1, got {cores}.")
    choose("profile", profile, run.profiles())
    home = plan.folder(profile)
    with alone(home, wait):
        steps = laid_out(profile, cores or files.cores(), seeds)
        todo = plan.unfinished(profile, steps)
        say(f"{len(steps)} steps, {len(steps) - len(todo)} of them finished; logs in {short(home.parent / 'logs')}")
        if dry_run:
            for step in todo:
                say(f"would run {step.title}")
            _check_graph(home, extra)
            return
        story = Story(home, len(steps), len(steps) - len(todo))
        status, interrupted = _run(_command(home, cores, extra), home, story)
        _finish(profile, steps, story, status, interrupted)
    _verdict(profile)


def _verdict(profile: str) -> None:
    """Say whether the results agree with the reference, where there is one."""
    reference = files.root() / "figures" / profile
    if (reference / "values.csv").is_file():
        try:
            say(text(*verify(profile), profile))
        except InputError as error:
            say(f"Not compared with the reference: {error}")


def seeds_of(text: str) -> list[int]:
    """The seeds that "1-5" or "1,3,8" names. Raises `InputError`."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(end.isdecimal() and int(end) > 0 for end in ends) or int(ends[0]) > int(ends[1]):
            raise InputError(f"--seeds {text}: expected whole numbers from 1 on, as 1-5 or 1,3,8, got {part!r}.")
        found += range(int(ends[0]), int(ends[1]) + 1)
    if len(set(found)) < len(found):
        raise InputError(f"--seeds {text}: a seed stands there twice; give each once.")
    return found


def laid_out(profile: str, cores: int, seeds: Sequence[int] = ()) -> list[plan.Step]:
    """The plan of a profile, written for this machine: who takes how many cores, and whether a GPU.

    Notebooks and evaluations share the cores, apart from a notebook with the tag `alone`.
    """
    steps, gpus = plan.collect(profile, seeds), len(gpu_names())
    shares = sum(step.kind in ("evaluate", "notebook") for step in steps)
    for step in steps:
        own = cores // shares if step.threads and step.kind in ("evaluate", "notebook") else step.threads or cores
        step.threads = max(1, min(cores // gpus if gpus else own, cores))
        step.gpu = int(bool(gpus) and step.kind != "report")
    plan.write(profile, steps)
    return steps


def gpu_names() -> list[str]:
    """The GPUs of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()  # CUDA takes those before the first wrong name alone: none of "-1"
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[:count] or [str(i) for i in range(count)]


@contextlib.contextmanager
def alone(home: Path, wait: bool = False) -> Iterator[None]:
    """Nobody else reproduces this profile meanwhile; what happens is told anew.

    Raises `InputError` naming the process that does, and where the folder cannot be written.
    """
    path, told = home / "events.jsonl", False
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise files.refused(path, error) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pid = next((event["pid"] for event in events(home)), "unknown")
                text = f"`lficam reproduce --profile {home.parent.name}` is running already, as process {pid}"
                if not wait:
                    raise InputError(f"{text}: wait for it (--wait), or end it.") from None
                if not told:
                    say(f"{text}; waiting for it ...")
                told = True
                time.sleep(POLL)
            except OSError:  # a file system that has no locks
                break
        file.truncate(0)
        tell(home, "", "began", "")
        yield


def _command(home: Path, cores: int | None, extra: Sequence[str]) -> list[str]:
    """Snakemake's command line. Its own lock would outlive a kill; ours is held."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(files.PACKAGE / "lab" / "graph" / "Snakefile")]
    command += ["--directory", str(home), "--nolock", "--keep-going", "--retries", "1", "--rerun-triggers", "mtime"]
    command += ["--rerun-incomplete", "--scheduler", "greedy", "--quiet", "all", "--nocolor"]
    command += ["--config", f"plan={home / 'plan.json'}"]
    if _local(extra):
        command += ["--cores", str(cores or files.cores()), "--resources", f"gpu={len(gpu_names())}"]
    return [*command, *extra]


def _local(extra: Sequence[str]) -> bool:
    return not any(arg.partition("=")[0] in ELSEWHERE for arg in extra)


def _check_graph(home: Path, extra: Sequence[str]) -> None:
    """Let Snakemake go through the graph without running it; `InputError` with its last word where it does not."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process: Any = subprocess.Popen([*_command(home, None, extra), "--dry-run"], **pipes)
    with process:
        told = process.stdout.read()
    if process.returncode:
        raise InputError(f"Snakemake refuses: {last_line(told) or 'without a word'}")


class Story:
    """What the steps tell, as a line each, and how each stands: {step: its last event}, in order."""

    def __init__(self, home: Path, total: int, done: int) -> None:
        self.home, self.total, self.done, self.seen = home, total, done, 0
        self.last: dict[str, dict[str, Any]] = {}

    def look(self) -> None:
        """Tell what is new."""
        for event in events(self.home)[self.seen :]:
            self.seen += 1
            if event["text"]:
                self.last.pop(event["step"], None)
                self.last[event["step"]] = event
                self.done += event["event"] == "finished"
                say(f"[{self.done}/{self.total}] {event['text']}")

    def of(self, what: str) -> dict[str, dict[str, Any]]:
        """The steps that stand so ("started", "finished", "failed", "stopped"), each with its event."""
        return {name: event for name, event in self.last.items() if event["event"] == what}


def _run(command: Sequence[str], home: Path, story: Story) -> tuple[int, bool]:
    """Snakemake's exit status, and whether a signal asked for the end."""
    environment, asked = os.environ | {"PYTHONUNBUFFERED": "1"}, list[float]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending(lambda *_: asked.append(time.monotonic())))
        log = stack.enter_context(open_log(home.parent / "logs" / "snakemake.log"))
        if _local(command):
            environment |= {"LFICAM_LIFELINE": "stdin", "LFICAM_GPUS": ",".join(gpu_names())}
            environment |= stack.enter_context(forks.served(home / "plan.json"))
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
        process: Any = subprocess.Popen(command, env=environment, **pipes)
        while process.poll() is None:
            story.look()
            if asked:
                process.stdin.close()
                if time.monotonic() > asked[0] + 3 * GRACE:
                    process.kill()
            time.sleep(POLL)
        process.stdin.close()
        story.look()
    return process.returncode, bool(asked)


def _finish(profile: str, steps: Sequence[plan.Step], story: Story, status: int, interrupted: bool) -> None:
    """Mark what could not run, write the report, and raise for the first failure."""
    home, titles = story.home, {step.id: step.title for step in steps}
    for name in story.of("started") if status and not interrupted else ():
        reason = "its process was killed, most likely memory ran out"
        tell(home, name, "failed", f"FAILED   {titles[name]}: {reason}", code=3, reason=reason)
    story.look()
    failed = story.of("failed")
    if not interrupted:
        try:
            _blame(profile, steps, {name: event["reason"] for name, event in failed.items()})
        except InputError as error:  # which must not hide the first failure
            say(f"lficam: {error}", sys.stderr)
    if page := run.report(home.parent):
        say(f"Report: {short(page)}")
    if interrupted:
        raise RunError("interrupted; the same command continues.", 130)
    if failed:
        left = len(plan.unfinished(profile, steps)) - 1 - len(failed)  # the report is written anew each time
        name, event = next(iter(failed.items()))
        text = f"{len(failed)} of {len(steps)} steps failed and {left} need them"
        raise RunError(f"{text}; the first: {titles[name]}: {event['reason']}", event["code"])
    if status:
        log = home.parent / "logs" / "snakemake.log"
        told = last_line(log.read_text(encoding="utf-8", errors="replace")) or "without a word"
        raise RunError(f"Snakemake ended with status {status}: {told}; see {short(log)}", 1)


def _blame(profile: str, steps: Sequence[plan.Step], lost: dict[str, str]) -> None:
    """Leave with every notebook that was not run the reason, for the report. lost: {step: reason} of what failed."""
    by_id = {step.id: step for step in steps}
    for step in steps:  # in the order of needs
        cause = next((by_id[need] for need in step.needs if need in lost), None)
        if cause is None or step.id in lost or step.kind == "report":
            continue
        lost[step.id] = lost[cause.id] if cause.kind != "train" else f"{cause.title} failed: {lost[cause.id]}"
        if step.kind == "notebook":
            prepared = run.prepare(profile=profile, **step.values)
            run.keep(prepared, prepared.source.parent, 1, f"Not run, because {lost[step.id]}")
