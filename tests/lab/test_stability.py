"""The jobs of the stability experiment, and their dumps, which are written once."""

import numpy as np
import pytest

from lficam.errors import InputError
from lficam.lab import stability
from lficam.training.jobs import train

RECIPE = {"epochs": 1, "milestones": []}


def test_a_job_per_data_set_method_and_setting():
    backbones = {"abn": "resnet18", "lfi-cam": "lfi-resnet18"}
    jobs = stability.jobs(["stl10", "catdog"], backbones, [32, 64], [0.1, 0.2], [0.0, 0.1], recipe=RECIPE)
    assert len(jobs) == 8
    job = jobs["catdog", "lfi-cam", 2]
    assert (job.dataset, job.method, job.backbone) == ("catdog", "lfi-cam", "lfi-resnet18")
    assert (job.recipe.batch_size, job.recipe.lr, job.recipe.weight_decay, job.recipe.seed) == (64, 0.2, 0.1, 2)


@pytest.mark.parametrize("lrs", [[], [0.1], [0.1, 0.1, 0.1]])
def test_lists_of_different_length(lrs):
    with pytest.raises(InputError, match="expected lists of one length"):
        stability.jobs(["photo-digits"], {"abn": "resnet-8"}, [32, 32], lrs, [0.0, 0.0], recipe=RECIPE)


@pytest.mark.usefixtures("home")
def test_dumps_are_written_once_and_anew_after_fresh():
    settings = {"train_count": 40, "validation_count": 20}
    jobs = stability.jobs(["photo-digits"], {"lfi-cam": "resnet-8"}, [20], [0.01], [0.0], recipe=RECIPE, **settings)
    (key,) = jobs
    runs = {key: train(jobs[key])}
    first = stability.dump_maps(runs, jobs, 20)[key]
    written = first.path.stat().st_mtime_ns
    again = stability.dump_maps(runs, jobs, 20)[key]
    assert again.path.stat().st_mtime_ns == written
    assert np.array_equal(first.read(range(20)), again.read(range(20)))
    train(jobs[key], fresh=True)
    assert not first.path.exists()
