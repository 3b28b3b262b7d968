"""Tables of scores as files: killed, full, shared by shards, with images that cannot be read; and the command line."""

import errno
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from networks import Cheap
from PIL import Image
from processes import begin, finish

import lficam
from lficam.cli import main
from lficam.data import datasets
from lficam.data.sources import Source
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.metrics import scoring, store
from lficam.models import checkpoints

SIZES = {"batch_size": 4}  # 20 images are five batches


class Grey:
    """A cheap explainer, the brightness of the image; it counts its calls and can die in one."""

    def __init__(self, classifier, power=1):
        self.classifier, self.power = classifier, power

    def __call__(self, pixels, target):  # noqa: ARG002
        Grey.calls += 1
        Grey.deaths.get(Grey.calls, int)()
        return pixels.mean(1) ** self.power


@pytest.fixture(autouse=True)
def alive():
    Grey.calls, Grey.deaths = 0, {}


def made(count=20):
    """Explainers of one classifier and images: the same in every process."""
    torch.manual_seed(1)
    classifier = freeze(Cheap(), size=32)
    images = datasets.load("photo-digits", "test", count=count)
    return {"grey": Grey(classifier), "sharp": Grey(classifier, 3)}, images


def press():
    raise KeyboardInterrupt


def interrupted(path, call, **options):
    """Score until that call of an explainer, two of which make a batch; what Ctrl-C says."""
    Grey.calls, Grey.deaths = 0, {call: press}
    with pytest.raises(KeyboardInterrupt) as caught:
        scoring.score(*made(), path, **SIZES | options)
    Grey.calls, Grey.deaths = 0, {}
    return str(caught.value)


def content(folder):
    """What a reader sees: a killed run may leave hidden files."""
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: path.read_bytes() if path.is_file() else None for path in seen}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a table that nothing interrupts: a.csv and its record."""
    Grey.calls, Grey.deaths = 0, {}
    folder = tmp_path_factory.mktemp("whole")
    scoring.score(*made(), folder / "a.csv", **SIZES)
    return content(folder)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores" / "a.csv"


def test_a_file_holds_the_table_and_is_found_again(path, whole):
    table = scoring.score(*made(), path, **SIZES)
    assert content(path.parent) == whole
    assert set(whole) == {"a.csv", "a.csv.json"}
    plain = scoring.score(*made(), **SIZES)
    pd.testing.assert_frame_equal(table, plain, check_exact=True)
    assert table.attrs["failed"] == plain.attrs["failed"] == []
    record = json.loads(whole["a.csv.json"])
    assert list(record)[:5] == ["configuration", "sha256", "file", "failed", "lficam"]  # as since the first version
    assert record["configuration"]["shard"] == [0, 1]
    Grey.calls = 0
    pd.testing.assert_frame_equal(scoring.score(*made(), path, **SIZES), table)
    pd.testing.assert_frame_equal(store.read(path), table)
    assert Grey.calls == 0
    scoring.score(*made(), path, **SIZES, fresh=True)
    assert Grey.calls == 10
    assert content(path.parent) == whole


def test_a_folder_holds_a_file_for_each_settings(tmp_path):
    first = scoring.score(*made(), tmp_path / "scores")
    scoring.score(*made(), tmp_path / "scores", fractions=(0.5,))
    assert len(list(tmp_path.glob("scores/scores-*.csv"))) == 2
    assert scoring.score(*made(), tmp_path / "scores").equals(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "kept"),
    [("grey", 8, 3), ("replace", 3, 1), ("replace", 7, 5), ("replace", 8, 5), ("rmtree", 1, 5)],
)
def test_killed_and_continued(path, whole, name, count, kept):
    """kill -9 in an explainer's call, before a file gets its name (batch, table, record), and before cleaning up."""
    assert finish(begin(killed, path, name, count)) == -signal.SIGKILL
    assert len(list(path.parent.glob("a.csv.parts/*/0*"))) == kept
    table = scoring.score(*made(), path, **SIZES)
    assert Grey.calls == 2 * (5 - kept)
    assert content(path.parent) == whole
    assert len(table) == 40


