"""The graph through Snakemake, on toy notebooks: what fails, is cut, is started twice."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toys
import yaml
from toys import RECORD

from lficam import cli, files
from lficam.errors import InputError
from lficam.lab.graph import forks, plan, reproduce, steps
from lficam.lab.notebooks import run

DONE = (
    RECORD
    + """
with open(os.environ["LFICAM_HOME"] + "/executed", "a") as file: print(NAME, file=file)
"""
)
JOBS = """
from lficam.training import jobs as training
jobs = {"one": training.Job("plain", "resnet-8", dataset="folder", data_root="nowhere")}
"""
WAIT = """
import os, pathlib, time
pathlib.Path(os.environ["LFICAM_HOME"], "waits").touch()
while not pathlib.Path(os.environ["LFICAM_HOME"], "go").exists(): time.sleep(0.1)
"""


def toy(home, name, *cells, **tagged):
    """A notebook of these cells, which then writes its record and that it was executed."""
    toys.toy(home, name, [*cells, DONE.replace("NAME", repr(name))], **tagged)


def executed(home):
    return (home / "executed").read_text().split()


def start(home):
    command = [sys.executable, "-m", "lficam", "reproduce", "--profile", "smoke", "--cores", "2"]
    pipes = {"env": os.environ | {"LFICAM_HOME": str(home)}, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes)


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def processes(home):
    """All that has to do with this project folder but the tests themselves: Snakemake, steps, kernels."""
    there = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            alive = path.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and f"LFICAM_HOME={home}\0" in path.joinpath("environ").read_text() + "\0":
                there.append(path.joinpath("cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return there


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_failed_mended_killed_and_continued(home, capsys):
    """What fails stops only what needs it, SIGKILL of who started it ends all, and what is finished stays so."""
    reports = home / "reports" / "smoke"
    toy(home, "01_good")
    toy(home, "02_bad", "raise ValueError('no luck today')")
    toy(home, "03_train", jobs=JOBS)
    assert cli.main(["reproduce", "--profile", "smoke", "--cores", "2"]) in (1, 2)  # whichever was first
    told = capsys.readouterr()
    assert executed(home) == ["01_good"]
    lines = told.out.splitlines()
    assert sum("finished notebook 01_good in " in line for line in lines) == 1
    assert sum("FAILED   notebook 02_bad" in line and "no luck today" in line for line in lines) == 2  # tried twice
    assert any(line.endswith("started  notebook 02_bad again") for line in lines)
    (failed,) = [line for line in lines if "FAILED   plain resnet-8" in line]  # wrong input is not tried again
    assert "nowhere" in failed
    log = home / failed.partition("See ")[2]
    assert log.read_text().rstrip().endswith(failed.partition(". See")[0][-40:] + ".")
    assert "2 of 5 steps failed and 1 need them; the first: " in told.err
    page = (reports / "index.html").read_text()
    assert page.count("The last run failed.") == 2
    assert "Not run, because plain resnet-8 on folder" in page

    toy(home, "02_bad", WAIT, evaluate="quick = True")
    toy(home, "03_train")
    process = start(home)
    try:
        wait_for(lambda: (home / "waits").exists() and list(plan.folder("smoke").glob("notebook-03_train-*.done")))
        wait_for(lambda: not any("notebook-03_train" in command for command in processes(home)))
        time.sleep(2)  # Snakemake, killed before it has seen that a step ended, takes its marker away
    finally:
        process.kill()
    out, _ = process.communicate(timeout=60)
    wait_for(lambda: not processes(home), 30)
    assert "finished evaluation of 02_bad" in out
    before = executed(home)
    assert before == ["01_good", "03_train"]

    (home / "go").touch()
    assert cli.main(["reproduce", "--profile", "smoke", "--cores", "2"]) == 0
    assert "5 steps, 3 of them finished" in capsys.readouterr().out
    assert executed(home) == [*before, "02_bad"]
    assert "The last run failed." not in (reports / "index.html").read_text()
    assert [step.kind for step in plan.unfinished("smoke", plan.collect("smoke"))] == ["report"]
    assert not list(reports.glob(".0*"))  # nothing half-written is left


@pytest.fixture
def background():
    """As a shell starts what a script leaves in the background, and nohup: SIGINT is ignored, by all it starts too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.usefixtures("background")
def test_an_interruption_ends_step_and_kernel_and_is_told(home, capsys, monkeypatch):
    """The step itself stands for Snakemake, which passes its end of the pipe on."""
    toy(home, "01_long", WAIT)
    found, folder = reproduce.laid_out("smoke", 1), plan.folder("smoke")
    story, look = reproduce.Story(folder, 2, 0), reproduce.Story.look

    def interrupted(self):
        look(self)
        if (home / "waits").exists():
            (home / "waits").unlink()
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(reproduce.Story, "look", interrupted)
    command = [sys.executable, "-m", "lficam", "step", str(folder / "plan.json"), found[0].id]
    assert reproduce._run(command, folder, story) == (steps.STOPPED, True)
    with pytest.raises(run.RunError, match=r"^interrupted; the same command continues") as caught:
        reproduce._finish("smoke", found, story, steps.STOPPED, True)
    assert caught.value.code == 130
    assert "stopped  notebook 01_long" in capsys.readouterr().out
    log = (folder.parent / "logs" / f"{found[0].id}.log").read_text()
    assert "01_long, cell [3] `import os, pathlib, time`: interrupted" in log
    assert not processes(home)
    assert not list(folder.parent.glob(".0*"))


