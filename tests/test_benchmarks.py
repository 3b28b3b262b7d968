"""Ratios and tables, the checks of a device, and the work on a GPU that is cut and goes on; nothing here measures."""

import dataclasses
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import __main__ as benchmarks
from benchmarks import checks, fast_path, gpu, loader, plan, record, timing
from lficam.data import datasets, resident
from lficam.errors import InputError
from lficam.training.recipes import authors_recipe

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def a_run(name="attention", gpu_name="", ratio=2.0):
    row = timing.row("lfi-cam x", "loop", {"ours": [1.0, 2.0, 4.0], "reference": [2.0, 2.0 * ratio, 4.0]}, 8, odd=1e-6)
    machine = timing.machine("cpu") | {"gpu": gpu_name}
    return {"benchmark": name, "machine": machine, "rows": [row]}


# --- ratios, results and tables


def test_readme_shows_the_results():
    """Every run of results.json stands in the README; what was never measured has nothing there to be regenerated."""
    text, runs = (ROOT / "benchmarks" / "README.md").read_text(), record.read(ROOT / "benchmarks" / "results.json")
    assert record.tables(text, runs) == text, "run `python -m benchmarks` again, or restore results.json"
    for name in record.NAMES:
        assert text.count(f"<!-- results: {name} -->\n") == 1
    assert text.count("<!-- end -->") == len(record.NAMES)


def test_a_ratio_by_hand():
    found = timing.row("a", "b", {"ours": [1.0, 2.0, 4.0], "reference": [3.0, 4.0, 4.0]}, images=8, odd=1e-6)
    assert found["ratio"] == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert found["seconds"] == {"ours": 2.0, "peer": 4.0}
    assert timing.table([found]).splitlines()[2] == "| a | b | 4 | 2 | 2.00 [1.00, 3.00] | 3 | odd 1e-06 |"


def test_contestants_take_turns_and_the_first_round_does_not_count():
    order = []
    times = timing.in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 2, "cpu")
    assert order == ["a", "b"] * 3
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}


def test_runs_are_kept_by_benchmark_and_machine(tmp_path):
    text = "intro\n<!-- results: attention -->\nold\n<!-- end -->\n<!-- results: baselines -->\nolder\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    for run in (a_run(), a_run(gpu_name="H"), a_run(ratio=4.0)):
        record.keep(run, tmp_path)
    runs = record.read(tmp_path / "results.json")
    assert [run["machine"]["gpu"] for run in runs] == ["", "H"]
    shown = (tmp_path / "README.md").read_text()
    assert "old\n" not in shown
    assert "older\n<!-- end -->" in shown
    assert shown.count("| lfi-cam x |") == 2
    assert "2.00 [1.00, 4.00]" in shown
    assert f"commit {runs[0]['machine']['commit'][:7]}" in shown
    assert record.tables(shown, runs) == shown
    assert {"cpu", "cores", "threads", "versions", "commit", "date", "command"} <= runs[0]["machine"].keys()


def test_foreign_results_are_one_sentence(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match=r"results.json holds no results of benchmarks"):
        record.read(tmp_path / "results.json")


def test_a_failing_benchmark_costs_no_other(monkeypatch, capsys):
    def fails(_):
        raise SystemExit("the two sides differ")
        yield

    kept = []
    monkeypatch.setattr(benchmarks, "keep", kept.append)
    monkeypatch.setattr("benchmarks.attention.rows", fails)
    monkeypatch.setattr("benchmarks.fast_path.rows", lambda _: a_run()["rows"])
    assert benchmarks.main(["--only", "attention", "fast_path"]) == 1
    assert [run["benchmark"] for run in kept] == ["fast_path"]
    assert "attention failed: SystemExit: the two sides differ" in capsys.readouterr().err


