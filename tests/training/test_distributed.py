"""Several processes train one model as one process does; what is lost can be continued. Two CPU processes, gloo."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import distributed as dist
from torch import nn

import lficam
from lficam.cli import main
from lficam.models import checkpoints
from lficam.training import distributed, loop
from lficam.training.distributed import World
from lficam.training.jobs import Job, train
from lficam.training.recipes import Recipe, explainer_recipe

RECIPE = Recipe(epochs=2, batch_size=25, lr=0.001, milestones=())
SMALL = {"train_count": 101, "validation_count": 33}  # a last batch of one image, which both processes take
CLASSIFIER = Job("plain", "resnet-8", recipe=RECIPE, **SMALL)


# On GPUs batch norm sees the whole batch, on CPUs torch has none that does: these here see none at all.
EVAL = "lambda part, mode=True: nn.Module.train(part, False)"


@pytest.fixture
def without_batch_norm(monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "train", eval(EVAL))


def launch(home, script, *arguments, launcher=("torch.distributed.run", "--standalone", "--nproc-per-node", "2")):
    """Two processes that run a script of the test's own, as text, in a project folder."""
    (home / "script.py").write_text(script)
    environment = {"LFICAM_HOME": str(home), "OMP_NUM_THREADS": "1", "LFICAM_HEADLESS": "1"}
    command = [sys.executable, "-m", *launcher, str(home / "script.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=os.environ | environment, cwd=home, **pipes)


def script(job):
    """A script that trains a job, as text."""
    return f"""
from torch import nn
from lficam.training.jobs import Job, train
from lficam.training.recipes import Recipe
nn.BatchNorm2d.train = {EVAL}
train({job!r})
"""


def finish(process, code=0):
    output = process.communicate(timeout=120)[0]
    assert (process.returncode == 0) == (code == 0), output
    return output


def content(run_folder):
    return checkpoints.read(run_folder / "last.pt")


def difference(one, two):
    """The largest difference between the weights of two runs."""
    return max((one["model"][name] - two["model"][name]).abs().max().item() for name in one["model"])


@pytest.mark.slow
@pytest.mark.usefixtures("without_batch_norm")
@pytest.mark.parametrize("method", ["plain", "lfi-cam", "tame"])
def test_two_processes_equal_one(method, home, monkeypatch):
    job = Job(method, "resnet-8", recipe=RECIPE, **SMALL)
    if method == "tame":  # of the same classifier, or rounding would change a label
        recipe = explainer_recipe(epochs=2, batch_size=25, lr=0.0005)
        job = Job(method, str(train(CLASSIFIER).folder / "best.pt"), recipe=recipe, **SMALL)
    alone = train(job)
    other = home / "other"
    other.mkdir()
    note = "import atexit, os, torch.distributed as dist\n"
    note += "atexit.register(lambda: os.write(1, b'left behind: %d\\n' % dist.is_initialized()))\n"
    output = finish(launch(other, note + script(job)))
    assert output.count("epoch 2/2") == 1  # process 0 alone speaks
    assert output.count("left behind: 0") == 2
    monkeypatch.setenv("LFICAM_HOME", str(other))
    one, two = content(alone.folder), content(train(job).folder)
    assert difference(one, two) < 1e-5
    for row, same in zip(one["history"], two["history"], strict=True):
        for name in ("train_loss", "validation_loss"):
            assert row[name] == pytest.approx(same[name], rel=1e-4)
        for name, n in (("train_accuracy", 101), ("validation_accuracy", 33)):
            assert same[name] * n == pytest.approx(round(same[name] * n), abs=1e-9)  # of exactly N images


@pytest.mark.slow
@pytest.mark.usefixtures("without_batch_norm")
def test_cut_and_continued_with_another_number_of_processes(home, monkeypatch):
    uncut = train(CLASSIFIER)
    other = home / "other"
    other.mkdir()
    monkeypatch.setenv("LFICAM_HOME", str(other))
    keep = checkpoints.keep

    def cut(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        train(CLASSIFIER)
    monkeypatch.setattr(checkpoints, "keep", keep)
    assert "epoch 2/2" in finish(launch(other, script(CLASSIFIER)))
    assert difference(content(uncut.folder), content(train(CLASSIFIER).folder)) < 1e-5


@pytest.mark.slow
def test_after_a_killed_process_the_training_continues(home):
    job = Job("plain", "resnet-8", recipe=Recipe(epochs=40, batch_size=25, lr=0.001, milestones=()), **SMALL)
    note = "import os, pathlib\npathlib.Path('pid' + os.environ['RANK']).write_text(str(os.getpid()))\n"
    process = launch(home, note + script(job))
    for line in process.stdout:
        if "epoch 2/40" in line:
            os.kill(int((home / "pid1").read_text()), signal.SIGKILL)
            break
    finish(process, code=1)
    (last,) = home.glob("runs/*/*/last.pt")
    done = len(checkpoints.read(last)["history"])
    assert 2 <= done < 40
    again = launch(home, script(job))
    assert f"epoch {done + 1}/40" in next(line for line in again.stdout if "epoch" in line)  # not from the beginning
    again.terminate()
    again.communicate()


@pytest.mark.parametrize("text", ["gloo: closed by peer", "of our own"])
def test_a_process_that_is_left_says_so(text, monkeypatch):
    monkeypatch.setattr(distributed, "launched", lambda: (0, 2))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    kind, told = (lficam.InputError, "start the same command again") if "gloo" in text else (RuntimeError, text)
    with pytest.raises(kind, match=told), distributed.joined(torch.device("cpu")):
        raise RuntimeError(text)


@pytest.mark.slow
def test_accelerate_launches_the_command_line(home):
    launcher = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launcher = [*launcher.split(), "--dynamo_backend", "no", "--main_process_port", "0"]
    text = "import os, sys\nfrom lficam.cli import main\nassert os.environ['WORLD_SIZE'] == '2'\n"
    text += "sys.exit(main(sys.argv[1:]))\n"
    options = "train --method plain --backbone resnet-8 --count 60 --epochs 1 --milestones --lr 0.01"
    output = finish(launch(home, text, *options.split(), launcher=launcher))
    assert output.count("best validation accuracy") == 1
    assert output.count("On CPUs batch norm sees each process's own part") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [("--lr 1e30 --epochs 3", "diverged in epoch 2"), ("--lr -1", "lr: expected a number above 0, got -1.0.")],
    ids=["divergence", "settings"],
)
def test_what_all_processes_say_is_said_once(options, sentence, home):
    """However slowly the first process ends, and with no traceback or advice of the processes that it ends."""
    text = "import atexit, os, sys, time\nfrom lficam.cli import main\n"
    text += "if os.environ['RANK'] == '0':\n    atexit.register(time.sleep, 4)\nsys.exit(main(sys.argv[1:]))\n"
    arguments = f"train --method plain --backbone resnet-8 --count 60 {options}".split()
    output = finish(launch(home, text, *arguments), code=1)
    assert output.count(sentence) == 1, output
    assert "start the same command again" not in output
    assert "During handling of the above exception" not in output


def test_other_commands_refuse_a_launcher(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["score", "--checkpoint", "a.pt", "--dataset", "cifar10", "--out", "s.csv"]) == 2
    assert "Only `lficam train` works in a launcher's processes" in capsys.readouterr().err


@pytest.mark.usefixtures("home")
def test_processes_that_do_not_find_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(lficam.InputError, match="Process 1 of 2 does not find the others"):
        train(CLASSIFIER)


@pytest.mark.parametrize(("n", "size"), [(8, 2), (7, 2), (5, 4), (128, 3), (2, 3), (1, 2)])
def test_shares_make_up_the_batch_and_weights_its_mean(n, size):
    worlds, cut = [World(rank, size) for rank in range(size)], torch.arange(n)
    values = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    shares = [world.share(cut) for world in worlds]
    found = [world.begin(n) for world in worlds]
    if n >= size:
        assert torch.cat(shares).equal(cut)
        assert [len(share) for share in shares] == worlds[0].sizes
    mean = sum(weight * values[share].mean() for (weight, _), share in zip(found, shares, strict=True)) / size
    total = sum(factor * values[share].sum() for (_, factor), share in zip(found, shares, strict=True))
    torch.testing.assert_close(mean, values.mean())
    torch.testing.assert_close(total, values.sum())
    assert {world.images(len(share)) for world, share in zip(worlds, shares, strict=True)} == {n}


def test_one_process_alone_changes_nothing():
    labels = torch.tensor([3, 1])
    assert distributed.ALONE.begin(2) == (1.0, 1.0)
    assert distributed.ALONE.gather(labels) == (labels, 0)
    assert distributed.ALONE.images(2) == 2
    assert loop.best_device().index is None


@pytest.mark.slow
def test_processes_have_to_see_the_same_checkpoints(home):
    text = "import os\nos.environ['LFICAM_HOME'] += '/' + os.environ['RANK']\n"
    text += "import pathlib, shutil\nhere = pathlib.Path(os.environ['LFICAM_HOME'])\n"
    text += "if os.environ['RANK'] == '1':\n    shutil.copytree(here.parent / 'runs', here / 'runs')\n"
    train(CLASSIFIER)
    output = finish(launch(home, text + script(CLASSIFIER)), code=1)
    assert "the processes see different images, classifiers or checkpoints" in output
