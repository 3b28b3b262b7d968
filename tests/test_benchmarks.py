"""Ratios and tables, and that every benchmark runs; nothing here measures."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from processes import begin, execute, finish

from benchmarks import __main__ as benchmarks
from benchmarks import fast_path, loader, record, timing
from lficam.data import datasets
from lficam.errors import InputError

ROOT = Path(__file__).parents[1]


def a_run(name="attention", gpu_name="", ratio=2.0):
    row = timing.row("lfi-cam x", "loop", {"ours": [1.0, 2.0, 4.0], "reference": [2.0, 2.0 * ratio, 4.0]}, 8, odd=1e-6)
    machine = timing.machine("cpu") | {"gpu": gpu_name}
    return {"benchmark": name, "machine": machine, "rows": [row]}


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
    assert [len(taken) for taken in times.values()] == [2, 2]


def test_runs_are_kept_by_benchmark_and_machine(tmp_path):
    text = "intro\n<!-- results: attention -->\nold\n<!-- end -->\n<!-- results: baselines -->\nolder\n<!-- end -->\n"
    (tmp_path / "README.md").write_text(text)
    for run in (a_run(), a_run(gpu_name="H"), a_run(ratio=4.0)):
        record.keep(run, tmp_path)
    runs, shown = record.read(tmp_path / "results.json"), (tmp_path / "README.md").read_text()
    assert [run["machine"]["gpu"] for run in runs] == ["", "H"]
    assert "old\n" not in shown
    assert "older\n<!-- end -->" in shown
    assert shown.count("| lfi-cam x |") == 2
    assert "2.00 [1.00, 4.00]" in shown
    assert f"commit {runs[0]['machine']['commit'][:7]}" in shown
    assert record.tables(shown, runs) == shown
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(InputError, match=r"results.json holds no results of benchmarks"):
        record.read(tmp_path / "results.json")


def test_a_failing_benchmark_costs_no_other(monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(benchmarks, "keep", kept.append)
    monkeypatch.setattr("benchmarks.attention.rows", lambda _: sys.exit("the two sides differ"))
    monkeypatch.setattr("benchmarks.fast_path.rows", lambda _: a_run()["rows"])
    assert benchmarks.main(["--only", "attention", "fast_path"]) == 1
    assert [run["benchmark"] for run in kept] == ["fast_path"]
    assert "attention failed: SystemExit: the two sides differ" in capsys.readouterr().err


PEERS = {  # a row for each of them
    "attention": ["authors' structure"] * 2,
    "baselines": ["grad-cam", "published code"],
    "mechanism": ["authors' structure"] * 2 + ["bare forward pass"],
    "newer": ["authors' structure"] * 4 + ["bare forward pass"],
    "evaluation": ["authors' structure", "four bare passes"],
    "loader": ["decoding alone", "no worker"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_quick_run_has_a_row_for_every_peer_and_keeps_nothing(name, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "keep", lambda _: pytest.fail("quick numbers were kept"))
    seen = []
    monkeypatch.setattr(timing, "line", lambda row: seen.append(row) or "")
    assert benchmarks.main(["--quick", "--only", name]) == 0, capsys.readouterr().err
    assert [row["peer"] for row in seen] == PEERS[name]


PLAIN = """
import importlib.metadata, sys
HIDDEN = "mlxtend skimage sklearn seaborn papermill nbclient nbconvert ipykernel jupyter_client ipywidgets voila"
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
sys.modules |= dict.fromkeys(HIDDEN.split())
import torch, torchvision
importlib.metadata.version = version
from benchmarks import __main__
sys.exit(__main__.main(["--quick", "--only", "fast_path"]))
"""


@pytest.mark.slow
def test_fast_path_needs_a_plain_checkout_alone(tmp_path, monkeypatch):
    """Nothing is installed but torch and what numbers and pictures need, as on a GPU that is lent."""
    monkeypatch.chdir(ROOT)
    process, output = begin(execute, PLAIN, output=tmp_path / "said.txt"), tmp_path / "said.txt"
    assert finish(process) == 0, output.read_text()
    for step in (*fast_path.LADDER[:5], "plain backbone", "by arithmetic"):
        assert f"  {step} " in output.read_text() or f": {step} " in output.read_text()


def test_photographs_that_are_made_are_of_imagenets_size(tmp_path):
    loader.make_photos(tmp_path, 3)
    images = datasets.load("folder", "train", root=tmp_path)
    assert (len(images), len(images.classes)) == (3, 2)
    for path in tmp_path.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.size == (500, 375)


def test_arithmetic_by_hand():
    """ResNet-8 on 32 x 32 pixels: 2 x multiply-adds of every convolution and the linear layer; backward is twice that,
    less the gradient of the pixels, which nobody asks for."""
    first = 3 * 16 * 9 * 1024
    others = 2 * 16 * 16 * 9 * 1024
    others += (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 256 + (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * 64 + 64 * 10
    maps = 64 * 64  # the class activation map, forward only
    assert fast_path.flop("plain", "resnet-8") == 2 * (2 * first + 3 * others + maps)