def killed(path, name, count):
    """Score until that call."""
    calls, module = [], shutil if name == "rmtree" else os

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(*arguments, **options):
        calls.append(1)
        return (kill if len(calls) == count else function)(*arguments, **options)

    Grey.calls, Grey.deaths = 0, {count: kill} if name == "grey" else {}
    if name != "grey":
        function = getattr(module, name)
        setattr(module, name, counted)
    scoring.score(*made(), path, **SIZES)


def test_interrupted(path, whole):
    told = interrupted(path, 7)
    assert told == (
        f"scoring was interrupted: 3 of 5 batches are kept in {path}.parts, and the same command continues after them "
        "(not with fresh, --fresh)."
    )
    scoring.score(*made(), path, **SIZES)
    assert Grey.calls == 4
    assert content(path.parent) == whole
    assert "nothing is kept" in interrupted(None, 7)


def test_other_settings_are_refused(path):
    interrupted(path, 7)
    with pytest.raises(InputError, match="begun with other settings, batch_size 4, now 5: give another file, or fresh"):
        scoring.score(*made(), path, batch_size=5)
    scoring.score(*made(), path, **SIZES)
    explainers, images = made()
    explainers["sharp"].power = 2
    with pytest.raises(InputError, match="scores of other settings, explainers sharp power 3, now 2"):
        scoring.score(explainers, images, path, **SIZES)
    explainers, images = made()
    with torch.no_grad():
        explainers["grey"].classifier.network.last.bias += 1
    with pytest.raises(InputError, match="scores of other settings, another classifier sha256"):
        scoring.score(explainers, images, path, **SIZES)
    few = made()[0], made(19)[1]
    with pytest.raises(InputError, match="images count 20, now 19, another images digest"):
        scoring.score(*few, path, **SIZES)
    interrupted(path, 5, fresh=True, fractions=(0.5,))  # what a new beginning left is continued, beside the old table
    assert len(scoring.score(*made(), path, **SIZES, fractions=(0.5,)).columns) < 12
    scoring.score(*few, path, **SIZES, fresh=True)
    path.write_text(path.read_text().replace("grey", "gray"))
    with pytest.raises(InputError, match="was changed since"):
        scoring.score(*few, path, **SIZES)


def test_other_files_stay(tmp_path, path, whole):
    for name in ("a.csv", "a.csv.part"):  # the latter of an earlier version, which wrote it line by line
        path.parent.mkdir(exist_ok=True)
        (path.parent / name).write_text("mine")
    with pytest.raises(InputError, match="no table of scores with its record"):
        scoring.score(*made(), path)
    with pytest.raises(InputError, match="is a folder"):
        scoring.score(*made(), path.parent.rename(tmp_path / "b.csv"))
    with pytest.raises(InputError, match="Cannot write"):
        scoring.score(*made(), tmp_path / "b.csv" / "a.csv" / "c.csv")
    assert content(tmp_path / "b.csv") == {"a.csv": b"mine", "a.csv.part": b"mine"}
    (tmp_path / "b.csv" / "a.csv").unlink()
    scoring.score(*made(), tmp_path / "b.csv" / "a.csv", **SIZES)
    assert content(tmp_path / "b.csv") == whole | {"a.csv.part": b"mine"}


def test_a_damaged_batch_is_named(path, whole):
    interrupted(path, 7)
    (batch,) = path.parent.glob("a.csv.parts/*/000001")
    batch.write_bytes(batch.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"000001 is damaged \(rows are missing\): remove it, and"):
        scoring.score(*made(), path, **SIZES)
    batch.write_bytes(b"\xff")
    with pytest.raises(InputError, match="000001 is damaged"):
        scoring.score(*made(), path, **SIZES)
    batch.unlink()
    scoring.score(*made(), path, **SIZES)
    assert content(path.parent) == whole


