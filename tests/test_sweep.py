"""Trainings side by side: the same bits as one after the other, and one failure does not stop the rest."""

import pytest
import torch

from lficam.errors import InputError
from lficam.sweep import train_all
from lficam.training import Job, Recipe, train


def job(seed, **changes):
    recipe = Recipe(epochs=1, batch_size=32, lr=0.05, milestones=(), seed=seed)
    return Job(
        **{"method": "plain", "backbone": "resnet-8", "train_count": 64, "validation_count": 60} | changes,
        recipe=recipe,
    )


def test_parallel_trainings_are_found_again_and_fail_alone(home, monkeypatch, capsys):
    jobs = {"one": job(1), "bad": job(1, backbone="resnet-9"), "two": job(2)}
    with pytest.raises(InputError, match="1 of 3 trainings failed; the first: bad: Backbone resnet-9"):
        train_all(jobs, parallel=2)
    del jobs["bad"]
    runs = train_all(jobs, parallel=2)
    assert list(runs) == ["one", "two"]
    assert all(run.found for run in runs.values())
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 trainings were finished before."
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("LFICAM_HOME", str(home / "alone"))
        alone = train(jobs["two"])
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(alone.model.parameters(), runs["two"].model.parameters(), strict=True):
        assert torch.equal(a, b)
