"""The strict runner, on toy notebooks with real kernels."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toys import PARAMETERS, RECORD, finished, toy

from lficam import InputError
from lficam.lab.notebooks.run import RunError, prepare, run, run_all
from lficam.lab.report.page import write_index
from lficam.lab.report.records import OURS, page_tables, publish, read_record, staging, sweep


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


@pytest.mark.usefixtures("earlier")
def test_success_replaces_the_earlier_report(home, capfd):
    hello = (
        'import os\nfrom lficam.progress import headless\nprint("hello", extra, headless(), os.environ["LFICAM_HOME"])'
    )
    toy(home, cells=[hello, RECORD.replace("NAME", "'01_toy'")], settings="lr: 1\nname: 'it''s \"x\\y\"'")
    (home / "reports" / "smoke" / "01_toy.failed.ipynb").write_text("{}")
    odd = staging(home / "reports" / "smoke", "09_x")
    odd.with_name(odd.name.replace(str(os.getpid()), "999999999")).mkdir()
    path = run("notebooks/01_toy.ipynb", "smoke", {"steps": [5], "extra": 1e-5})
    assert path == home / "reports" / "smoke" / "01_toy" / "record.json"
    assert {"01_toy.ipynb", "01_toy.html", "record.json", "t.csv", "f.png"} == {p.name for p in path.parent.iterdir()}
    assert left(home) == {"01_toy", "index.html"}
    record = json.loads(path.read_bytes())
    assert record["parameters"] == {"lr": 1, "name": 'it\'s "x\\y"'}
    assert record["command"] == "lficam run 01_toy --profile smoke --set 'steps=[5]' --set extra=1.0e-05"
    assert f"hello 1e-05 True {home}\n" in capfd.readouterr().out
    assert prepare("01_toy", "smoke", {"extra": 1e-5, "steps": [5]}).timeout is None


@pytest.mark.parametrize(
    ("toys", "settings", "words"),
    [
        ({}, "learning: 1", ["profiles/smoke/01_toy.yaml, line 1", "Unknown parameter 'learning'"]),
        ({}, "epochs: 2\nepoch: 1", ["line 2", "did you mean 'epochs'"]),
        ({}, "lr: 1e-3", ["expected float, got str '1e-3'", "in YAML write 0.001"]),
        ({}, "lr: true", ["expected float, got bool"]),
        ({}, "epochs: 1.5", ["expected int, got float"]),
        ({}, "fast: 1", ["expected bool"]),
        ({}, "steps: 3", ["expected list"]),
        ({}, "steps: [3, x]", ["steps[1]: expected int, got str 'x'"]),
        ({}, "profile: smoke", ["given by the runner"]),
        ({}, "lr: 1\nlr: 2", ["line 2", "already set in line 1"]),
        ({}, "- lr", ["line 1", "expected NAME: VALUE lines, got list"]),
        ({}, "lr: [1\nb: 2", ["01_toy.yaml, line 2"]),
        ({}, "lr: !!python/object:os.system 1", ["01_toy.yaml, line 1", "could not determine a constructor"]),
        ({"tags": []}, "", ["expected exactly one cell with the tag 'parameters', found none"]),
        ({"tags": ["parameters", "parameters"]}, "", ["found 2"]),
        ({"tags": ["parameters", "injected-parameters"]}, "", ["output of a run"]),
        ({"parameters": PARAMETERS + "\nhalf = lr / 2"}, "", ["line 9", "`half = lr / 2`", "not NAME = a literal"]),
        ({"parameters": PARAMETERS + "\na = b = 1"}, "", ["`a = b = 1`"]),
        ({"parameters": PARAMETERS + "\nimport os"}, "", ["`import os`"]),
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
    with pytest.raises(InputError, match=r"No notebook in .*LFICAM_HOME"):
        run("01_toy", "smoke")
    toy(home)
    (home / "notebooks" / "profiles" / "desk").mkdir()
    for arguments, words in [
        (("01_tow", "smoke"), "Unknown notebook '01_tow': did you mean '01_toy'"),
        (("01_toy", "smok"), "Unknown profile 'smok': did you mean 'smoke'"),
        (("01_toy", "desk"), "add notebooks/profiles/desk/01_toy.yaml"),
        (("01_toy", "smoke", {"epoch": 1}), "--set epoch: Unknown parameter"),
        (("01_toy", "smoke", None, 0), "timeout: expected whole seconds above 0"),
    ]:
        with pytest.raises(InputError, match=words):
            run(*arguments)
    with pytest.raises(InputError, match="Profile 'desk' is empty"):
        run_all(profile="desk")
    (home / "notebooks" / "01_toy.ipynb").write_text("{}")
    with pytest.raises(InputError, match="not a notebook of format 4"):
        run("01_toy", "smoke")
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


def test_a_cell_that_raises(home, earlier):
    toy(home, cells=["x = 1", "raise ValueError('no\\nluck')", "x = 2"])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke")
    notebook = check_failed(home, earlier, caught.value, 1, "cell [4] `raise ValueError", "ValueError: no luck")
    assert "**This run failed.**" in notebook["cells"][0]["source"]


def test_an_input_error_inside_is_one_here(home, earlier):
    toy(home, cells=["from lficam import InputError", "raise InputError('lr: too high.')"])
    with pytest.raises(InputError) as caught:
        run("01_toy", "smoke")
    check_failed(home, earlier, caught.value, 2, "lr: too high (01_toy, cell [4]")


def test_a_killed_kernel(home, earlier):
    toy(home, cells=["x = 1", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "x = 2"])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke")
    notebook = check_failed(home, earlier, caught.value, 3, "cell [4]", "SIGKILL", "memory ran out")
    states = [cell["metadata"]["papermill"]["status"] for cell in notebook["cells"][-3:]]
    assert states == ["completed", "failed", "pending"]  # papermill says completed three times


def test_a_time_out(home, earlier):
    toy(home, cells=["import time; time.sleep(60)"])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke", timeout=1)
    check_failed(home, earlier, caught.value, 4, "cell [3] `import time", "not finished within 1 s")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("x = 1", "wrote no record.json"),
        (RECORD.replace("NAME", "'02_other'"), "names notebook '02_other' instead of '01_toy'"),
        (RECORD.replace("NAME", "'01_toy'") + "(folder / 'f.png').unlink()", "lists f.png, which is not there"),
    ],
)
def test_no_valid_record(home, earlier, cell, words):
    toy(home, cells=[cell])
    with pytest.raises(RunError) as caught:
        run("01_toy", "smoke")
    check_failed(home, earlier, caught.value, 5, words)


@pytest.mark.usefixtures("earlier")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_kills_the_kernel(home, number):
    toy(home, cells=["import os, time; open('pid', 'w').write(str(os.getpid())); print('ready'); time.sleep(60)"])
    command = [sys.executable, "-m", "lficam", "run", "01_toy", "--profile", "smoke"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # The tests themselves may run in the background, where a shell has SIGINT ignored.
    runner = subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while "ready" not in (line := runner.stdout.readline()):
        assert line
    runner.send_signal(number)
    out, error = runner.communicate(timeout=20)
    assert (runner.returncode, out) == (130, "")
    assert error.startswith("lficam: 01_toy, cell [3]")
    assert error.count("\n") == 1
    assert left(home) == {"01_toy", "01_toy.failed.ipynb", "index.html"}
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "notebooks" / "pid").read_text()), 0)


def test_run_all_goes_on_and_checks_first(home, capsys):
    toy(home, "02_bad", cells=["raise KeyError('x')"])
    toy(home, "03_wrong", cells=["from lficam import InputError; raise InputError('no.')"])
    toy(home, "10_good")
    with pytest.raises(RunError, match="1 of 3 notebooks finished, failed: 02_bad, 03_wrong") as caught:
        run_all(profile="smoke")
    assert caught.value.code == 1
    assert "Failed: 02_bad, cell [3]" in capsys.readouterr().err
    assert left(home) == {"02_bad.failed.ipynb", "03_wrong.failed.ipynb", "10_good", "index.html"}
    toy(home, "03_wrong", settings="nonsense: 1")
    with pytest.raises(InputError, match="nonsense"):
        run_all(["10_good", "03_wrong"], profile="smoke")


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (OSError(28, "No space left on device"), 2, "cannot write in .*: No space left on device"),
        (OSError(24, "Too many open files"), 2, r"^01_toy: OSError: Too many open files\.$"),
        (RuntimeError("Kernel didn't respond"), 3, "the kernel does not answer; Kernel didn't respond"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_failures_around_the_kernel(home, monkeypatch, failure, code, words):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", lambda *_: (_ for _ in ()).throw(failure))
    with pytest.raises((InputError, RunError), match=words) as caught:
        run("01_toy", "smoke")
    assert getattr(caught.value, "code", 2) == code
    assert left(home) == {"index.html"}


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/a/template"), "/a/template: No such file or directory"),
        (ConnectionResetError(104, "Connection reset by peer"), "ConnectionResetError: Connection reset by peer"),
    ],
)
def test_the_disk_is_blamed_for_nothing_else(home, monkeypatch, failure, words):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", lambda *_: (_ for _ in ()).throw(failure))
    with pytest.raises(InputError) as caught:
        run("01_toy", "smoke")
    assert words in str(caught.value)
    assert "cannot write" not in str(caught.value)


def test_the_kernel_is_blamed_for_nothing_else(home, monkeypatch):
    toy(home)
    monkeypatch.setattr(
        "lficam.lab.notebooks.run.Kernel.execute", lambda *_: (_ for _ in ()).throw(RecursionError("too deep"))
    )
    with pytest.raises(RecursionError):
        run("01_toy", "smoke")


def test_a_page_that_cannot_be_written_hides_nothing(home, monkeypatch, capsys):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.write_index", lambda _: 1 / 0)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", without_kernel("smoke"))
    assert run("01_toy", "smoke").is_file()  # a success stays one
    assert "The page of reports/smoke is not up to date: ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", without_kernel("lab"))
    with pytest.raises(RunError, match="names profile 'lab'"):
        run("01_toy", "smoke")


def test_a_full_disk_hides_no_failure(home, monkeypatch, capsys):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", without_kernel("lab"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lficam.files.os.fsync", full)
    with pytest.raises(RunError, match="names profile 'lab'"):
        run("01_toy", "smoke")
    assert "No space left on device" in capsys.readouterr().err


def test_a_cell_has_no_limit_unless_one_is_given(home, monkeypatch):
    toy(home)
    given = []
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **options: given.append(options["execution_timeout"]))
    for timeout in (None, 7):
        with pytest.raises(RunError, match="wrote no record"):
            run("01_toy", "smoke", timeout=timeout)
    assert given == [None, 7]


def test_runs_of_one_process_leave_each_other_alone(home):
    """Staging of this process stays; that of an earlier process with the same number goes."""
    folder = home / "reports" / "smoke"
    mine = staging(folder, "01_x")
    earlier = mine.with_name(mine.name.replace(OURS, "0123abcd"))
    mine.mkdir(parents=True)
    earlier.mkdir()
    sweep(folder)
    assert list(folder.iterdir()) == [mine]


def without_kernel(profile):
    """An execution that only writes the record."""

    def execute(_, plan, folder):
        shutil.copy(plan.source, folder)
        (folder / "record.json").write_text(json.dumps({"notebook": plan.name, "profile": profile}))

    return execute


def test_a_record_of_another_profile(home, monkeypatch):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", without_kernel("lab"))
    with pytest.raises(RunError, match="names profile 'lab' instead of 'smoke'") as caught:
        run("01_toy", "smoke")
    assert caught.value.code == 5


def test_a_broken_exporter_costs_no_result(home, monkeypatch, capsys):
    toy(home)
    monkeypatch.setattr("lficam.lab.notebooks.run.Kernel.execute", without_kernel("smoke"))
    monkeypatch.setattr("nbconvert.HTMLExporter.from_filename", lambda *_: 1 / 0)
    assert run("01_toy", "smoke").is_file()
    assert "01_toy: no HTML written (ZeroDivisionError" in capsys.readouterr().err
    with pytest.raises(InputError, match="Cannot write in"):
        run("01_toy", "smoke", reports=home / "notebooks" / "01_toy.ipynb")


def test_run_all_stops_when_interrupted(home, monkeypatch):
    toy(home, "01_toy")
    toy(home, "02_toy")
    started = []

    def execute(plan):
        started.append(plan.name)
        raise RunError(f"{plan.name}: interrupted", 130)

    monkeypatch.setattr("lficam.lab.notebooks.run.execute", execute)
    with pytest.raises(RunError) as caught:
        run_all(profile="smoke")
    assert (caught.value.code, started) == (130, ["01_toy"])


def test_a_page_keeps_its_columns_whatever_a_cell_says(home):
    finished(home, "01_toy").joinpath("a.csv").write_text("method|s,score\n|x|,0.5\n")
    page = page_tables("<!-- smoke:01_toy/a.csv -->\n<!-- end -->", home / "reports")
    assert page.split("\n")[1:4] == [r"| method\|s | score |", "| --- | --- |", r"| \|x\| | 0.5 |"]


def test_index_page(home):
    toy(home, "01_toy")
    toy(home, "02_missing")
    finished(home, "01_toy")
    finished(home, "03_other").joinpath("b.png").unlink()
    page = write_index(home / "reports" / "smoke").read_text()
    for text in [
        "1 of 3 notebooks finished, 1 min 01 s in all",
        "A toy &lt;title&gt;",
        "<b>Table 1.1. T&lt;1&gt;.</b> N = 7",
        '>&lt;i&gt;x&lt;/i&gt;</th><td class="number">1.0</td><td class="number">1234567</td>',
        '>y</th><td class="number">—</td>',
        'alt="says &#34;hi&#34;"',
        '<a href="01_toy/b.pdf">PDF</a>',
        "lficam run &amp; more",
        "abc123, with uncommitted changes",
        "torch 9.9",
        "Not run yet.",
        "lists b.png, which is not there",
    ]:
        assert text in page
    assert "<i>" not in page
    assert "http" not in page


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
    assert "Not usable" in write_index(folder.parent).read_text()


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


def test_sweep_finishes_a_swap_that_was_cut(home, monkeypatch):
    """Of an earlier process that had this one's number."""
    dead, other = staging(home, "a"), home / f".c.elsewhere.{os.getpid()}"
    cut = Path(f"{staging(home, 'b')}.old")
    monkeypatch.setattr("lficam.lab.notebooks.finished.OURS", "0123abcd")
    for path in (dead, other, cut):
        path.mkdir()
    sweep(home)
    assert {path.name for path in home.iterdir()} == {"b", other.name}


def test_only_literals_and_yaml_are_read_quickly(home):
    toy(home)
    started = time.perf_counter()
    prepare("01_toy", "smoke")
    assert time.perf_counter() - started < 1
