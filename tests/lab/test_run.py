"""The strict runner, on toy notebooks with real kernels."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from toys import PARAMETERS, RECORD, finished, toy

from lficam import InputError, files
from lficam.lab.notebooks.run import RunError, prepare, run, run_all
from lficam.lab.report.publish import publish
from lficam.lab.report.records import read_record


def left(home):
    """All names in reports/smoke."""
    return {path.name for path in (home / "reports" / "smoke").iterdir()}


@pytest.fixture
def earlier(home):
    """A finished report of an earlier run of 01_toy, as bytes."""
    folder = home / "reports" / "smoke" / "01_toy"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text('{"notebook": "01_toy", "profile": "smoke", "seconds": 3}')
    (folder / "old.txt").write_text("old")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_failed(home, earlier, error, code, *words):
    """Exit code, sentence, earlier report intact, partial notebook kept, nothing else left."""
    assert getattr(error, "code", 2) == code
    for word in (*words, "reports/smoke/01_toy.failed.ipynb"):
        assert word in str(error)
    assert "\n" not in str(error)
    folder = home / "reports" / "smoke" / "01_toy"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == earlier
    assert left(home) == {"01_toy", "01_toy.failed.ipynb", "index.html"}
    page = (home / "reports" / "smoke" / "index.html").read_text()
    assert "The last run failed." in page
    assert "earlier, finished run" in page
    return json.loads((home / "reports" / "smoke" / "01_toy.failed.ipynb").read_bytes())


@pytest.mark.slow
@pytest.mark.usefixtures("earlier")
def test_success_replaces_the_earlier_report(home, capfd):
    hello = (
        'import os\nfrom lficam.progress import headless\nprint("hello", extra, headless(), os.environ["LFICAM_HOME"])'
    )
    toy(home, cells=[hello, RECORD.replace("NAME", "'01_toy'")], settings="lr: 1\nname: 'it''s \"x\\y\"'")
    (home / "reports" / "smoke" / "01_toy.failed.ipynb").write_text("{}")
    odd = files.staging(home / "reports" / "smoke" / "09_x")
    odd.with_name(odd.name.replace(str(os.getpid()), "999999999")).mkdir()
    path = run("notebooks/01_toy.ipynb", "smoke", {"steps": [5], "extra": 1e-5})
    assert path == home / "reports" / "smoke" / "01_toy" / "record.json"
    assert {"01_toy.ipynb", "01_toy.html", "record.json", "t.csv", "f.png"} == {p.name for p in path.parent.iterdir()}
    assert left(home) == {"01_toy", "index.html"}
    record = json.loads(path.read_bytes())
    assert record["parameters"] == {"lr": 1, "name": 'it\'s "x\\y"'}
    assert (record["settings"]["steps"], record["settings"]["epochs"]) == ([5], 2)
    assert record["command"] == "lficam run 01_toy --profile smoke --set 'steps=[5]' --set extra=1.0e-05"
    assert f"hello 1e-05 True {home}\n" in capfd.readouterr().out
    assert prepare("01_toy", "smoke", {"extra": 1e-5, "steps": [5]}).timeout is None


@pytest.mark.parametrize(
    ("toys", "settings", "words"),
    [
        ({}, "epochs: 2\nepoch: 1", ["profiles/smoke/01_toy.yaml, line 2", "did you mean 'epochs'"]),
        ({}, "fast: 1", ["expected bool"]),
        ({}, "profile: smoke", ["given by the runner"]),
        ({}, "lr: [1\nb: 2", ["01_toy.yaml, line 2"]),
        ({}, "lr: !!python/object:os.system 1", ["01_toy.yaml, line 1", "could not determine a constructor"]),
        ({"tags": ["parameters", "parameters"]}, "", ["expected exactly one cell with the tag", "found 2"]),
        ({"parameters": PARAMETERS + "\nhalf = lr / 2"}, "", ["line 9", "`half = lr / 2`", "not NAME = a literal"]),
        ({"parameters": PARAMETERS + "\na = b = 1"}, "", ["`a = b = 1`"]),
        ({"parameters": PARAMETERS + "\nx ="}, "", ["line 9", "not Python"]),
        ({"parameters": "lr = 0.1"}, "", ['must hold profile = "lab" and output = ""']),
    ],
)
def test_wrong_input_is_told_before_a_kernel_starts(home, toys, settings, words):
    toy(home, settings=settings, **toys)
    with pytest.raises(InputError) as caught:
        run("01_toy", "smoke")
    for word in words:
        assert word in str(caught.value)
    assert str(home) not in str(caught.value)
    assert not (home / "reports").exists()


def test_unknown_names_and_overrides(home):
    toy(home)
    (home / "notebooks" / "profiles" / "desk").mkdir()
    for arguments, words in [
        (("01_toy", "desk"), "add notebooks/profiles/desk/01_toy.yaml"),
        (("01_toy", "smoke", {"epoch": 1}), "--set epoch: Unknown parameter"),
        (("01_toy", "smoke", None, 0), "timeout: expected whole seconds above 0"),
    ]:
        with pytest.raises(InputError, match=words):
            run(*arguments)
    with pytest.raises(InputError, match="Profile 'desk' is empty"):
        run_all(profile="desk")
    assert not (home / "reports").exists()


def test_what_the_package_lacks_is_told_before_anything_is_trained(home, monkeypatch):
    toy(home)
    monkeypatch.setattr("lficam.files.PACKAGE", home / "lficam")
    with pytest.raises(InputError, match=r"tables/recipes\.csv is not there.*install lficam again"):
        run("01_toy", "smoke")
    assert not (home / "reports").exists()


def test_types_that_pass(home):
    tuples = PARAMETERS + "\npair = (1.5, 2)\nanything = []\nword: str = 'x'  # noted"
    toy(home, settings="lr: 1\nextra: [1, a]\npair: [3, 4.5]\nanything: [x, 1]", parameters=tuples)
    assert prepare("01_toy", "smoke").parameters["pair"] == [3, 4.5]


@pytest.mark.slow
def test_a_cell_that_raises(home, earlier):
    toy(home, cells=["x = 1", "raise ValueError('no\\nluck')", "x = 2"])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke")
    notebook = check_failed(home, earlier, caught.value, 1, "cell [4] `raise ValueError", "ValueError: no luck")
    assert "**This run failed.**" in notebook["cells"][0]["source"]


@pytest.mark.slow
def test_a_killed_kernel(home, earlier):
    toy(home, cells=["x = 1", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "x = 2"])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke")
    notebook = check_failed(home, earlier, caught.value, 3, "cell [4]", "SIGKILL", "memory ran out")
    states = [cell["metadata"]["papermill"]["status"] for cell in notebook["cells"][-3:]]
    assert states == ["completed", "failed", "pending"]  # papermill says completed three times


@pytest.mark.slow
@pytest.mark.usefixtures("earlier")
def test_interruption_kills_the_kernel(home):
    toy(home, cells=["import os, time; open('pid', 'w').write(str(os.getpid())); print('ready'); time.sleep(60)"])
    command = [sys.executable, "-m", "lficam", "run", "01_toy", "--profile", "smoke"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # The tests themselves may run in the background, where a shell has SIGINT ignored.
    runner = subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while "ready" not in (line := runner.stdout.readline()):
        assert line
    runner.send_signal(signal.SIGINT)
    out, error = runner.communicate(timeout=60)
    assert (runner.returncode, out) == (130, "")
    assert error.startswith("lficam: 01_toy, cell [3]")
    assert error.count("\n") == 1
    assert left(home) == {"01_toy", "01_toy.failed.ipynb", "index.html"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "notebooks" / "pid").read_text()), 0)


# --- Without a kernel: `executed` takes its place


@pytest.fixture
def executed(monkeypatch):
    """What the kernel does instead of executing the notebook: {name: what is raised, or what its record changes}."""
    done = {}

    def execute(_, prepared, folder):
        notebook = json.loads(prepared.source.read_bytes())
        for cell in notebook["cells"][:3]:
            cell["metadata"]["papermill"] = {"start_time": "now", "status": "completed"}
        (folder / prepared.source.name).write_text(json.dumps(notebook))
        what = done.get(prepared.name, {})
        if isinstance(what, BaseException):
            raise what
        record = {"notebook": prepared.name, "profile": prepared.profile} | what
        (folder / "record.json").write_text(json.dumps(record))

    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", execute)
    return done


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        (PapermillExecutionError(0, 3, "", "InputError", "lr: too\nhigh.", []), 2, "^lr: too high (01_toy, cell [2] `"),
        (
            CellTimeoutError(),
            4,
            "cell [2] `import json, os, pathlib`: not finished within 9 s, or its output took over",
        ),
        (OSError(28, "No space left on device"), 2, "/reports/smoke: No space left on device"),
        (OSError(24, "Too many open files"), 2, "01_toy, cell [2] `import json, os, pathlib`: OSError: Too many open"),
        (FileNotFoundError(2, "No such file", "/a/template"), 2, "`: /a/template: No such file"),
        (RuntimeError("Kernel didn't respond"), 3, "the kernel does not answer; Kernel didn't respond"),
        (KeyboardInterrupt(), 130, "interrupted"),
        ({"notebook": "02_other"}, 5, "names notebook '02_other' instead of '01_toy'"),
        ({"profile": "lab"}, 5, "names profile 'lab' instead of 'smoke'"),
        ({"figures": [{"file": "f.png"}]}, 5, "lists f.png, which is not there"),
    ],
    ids=str,
)
def test_failures(home, earlier, executed, what, code, words):
    toy(home)
    executed["01_toy"] = what
    with pytest.raises((InputError, RunError)) as caught:
        run("01_toy", "smoke", timeout=9)
    assert words.removeprefix("^") in str(caught.value)
    assert words[0] != "^" or str(caught.value).startswith(words[1:])
    check_failed(home, earlier, caught.value, code)


def test_nobody_is_blamed_for_what_was_not_foreseen(home, executed):
    toy(home)
    executed["01_toy"] = RecursionError("too deep")
    with pytest.raises(RecursionError):
        run("01_toy", "smoke")


def test_run_all_goes_on_and_checks_first(home, executed, capsys):
    for name in ("02_bad", "03_wrong", "10_good"):
        toy(home, name)
    executed["02_bad"] = RuntimeError("Kernel died")
    executed["03_wrong"] = PapermillExecutionError(0, 3, "", "InputError", "no.", [])
    with pytest.raises(RunError, match="1 of 3 notebooks finished, failed: 02_bad, 03_wrong") as caught:
        run_all(profile="smoke")
    assert caught.value.code == 3
    assert "Failed: 02_bad, cell [2]" in capsys.readouterr().err
    assert left(home) == {"02_bad.failed.ipynb", "03_wrong.failed.ipynb", "10_good", "index.html"}
    toy(home, "03_wrong", settings="nonsense: 1")
    with pytest.raises(InputError, match="nonsense"):
        run_all(["10_good", "03_wrong"], profile="smoke")
    executed["02_bad"] = KeyboardInterrupt()
    with pytest.raises(RunError, match="0 of 2 notebooks finished, failed: 02_bad"):  # and nothing after it
        run_all(["02_bad", "10_good"], profile="smoke")


@pytest.mark.usefixtures("executed")
def test_a_broken_page_or_exporter_costs_no_result(home, monkeypatch, capsys):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.write_index", lambda _: 1 / 0)
    monkeypatch.setattr("nbconvert.HTMLExporter.from_filename", lambda *_: 1 / 0)
    assert run("01_toy", "smoke").is_file()
    told = capsys.readouterr().err
    assert "The page of reports/smoke is not up to date: ZeroDivisionError" in told
    assert "01_toy: no HTML written (ZeroDivisionError" in told


def test_a_full_disk_hides_no_failure(home, monkeypatch, executed, capsys):
    toy(home)
    executed["01_toy"] = {"profile": "lab"}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lficam.files.os.fsync", full)
    with pytest.raises(RunError, match="names profile 'lab'"):
        run("01_toy", "smoke")
    assert "No space left on device" in capsys.readouterr().err
    (home / "reports").rename(home / "elsewhere")
    (home / "reports").touch()
    with pytest.raises(InputError, match="Cannot write in"):
        run("01_toy", "smoke")


def test_a_cell_has_no_limit_unless_one_is_given(home, monkeypatch):
    toy(home)
    given = []
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **options: given.append(options["execution_timeout"]))
    for timeout in (None, 7):
        with pytest.raises(RunError, match="wrote no record"):
            run("01_toy", "smoke", timeout=timeout)
    assert given == [None, 7]


def test_sweep_removes_what_dead_processes_left(home, monkeypatch):
    """Of an earlier process that had this one's number too; it finishes a swap that was cut."""
    mine, other = files.staging(home / "x"), home / f".c.elsewhere.{os.getpid()}"
    monkeypatch.setattr(files, "_OURS", "0123abcd")
    dead, cut = files.staging(home / "a"), Path(f"{files.staging(home / 'b')}.old")
    monkeypatch.undo()
    for path in (mine, dead, other, cut):
        path.mkdir()
    files.sweep(home)
    assert {path.name for path in home.iterdir()} == {"b", other.name, mine.name}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", r"names notebook \[\]"),
        ('{"notebook": "01_toy", "tables": [1]}', "no list of tables"),
        ('{"notebook": "01_toy", "figures": [{"file": "../x"}]}', "lists ../x"),
    ],
)
def test_damaged_records(home, text, words):
    folder = finished(home, "01_toy")
    (folder / "record.json").write_text(text)
    (folder.parent / "x").write_text("")
    with pytest.raises(ValueError, match=words):
        read_record(folder)


def test_publish(home):
    with pytest.raises(InputError, match="lficam run --profile smoke"):
        publish("smoke")
    folder = finished(home, "01_toy")
    (folder / "01_toy.html").write_text("")
    stale = home / "figures" / "smoke" / "01_toy" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (copied,) = publish("smoke")
    assert {path.name for path in copied.iterdir()} == {"record.json", "a.csv", "b.png"}
    assert [path.name for path in copied.parent.iterdir()] == ["01_toy"]
    shutil.rmtree(folder)
    finished(home, "01_toy", notebook="other")
    with pytest.raises(InputError, match="Cannot publish 01_toy"):
        publish("smoke")