def test_a_second_one_is_refused_and_names_the_first(home, capsys, monkeypatch):
    toy(home, "01_quick")
    with reproduce.alone(plan.folder("smoke")):
        assert cli.main(["reproduce", "--profile", "smoke"]) == 2
        told = capsys.readouterr().err
        assert f"`lficam reproduce --profile smoke` is running already, as process {os.getpid()}: wait for it" in told
        monkeypatch.setattr(reproduce.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli.main(["reproduce", "--profile", "smoke", "--wait"]) == 130
        assert "waiting for it ..." in capsys.readouterr().out
    with reproduce.alone(plan.folder("smoke"), wait=True):
        pass


@pytest.mark.slow
def test_snakemake_alone_would_lock_nobody_out_and_is_refused(home):
    toy(home, "01_quick")
    snakefile = files.PACKAGE / "lab" / "graph" / "Snakefile"
    command = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--cores", "1"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "Start this by `lficam reproduce`" in done.stderr
    assert not (home / "reports").exists()


def told(*lines):
    """A story of three steps of which these lines were told."""
    folder = plan.folder("smoke")
    folder.mkdir(parents=True, exist_ok=True)
    story = reproduce.Story(folder, 3, 0)
    for name, event, more in lines:
        steps.tell(folder, name, event, f"{event} {name}", **more)
    story.look()
    return story


@pytest.mark.usefixtures("home")
def test_half_a_line_of_events_ends_nothing(capsys):
    told(("a", "started", {}))
    with (plan.folder("smoke") / "events.jsonl").open("a") as file:
        file.write('{"step": "a", "ev{"step": "other"}\n{"step": "other", "event": "started"}\n3\n')
    story = told(("a", "finished", {}))
    assert (story.done, list(story.last), story.of("started")) == (1, ["a"], {})
    assert capsys.readouterr().out.splitlines()[-1] == "[1/3] finished a"


def test_a_page_that_cannot_be_written_hides_no_failure(home, monkeypatch, capsys):
    toy(home, "01_bad", "raise ValueError('no luck')")
    found = reproduce.laid_out("smoke", 1)
    story = told((found[0].id, "failed", {"code": 1, "reason": "no luck today"}))
    monkeypatch.setattr("lficam.lab.notebooks.run.write_index", lambda _: 1 / 0)
    monkeypatch.setattr(run, "keep", lambda *_: pytest.fail("it failed itself"))
    with pytest.raises(run.RunError, match="no luck today"):
        reproduce._finish("smoke", found, story, 1, False)
    assert "is not up to date: ZeroDivisionError" in capsys.readouterr().err


def test_who_vanishes_without_a_word_is_told(home, capsys):
    toy(home, "01_toy")
    found = reproduce.laid_out("smoke", 1)
    story = told((found[0].id, "started", {}))
    with pytest.raises(run.RunError, match=r"1 of 2 steps failed .* most likely memory ran out") as caught:
        reproduce._finish("smoke", found, story, 1, False)
    assert caught.value.code == 3
    assert "FAILED   notebook 01_toy: its process was killed" in capsys.readouterr().out


@pytest.mark.usefixtures("background")
def test_a_step_ends_when_nobody_wants_it(home, monkeypatch):
    toy(home, "01_toy")
    (step, _), path = reproduce.laid_out("smoke", 1), plan.folder("smoke") / "plan.json"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(steps.subprocess, "Popen", lambda *_, **__: process)
    reader, writer = os.pipe()
    stdin = os.dup(0)
    try:
        os.dup2(reader, 0)
        assert steps.wanted()
        monkeypatch.setenv("LFICAM_LIFELINE", "stdin")
        assert steps.wanted()
        monkeypatch.setattr(steps, "tell", lambda *_: os.close(writer) if steps.wanted() else None)
        assert steps.supervise(str(path), step.id) == steps.STOPPED  # it had begun
        assert process.returncode == -signal.SIGTERM  # without being killed
        assert steps.supervise(str(path), step.id) == steps.STOPPED  # it does not begin
        monkeypatch.delenv("LFICAM_LIFELINE")
        assert steps.wanted()  # on a cluster
    finally:
        os.dup2(stdin, 0)
        os.close(reader)
        os.close(stdin)


FORKED = """
import os, signal, time, torch
from pathlib import Path
home = Path(os.environ["LFICAM_HOME"])
print(os.getppid(), os.environ["OMP_NUM_THREADS"], torch.get_num_threads(), Path.cwd().name)
end = {"self": os.getpid(), "server": os.getppid()}.get((home / "end").read_text())
if end: os.kill(end, signal.SIGKILL)
if end or (home / "wait").exists(): time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each step imports all itself")
def test_steps_are_forked_and_survive_nobody(home, monkeypatch):
    """They have the environment of who asks, and end with them, and with the server; without it they are started."""
    toy(home, "01_toy", evaluate=FORKED)
    (step, notebook, _), path = reproduce.laid_out("smoke", 2), str(plan.folder("smoke") / "plan.json")
    log = home / "reports" / "smoke" / "logs" / f"{step.id}.log"
    monkeypatch.chdir(home / "notebooks")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    def status(end, step=step):
        (home / "end").write_text(end)
        code = steps.supervise(path, step.id)
        return code, steps.events(plan.folder("smoke"))[-1].get("reason")

    with forks.served(Path(path)) as where:
        monkeypatch.setenv("LFICAM_FORKS", where["LFICAM_FORKS"])
        killed = 3, "it was ended by SIGKILL, most likely memory ran out"
        assert status("self") == killed
        assert status("") == (0, None)
        server, *facts = log.read_text().splitlines()[-1].split()
        assert facts == ["3", "3", "notebooks"]
        assert "Threads:\t1\n" in Path(f"/proc/{server}/status").read_text()
        assert Path(f"/proc/{server}/cmdline").read_text().count("lficam.lab.graph.forks") == 1
        code, reason = status("self", notebook)
        assert code == 3
        assert "the kernel died; it was ended by SIGKILL, most likely memory ran out" in reason
        assert status("", notebook) == (0, None)
        told = log.with_name(f"{notebook.id}.log").read_text()
        assert f"\n{server} 3 3 notebooks\n" in told
        assert "Traceback" not in told.rpartition(server)[2]
        (home / "wait").touch()
        asked = "lficam", ["step", path, step.id, "--inside"], dict(os.environ), str(home), str(home / "log")
        forked = steps.Forked(where["LFICAM_FORKS"], *asked)
        with pytest.raises(subprocess.TimeoutExpired):
            forked.wait(0)
        forked.server.close()
        wait_for(lambda: len(processes(home)) == 1, 10)
        assert status("server") == killed
        wait_for(lambda: not processes(home), 10)
        (home / "wait").unlink()
        assert status("") == (0, None)
        assert log.read_text().splitlines()[-1].split()[0] == str(os.getpid())


def test_gpus_are_handed_out_one_each(monkeypatch, tmp_path):
    """By a file for each, of any name, in a folder of one's own."""
    monkeypatch.setattr(steps.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("LFICAM_GPUS", "3,MIG-GPU-1a/2/0")
    with steps._gpu() as first, steps._gpu() as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "MIG-GPU-1a/2/0"})
    (own,) = tmp_path.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700
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


