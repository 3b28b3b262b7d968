"""The graph through Snakemake, on toy notebooks: what fails, is cut, is started twice."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

from lficam import cli, files
from lficam.errors import InputError
from lficam.lab.graph import plan, reproduce, steps
from lficam.lab.notebooks import run

PARAMETERS = 'profile = "lab"\noutput = ""\nlr = 0.1'
RECORD = """
import json, pathlib, os
record = {"notebook": NAME, "profile": profile, "command": "x", "seconds": 1, "tables": [], "figures": []}
(pathlib.Path(output) / "record.json").write_text(json.dumps(record))
with open(os.environ["LFICAM_HOME"] + "/executed", "a") as file: print(NAME, file=file)
"""
JOBS = """
from lficam.training import jobs as training
jobs = {"one": training.Job("plain", "resnet-8", dataset="folder", data_root="nowhere")}
"""
WAIT = """
import os, pathlib, time
while not pathlib.Path(os.environ["LFICAM_HOME"], "go").exists(): time.sleep(0.1)
"""


def toy(home, name, *cells, jobs=None, evaluate=None):
    """A notebook of these cells, which then writes its record, in the profile smoke."""
    new = nbformat.v4
    made = [new.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    tagged = {"jobs": jobs, "evaluate": evaluate}
    made += [new.new_code_cell(cell, metadata={"tags": [tag]}) for tag, cell in tagged.items() if cell]
    made += [new.new_code_cell(cell) for cell in [*cells, RECORD.replace("NAME", repr(name))]]
    profile = home / "notebooks" / "profiles" / "smoke"
    profile.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=made), home / "notebooks" / f"{name}.ipynb")
    (profile / f"{name}.yaml").touch()


def executed(home):
    return (home / "executed").read_text().split()


def test_what_fails_stops_only_what_needs_it(home, capsys):
    toy(home, "01_good")
    toy(home, "02_bad", "raise ValueError('no luck today')")
    toy(home, "03_train", jobs=JOBS)
    assert cli.main(["reproduce", "--profile", "smoke", "--cores", "2"]) in (1, 2)  # whichever was first
    told = capsys.readouterr()
    assert executed(home) == ["01_good"]
    lines = told.out.splitlines()
    assert sum("finished notebook 01_good" in line for line in lines) == 1
    assert sum("FAILED   notebook 02_bad" in line and "no luck today" in line for line in lines) == 2  # tried twice
    (failed,) = [line for line in lines if "FAILED   plain resnet-8" in line]  # wrong input is not tried again
    assert "nowhere" in failed
    log = home / failed.partition("See ")[2]
    assert log.read_text().rstrip().endswith(failed.partition(". See")[0][-40:] + ".")
    assert "2 of 5 steps failed and 1 need them; the first: " in told.err
    page = (home / "reports" / "smoke" / "index.html").read_text()
    assert page.count("The last run failed.") == 2
    assert "Not run, because plain resnet-8 on folder" in page
    # What is mended runs; what was finished is not run again.
    toy(home, "02_bad")
    toy(home, "03_train")
    assert cli.main(["reproduce", "--profile", "smoke", "--cores", "2"]) == 0
    assert sorted(executed(home)) == ["01_good", "02_bad", "03_train"]
    assert "The last run failed." not in (home / "reports" / "smoke" / "index.html").read_text()
    assert cli.main(["reproduce", "--profile", "smoke"]) == 0
    assert len(executed(home)) == 3


def start(home):
    command = [sys.executable, "-m", "lficam", "reproduce", "--profile", "smoke", "--cores", "1"]
    pipes = {"env": os.environ | {"LFICAM_HOME": str(home)}, "stdout": subprocess.PIPE, "text": True}
    # The tests themselves may run in the background, where a shell has SIGINT ignored.
    return subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def events(home):
    path = home / "reports" / "smoke" / ".graph" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_cut_and_started_again_it_continues(home, number, capsys):
    toy(home, "02_long", WAIT, evaluate="quick = True")
    process = start(home)
    wait_for(lambda: sum(e["event"] == "started" for e in events(home)) == 2)
    time.sleep(2)
    process.send_signal(number)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    step = events(home)[-1] if number == signal.SIGINT else [e for e in events(home) if e["event"] == "started"][-1]
    wait_for(lambda: not alive(step["pid"]), 30)
    assert ("stopped  notebook 02_long" in out) == (number == signal.SIGINT)
    (home / "go").touch()
    assert cli.main(["reproduce", "--profile", "smoke", "--cores", "1"]) == 0
    assert "3 steps, 1 of them finished" in capsys.readouterr().out
    assert executed(home) == ["02_long"]
    assert not list((home / "reports" / "smoke").glob(".0*"))  # nothing half-written is left


def test_a_second_one_is_refused_and_names_the_first(home, capsys):
    toy(home, "01_quick")
    with reproduce.locked(plan.folder("smoke")):
        assert cli.main(["reproduce", "--profile", "smoke"]) == 2
    told = capsys.readouterr().err
    assert f"`lficam reproduce --profile smoke` is running already, as process {os.getpid()}: wait for it" in told
    with reproduce.locked(plan.folder("smoke"), wait=True):
        pass


def test_snakemake_alone_has_no_lock_and_is_refused(home):
    toy(home, "01_quick")
    snakefile = files.PACKAGE / "lab" / "graph" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--cores", "1"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Start this by `lficam reproduce`" in done.stderr
    assert not (home / "reports").exists()


@pytest.mark.usefixtures("home")
def test_a_step_that_looks_at_the_lock_does_not_hold_it(monkeypatch):
    """A start at the very moment at which a step of an earlier one looks whether that one still lives."""
    folder = plan.folder("smoke")
    with reproduce.locked(folder):
        pass
    looks = (folder / "lock").open()
    fcntl.flock(looks, fcntl.LOCK_SH)
    only_looked_at = reproduce._only_looked_at

    def then_gone(file):
        found = only_looked_at(file)
        looks.close()
        return found

    monkeypatch.setattr(reproduce, "_only_looked_at", then_gone)
    with reproduce.locked(folder) as token:
        assert token


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_nothing_is_loaded_between_fork_and_exec(monkeypatch):
    ask = reproduce._die_with_us()
    monkeypatch.setattr(reproduce.ctypes, "CDLL", lambda _: os._exit(1))
    code = "import ctypes; asked = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(asked)); print(asked.value)"
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=ask, capture_output=True, text=True, check=True)
    assert int(done.stdout) == signal.SIGKILL


@pytest.mark.usefixtures("home")
def test_half_a_line_of_events_ends_nothing(capsys):
    step = plan.Step("notebook-a", "notebook", "notebook a")
    folder = plan.folder("smoke")
    folder.mkdir(parents=True)
    watch = reproduce.Watch(folder, {step.id: step}, {step.id})
    steps.event(folder, step.id, "started", attempt=1)
    with watch.path.open("a") as file:
        file.write('{"step": "notebook-a", "ev{"step": "other"}\n{"step": "other", "event": "started"}\n')
    steps.event(folder, step.id, "finished", seconds=1)
    watch.look()
    assert (watch.done, watch.running, watch.failed) == (1, set(), {})
    assert capsys.readouterr().out.count("notebook a") == 2


def test_a_page_that_cannot_be_written_hides_no_failure(home, monkeypatch, capsys):
    toy(home, "01_bad", "raise ValueError('no luck')")
    path = reproduce.prepare("smoke", 1)
    _, found = plan.read(path)
    watch = reproduce.Watch(plan.folder("smoke"), found, set(found))
    watch.failed[next(iter(found))] = 1, "no luck today"
    monkeypatch.setattr("lficam.lab.notebooks.run.write_index", lambda _: 1 / 0)
    monkeypatch.setattr(run, "keep", lambda *_: pytest.fail("it failed itself"))
    with pytest.raises(run.RunError, match="no luck today"):
        reproduce._finish("smoke", found, watch, 1, False)
    assert "is not up to date: ZeroDivisionError" in capsys.readouterr().err


def test_a_step_ends_when_nobody_wants_it(home, monkeypatch):
    folder = plan.folder("smoke")
    monkeypatch.setenv("LFICAM_RUN", "token")
    assert not steps.lifeline(folder)
    with reproduce.locked(folder) as token:
        assert not steps.lifeline(folder)
        monkeypatch.setenv("LFICAM_RUN", token)
        assert steps.lifeline(folder)
    assert not steps.lifeline(folder)
    assert steps.supervise(home / "reports" / "smoke" / ".graph" / "plan.json", "x") == steps.STOPPED


def test_gpus_are_handed_out_one_each(monkeypatch, tmp_path):
    monkeypatch.setattr(steps.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LFICAM_GPUS", "3,5")
    with steps._gpu() as first, steps._gpu() as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"})
    monkeypatch.delenv("LFICAM_GPUS")
    with steps._gpu() as none:
        assert none == {}


@pytest.mark.parametrize("there", ["a link", "open to others", "a file"])
def test_what_others_put_into_the_temporary_folder_is_not_used(monkeypatch, tmp_path, there):
    monkeypatch.setattr(steps.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LFICAM_GPUS", "3")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "gpu-3").write_text("precious")
    own = tmp_path / f"lficam-{os.getuid()}"
    if there == "a link":
        own.symlink_to(tmp_path / "theirs")
    elif there == "open to others":
        (tmp_path / "theirs").rename(own)
        own.chmod(0o777)
    else:
        own.touch()
    with pytest.raises(InputError, match=r"is no folder of yours alone \(mode 0700\)"), steps._gpu():
        pass
    assert all(path.read_text() == "precious" for path in tmp_path.glob("*/gpu-3"))


def test_gpus_of_any_name_have_a_file_in_a_folder_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(steps.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LFICAM_GPUS", "MIG-GPU-1a/2/0")
    with steps._gpu() as found:
        assert found == {"CUDA_VISIBLE_DEVICES": "MIG-GPU-1a/2/0"}
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("given", "seen", "names"),
    [
        ("-1", 0, []),
        ("3,-1,5", 1, ["3"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-1a", 1, ["GPU-1a"]),
        ("", 0, []),
        (None, 2, ["0", "1"]),
        ("7", 0, []),
    ],
)
def test_the_gpus_are_those_that_cuda_sees(monkeypatch, given, seen, names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert reproduce.gpu_names() == names


def test_shares_of_cores_and_gpus(home, monkeypatch):
    toy(home, "01_train", jobs=JOBS)
    for gpus, expected in ((0, [(1, 0), (8, 0), (1, 0)]), (4, [(2, 1), (2, 1), (2, 0)])):
        monkeypatch.setattr(reproduce, "gpu_names", lambda gpus=gpus: list(map(str, range(gpus))))
        _, found = plan.read(reproduce.prepare("smoke", 8))
        assert [(step.threads, step.gpu) for step in found.values()] == expected


def test_a_full_disk_is_one_sentence(home, monkeypatch):
    toy(home, "01_quick")
    path = reproduce.prepare("smoke", 1)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match=r"Cannot write \S+index.html: No space left on device"):
        steps.perform(str(path), "report-smoke")
    with pytest.raises(InputError, match=r"Cannot write \S+plan.json: No space left on device"):
        plan.write("smoke", [])
    assert not list(plan.folder("smoke").glob("*.done"))


def test_causes(tmp_path):
    log = tmp_path / "log"
    log.write_text("epoch 1\n\nlficam: Cannot write x: No space left.\n")
    assert steps.cause(2, log) == "Cannot write x: No space left."
    assert steps.cause(-9, log) == "it was ended by SIGKILL, most likely memory ran out"
    log.write_text("")
    assert steps.cause(1, log) == "it ended with status 1 and without a word"


def test_the_slurm_profile_is_of_the_snakefiles_rules():
    root = Path(__file__).parents[2] / "workflow"
    settings = yaml.safe_load((root / "profiles" / "slurm" / "config.yaml").read_text())
    lines = (files.PACKAGE / "lab" / "graph" / "Snakefile").read_text().splitlines()
    rules = {line.split()[1].rstrip(":") for line in lines if line[:5] == "rule "}
    assert rules == {"all", *plan.KINDS}
    for key in ("set-resources", "set-threads"):
        assert set(settings[key]) <= rules
    assert all({"gpu", "mem_mb", "runtime"} == set(values) for values in settings["set-resources"].values())
