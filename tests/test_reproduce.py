"""The graph through Snakemake, on toy notebooks: what fails, is cut, is started twice."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from lficam import cli, plan, reproduce, steps, workspace
from lficam.errors import InputError

PARAMETERS = 'profile = "lab"\noutput = ""\nlr = 0.1'
RECORD = """
import json, pathlib, os
record = {"notebook": NAME, "profile": profile, "command": "x", "seconds": 1, "tables": [], "figures": []}
(pathlib.Path(output) / "record.json").write_text(json.dumps(record))
with open(os.environ["LFICAM_HOME"] + "/executed", "a") as file: print(NAME, file=file)
"""
JOBS = """
from lficam import training
jobs = {"one": training.Job("plain", "resnet-8", dataset="folder", data_root="nowhere")}
"""
WAIT = """
import os, pathlib, time
while not pathlib.Path(os.environ["LFICAM_HOME"], "go").exists(): time.sleep(0.1)
"""


def toy(home, name, *cells, jobs=None):
    """A notebook of these cells, which then writes its record, in the profile smoke."""
    new = nbformat.v4
    made = [new.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    made += [new.new_code_cell(jobs, metadata={"tags": ["jobs"]})] if jobs else []
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
    command = [sys.executable, "-m", "lficam.cli", "reproduce", "--profile", "smoke", "--cores", "1"]
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
    toy(home, "01_quick")
    toy(home, "02_long", WAIT)
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
    assert executed(home) == ["01_quick", "02_long"]
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
    command = [sys.executable, "-m", "snakemake", "--snakefile", workspace.PACKAGE / "Snakefile", "--cores", "1"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Start this by `lficam reproduce`" in done.stderr
    assert not (home / "reports").exists()


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

    monkeypatch.setattr(workspace.os, "fsync", full)
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
    root = Path(__file__).parents[1] / "workflow"
    settings = yaml.safe_load((root / "profiles" / "slurm" / "config.yaml").read_text())
    lines = (workspace.PACKAGE / "Snakefile").read_text().splitlines()
    rules = {line.split()[1].rstrip(":") for line in lines if line[:5] == "rule "}
    assert rules == {"all", *plan.KINDS}
    for key in ("set-resources", "set-threads"):
        assert set(settings[key]) <= rules
    assert all({"gpu", "mem_mb", "runtime"} == set(values) for values in settings["set-resources"].values())
