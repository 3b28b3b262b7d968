"""The jobs of the stability experiment, and their dumps, which are written once."""

import numpy as np
import pytest

from lficam.errors import InputError
from lficam.lab import stability
from lficam.training.jobs import train

ONCE = {"epochs": 1, "milestones": []}


def test_a_job_per_data_set_method_and_setting():
    backbones = {"abn": "resnet18", "lfi-cam": "lfi-resnet18"}
    variations = {"batch_size": [1, 0.5], "lr": [1, 1.6], "weight_decay": [1, 5]}
    jobs = stability.jobs(["stl10", "catdog"], backbones, "paper", variations, {"lr": 0.05})
    assert len(jobs) == 8
    job = jobs["catdog", "lfi-cam", 2]
    assert (job.dataset, job.method, job.backbone) == ("catdog", "lfi-cam", "lfi-resnet18")
    recipe = job.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.weight_decay, recipe.seed) == (300, 128, 0.08, 5e-4, 2)
    others = stability.jobs(["stl10", "catdog"], backbones, "paper", variations, {"lr": 0.05}, 3)
    assert [others["stl10", "abn", i].recipe.seed for i in (1, 2)] == [5, 6]


@pytest.mark.parametrize("variations", [{}, {"lr": []}, {"lr": [1], "batch_size": [1, 2]}, {"lrs": [1]}])
def test_wrong_variations(variations):
    sentence = "Unknown setting to vary 'lrs': did you mean 'lr'|expected lists of one length"
    with pytest.raises(InputError, match=sentence):
        stability.jobs(["photo-digits"], {"abn": "resnet-8"}, "desk", variations, {})


@pytest.mark.usefixtures("home")
def test_dumps_are_written_once_and_anew_after_fresh():
    settings = {"train_count": 40, "validation_count": 20}
    jobs = stability.jobs(["photo-digits"], {"lfi-cam": "resnet-8"}, "smoke", {"lr": [0.2]}, ONCE, **settings)
    (key,) = jobs
    runs = {key: train(jobs[key])}
    first = stability.dump_maps(runs, jobs, 20)[key]
    written = first.path.stat().st_mtime_ns
    again = stability.dump_maps(runs, jobs, 20)[key]
    assert again.path.stat().st_mtime_ns == written
    assert np.array_equal(first.read(range(20)), again.read(range(20)))
    train(jobs[key], fresh=True)
    assert not first.path.exists()
