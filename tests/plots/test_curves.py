"""Figures of explainers' trainings draw, with the lines and marks they should have."""

import torch

from lficam.plots import curves
from lficam.training.lr_range import LRRange


def history(*terms):
    return [{"epoch": e} | {f"{s}_{t}": 1.0 / e for s in ("train", "validation") for t in terms} for e in (1, 2, 3)]


def test_loss_terms():
    full, ce = history("loss", "cross_entropy", "area", "variation"), history("loss")
    axes = curves.loss_terms({"tame": full, "l-cam-img-ce": ce}).axes
    assert [axis.get_title() for axis in axes] == ["cross-entropy", "area", "variation"]
    assert [len(axis.lines) for axis in axes] == [4, 2, 2]  # cross-entropy alone has no other term
    assert axes[0].lines[0].get_ydata().tolist() == [1.0, 0.5, 1 / 3]


def test_lr_curve_marks_the_suggestion():
    lrs = [1e-4, 1e-3, 1e-2, 1e-1]
    found = LRRange(lrs, [4.0, 3.5, 2.0, 9.0], [4.0, 3.0, 2.0, 5.0], 1e-3)
    (axis,) = curves.lr_curve({"tame": found}).axes
    assert axis.get_xscale() == "log"
    assert axis.lines[2].get_xdata()[0] == 1e-3
    assert len(curves.lr_curve({"tame": found._replace(suggestion=None)}).axes[0].lines) == 2


def test_scenes():
    pixels, maps, share = torch.rand(2, 3, 8, 16), torch.rand(2, 2, 8, 16), torch.tensor([[0.9, 0.8], [0.5, 0.4]])
    axes = curves.scenes(pixels, maps, [("1", "7"), ("3", "4")], share).axes
    assert len(axes) == 6
    assert axes[1].get_title() == "why 1?  90 % in its half"
    assert axes[5].get_title() == "why 4?  40 % in its half"
