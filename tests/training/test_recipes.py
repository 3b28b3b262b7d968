"""The authors' settings as data."""

import json

import pytest
import torch
import yaml

from lficam.errors import InputError
from lficam.training import recipes
from lficam.training.recipes import Recipe


@pytest.fixture
def schedules(pytestconfig):
    return json.loads((pytestconfig.rootpath / "tests" / "golden" / "schedules.json").read_text())


def test_step_schedule():
    recipe = Recipe(lr=0.1, milestones=(150, 225))
    rates = [recipe.rates(10 * epoch + 9, 10)[0] for epoch in (0, 149, 150, 224, 225, 299)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize("backbone", ["vgg", "resnet"])
def test_lcams_decay_equals_the_authors(schedules, backbone):
    recipe = recipes.authors_recipe("l-cam-img", "imagenet", {"vgg": "vgg16", "resnet": "resnet50"}[backbone])
    assert (recipe.nesterov, recipe.bias_lr, recipe.bias_decay, recipe.weight_decay) == (True, 2.0, True, 5e-4)
    for epoch, (weight, bias) in enumerate(schedules[f"lcam_{backbone}_lr_weight_bias"]):
        lr, momentum = recipe.rates(7 * epoch + 3, 7)
        assert (lr, lr * recipe.bias_lr, momentum) == pytest.approx((weight, bias, 0.9), rel=1e-9)


def test_one_cycle_equals_the_authors(schedules):
    recipe = recipes.authors_recipe("tame", "imagenet", "resnet50", lr=1e-3)
    assert (recipe.epochs, recipe.bias_lr, recipe.bias_decay) == (4, 2.0, False)
    for step, expected in enumerate(schedules["onecycle_4_epochs_25_steps_max_lr_1e-3"]):
        lr, momentum = recipe.rates(step, 25)
        assert (lr, lr * recipe.bias_lr, momentum) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (1, 5), (3, 7), (8, 100)])
def test_one_cycle_equals_torchs(epochs, steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1, momentum=0.9)
    recipe = Recipe(epochs=epochs, lr=0.3, schedule="one-cycle")
    if epochs * steps < 4:  # where torch's own phases have no length
        assert all(0 < recipe.rates(step, steps)[0] <= 0.3 for step in range(epochs * steps))
        return
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.3, epochs=epochs, steps_per_epoch=steps)
    for step in range(epochs * steps):
        group = optimizer.param_groups[0]
        assert recipe.rates(step, steps) == pytest.approx((group["lr"], group["momentum"]), rel=1e-9)
        if step + 1 < epochs * steps:
            optimizer.step()
            theirs.step()


def test_groups_set_biases_apart():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    others, biases = Recipe(weight_decay=0.5, bias_lr=2.0, bias_decay=False).groups(model)
    assert [tuple(p.shape) for p in others["params"]] == [(3, 2, 1, 1), (3,)]
    assert [tuple(p.shape) for p in biases["params"]] == [(3,), (3,), (2,)]
    assert (others["weight_decay"], others["factor"], biases["weight_decay"], biases["factor"]) == (0.5, 1, 0, 2)


def test_lfi_cam_on_cifar():
    recipe = recipes.authors_recipe("lfi-cam", "cifar10", "resnet-110", seed=7)
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum) == (300, 128, 0.1, 0.9)
    assert (recipe.milestones, recipe.weight_decay, recipe.seed) == ((150, 225), 1e-4, 7)


def test_plain_takes_abns():
    plain, abn = (recipes.authors_recipe(m, "cifar100", "wrn-28-10") for m in ("plain", "abn"))
    assert plain == abn
    assert (abn.epochs, abn.gamma, abn.milestones, abn.weight_decay) == (200, 0.2, (60, 120, 160), 5e-4)


def test_every_row_is_a_recipe():
    for row in recipes.read():
        recipe = recipes.authors_recipe(row["method"], row["dataset"], row["backbone"])
        assert recipe.epochs >= (4 if "tame" in row["method"] or "l-cam" in row["method"] else 90)
        assert recipe.nesterov == (recipe.epochs < 90)


def test_unknown_combination():
    with pytest.raises(
        InputError, match=r"No authors' recipe for lfi-cam on stl10 with resnet-20: choose lfi-resnet18"
    ):
        recipes.authors_recipe("lfi-cam", "stl10", "resnet-20")


def test_the_paper_profile_is_the_authors_recipe(pytestconfig):
    path = pytestconfig.rootpath / "notebooks" / "profiles" / "paper" / "01_train_lficam.yaml"
    given = yaml.safe_load(path.read_text())
    recipe = recipes.authors_recipe("lfi-cam", given["dataset"], given["backbone"])
    for name in ("epochs", "batch_size", "lr", "weight_decay"):
        assert given[name] == getattr(recipe, name)
    assert tuple(given["milestones"]) == recipe.milestones
