"""Intervals against known values, tables beside published numbers, records."""

import errno
import importlib.metadata
import json
import os
import re
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lficam.lab.report.reading import reading

import lficam
from lficam import files
from lficam.data.papers import (
    backbone_title,
    beside_published,
    published_accuracy,
    published_faithfulness,
    published_iou,
)
from lficam.errors import InputError
from lficam.lab.report.results import Report, show
from lficam.metrics.statistics import bootstrap, wilson
from lficam.record import provenance
from lficam.training import recipes


def test_wilson_by_hand():
    # n = 10, p = 0.5, z = 1.96: centre 0.5, half-width 0.2634 (Wilson, 1927)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(10, 10)
    assert high == pytest.approx(1)
    assert low == pytest.approx(10 / (10 + 1.959964**2))


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(counts):
    with pytest.raises(InputError, match="expected 0 <= hits <= n"):
        wilson(*counts)


def test_bootstrap():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(values) == (low, high)
    assert bootstrap([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(InputError, match="finite"):
        bootstrap([1.0, float("nan")])


def test_published_numbers_are_the_files():
    table = published_accuracy()
    row = table[(table.dataset == "CIFAR-100") & (table.backbone == "ResNet-110") & (table.method == "abn")]
    assert row.published.dropna().tolist() == [77.5]  # 22.5 % error
    lfi = table[table.method == "lfi-cam"]
    assert len(lfi) == 5
    assert lfi.published.isna().all()


def test_published_iou_is_the_files():
    per_model, mean = published_iou()
    assert (len(per_model), len(mean)) == (30, 6)
    row = per_model[(per_model.method == "lfi-cam") & (per_model.dataset == "STL-10")]
    assert row.published.tolist() == [0.64, 0.65, 0.65, 0.63, 0.65]
    assert row.pair.tolist() == ["first", "second", "third", "fourth", "fifth"]
    assert mean[(mean.method == "abn") & (mean.dataset == "Cat&Dog")].published.tolist() == [0.3]


def test_tables_come_with_the_package(home, monkeypatch):
    """In a folder, and with a project folder, that have nothing of the repository."""
    monkeypatch.chdir(home)
    assert len(published_faithfulness()) > 100
    assert {"abn", "lfi-cam"} <= {row["method"] for row in recipes.read()}
    assert all(files.table(name).is_file() for name in files.TABLES)


def test_beside_published_keeps_both_sides():
    ours = pd.DataFrame({"dataset": ["A", "B"], "reproduced": [1.0, 2.0]})
    theirs = pd.DataFrame({"dataset": ["B", "C", "D"], "published": [3.0, 4.0, None]})
    table = show(beside_published(ours, theirs, ["dataset"]), {"reproduced": 1, "published": 1})
    assert table.to_numpy().tolist() == [["A", "1.0", "—"], ["B", "2.0", "3.0"], ["C", "—", "4.0"]]


def test_report_is_complete_only_with_its_record(home):
    report = Report("01_x", profile="smoke", parameters={"lr": 0.1})
    table = pd.DataFrame({"a": [1.23456, None]})
    shown = report.table(table, "numbers", "Numbers", "N = 2", {"a": 2})
    assert shown.a.tolist() == ["1.23", "—"]
    figure = plt.figure()
    report.figure(figure, "empty", "Nothing", "An empty figure")
    plt.close(figure)
    folder = home / "reports" / "lab" / "01_x"
    assert not (folder / "record.json").exists()
    report.finish("cpu", 7, accuracy=np.float64(0.5))
    record = json.loads((folder / "record.json").read_text())
    assert record["results"] == {"accuracy": 0.5}
    assert record["seed"] == 7
    assert {
        "command",
        "commit",
        "dirty",
        "versions",
        "device",
        "started",
        "seconds",
        "parameters",
        "profile",
    } <= record.keys()
    assert all((folder / entry["file"]).stat().st_size for entry in record["tables"] + record["figures"])
    assert pd.read_csv(folder / "numbers.csv").a[0] == 1.23456
    Report("01_x")
    assert not (folder / "record.json").exists()  # a new run starts without the old claim


def test_a_plain_checkout_has_a_record_too(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    versions = provenance()["versions"]
    assert versions["lficam"] == lficam.__version__
    assert versions["torch"] == "unknown"


@pytest.mark.parametrize(("place", "known"), [("", True), (".venv/lib", False)])
def test_the_commit_is_that_of_this_code(tmp_path, monkeypatch, place, known):
    """Installed below a repository of somebody else's it has none; the project folder has nothing to do with it."""
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / place / "lficam").mkdir(parents=True)
    monkeypatch.setattr(files, "PACKAGE", tmp_path / place / "lficam")
    commit = provenance()["commit"]
    assert bool(re.fullmatch("[0-9a-f]{40}", commit)) == known
    assert known or commit == "unknown"


def test_atomic_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with files.atomic(path, "w") as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_blames_the_disk_for_the_file_alone(tmp_path):
    """An error of what happens meanwhile passes as it is, be it of the same kind."""
    path = tmp_path / "a.txt"
    for error in (FileNotFoundError(errno.ENOENT, "No such file"), OSError(errno.ENOSPC, "of another disk"), OSError()):
        with pytest.raises(OSError) as caught, files.atomic(path):  # noqa: PT011
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.ENOSPC, "Free some space or choose another folder"),
        (errno.EDQUOT, "Free some space or choose another folder"),
        (errno.EACCES, "Get the permission to write there or choose another folder"),
        (errno.EROFS, "Get the permission to write there or choose another folder"),
        (errno.EIO, "Choose another folder"),
    ],
)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_atomic_says_what_helps(tmp_path, monkeypatch, step, number, todo):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, step, refuse)
    sentence = rf"^Cannot write .*a\.txt: {os.strerror(number)}\. {todo}\.$"
    with pytest.raises(InputError, match=sentence), files.atomic(tmp_path / "a.txt") as file:
        file.write(b"x")
    assert not list(tmp_path.iterdir())