def test_a_full_disk_keeps_what_was_written(path, whole, monkeypatch):
    fsync, synced = os.fsync, []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device\. .* What is written stays, and the same run"):
            scoring.score(*made(), path, **SIZES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # and a disk that takes half a batch
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        with pytest.raises(InputError, match="Cannot write"):
            scoring.score(*made(), path, **SIZES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    Grey.calls = 0
    scoring.score(*made(), path, **SIZES)
    assert Grey.calls == 6  # settings and two batches were written
    assert content(path.parent) == whole


# --- shards, and two runs of one table


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_make_one_table(path, whole, order, capsys):
    *first, last = order
    for i in first:
        assert scoring.score(*made(), path, **SIZES, shard=(i, 3)) is None
    there = 5 - len(range(last, 5, 3))
    assert f"{path}: {there} of 5 batches are there; the other shards make the rest.\n" in capsys.readouterr().out
    interrupted(path, 1, shard=(last, 3))
    table = scoring.score(*made(), path, **SIZES, shard=(last, 3))
    assert content(path.parent) == whole
    Grey.calls = 0
    for shard in ((first[0], 3), (0, 1)):
        pd.testing.assert_frame_equal(scoring.score(*made(), path, **SIZES, shard=shard), table)
    assert Grey.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3])
def test_processes_that_make_one_table_at_once(path, whole, shards):
    """Three shards, and three runs of the whole."""
    processes = [begin(make, path, (i % shards, shards)) for i in range(3)]
    assert [finish(process) for process in processes] == [0, 0, 0]
    assert content(path.parent) == whole


def make(path, shard):
    Grey.calls, Grey.deaths = 0, {}
    scoring.score(*made(), path, **SIZES, shard=shard)


def test_another_run_ends_meanwhile(path, whole):
    """And removes the batches: this one finds the table."""
    Grey.deaths = {7: lambda: scoring.score(*made(), path, **SIZES)}
    scoring.score(*made(), path, **SIZES)
    assert content(path.parent) == whole


def test_another_run_ends_while_the_table_is_written(path, whole, monkeypatch):
    lines = store.Folder._lines

    def late(self, columns):
        monkeypatch.setattr(store.Folder, "_lines", lines)
        scoring.score(*made(), path, **SIZES)
        return lines(self, columns)

    monkeypatch.setattr(store.Folder, "_lines", late)
    assert len(scoring.score(*made(), path, **SIZES)) == 40
    assert content(path.parent) == whole


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 6), 3, (0.0, 1)])
def test_shards_that_cannot_be(path, shard):
    with pytest.raises(InputError, match="shard"):
        scoring.score(*made(), path, **SIZES, shard=shard)


# --- images that cannot be read


