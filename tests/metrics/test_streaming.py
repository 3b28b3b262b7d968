"""Files of scores: killed, cut, full, locked, sharded, with images that cannot be read; and the command line."""

import collections
import dataclasses
import enum
import errno
import fcntl
import fractions
import functools
import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import lficam
from lficam import files
from lficam.cli import main
from lficam.data import datasets
from lficam.errors import InputError
from lficam.explainers.frozen import freeze
from lficam.metrics import scoring, streaming
from lficam.metrics.configuration import describe, function
from lficam.metrics.evaluation import randomised
from lficam.models import checkpoints

ALL = ("masking", "overlap", "sparsity", "insertion", "deletion", "road")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 10)

    def forward(self, x):
        return self.last(20 * self.conv(x).relu().mean((2, 3)))


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
    classifier = freeze(Net(), size=32)
    images = datasets.load("photo-digits", "test", count=count)
    return {"grey": Grey(classifier), "sharp": Grey(classifier, 3)}, images


def interrupted(path, call, **options):
    """Score until that call of an explainer, which raises."""
    explainers, images = made()

    def death():
        raise KeyboardInterrupt

    Grey.calls, Grey.deaths = 0, {call: death}
    with pytest.raises(KeyboardInterrupt):
        scoring.score(explainers, images, path, batch_size=4, **options)
    Grey.calls, Grey.deaths = 0, {}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of the table that nothing interrupts."""
    Grey.calls, Grey.deaths = 0, {}
    path = tmp_path_factory.mktemp("whole") / "a.csv"
    scoring.score(*made(), path, batch_size=4)
    return path.read_bytes()


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_holds_the_table_and_is_found_again(tmp_path, whole):
    path = tmp_path / "folder" / "scores.csv"
    explainers, images = made()
    table = scoring.score(explainers, images, path, batch_size=4)
    assert path.read_bytes() == whole
    assert left(path.parent) == ["scores.csv", "scores.csv.json"]
    plain = scoring.score(explainers, images, batch_size=4)
    pd.testing.assert_frame_equal(table, plain, check_exact=True)
    assert table.attrs["failed"] == plain.attrs["failed"] == []
    record = json.loads((path.parent / "scores.csv.json").read_text())
    assert record["configuration"]["batch_size"] == 4
    assert len(record["sha256"]) == 64
    Grey.calls = 0
    again = scoring.score(*made(), path, batch_size=4)
    pd.testing.assert_frame_equal(again, table)
    assert Grey.calls == 0
    scoring.score(*made(), path, batch_size=4, fresh=True)
    assert Grey.calls == 10
    assert path.read_bytes() == whole


def test_a_part_is_parsed_once(tmp_path, monkeypatch):
    """However many explainers there are."""
    read, lines = json.loads, []
    monkeypatch.setattr("lficam.metrics.streaming.json.loads", lambda text: lines.append(text) or read(text))
    explainers, _ = made()
    with streaming.Part(tmp_path / "a.csv", {"order": list(explainers)}) as part:
        for number in range(5):
            frames = {name: pd.DataFrame({"explainer": [name], "image": [str(number)]}) for name in explainers}
            part.add(number, frames, [])
        lines.clear()
        table = part.finish()
    assert table.image.tolist() == 2 * list("01234")
    assert sum(b'"batch"' in line for line in lines if isinstance(line, bytes)) == 5


def test_killed_and_continued(tmp_path, whole):
    """kill -9 in the fourth of five batches, in a process of its own."""
    code = """if True:
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from test_streaming import Grey, made, scoring
        Grey.calls, Grey.deaths = 0, {8: lambda: os.kill(os.getpid(), signal.SIGKILL)}
        scoring.score(*made(), sys.argv[2], batch_size=4)"""
    path = tmp_path / "a.csv"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", code, Path(__file__).parent, path], env=environment, timeout=60)
    assert done.returncode == -9
    assert left(tmp_path) == ["a.csv.lock", "a.csv.part"]
    scoring.score(*made(), path, batch_size=4)
    assert Grey.calls == 4
    assert path.read_bytes() == whole
    assert left(tmp_path) == ["a.csv", "a.csv.json"]


@pytest.mark.parametrize("cut", [1, 40, "header", "bytes"])
def test_a_torn_line_is_cut_off(tmp_path, whole, cut):
    path, part = tmp_path / "a.csv", tmp_path / "a.csv.part"
    interrupted(path, 7)
    content = part.read_bytes()
    assert content.count(b"\n") == 4
    torn = {"header": content[:30], "bytes": content + b'{"batch": 3, "rows": {"gr\xff\n' + 10_000 * b"x"}.get(cut)
    part.write_bytes(content[:-cut] if torn is None else torn)
    scoring.score(*made(), path, batch_size=4)
    assert Grey.calls == {"header": 10, "bytes": 4}.get(cut, 6)
    assert path.read_bytes() == whole


def test_cut_before_the_table_was_finished(tmp_path, whole, monkeypatch):
    path = tmp_path / "a.csv"
    for step in ("files.atomic", "leave_record"):
        with monkeypatch.context() as patch:
            patch.setattr(f"lficam.metrics.streaming.{step}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                scoring.score(*made(), path, batch_size=4)
    Grey.calls = 0
    scoring.score(*made(), path, batch_size=4)
    assert Grey.calls == 0
    assert path.read_bytes() == whole
    assert left(tmp_path) == ["a.csv", "a.csv.json"]


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    interrupted(path, 7)
    with pytest.raises(InputError, match="begun with other settings, batch_size 4, now 5: give another file, or fresh"):
        scoring.score(*made(), path, batch_size=5)
    scoring.score(*made(), path, batch_size=4)
    explainers, images = made()
    explainers["sharp"].power = 2
    with pytest.raises(InputError, match="scores of other settings, explainers sharp power 3, now 2"):
        scoring.score(explainers, images, path, batch_size=4)
    explainers, images = made()
    with torch.no_grad():
        explainers["grey"].classifier.network.last.bias += 1
    with pytest.raises(InputError, match="scores of other settings, another classifier sha256"):
        scoring.score(explainers, images, path, batch_size=4)
    with pytest.raises(InputError, match="images count 20, now 19, another images digest"):
        scoring.score(made()[0], made(19)[1], path, batch_size=4)
    scoring.score(made()[0], made(19)[1], path, batch_size=4, fresh=True)
    path.write_text(path.read_text().replace("grey", "gray"))
    with pytest.raises(InputError, match="was changed since"):
        scoring.score(made()[0], made(19)[1], path, batch_size=4)


def test_weights_of_a_mechanism_are_part_of_the_settings(tmp_path):
    images = datasets.load("photo-digits", "test", count=2)
    classifier = freeze(Net(), size=32)
    scoring.score({"tame": lficam.attach(classifier, "l-cam-img")}, images, tmp_path / "a.csv")
    with pytest.raises(InputError, match="another explainers tame weights"):
        scoring.score({"tame": lficam.attach(classifier, "l-cam-img")}, images, tmp_path / "a.csv")


def test_other_files_stay(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("mine")
    with pytest.raises(InputError, match="no table of scores with its record"):
        scoring.score(*made(), path)
    assert path.read_text() == "mine"
    (tmp_path / "b.csv.part").write_text("mine\n")
    with pytest.raises(InputError, match="no part of a table"):
        scoring.score(*made(), tmp_path / "b.csv")
    assert (tmp_path / "b.csv.part").read_text() == "mine\n"
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        scoring.score(*made(), tmp_path / "folder.csv")
    with pytest.raises(InputError, match="Cannot write"):
        scoring.score(*made(), path / "below" / "c.csv")


def test_a_folder_holds_a_file_for_each_settings(tmp_path):
    explainers, images = made()
    folder = tmp_path / "scores"
    first = scoring.score(explainers, images, folder)
    scoring.score(explainers, images, folder, fractions=(0.5,))
    again = scoring.score(explainers, images, folder)
    assert len(list(folder.glob("scores-*.csv"))) == 2
    assert again.equals(first)


def test_two_runs_of_one_file(tmp_path, whole):
    path, explainers = tmp_path / "a.csv", made()[0]
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, 2); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, f"{path}.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"Another run is writing .*a\.csv: wait"):
            scoring.score(*made(), path)
        other.communicate("\n")
    Grey.deaths = {3: lambda: scoring.score(explainers, made()[1], path, batch_size=4)}
    with pytest.raises(InputError, match="Another run is writing"):
        scoring.score(*made(), path, batch_size=4)
    Grey.deaths = {}
    scoring.score(*made(), path, batch_size=4)
    assert path.read_bytes() == whole


def test_where_nothing_can_be_locked_nothing_is(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with files.locked(tmp_path / "a.csv"):
        (tmp_path / "a.csv").touch()


def test_a_full_disk_keeps_what_was_written(tmp_path, whole, monkeypatch):
    path, synced = tmp_path / "a.csv", []
    fsync = os.fsync

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"No space left on device. What it holds stays"):
            scoring.score(*made(), path, batch_size=4)
    Grey.calls = 0
    scoring.score(*made(), path, batch_size=4)
    assert Grey.calls == 4  # configuration and three batches were written, if not synced
    assert path.read_bytes() == whole


def test_a_disk_that_takes_half_a_line(tmp_path, whole):
    path, part = tmp_path / "a.csv", tmp_path / "a.csv.part"
    interrupted(path, 5)
    limits, most = resource.getrlimit(resource.RLIMIT_FSIZE), part.stat().st_size + 50
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        with pytest.raises(InputError, match="What it holds stays"):
            scoring.score(*made(), path, batch_size=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert part.stat().st_size == most
    Grey.calls = 0
    scoring.score(*made(), path, batch_size=4)
    assert Grey.calls == 6
    assert path.read_bytes() == whole


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


def test_images_that_cannot_be_read_are_left_out_by_name(broken, tmp_path, capsys):
    images = datasets.load("folder", "test", root=broken, size=32)
    bad = [images.ids[i] for i in (2, 3, 11)]
    explainers, _ = made()
    table = scoring.score(explainers, images, tmp_path / "a.csv", batch_size=2)
    out = capsys.readouterr().out
    for name in bad:
        assert out.count(f"{name} is left out. Cannot read the image") == 1
    assert out.count("3 of 12 images could not be read and are left out.") == 1
    assert [name for name, _ in table.attrs["failed"]] == bad
    assert table.image.tolist() == 2 * [name for name in images.ids if name not in bad]
    failed = pd.read_csv(tmp_path / "a.csv.failed.csv")
    assert failed.image.tolist() == bad
    assert "no image format that is known" in failed.reason[2]
    sound = images.subset([i for i in range(12) if i not in (2, 3, 11)])
    alone = scoring.score(explainers, sound, batch_size=4)
    np.testing.assert_allclose(table.masked_50, alone.masked_50, atol=1e-5)
    assert scoring.score(explainers, images, tmp_path / "a.csv", batch_size=2).attrs["failed"] == table.attrs["failed"]
    parts = [tmp_path / f"{i}.csv" for i in range(2)]
    for i, part in enumerate(parts):
        scoring.score(explainers, images, part, batch_size=3, shard=(i, 2))
    merged = scoring.merge(parts, tmp_path / "merged.csv")
    assert merged.attrs["failed"] == table.attrs["failed"]
    assert merged.image.tolist() == table.image.tolist()
    np.testing.assert_allclose(merged.masked_50, table.masked_50, atol=1e-5)
    with pytest.raises(InputError, match="Cannot read"):
        list(datasets.batches(images, 4))


def test_workers_report_the_same_failures(broken):
    images, found = datasets.load("folder", "test", root=broken, size=32), {}
    for workers in (0, 1):
        failed = []
        parts = list(datasets.batches(images, 4, workers=workers, failed=failed))
        found[workers] = torch.cat([part.pixels for part in parts]), [part.indices.tolist() for part in parts], failed
    assert found[0][1] == found[1][1] == [[0, 1], [4, 5, 6, 7], [8, 9, 10]]
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][2] == found[1][2]
    assert len(found[0][2]) == 3


def test_all_images_fail(broken, tmp_path):
    images = datasets.load("folder", "test", root=broken, size=32).subset([2, 3, 11])
    for path in (None, tmp_path / "a.csv"):
        with pytest.raises(InputError, match="None of the 3 images could be read, so there are no scores; the first: "):
            scoring.score(made()[0], images, path, batch_size=2)
    assert left(tmp_path) == ["data"]


# --- shards


def test_shards_merge(tmp_path, whole):
    paths = [tmp_path / f"{i}.csv" for i in range(3)]
    for i, path in enumerate(paths):
        table = scoring.score(*made(), path, batch_size=4, shard=(i, 3))
        assert table.image.tolist() == 2 * list(made()[1].ids[i::3])
    merged = scoring.merge(paths[::-1], tmp_path / "a.csv")
    (tmp_path / "whole.csv").write_bytes(whole)
    alone = pd.read_csv(tmp_path / "whole.csv")
    pd.testing.assert_frame_equal(merged, alone, rtol=0, atol=1e-6)
    content, Grey.calls = (tmp_path / "a.csv").read_bytes(), 0
    scoring.merge(paths, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == content
    scoring.score(*made(), tmp_path / "a.csv", batch_size=4)
    assert Grey.calls == 0
    for given, words in {
        (0, 2): "missing 2/3",
        (0, 1, 1, 2): None,
        (): "got none",
    }.items():
        given = [paths[i] for i in given]
        if words:
            with pytest.raises(InputError, match=words):
                scoring.merge(given, tmp_path / "b.csv")
    copy = tmp_path / "copy.csv"
    copy.write_bytes(paths[1].read_bytes())
    Path(f"{copy}.json").write_bytes(Path(f"{paths[1]}.json").read_bytes())
    with pytest.raises(InputError, match="more than once 2/3"):
        scoring.merge([*paths, copy], tmp_path / "b.csv")
    with pytest.raises(InputError, match="no finished table"):
        scoring.merge([tmp_path / "none.csv"], tmp_path / "b.csv")
    for damage in (b"\xff\xfe\x00", paths[1].read_bytes()[:-20], paths[1].read_bytes().replace(b"0.", b"1.")):
        copy.write_bytes(damage)
        with pytest.raises(InputError, match=r"copy.csv was changed since .* score this shard again"):
            scoring.merge([paths[0], copy, paths[2]], tmp_path / "b.csv")
    copy.unlink()
    with pytest.raises(InputError, match=r"Cannot read \S+copy.csv \(No such file"):
        scoring.merge([paths[0], copy, paths[2]], tmp_path / "b.csv")
    scoring.score(*made(), paths[1], batch_size=5, shard=(1, 3), fresh=True)
    with pytest.raises(InputError, match="not shards of one table: batch_size 4, now 5"):
        scoring.merge(paths, tmp_path / "b.csv")
    with pytest.raises(InputError, match="holds something else"):
        scoring.merge([tmp_path / "a.csv"], paths[0])


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 21), 3, (0.0, 1)])
def test_shards_that_cannot_be(shard):
    with pytest.raises(InputError, match="shard"):
        scoring.score(*made(), shard=shard)


# --- size


class Endless:
    """Any number of images of 16 x 16, made when they are read."""

    def read(self, rows, augment, seed):  # noqa: ARG002
        return (rows[:, None] * torch.arange(1, 769) % 251).to(torch.uint8).view(-1, 3, 16, 16)

    def feed(self, sha, rows):
        sha.update(rows.numpy().tobytes())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from /proc")
def test_memory_does_not_grow_with_the_images(tmp_path):
    """Kept in memory these rows took 40 MB more at the end than after the first tenth."""
    resident, n = [], 50_000

    class Watch(Grey):
        def __call__(self, pixels, target):
            resident.append(int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024)
            return super().__call__(pixels, target)

    classifier = freeze(Net(), size=16)
    ids = tuple(f"endless/{i:06}" for i in range(n))
    labels, rows = torch.zeros(n, dtype=torch.long), torch.arange(n)
    images = datasets.Images("endless", "test", ("a",), labels, ids, 16, (0,) * 3, (1,) * 3, Endless(), rows)
    explainers = {"a": Watch(classifier), "b": Grey(classifier, 2)}
    table = scoring.score(explainers, images, tmp_path / "a.csv", batch_size=500, fractions=(0.5,), measures="masking")
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
    out = str(tmp_path / "a.csv")
    asked = [
        "--checkpoint",
        str(tmp_path / "one.pt"),
        "--baseline",
        "centre",
        "--dataset",
        "photo-digits",
        "--count",
        "8",
    ]
    assert main(["score", *asked, "--out", out]) == 0
    told = capsys.readouterr().out
    assert "AD 15" in told
    assert "N = 8 images; predicted class, softmax probability" in told
    assert f"{out}: 16 rows" in told
    for i in (1, 2):
        assert main(["score", *asked, "--shard", f"{i}/2", "--out", str(tmp_path / f"{i}.csv")]) == 0
    merge = ["score", "--merge", *(str(tmp_path / f"{i}.csv") for i in (1, 2)), "--out", str(tmp_path / "m.csv")]
    assert main(merge) == 0
    np.testing.assert_allclose(pd.read_csv(tmp_path / "m.csv").masked_15, pd.read_csv(out).masked_15, atol=1e-5)
    both = ["--checkpoint", *(str(tmp_path / f"{name}.pt") for name in ("one", "two"))]
    folder = ["--dataset", "folder", "--data-root", str(broken), "--size", "32", "--measures", "sparsity"]
    assert main(["score", *both, *folder, "--out", str(tmp_path / "b.csv")]) == 1
    assert "3 images left out" in capsys.readouterr().out
    names = pd.read_csv(tmp_path / "b.csv").explainer.unique()
    assert names.tolist() == [f"l-cam-img {tmp_path / name}.pt" for name in ("one", "two")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say what to score"),
        (["--baseline", "centre"], "name it, as in --classifier"),
        (["--baseline", "centre", "--shard", "0/2"], "--shard 0/2: expected I/N"),
        (["--checkpoint", "none.pt"], "No checkpoint none.pt"),
        (["--merge", "none.csv"], "no finished table of scores"),
    ],
)
def test_command_line_wrong(tmp_path, capsys, arguments, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["score", *arguments]) == 2
    assert words in capsys.readouterr().err


def blurred(pixels, target=None, blur=1):  # noqa: ARG001 - the common interface
    return F.avg_pool2d(pixels.mean(1), blur)


def darkness(pixels, target=None):  # noqa: ARG001
    return 1 - pixels.mean(1)


def test_functions_are_told_apart(tmp_path):
    """By their code and, if partial, by their arguments: else a table would be found that another one made."""
    explainers, images = made()
    path, grey = tmp_path / "a.csv", next(iter(explainers.values()))
    scoring.score({"grey": grey, "mine": darkness}, images, path)
    scoring.score({"grey": grey, "mine": darkness}, images, path)
    for other in (blurred, functools.partial(blurred, blur=2)):
        with pytest.raises(InputError, match="holds the scores of other settings"):
            scoring.score({"grey": grey, "mine": other}, images, path)
    descriptions = [describe(functools.partial(blurred, blur=blur)) for blur in (1, 2)]
    assert descriptions[0] != descriptions[1]
    assert describe(blurred)["kind"] == "blurred"


# --- what tells explainers apart

FACTOR = 2


def helper(pixels):
    return pixels.mean(1)


def helped(pixels, target=None):  # noqa: ARG001
    return FACTOR * helper(pixels)


def power(exponent):
    return lambda pixels, target: pixels.mean(1) ** exponent  # noqa: ARG005


class Holds:
    def __init__(self, value):
        self.value = value


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Scaled(nn.Module):
    def __init__(self, factor, hidden=1):
        super().__init__()
        self.factor, self._hidden = factor, hidden
        self.register_buffer("kept", torch.tensor(float(hidden)), persistent=False)

    def forward(self, pixels, target=None):  # noqa: ARG002
        return self.factor * pixels.mean(1)

    @property
    def double(self):
        return 2 * self.factor


@dataclasses.dataclass
class Settings:
    value: object


def edited(kind, **body):
    """The class with other code under the same name."""
    return type(kind.__name__, (kind,), {"__qualname__": kind.__qualname__, "__module__": kind.__module__, **body})


Colour = enum.Enum("Colour", ["RED", "BLUE"])
PAIRS = {
    "constants": [lambda p, t: p.mean(1) * 2, lambda p, t: p.mean(1) * 3],  # noqa: ARG005
    "names": [lambda p, t: p.amax(1), lambda p, t: p.amin(1)],  # noqa: ARG005
    "defaults": [lambda p, t=None, k=1: k * p, lambda p, t=None, k=2: k * p],  # noqa: ARG005
    "inner": [lambda p, t: (lambda: p + 1)(), lambda p, t: (lambda: p + 2)()],  # noqa: ARG005
    "closures": [power(1), power(2)],
    "arguments": [functools.partial(helped, target=np.int64(1)), functools.partial(helped, target=np.int64(2))],
    "methods": [Scaled(2).forward, Scaled(3).forward],
    "modules": [Scaled(2), Scaled(3)],
    "hidden": [Scaled(2, 3), Scaled(2, 4)],
    "properties": [Scaled(2), edited(Scaled, double=property(lambda self: 3 * self.factor))(2)],
    "code": [Holds(1), edited(Holds, __call__=lambda self, p, t: p)(1)],  # noqa: ARG005
    "slots": [Slots(1), Slots(2)],
} | {
    f"held {number}": [Holds(a), Holds(b)]
    for number, (a, b) in enumerate(
        [
            (np.arange(3), np.arange(1, 4)),
            (np.zeros((2, 3)), np.zeros((3, 2))),
            (np.array([None, 1]), np.array([None, 2])),
            (np.int64(1), np.int64(2)),
            (np.random.default_rng(1), np.random.default_rng(2)),
            (b"a", b"b"),
            (Path("a"), Path("b")),
            (Colour.RED, Colour.BLUE),
            ({"red", "blue"}, {"red", "green"}),
            (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
            (collections.deque([1]), collections.deque([2])),
            (Settings(np.ones(2)), Settings(np.zeros(2))),
            (Settings(power(1)), Settings(power(2))),
            (torch.float16, torch.bfloat16),
            (F.relu, F.gelu),
            (torch.relu, torch.sigmoid),
            (nn.Linear(2, 2), nn.Linear(2, 2)),
        ]
    )
}


@pytest.mark.parametrize("name", PAIRS)
def test_explainers_are_told_apart_by_their_content(name):
    one, other = (json.loads(json.dumps(describe(explainer))) for explainer in PAIRS[name])
    assert one != other
    assert one == json.loads(json.dumps(describe(PAIRS[name][0])))


def test_explainers_are_the_same_in_every_process():
    code = """if True:
        import json, sys
        sys.path.insert(0, sys.argv[1])
        from test_streaming import PAIRS, describe
        del PAIRS["held 16"]  # random weights
        print(json.dumps([describe(explainer) for pair in PAIRS.values() for explainer in pair]))"""
    command = [sys.executable, "-c", code, Path(__file__).parent]
    outs = [subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True) for seed in "12"]
    assert [out.returncode for out in outs] == [0, 0]
    here = [describe(explainer) for name, pair in PAIRS.items() if name != "held 16" for explainer in pair]
    assert json.loads(outs[0].stdout) == json.loads(outs[1].stdout) == json.loads(json.dumps(here))


def test_what_a_function_uses_belongs_to_it(monkeypatch):
    found = [describe(helped)]
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "FACTOR", 3)
        found.append(describe(helped))
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "helper", lambda pixels: pixels.amax(1))
        found.append(describe(helped))
    assert len({str(entry) for entry in found}) == 3
    assert describe(helped) == found[0]


@pytest.mark.parametrize("value", [threading.Lock(), iter(x for x in "a"), power(threading.Lock())])
def test_what_has_no_content_is_refused(tmp_path, value):
    explainers, images = made()
    with pytest.raises(InputError, match=r"A (lock|generator) of an explainer cannot be .* score without a path"):
        scoring.score(explainers | {"mine": Holds(value)}, images, tmp_path / "a.csv")
    assert left(tmp_path) == []


@pytest.mark.parametrize("method", ["grad-cam", "l-cam-img"])
def test_an_explainer_inside_of_another(method):
    """What it counts is no part of it; its classifier is."""
    make = lficam.baseline if method == "grad-cam" else functools.partial(lficam.attach, layers=["conv"])
    inner = [make(freeze(Net(), size=32), method) for _ in range(2)]
    if method != "grad-cam":
        inner[1].load_state_dict(inner[0].state_dict())
    found = [describe(Holds([one])) for one in inner]
    inner[0](torch.rand(2, 3, 32, 32))
    assert describe(Holds([inner[0]])) == found[0] != found[1]


def test_functions_that_call_each_other():
    found = describe(there)
    assert found == describe(there)
    assert found != describe(back)
    assert describe(lambda p, t: threading.Lock())["code"]  # noqa: ARG005 - what it makes is no part of it


def there():
    return back()


def back():
    return there() + 1


def test_a_copy_with_random_weights_does_not_find_the_table(tmp_path):
    explainers, images = made(4)
    before = scoring.score(explainers, images, tmp_path / "a.csv")
    others = {name: randomised(explainer) for name, explainer in explainers.items()}
    with pytest.raises(InputError, match="another classifier sha256"):
        scoring.score(others, images, tmp_path / "a.csv")
    assert not scoring.score(others, images, tmp_path / "b.csv").equals(before)


def test_a_classifier_of_the_same_weights_and_another_function_does_not_find_the_table(tmp_path):
    explainers, images = made(4)
    scoring.score(explainers, images, tmp_path / "a.csv")
    others = made(4)[0]
    others["grey"].classifier.network.conv.stride = (1, 1)
    assert others["grey"].classifier.digest == explainers["grey"].classifier.digest
    with pytest.raises(InputError, match="another classifier function"):
        scoring.score(others, images, tmp_path / "a.csv")
    with pytest.raises(InputError, match="explainers of one classifier, got 2"):
        scoring.score({"one": explainers["grey"], "two": others["grey"]}, images)


def test_the_function_of_a_network():
    """Not where it stands, nor what only training looks at."""
    network, other = Net(), Net()
    assert function(network) == function(other)
    other.last.bias.data += 1
    other.train()
    assert function(network) == function(other)
    assert function(network) != function(edited(Net, forward=lambda self, x: self.last(x))())
    norms = [nn.Sequential(nn.BatchNorm2d(3)) for _ in range(3)]
    norms[1][0].track_running_stats = False  # as an explainer that trains with batch statistics leaves it
    norms[2][0].eps = 1e-3
    assert function(norms[0]) == function(norms[1]) != function(norms[2])