@pytest.mark.parametrize(
    ("given", "seen", "names"),
    [("-1", 0, []), ("3,-1,5", 1, ["3"]), ("3,GPU-1a", 2, ["3", "GPU-1a"]), (None, 2, ["0", "1"]), ("7", 0, [])],
)
def test_the_gpus_are_those_that_cuda_sees(monkeypatch, given, seen, names):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    assert reproduce.gpu_names() == names


def test_shares_of_cores_and_gpus(home, monkeypatch):
    """Notebooks and evaluations share the cores, apart from one that measures time."""
    toy(home, "01_train", jobs=JOBS)
    toy(home, "02_cost", alone="cost = 1", evaluate="x = 1")
    for gpus, expected in ((0, [(1, 0), (2, 0), (2, 0), (8, 0), (1, 0)]), (4, [(2, 1)] * 4 + [(2, 0)])):
        monkeypatch.setattr(reproduce, "gpu_names", lambda gpus=gpus: list(map(str, range(gpus))))
        found = reproduce.laid_out("smoke", 8)
        assert [(step.threads, step.gpu) for step in found] == expected
        assert list(plan.read(plan.folder("smoke") / "plan.json")[1]) == [step.id for step in found]


def test_a_full_disk_is_one_sentence(home, monkeypatch):
    toy(home, "01_quick")
    reproduce.laid_out("smoke", 1)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match=r"Cannot write \S+index.html: No space left on device"):
        steps.perform(str(plan.folder("smoke") / "plan.json"), "report-smoke")
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


def test_the_slurm_profile_is_of_the_plans_kinds():
    root = Path(__file__).parents[2] / "workflow"
    settings = yaml.safe_load((root / "profiles" / "slurm" / "config.yaml").read_text())
    for key in ("set-resources", "set-threads"):
        assert set(settings[key]) <= set(plan.KINDS)
    assert all({"gpu", "mem_mb", "runtime"} == set(values) for values in settings["set-resources"].values())