@pytest.fixture
def broken(tmp_path):
    """A folder of 2 x 6 images, the third and fourth of which, and the last, are cut or no images."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "data" / "test" / ("cat", "dog")[i // 6] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        if i == 2:
            path.write_bytes(path.read_bytes()[:500])
        if i in (3, 11):
            path.write_text("no image")
    (tmp_path / "data" / "train").mkdir()
    return tmp_path / "data"


def test_images_that_cannot_be_read_are_left_out_by_name(broken, path, tmp_path, capsys):
    images = datasets.load("folder", "test", root=broken, size=32)
    bad, explainers = [images.ids[i] for i in (2, 3, 11)], made()[0]
    table = scoring.score(explainers, images, path, batch_size=2)  # the second batch has no image left
    out = capsys.readouterr().out
    for name in bad:
        assert out.count(f"{name} is left out. Cannot read the image") == 1
    assert out.count("3 of 12 images could not be read and are left out.") == 1
    assert [name for name, _ in table.attrs["failed"]] == bad
    assert table.image.tolist() == 2 * [name for name in images.ids if name not in bad]
    failed = pd.read_csv(f"{path}.failed.csv")
    assert failed.image.tolist() == bad
    assert "no image format that is known" in failed.reason[2]
    sound = images.subset([i for i in range(12) if i not in (2, 3, 11)])
    np.testing.assert_allclose(table.masked_50, scoring.score(explainers, sound, **SIZES).masked_50, atol=1e-5)
    for again in (path, None):
        assert scoring.score(explainers, images, again, batch_size=2).attrs["failed"] == table.attrs["failed"]
    for i in range(2):
        scoring.score(explainers, images, tmp_path / "b.csv", batch_size=2, shard=(i, 2))
    assert (tmp_path / "b.csv").read_bytes() == path.read_bytes()
    assert (tmp_path / "b.csv.failed.csv").read_bytes() == Path(f"{path}.failed.csv").read_bytes()


def test_all_images_fail(broken, path):
    images = datasets.load("folder", "test", root=broken, size=32).subset([2, 3, 11])
    for where in (None, path):
        with pytest.raises(InputError, match="None of the 3 images could be read, so there are no scores; the first: "):
            scoring.score(made()[0], images, where, batch_size=2)
    assert list(path.parent.iterdir()) == []


# --- size


class Endless(Source):
    """Any number of images of 16 x 16, made when they are read."""

    def read(self, rows, augment, seed):  # noqa: ARG002
        return (rows[:, None] * torch.arange(1, 769) % 251).to(torch.uint8).view(-1, 3, 16, 16)

    def feed(self, sha, rows):
        sha.update(rows.numpy().tobytes())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_memory_does_not_grow_with_the_images(path, monkeypatch):
    """Kept in memory these rows took 20 MB more at the end than after the first tenth."""
    resident, n = [], 25_000

    def watch(*_):
        resident.append(int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024)

    class Watch(Grey):
        def __call__(self, pixels, target):
            watch()
            return super().__call__(pixels, target)

    classifier = freeze(Cheap(), size=16)
    ids = tuple(f"endless/{i:06}" for i in range(n))
    labels, rows = torch.zeros(n, dtype=torch.long), torch.arange(n)
    images = datasets.Images("endless", "test", ("a",), labels, ids, 16, (0,) * 3, (1,) * 3, Endless(), rows)
    explainers = {"a": Watch(classifier), "b": Grey(classifier, 2)}
    monkeypatch.setattr(store, "leave_record", lambda *a, leave=store.leave_record: (watch(), leave(*a)))
    table = scoring.score(explainers, images, path, batch_size=500, fractions=(0.5,), measures="masking")
    assert len(table) == 2 * n
    assert max(resident) - resident[len(resident) // 10] < 12


# --- command line


def test_command_line(tmp_path, home, capsys, broken):  # noqa: ARG001
    torch.manual_seed(0)
    network = lficam.create("plain", "resnet-8", 10)
    checkpoints.save(tmp_path / "net.pt", {"card": network.card, "model": network.state_dict()})
    mine = lficam.attach(tmp_path / "net.pt", "l-cam-img")
    for name in ("one", "two"):
        checkpoints.save(tmp_path / f"{name}.pt", {"card": mine.card, "model": mine.state_dict()})
    asked = f"score --baseline centre --dataset photo-digits --count 8 --batch-size 4 --checkpoint {tmp_path}/one.pt"
    assert main([*asked.split(), "--out", f"{tmp_path}/a.csv"]) == 0
    told = capsys.readouterr().out
    assert "AD 15" in told
    assert "N = 8 images; predicted class, softmax probability" in told
    assert f"{tmp_path}/a.csv: 16 rows" in told
    for shard, words in {"2/2": "1 of 2 batches are there; the other shards make the rest", "1/2": "16 rows"}.items():
        assert main([*asked.split(), "--shard", shard, "--out", f"{tmp_path}/b.csv"]) == 0
        assert f"{tmp_path}/b.csv: {words}" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    both = f"score --checkpoint {tmp_path}/one.pt {tmp_path}/two.pt --measures sparsity --out {tmp_path}/c.csv"
    assert main([*both.split(), *f"--dataset folder --data-root {broken} --size 32".split()]) == 1
    assert "3 images left out" in capsys.readouterr().out
    names = pd.read_csv(tmp_path / "c.csv").explainer.unique()
    assert names.tolist() == [f"l-cam-img {tmp_path / name}.pt" for name in ("one", "two")]
