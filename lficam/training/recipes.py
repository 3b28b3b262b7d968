"""How a model is trained: the settings, their schedules, and named recipes, of lficam/data/tables/recipes.csv.

recipe = find("authors", "lfi-cam", "cifar10", "resnet-110", seed=2)
"""

import bisect
import csv
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from .. import files
from ..errors import InputError, check_fields, check_numbers, choose
from ..explainers import learned
from ..models import registry


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The defaults are the LFI-CAM authors' for CIFAR.

    epochs: passes over the training set. schedule "step": at the start of each of the 0-based epochs `milestones` lr is
    multiplied by gamma; "one-cycle": lr is the maximum of `one_cycle`, step by step.
    optimiser: "sgd", or "adamw" (with amsgrad; its first beta is the momentum, and there is no nesterov).
    bias_lr: factor on the lr of parameters named bias; bias_decay: whether they have weight decay.
    precision: "float32" (IEEE's, never TF32), "bfloat16" (autocast) or "auto": bfloat16 on a GPU that has it, else
    float32. deterministic: use deterministic kernels only, so that the same machine gives the same bits (a CPU does
    anyway); an operation that has none is refused by name.
    """

    epochs: int = 300
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4  # on every parameter, batch norm and biases too, as the authors do
    milestones: tuple[int, ...] = (150, 225)
    gamma: float = 0.1
    augment: bool = True
    seed: int = 1
    precision: str = "auto"
    deterministic: bool = False
    schedule: str = "step"
    nesterov: bool = False
    bias_lr: float = 1.0
    bias_decay: bool = True
    optimiser: str = "sgd"
    added = ("optimiser",)  # see `record.plain`

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr: expected a number above 0, got {self.lr}.")
        for name, most in {"momentum": 1, "weight_decay": float("inf"), "gamma": float("inf")}.items():
            if not 0 <= getattr(self, name) < most:
                limits = "from 0 to below 1" if most == 1 else "of at least 0"
                raise InputError(f"{name}: expected a number {limits}, got {getattr(self, name)}.")
        check_numbers(seed=self.seed)
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InputError(f"milestones: expected epochs in rising order, got {self.milestones}.")
        choose("precision", self.precision, ("auto", "float32", "bfloat16"))
        choose("schedule", self.schedule, ("step", "one-cycle"))
        choose("optimiser", self.optimiser, ("sgd", "adamw"))
        if self.nesterov and self.optimiser == "adamw":
            raise InputError('nesterov: AdamW has no such momentum: give nesterov=False, or optimiser="sgd".')

    def rates(self, step: int, steps: int) -> tuple[float, float]:
        """(lr, momentum) of a 0-based step, `steps` in an epoch; of the step alone, so that a resume shifts nothing."""
        if self.schedule == "one-cycle":
            return one_cycle(self.lr, step, self.epochs * steps)
        return self.lr * self.gamma ** bisect.bisect_right(self.milestones, step // steps), self.momentum

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The model's trainable parameters as the optimiser's groups, other parameters than biases first.

        Each has "factor", on the learning rate.
        """
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        others = [p for name, p in named if not name.endswith("bias")]
        biases = [p for name, p in named if name.endswith("bias")]
        decay = self.weight_decay if self.bias_decay else 0.0
        return [
            {"params": others, "weight_decay": self.weight_decay, "factor": 1.0},
            {"params": biases, "weight_decay": decay, "factor": self.bias_lr},
        ]


def one_cycle(peak: float, step: int, total: int, rise: float = 0.3) -> tuple[float, float]:
    """(lr, momentum) of Smith and Topin's 1-cycle policy (2018), as torch's OneCycleLR, at a 0-based step of `total`.

    lr: peak/25, peak, peak/250000; momentum: 0.95, 0.85, 0.95; in half cosines, the first over `rise` of the steps.
    """
    top = rise * total - 1
    if step <= top or total == 1:
        part, start, end = step / max(top, 1e-9), (peak / 25, 0.95), (peak, 0.85)
    else:
        part, start, end = (step - top) / (total - 1 - top), (peak, 0.85), (peak / 250_000, 0.95)
    mix = (1 + math.cos(math.pi * part)) / 2
    lr, momentum = (b + (a - b) * mix for a, b in zip(start, end, strict=True))
    return lr, momentum


def explainer_recipe(**changes: Any) -> Recipe:
    """A `Recipe` for explainers to start from, TAME's: one cycle, Nesterov, doubled rate and no decay of biases."""
    tame: dict[str, Any] = {"epochs": 8, "batch_size": 32, "lr": 1e-3, "milestones": (), "weight_decay": 5e-4}
    tame |= {"schedule": "one-cycle", "nesterov": True, "bias_lr": 2.0, "bias_decay": False}
    return Recipe(**tame | changes)


def photos_recipe(**changes: Any) -> Recipe:
    """A `Recipe` for a classifier of a few hundred photos of one's own, with random weights to begin with.

    The rate is low, as wide networks need it: at CIFAR's 0.1 ResNet-18 with LFI-CAM learned nothing of 400 cats and
    dogs (64 pixels, 8 epochs, 50 % right), with these settings and 20 epochs 73 % of them and 58 % of others.
    """
    few: dict[str, Any] = {"epochs": 60, "batch_size": 32, "lr": 0.003, "milestones": (), "weight_decay": 5e-4}
    return Recipe(**few | {"schedule": "one-cycle", "nesterov": True} | changes)


def find(name: str, method: str, dataset: str, backbone: str, **changes: Any) -> Recipe:
    """The `Recipe` of that name for a method on a data set, with `changes` to it (seed=2).

    name: "desk", "cifar", "paper", "authors" ... of lficam/data/tables/recipes.csv. backbone: its name; of an explainer
    the name of the network that is explained. "authors" has what they give and nothing else: "plain" takes ABN's, whose
    baseline it is; the variants of L-CAM and of TAME take those of their methods.
    Raises `InputError` for an unknown name, a combination that it has no settings for, and unknown or wrong changes.
    """
    for change in changes:
        choose("setting of a recipe", change, [field.name for field in dataclasses.fields(Recipe)])
    row = _row(name, method, dataset, backbone)
    settings: dict[str, Any] = {name: row[name] for name in ("schedule", "optimiser")}
    settings["milestones"] = tuple(map(int, row["milestones"].split()))
    settings |= {setting: row[setting] == "yes" for setting in ("nesterov", "augment", "bias_decay")}
    settings |= {setting: int(row[setting]) for setting in ("epochs", "batch_size")}
    settings |= {setting: float(row[setting]) for setting in ("lr", "gamma", "weight_decay", "bias_lr")}
    return Recipe(**settings | changes)


def settings(
    name: str, method: str, dataset: str, backbone: str, train_count: int = 0, **changes: Any
) -> dict[str, Any]:
    """What a `Job` takes of a recipe: recipe, as `find` has it; of explainers options of `attach`; train_count.

    train_count: training images that are there, 0: all. A recipe may take fewer: an explainer of a small classifier
    needs no more.
    """
    row = _row(name, method, dataset, backbone)
    count = min(filter(None, (train_count, int(row["train_count"] or 0))), default=0)
    options: dict[str, Any] = {option: row[option] for option in ("classifier_mode", "space") if row[option]}
    options |= dict(zip(learned.LOSS, map(float, row["loss"].split()), strict=False))  # all of them, or none
    return {"recipe": find(name, method, dataset, backbone, **changes), "options": options, "train_count": count}


def _row(name: str, method: str, dataset: str, backbone: str) -> dict[str, str]:
    """The row that fits best: of the method rather than of its family or kind, of this backbone rather than of any."""
    rows = read()
    choose("recipe", name, dict.fromkeys(known for row in rows for known in row["recipe"].split()))
    choose("method", method, [*registry.METHODS, *learned.METHODS])
    families = {"plain": "abn", "l-cam": "l-cam", "tame": "tame"}
    family = next((family for prefix, family in families.items() if method.startswith(prefix)), method)
    kinds = [method, family, "explainer" if method in learned.METHODS else "classifier"]
    mine = [row for row in rows if name in row["recipe"].split() and row["method"] in kinds]
    same = [row for row in mine if row["dataset"] in (dataset, "*")]
    fitting = [row for row in same if row["backbone"] in (backbone, "*")]
    if fitting:
        return min(fitting, key=lambda row: (kinds.index(row["method"]), row["dataset"] == "*", row["backbone"] == "*"))
    known = [row["backbone"] for row in same] or list(dict.fromkeys(row["dataset"] for row in mine)) or ["nothing"]
    todo = "choose" if same else "choose another recipe (without --authors), or one of the data sets"
    raise InputError(f"No recipe {name!r} for {method} on {dataset} with {backbone}: {todo} {', '.join(known)}.")


def read() -> list[dict[str, str]]:
    """All rows of lficam/data/tables/recipes.csv, as text."""
    with files.table("recipes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
