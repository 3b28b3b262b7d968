"""Figures draw, with the axes and marks they should have."""

import numpy as np
import pandas as pd
import pytest
import torch

from lficam.data.papers import published_iou
from lficam.plots import figures


def table(models, seed, centre):
    """What `overlap.consensus` gives, of made-up numbers."""
    values = np.random.default_rng(seed).normal(centre, 0.04, models * (models - 1) // 2)
    names = [f"model {k}" for k in range(1, models + 1)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    rows = [(a, b, v, v - 0.02, v + 0.02) for (a, b), v in zip(pairs, values, strict=True)]
    rows.append(("all pairs", "", values.mean(), values.mean() - 0.02, values.mean() + 0.02))
    return pd.DataFrame(rows, columns=["base", "target", "iou", "low", "high"])


def test_stability_examples():
    pixels = torch.rand(4, 3, 16, 16)
    maps = {f"ABN {k}": torch.rand(4, 16, 16) for k in range(3)} | {"LFI-CAM 1": np.random.rand(4, 16, 16)}  # noqa: NPY002
    axes = figures.stability_examples(pixels, maps).axes
    assert len(axes) == 5 * 4
    assert [axis.get_ylabel() for axis in axes[::4]] == ["image", *maps]


@pytest.mark.parametrize("models", [2, 3, 5])
def test_iou_between_models(models):
    published = published_iou()
    ours = {("abn", "CIFAR-10"): table(models, 0, 0.3), ("lfi-cam", "photo-digits"): table(models, 1, 0.6)}
    left, right = figures.iou_between_models(ours, published).axes
    assert [len(line.get_xdata()) for line in left.lines].count(5) >= 6
    assert len(right.patches) == 6 + 2
    left, right = figures.iou_between_models(ours).axes
    assert len(right.patches) == 2
    assert len(left.lines[0].get_xdata()) == (1 if models == 2 else models)


def test_every_pair_is_drawn_once():
    line, rest = figures._neighbours(table(5, 0, 0.5))
    assert (len(line), len(rest)) == (5, 5)
    assert sorted(line + rest) == sorted(table(5, 0, 0.5).iou[:-1])


def test_iou_curve():
    x = np.arange(0, 256, 15)
    figure = figures.iou_curve(dict.fromkeys(("abn", "lfi-cam"), (x, x / 300, x / 310, x / 290)))
    assert len(figure.axes) == 1
    assert len(figure.axes[0].collections) == 2
