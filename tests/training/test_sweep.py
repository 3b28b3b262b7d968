"""Trainings side by side: the same bits as one after the other, and one failure does not stop the rest.

Every test has a project folder of its own, which workers only find if they get the caller's environment.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time

import pytest
import torch
from processes import begin, finish

import lficam
from lficam import files
from lficam.errors import InputError
from lficam.explainers.frozen import find
from lficam.models import checkpoints
from lficam.training import sweep
from lficam.training.jobs import Job, Recipe, finished_folder, read_history, train
from lficam.training.recipes import explainer_recipe
from lficam.training.sweep import frozen, train_all

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.05, milestones=())


def job(seed, epochs=1, backbone="resnet-8"):
    recipe = dataclasses.replace(RECIPE, seed=seed, epochs=epochs)
    return Job("plain", backbone, train_count=64, validation_count=60, recipe=recipe)


def alone(job, home, monkeypatch):
    """The run of a job that this process trains elsewhere, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("LFICAM_HOME", str(home / "alone"))
            return train(job)
    finally:
        torch.set_num_threads(threads)


def same_bits(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def folders(home):
    """What was trained, by method and backbone."""
    return sorted(path.name.rpartition("-")[0] for path in (home / "runs" / "photo-digits").iterdir())


@pytest.mark.slow
def test_parallel_trainings_are_found_again_and_fail_alone(home, monkeypatch, capsys):
    jobs = {"one": job(1), "bad": job(1, backbone="resnet-9"), "two": job(2)}
    with pytest.raises(InputError, match="1 of 3 trainings failed; the first: bad: Backbone resnet-9"):
        train_all(jobs, parallel=2)
    del jobs["bad"]
    runs = train_all(jobs, parallel=2)
    assert list(runs) == ["one", "two"]
    assert all(run.found for run in runs.values())
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 trainings were finished before."
    made = frozen({"mine": job(3), "theirs": str(runs["two"].folder / "best.pt")})
    assert made["mine"].digest == find(finished_folder(job(3)) / "best.pt").digest
    assert made["mine"].digest != made["theirs"].digest
    assert len(folders(home)) == 3
    assert same_bits(alone(jobs["two"], home, monkeypatch), runs["two"])


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_time(home, monkeypatch, capsys):
    """Killed at its first checkpoint a training is begun again, once, and ends with the bits of a whole one."""
    jobs = {seed: job(seed, epochs=2) for seed in (1, 2)} | {"never": job(3)}
    monkeypatch.setattr(sweep, "_quietly", deadly)
    with pytest.raises(InputError, match="1 of 3 trainings failed; the first: never: its process was killed twice"):
        train_all(jobs, parallel=2)
    assert capsys.readouterr().out.count("its process was killed, once more from the last checkpoint") == 3
    for seed in (1, 2):
        folder = finished_folder(jobs[seed])
        assert (folder / "killed").exists()
        assert len(read_history(folder)) == 2
    assert same_bits(alone(jobs[1], home, monkeypatch), train(jobs[1]))


def deadly(job, options):
    """What a worker does, but for the kills: always in the third job, else after the first checkpoint."""
    keep = checkpoints.keep

    def killed(model, optimizer, history, folder, *rest):
        keep(model, optimizer, history, folder, *rest)
        if not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    if job.recipe.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    checkpoints.keep = killed
    return max(row["validation_accuracy"] for row in train(job, **options).history)


@pytest.mark.slow
def test_a_classifier_is_trained_once_before_its_explainers(home, capsys):
    """And equal jobs once, also those that are asked for and forgotten."""
    recipe = explainer_recipe(epochs=1, lr=0.01)
    jobs = {m: Job(m, job(1), train_count=64, validation_count=60, recipe=recipe) for m in ("tame", "l-cam-img")}
    runs = train_all(jobs, parallel=2)
    assert folders(home) == ["l-cam-img-plain-resnet-8", "plain-resnet-8", "tame-plain-resnet-8"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert [line.split()[0] for line in lines] == ["1/1", "1/2", "2/2"]
    assert lines[0].startswith("1/1 plain resnet-8 on photo-digits 1: validation ")
    assert runs["tame"].model.classifier.digest == runs["l-cam-img"].model.classifier.digest
    runs = train_all({"tame": jobs["tame"], "one": job(1), "again": job(1)}, parallel=1, fresh=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert [line.split(":")[0] for line in lines] == ["1/1 one", "1/1 tame"]
    assert list(runs) == ["tame", "one", "again"]
    assert runs["again"].folder == runs["one"].folder
    assert len(folders(home)) == 3
    both = {"p-tame": dataclasses.replace(jobs["tame"], method="p-tame", auxiliary=job(2))}
    assert train_all(both)["p-tame"].model.auxiliary.digest == find(finished_folder(job(2)) / "best.pt").digest
    assert "1/1 plain resnet-8 on photo-digits 1: validation " in capsys.readouterr().out  # the auxiliary one alone
    bad = {"bad": Job("p-tame", job(1), auxiliary=job(1, backbone="resnet-9"), recipe=recipe)}
    with pytest.raises(InputError, match="2 of 2 trainings failed; the first: plain resnet-9 on photo-digits 1: "):
        train_all(jobs | bad)


def test_frozen_lie_where_the_trained_do(home, monkeypatch):
    network = lficam.create("plain", "resnet-8", 10)
    checkpoints.save(home / "best.pt", {"card": network.card, "model": network.state_dict()})
    monkeypatch.setattr(sweep, "best_device", lambda: torch.device("meta"))
    for options, device in (({}, "meta"), ({"device": "cpu"}, "cpu")):
        made = frozen({"theirs": home / "best.pt"}, **options)["theirs"]
        assert {p.device.type for p in [*made.parameters(), *made.buffers()]} == {device}


@pytest.mark.slow
def test_stopping_ends_its_own_processes_alone(home, monkeypatch):  # noqa: ARG001
    other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(600,))
    other.start()
    said = []

    def press(line):
        said.append(line)
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "say", press)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_all({"one": job(1), "forever": job(2, epochs=10**6)}, parallel=2)
        assert "one: validation" in said[0]
        assert multiprocessing.active_children() == [other]
    finally:
        other.kill()
        other.join()


@pytest.mark.slow
def test_workers_end_with_a_killed_caller(home):
    caller = begin(train_all, {"forever": job(1, epochs=10**6)}, 1)
    while not (logs := list(home.glob("runs/*/*/log.csv"))):
        assert caller.is_alive()
        time.sleep(0.02)
    caller.kill()
    finish(caller)
    for _ in range(1000):  # until nobody holds the lock of the training
        with contextlib.suppress(InputError), files.locked(logs[0].with_name("last.pt")):
            return
        time.sleep(0.02)
    pytest.fail("the training goes on")


@pytest.mark.parametrize(
    ("quota", "slurm", "expected"),
    [("max 100000", "", 8), ("200000 100000", "", 2), ("50000 100000", "", 1), ("max 100000", "4", 4), (None, "16", 8)],
)
def test_cores_are_those_that_may_be_used(quota, slurm, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(files, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert files.cores() == expected
