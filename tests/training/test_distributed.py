"""Several processes train one model as one process does; what is lost can be continued. Two CPU processes, gloo."""

import atexit
import dataclasses
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from processes import begin, finish
from torch import distributed as dist
from torch import nn

import lficam
from lficam.cli import main
from lficam.models import checkpoints
from lficam.training import distributed, loop
from lficam.training.distributed import World
from lficam.training.jobs import Job, read_history, train
from lficam.training.recipes import Recipe, explainer_recipe

RECIPE = Recipe(epochs=2, batch_size=25, lr=0.001, milestones=())
SMALL = {"train_count": 51, "validation_count": 33}  # a last batch of one image, which both processes take
CLASSIFIER = Job("plain", "resnet-8", recipe=RECIPE, **SMALL)


# On GPUs batch norm sees the whole batch, on CPUs torch has none that does: these here see none at all.
EVAL = "lambda part, mode=True: nn.Module.train(part, False)"


@pytest.fixture
def without_batch_norm(monkeypatch):
    monkeypatch.setattr(nn.BatchNorm2d, "train", eval(EVAL))


def begin_two(home, call, what, homes=None):
    """Two processes that call a function, with no launcher to end them, and the files of what they say."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free.getsockname()[1]}
    outputs, homes, processes = [home / f"{rank}.txt" for rank in range(2)], homes or [home, home], []
    for rank in range(2):
        own = {"RANK": rank, "LOCAL_RANK": rank, "LFICAM_HOME": homes[rank]}
        processes.append(begin(call, what, output=outputs[rank], **own, **shared))
    return processes, outputs


def train_each(jobs):
    nn.BatchNorm2d.train = eval(EVAL)
    for job in jobs:
        train(job)
    atexit._run_exitfuncs()  # which a forked process has not
    print("left behind:", dist.is_initialized())


def content(run_folder):
    return checkpoints.read(run_folder / "last.pt")


@pytest.mark.slow
@pytest.mark.usefixtures("without_batch_norm")
def test_two_processes_equal_one(home, monkeypatch):
    """Three trainings from the beginning, and before them one that one process has begun: it is cut after an epoch."""
    recipe = explainer_recipe(epochs=2, batch_size=25, lr=0.0005)
    classifier = str(train(CLASSIFIER).folder / "best.pt")  # of the same one, or rounding would change a label
    jobs = [CLASSIFIER, dataclasses.replace(CLASSIFIER, recipe=dataclasses.replace(RECIPE, seed=7))]
    jobs += [Job("lfi-cam", "resnet-8", recipe=RECIPE, **SMALL), Job("tame", classifier, recipe=recipe, **SMALL)]
    alone = [content(train(job).folder) for job in jobs]
    other = home / "other"
    other.mkdir()
    monkeypatch.setenv("LFICAM_HOME", str(other))
    keep = checkpoints.keep

    def cut(*arguments):
        keep(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "keep", cut)
        with pytest.raises(KeyboardInterrupt):
            train(CLASSIFIER)
    processes, outputs = begin_two(other, train_each, jobs)
    codes, said = [finish(process) for process in processes], [output.read_text() for output in outputs]
    assert codes == [0, 0], said
    assert (said[0].count("epoch 1/2"), said[0].count("epoch 2/2")) == (3, 4)
    assert "epoch" not in said[1]  # process 0 alone speaks
    assert all(text.endswith("left behind: False\n") for text in said)
    for job, one in zip(jobs, alone, strict=True):
        two = content(train(job).folder)
        assert max((one["model"][name] - two["model"][name]).abs().max().item() for name in one["model"]) < 1e-5
        for row, same in zip(one["history"], two["history"], strict=True):
            for name in ("train_loss", "validation_loss"):
                assert row[name] == pytest.approx(same[name], rel=1e-4)
            for name, n in (("train_accuracy", 51), ("validation_accuracy", 33)):
                assert same[name] * n == pytest.approx(round(same[name] * n), abs=1e-9)  # of exactly N images


@pytest.mark.slow
def test_a_killed_process_ends_the_other_whose_epochs_are_kept(home):
    job = dataclasses.replace(CLASSIFIER, recipe=dataclasses.replace(RECIPE, epochs=1000))
    processes, (output, _) = begin_two(home, train, job)
    while "epoch 2/1000" not in (output.read_text() if output.exists() else ""):
        assert processes[0].is_alive()
        time.sleep(0.02)
    processes[1].kill()
    assert finish(processes[0]) == 1
    assert "Process 0 of 2 was left by another one, which failed or was killed" in output.read_text()
    (last,) = home.glob("runs/*/*/last.pt")
    assert 2 <= len(read_history(last.parent)) < 1000


@pytest.mark.slow
def test_processes_have_to_see_the_same_checkpoints(home, monkeypatch):
    monkeypatch.setenv("LFICAM_HOME", str(home / "1"))
    train(CLASSIFIER)
    processes, outputs = begin_two(home, train, CLASSIFIER, [home / "0", home / "1"])
    assert [finish(process) for process in processes] == [1, 1]
    for output in outputs:
        assert "the processes see different images, classifiers or checkpoints" in output.read_text()


@pytest.mark.parametrize("text", ["gloo: closed by peer", "of our own"])
def test_a_process_that_is_left_says_so(text, monkeypatch):
    monkeypatch.setattr(distributed, "launched", lambda: (0, 2))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    kind, told = (lficam.InputError, "start the same command again") if "gloo" in text else (RuntimeError, text)
    with pytest.raises(kind, match=told), distributed.joined(torch.device("cpu")):
        raise RuntimeError(text)


SCRIPT = """
import atexit, os, sys, time
from lficam.cli import main
assert os.environ["WORLD_SIZE"] == "2"
if os.environ["RANK"] == "0":
    atexit.register(time.sleep, 2)
train = "train --method plain --backbone resnet-8 --count 60 --milestones --epochs".split()
assert main([*train, "1", "--lr", "0.01"]) == 0
sys.exit(main([*train, "3", "--lr", "1e30"]))
"""


@pytest.mark.slow
def test_accelerate_launches_the_command_line(home):
    """What all processes say is said once, however slowly the first one ends, and with no traceback or advice of those
    that the launcher, in which torchrun works, ends."""
    (home / "script.py").write_text(SCRIPT)
    launcher = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    options = "--dynamo_backend no --main_process_port 0 script.py"
    command = [sys.executable, "-m", *launcher.split(), *options.split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LFICAM_HEADLESS": "1"}
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert output.count("best validation accuracy") == 1
    assert output.count("On CPUs batch norm sees each process's own part") == 2  # in both trainings
    assert output.count("diverged in epoch 2") == 1, output
    assert "start the same command again" not in output
    assert "During handling of the above exception" not in output


def test_wrong_settings_are_said_by_the_first_process(monkeypatch, capsys):
    """The others wait to be ended."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("lficam.cli.time.sleep", sys.exit)
    command = ["train", "--method", "plain", "--backbone", "resnet-8", "--lr", "-1"]
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        if rank == "0":
            assert main(command) == 2
            assert "lr: expected a number above 0, got -1.0." in capsys.readouterr().err
        else:
            with pytest.raises(SystemExit, match="20"):
                main(command)
            assert not capsys.readouterr().err


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