def test_quick_runs_and_keeps_nothing(monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "keep", lambda _: pytest.fail("quick numbers were kept"))
    assert benchmarks.main(["--quick", "--only", "attention", "evaluation"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "resnet" in line]
    assert len(lines) == 4


def test_loader_reads_photographs_of_its_own(tmp_path, capsys):
    assert benchmarks.main(["--quick", "--only", "loader"]) == 0
    assert capsys.readouterr().out.count("kB a file") == 2
    loader.make_photos(tmp_path, 3)
    images = datasets.load("folder", "train", root=tmp_path)
    assert (len(images), len(images.classes)) == (3, 2)
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.size == (500, 375)


def test_hours_by_hand():
    """10 epochs of ImageNet at 1 TFLOP an image by two GPUs of 50 TFLOP/s: a hundredth of a second an image."""
    assert plan.hours(1e12, 10, 50, 2) == pytest.approx(10 * 1_281_167 / 100 / 3600)


def test_arithmetic_by_hand():
    """ResNet-8 on 32 x 32 pixels: 2 x multiply-adds of every convolution and the linear layer; backward is twice that,
    less the gradient of the pixels, which nobody asks for."""
    first = 3 * 16 * 9 * 1024
    others = 2 * 16 * 16 * 9 * 1024
    others += (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 256 + (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 64 + 64 * 10
    maps = 64 * 64  # the class activation map, forward only
    assert fast_path.flop("plain", "resnet-8") == 2 * (2 * first + 3 * others + maps)


# --- checks of a device


@pytest.mark.parametrize("name", ["images", "bfloat16", "kernels"])
def test_checks_pass_here(name):
    results = checks.run([name], CPU)
    assert len(results) >= 3
    assert all(found.passed for _, found in results)


PLAIN = """
import importlib.metadata, sys
HIDDEN = "mlxtend skimage sklearn seaborn papermill nbclient nbconvert ipykernel jupyter_client ipywidgets voila"
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
sys.modules |= dict.fromkeys(HIDDEN.split())
import torch, torchvision
importlib.metadata.version = version
from benchmarks import __main__, checks
failed = checks.main(["--device", "cpu", "--only", "waits", "resume"])
sys.exit(failed or __main__.main(["--quick", "--only", "attention"]))
"""


def test_a_plain_checkout_on_a_machine_with_little_else_is_enough():
    """Nothing is installed but torch and what numbers and pictures need."""
    done = subprocess.run([sys.executable, "-c", PLAIN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("tensors that differ after a resume") == 3
    assert "--- attention" in done.stdout


def test_checks_find_what_is_wrong(monkeypatch, capsys):
    draw = resident.Resident.draw
    monkeypatch.setattr(resident.Resident, "draw", lambda self, rows, seed: draw(self, rows, seed + 1))
    passed = [found.passed for _, found in checks.run(["images"], CPU)]
    assert passed == [False, True, False, True]  # what is not augmented has no draws
    monkeypatch.setitem(checks.CHECKS, "golden", lambda _: 1 / 0)
    assert checks.main(["--device", "cpu", "--only", "golden"]) == 1
    assert "FAILED  golden          nan of       0  ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_golden_outputs_are_compared(monkeypatch):
    """Each output against its own file, and one changed number is found."""
    monkeypatch.setattr(checks, "DEEP", ())
    found = list(checks.golden(CPU))
    assert len(found) == 2 * 4 + 2 + 1
    assert all(one.passed for one in found), [one for one in found if not one.passed]
    read = torch.load

    def changed(path, **options):
        content = read(path, **options)
        if path.stem.startswith("abn"):
            content["eval64"]["att"][0, 0, 0, 0] += 1e-3
        return content

    monkeypatch.setattr(torch, "load", changed)
    wrong = [one.what for one in checks.golden(CPU) if not one.passed]
    assert wrong == ["abn_cifar_resnet20 float32 att", "abn_cifar_resnet20 float64 att"]


# --- the work on a GPU


@pytest.fixture
def workplace(home):
    """A project folder with the notebooks of this one."""
    (home / "notebooks").symlink_to(ROOT / "notebooks")
    return home


def test_the_jobs_are_those_of_the_profile():
    """CIFAR-10 with the authors' settings; the recipe is what notebook 01 makes of it."""
    values = gpu.parameters("01_train_lficam", "cifar", 0)
    jobs = gpu.classifiers(values)
    assert [job.method for job in jobs] == ["plain", "abn", "lfi-cam"]
    assert {(job.dataset, job.backbone) for job in jobs} == {("cifar10", "resnet-110")}
    assert jobs[2].recipe == authors_recipe("lfi-cam", "cifar10", "resnet-110")
    five = gpu.stability_jobs(gpu.parameters("02_abn_stability", "cifar", 0))
    assert len(five) == 10
    assert {job.recipe.seed for job in five} == {1, 2, 3, 4, 5}
    assert len({job.recipe.batch_size for job in five}) == 3
    short = gpu.classifiers(gpu.parameters("01_train_lficam", "cifar", 40))[0].recipe
    assert (short.epochs, short.milestones) == (40, (20, 30))


def options(*arguments):
    """What `gpu.main` parses, without running it."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "work_off", lambda plan, given, end: seen.append((plan, given, end)) or 0)
        assert gpu.main([*arguments, "--device", "cpu"]) == 0
    return seen[0]


def test_the_order_of_the_work():
    plan, _, _ = options("--epochs", "40")
    names = [f"{piece.stage}: {piece.name}" for piece in plan]
    assert names[:3] == ["check: checks", "speed: fast path", "train: classifiers"]
    assert names[3:8] == [
        "train: notebook 01",
        "stability: models",
        "stability: notebook 02",
        "stability: notebook 06",
        "publish: results",
    ]
    assert names[8:] == ["more: cifar10, seed 2", "more: cifar10, seed 3", "more: cifar100, seed 1"]
    assert [piece.stage for piece in options("--smoke", "--only", "publish", "train")[0]] == ["train", "train"]


def pieces(*calls):
    return [gpu.Piece("check", str(i), functools.partial(*call)) for i, call in enumerate(calls)]


def test_a_piece_ends_with_its_time():
    started = time.monotonic()
    assert gpu.limited(functools.partial(time.sleep, 600), 3) == gpu.TIME_OVER
    assert time.monotonic() - started < 60
    assert gpu.limited(functools.partial(int, 3), 300) == 3


@pytest.fixture
def here(workplace, monkeypatch):
    """Pieces run in this process, and take as long as they like."""
    monkeypatch.setattr(gpu, "limited", lambda call, _: gpu.code_of(call))
    return workplace


@pytest.mark.usefixtures("here")
def test_work_goes_on_where_it_was_cut(capsys):
    _, given, _ = options()
    plan = pieces((int, 0), (int, gpu.TIME_OVER))
    assert gpu.work_off(plan, given, float("inf")) == gpu.TIME_OVER
    assert "Time is over in check: 1: call again" in capsys.readouterr().out
    assert gpu.work_off(pieces((int, 9), (int, 0)), given, time.monotonic()) == gpu.TIME_OVER
    assert "Time is over before check: 1: call again" in capsys.readouterr().out
    assert gpu.work_off(pieces((int, 9), (int, 0)), given, time.monotonic() + 600) == 0
    said = capsys.readouterr().out
    assert "check: 0: done before" in said
    assert "check: 1: done in" in said
    assert set(gpu.read("done.json")) == {"check: 0", "check: 1"}
    given.epochs = 7  # other settings are other work
    assert gpu.work_off(pieces((int, 9)), given, float("inf")) == 1


@pytest.mark.usefixtures("here")
def test_a_failure_stops_the_work(capsys):
    _, given, _ = options()
    assert gpu.work_off(pieces((int, 3), (int, 0)), given, float("inf")) == 1
    wrong = (gpu.run_notebook, "01_train_lficam", "no-such-profile", 0)
    assert gpu.work_off(pieces(wrong), given, float("inf")) == 2
    errors = capsys.readouterr().err
    assert "check: 0 failed (exit code 3)" in errors
    assert "no-such-profile" in errors
    assert gpu.read("done.json") == {}


@pytest.mark.usefixtures("workplace")
def test_fast_path_is_kept_method_by_method(home, monkeypatch):
    """A row for every step; what was measured is not measured again on the same machine and commit."""
    assert gpu.speed("cpu", smoke=True) == 0
    rows = gpu.read("fast_path.json")["rows"]
    assert {method: len(found) for method, found in rows.items()} == {"plain": 5, "abn": 6, "lfi-cam": 6}
    for method in ("abn", "lfi-cam"):
        assert rows[method][-1]["peer"] == "plain backbone"
        assert 0 < rows[method][-1]["facts"]["by arithmetic"] < 1
    assert len((home / "reports" / "gpu" / "fast_path.csv").read_text().splitlines()) == 1 + 17
    monkeypatch.setattr(fast_path, "compare", lambda *_: pytest.fail("measured again"))
    assert gpu.speed("cpu", smoke=True) == 0


@pytest.mark.usefixtures("here")
def test_trainings_of_a_profile(home, capsys):
    """The command itself, but for the processes: three methods, two more seeds, another data set; then nothing."""
    command = ["--device", "cpu", "--smoke", "--only", "more"]
    assert gpu.main(command) == 0
    assert len(list(home.glob("runs/photo-digits/*/best.pt"))) == 6
    assert len(list(home.glob("runs/photo-digits-2/*/best.pt"))) == 3
    capsys.readouterr()
    assert gpu.main(command) == 0
    assert capsys.readouterr().out.count("done before") == 3


def test_checks_are_written(home, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {"images": checks.images})
    assert gpu.check("cpu", smoke=True) == 0
    monkeypatch.setattr(checks, "CHECKS", {"images": lambda _: [checks.Found("what", 2.0, 1.0)]})
    assert gpu.check("cpu", smoke=True) == 1
    content = json.loads((home / "reports" / "gpu" / "checks.json").read_text())
    assert content["rows"] == [{"check": "images", "passed": False, "what": "what", "difference": 2.0, "allowed": 1.0}]
    assert content["machine"]["commit"]


def test_noise_looks_like_cifar():
    images = checks.random_images(64)
    assert (len(images), images.size, images.source.pad, images.source.mirror) == (64, 32, 4, True)
    assert dataclasses.replace(images).digest == images.digest == checks.random_images(64).digest
    assert next(iter(datasets.batches(images, 8))).pixels.shape == (8, 3, 32, 32)
