"""The authors' settings as data."""

import pytest
import yaml

from lficam import recipes
from lficam.errors import InputError


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
        assert recipes.authors_recipe(row["method"], row["dataset"], row["backbone"]).epochs >= 90


def test_unknown_combination():
    with pytest.raises(
        InputError, match=r"No authors' recipe for lfi-cam on stl10 with resnet-20: .*stl10 lfi-resnet18"
    ):
        recipes.authors_recipe("lfi-cam", "stl10", "resnet-20")


def test_the_paper_profile_is_the_authors_recipe(pytestconfig):
    path = pytestconfig.rootpath / "notebooks" / "profiles" / "paper" / "01_train_lficam.yaml"
    given = yaml.safe_load(path.read_text())
    recipe = recipes.authors_recipe("lfi-cam", given["dataset"], given["backbone"])
    for name in ("epochs", "batch_size", "lr", "weight_decay"):
        assert given[name] == getattr(recipe, name)
    assert tuple(given["milestones"]) == recipe.milestones
