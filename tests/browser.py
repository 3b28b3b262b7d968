"""A real browser on a server of this machine, for tests; whatever happens, none of their processes stays.

with served([sys.executable, "-m", ...], environment) as server, chromium(tmp_path) as page:
    page.goto(server.wait_for(r"http://\\S+"))
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

import lficam

WHERE = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


def executable():
    """Chromium's path, or None."""
    return next(filter(None, map(shutil.which, WHERE)), None)


needs_browser = pytest.mark.skipif(executable() is None, reason=f"no browser is installed: {', '.join(WHERE)}")


class Server:
    """A server process in a process group of its own, and what it has printed."""

    def __init__(self, process, log):
        self.process, self.log = process, log

    def wait_for(self, pattern, seconds=90):
        """The first match of the pattern in what it prints; fails when the process ends before, or the time does."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            text = self.log.read_text(errors="replace")
            if match := re.search(pattern, text):
                return match[0]
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        pytest.fail(f"{self.process.args} did not print {pattern!r}:\n{self.log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def served(command, folder, **environment):
    """A `Server` running the command in the folder; it and all its children are gone afterwards."""
    log = Path(folder) / "server.log"
    # Its kernels each lead a group of their own: they end with it, and are looked for by this mark, should it not.
    mark = f"LFICAM_TEST_SERVER={os.getpid()}.{time.monotonic_ns()}"
    package = str(Path(lficam.__file__).parents[1])  # the one that is tested, whatever is installed
    environment = os.environ | {"PYTHONPATH": package} | environment | dict([mark.split("=")])
    environment.pop("LFICAM_HEADLESS", None)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield Server(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for pid in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(15)


def marked(mark):
    """The processes that have this NAME=VALUE in their environment, where the system tells (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def chromium(folder, width=1200, height=900):
    """A page of headless Chromium with a new profile; what it logs as errors is in `page.problems`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(Path(folder) / "profile"),
            executable_path=executable(),
            headless=True,
            args=list(FLAGS),
            viewport={"width": width, "height": height},
        )
        try:
            page = context.pages[0]
            page.problems = []
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            yield page
        finally:
            context.close()


def keep_screenshot(page, folder, name, **options):
    """Save a screenshot in the folder, and in $LFICAM_SCREENSHOTS if that is set."""
    path = Path(folder) / name
    page.screenshot(path=path, **options)
    assert path.stat().st_size > 10_000
    if kept := os.environ.get("LFICAM_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)
