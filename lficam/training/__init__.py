"""Trainings of classifiers and explainers: a `Job` says what is trained, `train` gives its `Run`."""

from .jobs import Job, Run, relabelled, train
from .loop import best_device
from .recipes import Recipe

__all__ = ["Job", "Recipe", "Run", "best_device", "relabelled", "train"]
