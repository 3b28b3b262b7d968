"""The authors' training settings, from data/recipes.csv: one row per method, data set and backbone."""

import csv

from . import workspace
from .errors import InputError
from .training import Recipe


def authors_recipe(method, dataset, backbone, **changes):
    """The authors' `Recipe`, with `changes` to it (seed=2). "plain" takes ABN's, whose baseline it is.

    Raises `InputError` for a combination that the authors give no settings for.
    """
    rows = read()
    wanted = ("abn" if method == "plain" else method, dataset, backbone)
    row = next((row for row in rows if (row["method"], row["dataset"], row["backbone"]) == wanted), None)
    if row is None:
        known = ", ".join(f"{r['dataset']} {r['backbone']}" for r in rows if r["method"] == wanted[0]) or "nothing"
        raise InputError(f"No authors' recipe for {method} on {dataset} with {backbone}: there is one for {known}.")
    settings = {
        "epochs": int(row["epochs"]),
        "batch_size": int(row["batch_size"]),
        "lr": float(row["lr"]),
        "milestones": tuple(map(int, row["milestones"].split())),
        "gamma": float(row["gamma"]),
        "weight_decay": float(row["weight_decay"]),
    }
    return Recipe(**settings | changes)


def read():
    """All rows of data/recipes.csv, as text."""
    with (workspace.root() / "data" / "recipes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