def test_atomic_sees_refused_writes(tmp_path):
    """The system refuses from 1,000 bytes on, as a full disk would."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        sentence = r"Cannot write .*a\.txt: File too large\. Choose another folder\.$"
        with pytest.raises(InputError, match=sentence), files.atomic(tmp_path / "a.txt", "w") as file:
            file.write("x" * 10**5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_atomic_leaves_the_umask_to_the_system(tmp_path, monkeypatch):
    """No moment without a mask, in which another thread's files would be everybody's."""
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the mask is the process's"))
    with files.atomic(tmp_path / "a.txt", "w") as file:
        file.write("x")
    monkeypatch.undo()
    os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("resnet-110", "ResNet-110"),
        ("resnet50", "ResNet-50"),
        ("lfi-resnet18", "ResNet-18"),
        ("wrn-28-10", "Wide ResNet"),
        ("vgg16_bn", "vgg16_bn"),
    ],
)
def test_backbones_are_named_as_in_the_papers(name, title):
    assert backbone_title(name) == title


def test_a_notebook_writes_numbers_as_the_page_does():
    table = pd.DataFrame({"n": [3, 4], "x": [1 / 3, 2.0], "y": [0.125, None], "name": ["a", "nan"]})
    rows = reading(
        list(table), [line.split(",") for line in table.to_csv(index=False).split()[1:]], {"n": 1, "y": 2}, fold=False
    ).rows
    assert show(table, {"n": 1, "y": 2}).to_numpy().tolist() == rows
    assert rows == [["3", "0.333333", "0.12", "a"], ["4", "2", "—", "—"]]


def test_a_table_without_rows_is_shown():
    page = show(pd.DataFrame([], columns=["method", "low"]), {"low": 1})._repr_html_()
    assert "method" in page


def test_a_notebook_shows_tables_without_row_numbers_and_with_words_to_the_left():
    table = show(pd.DataFrame({"method": ["tame", "<b>"], "N": [3, 4], "published": [1.5, None]}), {"published": 1})
    page = table._repr_html_()
    assert page.count("<tr>") == 3
    assert not re.search("row_heading|index_name", page)
    assert "&lt;b&gt;" in page
    assert re.search(r"#T_\w+ \.col0 \{\s*text-align: left", page)
    assert not re.search(r"\.col[12] \{\s*text-align: left", page)
