"""The authors' settings as data."""

import dataclasses
import json

import pytest
import torch

from lficam.errors import InputError
from lficam.explainers import learned
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
    recipe = recipes.find("authors", "l-cam-img", "imagenet", {"vgg": "vgg16", "resnet": "resnet50"}[backbone])
    assert (recipe.nesterov, recipe.bias_lr, recipe.bias_decay, recipe.weight_decay) == (True, 2.0, True, 5e-4)
    for epoch, (weight, bias) in enumerate(schedules[f"lcam_{backbone}_lr_weight_bias"]):
        lr, momentum = recipe.rates(7 * epoch + 3, 7)
        assert (lr, lr * recipe.bias_lr, momentum) == pytest.approx((weight, bias, 0.9), rel=1e-9)


def test_one_cycle_equals_the_authors(schedules):
    recipe = recipes.find("authors", "tame", "imagenet", "resnet50", lr=1e-3)
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


def test_ptames_rows():
    """Its authors' optimiser, which decays all parameters, and weights of the loss; elsewhere all is TAME's."""
    found = {name: recipes.settings("paper", "p-tame", "imagenet", name) for name in ("vgg16", "resnet50", "vit_b_16")}
    weights = {name: [how["options"][key] for key in learned.LOSS] for name, how in found.items()}
    assert {name: round(sum(values[:3]), 4) for name, values in weights.items()} == {
        "vgg16": 1.0506, "resnet50": 1, "vit_b_16": 0.9699  # the two are doubtful (D53)
    }  # fmt: skip
    assert [values[3:] for values in weights.values()] == [[0.3, 0.3], [0.3, 0.3], [0, 0.5]]
    for how in found.values():
        recipe = how["recipe"]
        assert (recipe.optimiser, recipe.epochs, recipe.batch_size, recipe.lr) == ("adamw", 1, 32, 1e-4)
        groups = recipe.groups(torch.nn.Conv2d(2, 3, 1))
        assert [(g["weight_decay"], g["factor"]) for g in groups] == [(recipe.weight_decay, 1)] * 2
        assert learned.Settings("p-tame", **how["options"]).power in (0.3, 0.5)
    for name in ("desk", "smoke", "cifar-cpu", "cifar"):
        ours, tames = (recipes.settings(name, method, "cifar10", "resnet-14") for method in ("p-tame", "tame"))
        assert ours == tames
        assert ours["recipe"].optimiser == "sgd"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimiser": "adam"}, "Unknown optimiser 'adam': did you mean 'adamw'"),
        ({"optimiser": "adamw", "nesterov": True}, "nesterov: AdamW has no such momentum: give nesterov=False"),
    ],
)
def test_optimisers_that_are_not_there(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        Recipe(**changes)


def test_groups_set_biases_apart():
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    others, biases = Recipe(weight_decay=0.5, bias_lr=2.0, bias_decay=False).groups(model)
    assert [tuple(p.shape) for p in others["params"]] == [(3, 2, 1, 1), (3,)]
    assert [tuple(p.shape) for p in biases["params"]] == [(3,), (3,), (2,)]
    assert (others["weight_decay"], others["factor"], biases["weight_decay"], biases["factor"]) == (0.5, 1, 0, 2)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            ("authors", "lfi-cam", "cifar10", "resnet-110"),
            {"epochs": 300, "batch_size": 128, "lr": 0.1, "bias_lr": 1.0},
        ),
        (("authors", "plain", "cifar100", "wrn-28-10"), {"epochs": 300, "gamma": 0.2, "milestones": (150, 225)}),
        (("authors", "abn", "cifar10", "wrn-28-10"), {"epochs": 200, "gamma": 0.2, "milestones": (60, 120, 160)}),
        (("authors", "l-cam-fm-ce", "imagenet", "resnet50"), {"epochs": 26, "lr": 1e-4, "nesterov": True}),
        (("paper", "tame-sigmoid", "imagenet", "vgg16"), {"epochs": 8, "lr": 1e-3, "schedule": "one-cycle"}),
        (("paper", "plain", "stl10", "lfi-resnet18"), {"batch_size": 256, "weight_decay": 1e-4}),
        (("desk", "t-tame", "photo-digits", "resnet-14"), {"bias_decay": False, "bias_lr": 2.0}),
        (("desk", "abn", "folder", "resnet18"), {"schedule": recipes.find("desk", "plain", "x", "y").schedule}),
        (("cifar", "l-cam-fm", "cifar10", "resnet-110"), {"batch_size": 64, "bias_decay": True}),
        (("cifar", "l-cam-img", "cifar10", "resnet-110"), {"batch_size": 32, "bias_decay": True}),
        (("cifar", "plain", "cifar10", "vgg-14"), {"lr": 0.05}),
    ],
)
def test_the_row_that_fits_best(asked, expected):
    recipe = recipes.find(*asked, seed=7)
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert recipe.seed == 7


def test_every_row_is_a_recipe():
    for row in recipes.read():
        method = {"classifier": "plain", "explainer": "tame", "l-cam": "l-cam-fm"}.get(row["method"], row["method"])
        for name in row["recipe"].split():
            recipe = recipes.find(name, method, row["dataset"], row["backbone"])
            assert str(recipe.epochs) == row["epochs"]
            found = recipes.settings(name, method, row["dataset"], row["backbone"], 2000, seed=3)
            assert found["recipe"] == dataclasses.replace(recipe, seed=3)
            assert bool(found["options"]) == ("l-cam" in method or "tame" in method)
            assert found["train_count"] == 2000  # no row has fewer
            assert str(recipes.settings(name, method, row["dataset"], row["backbone"])["train_count"]) == (
                row["train_count"] or "0"
            )
            if name == "authors":  # who have nothing for data sets or networks of any kind
                assert "*" not in (row["dataset"], row["backbone"])
                assert recipe.epochs >= (1 if method == "p-tame" else 4 if recipe.nesterov else 90)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            ("authors", "lfi-cam", "stl10", "resnet-20"),
            r"'authors' for lfi-cam on stl10 with resnet-20: choose lfi-resnet18",
        ),
        (("dask", "tame", "cifar10", "resnet-8"), "Unknown recipe 'dask': did you mean 'desk'"),
        (("desk", "tamme", "cifar10", "resnet-8"), "Unknown method 'tamme': did you mean 'tame'"),
    ],
)
def test_unknown_combinations(asked, sentence):
    with pytest.raises(InputError, match=sentence):
        recipes.find(*asked)


def test_unknown_changes():
    with pytest.raises(InputError, match="Unknown setting of a recipe 'epoch': did you mean 'epochs'"):
        recipes.find("desk", "tame", "photo-digits", "resnet-8", epoch=3)
