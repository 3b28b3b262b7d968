"""How a model is trained: the settings, their schedules, and the authors' own from lficam/data/tables/recipes.csv."""

import bisect
import csv
import math
from dataclasses import dataclass

from .. import files
from ..errors import InputError, check_fields, check_numbers, choose


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The defaults are the LFI-CAM authors' for CIFAR.

    epochs: passes over the training set. schedule "step": at the start of each of the 0-based epochs `milestones` lr is
    multiplied by gamma; "one-cycle": lr is the maximum of `one_cycle`, step by step.
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

    def __post_init__(self):
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

    def rates(self, step, steps):
        """(lr, momentum) of a 0-based step, `steps` in an epoch; of the step alone, so that a resume shifts nothing."""
        if self.schedule == "one-cycle":
            return one_cycle(self.lr, step, self.epochs * steps)
        return self.lr * self.gamma ** bisect.bisect_right(self.milestones, step // steps), self.momentum

    def groups(self, model):
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


def one_cycle(peak, step, total, rise=0.3):
    """(lr, momentum) of Smith and Topin's 1-cycle policy (2018), as torch's OneCycleLR, at a 0-based step of `total`.

    lr: peak/25, peak, peak/250000; momentum: 0.95, 0.85, 0.95; in half cosines, the first over `rise` of the steps.
    """
    top = rise * total - 1
    if step <= top or total == 1:
        part, start, end = step / max(top, 1e-9), (peak / 25, 0.95), (peak, 0.85)
    else:
        part, start, end = (step - top) / (total - 1 - top), (peak, 0.85), (peak / 250_000, 0.95)
    mix = (1 + math.cos(math.pi * part)) / 2
    return tuple(b + (a - b) * mix for a, b in zip(start, end, strict=True))


def explainer_recipe(**changes):
    """A `Recipe` for explainers to start from, TAME's: one cycle, Nesterov, doubled rate and no decay of biases."""
    tame = {"epochs": 8, "batch_size": 32, "lr": 1e-3, "milestones": (), "weight_decay": 5e-4, "schedule": "one-cycle"}
    return Recipe(**tame | {"nesterov": True, "bias_lr": 2.0, "bias_decay": False} | changes)


def photos_recipe(**changes):
    """A `Recipe` for a classifier of a few hundred photos of one's own, with random weights to begin with.

    The rate is low, as wide networks need it: at CIFAR's 0.1 ResNet-18 with LFI-CAM learned nothing of 400 cats and
    dogs (64 pixels, 8 epochs, 50 % right), with these settings and 20 epochs 73 % of them and 58 % of others.
    """
    few = {"epochs": 60, "batch_size": 32, "lr": 0.003, "milestones": (), "weight_decay": 5e-4}
    return Recipe(**few | {"schedule": "one-cycle", "nesterov": True} | changes)


def authors_recipe(method, dataset, backbone, **changes):
    """The authors' `Recipe`, with `changes` to it (seed=2).

    "plain" takes ABN's, whose baseline it is; the variants of L-CAM and of TAME take those of their methods.
    Raises `InputError` for a combination that the authors give no settings for.
    """
    rows = read()
    families = {"plain": "abn", "l-cam": "l-cam", "tame": "tame"}
    family = next((family for prefix, family in families.items() if method.startswith(prefix)), method)
    wanted = (family, dataset, backbone)
    row = next((row for row in rows if (row["method"], row["dataset"], row["backbone"]) == wanted), None)
    if row is None:
        found = [r for r in rows if r["method"] == family]
        same = [r["backbone"] for r in found if r["dataset"] == dataset]
        known = same or dict.fromkeys(r["dataset"] for r in found) or ["nothing"]
        todo = "choose" if same else "leave it out (--authors), or choose one of the data sets"
        raise InputError(f"No authors' recipe for {method} on {dataset} with {backbone}: {todo} {', '.join(known)}.")
    settings = {
        "epochs": int(row["epochs"]),
        "batch_size": int(row["batch_size"]),
        "lr": float(row["lr"]),
        "milestones": tuple(map(int, row["milestones"].split())),
        "gamma": float(row["gamma"]),
        "weight_decay": float(row["weight_decay"]),
        "schedule": row["schedule"],
        "nesterov": row["nesterov"] == "yes",
        "bias_lr": float(row["bias_lr"]),
        "bias_decay": row["bias_decay"] == "yes",
    }
    return Recipe(**settings | changes)


def read():
    """All rows of lficam/data/tables/recipes.csv, as text."""
    with files.table("recipes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
