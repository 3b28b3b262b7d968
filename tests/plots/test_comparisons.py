"""Figures that compare explainers draw the marks, lines and values that they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from lficam.metrics import statistics
from lficam.metrics.conventions import CONVENTIONS
from lficam.plots import comparisons, placing

NAMES = ["tame", "grad-cam", "random"]


@pytest.fixture
def rows():
    """As `scoring.summary`: AD and IC of three explainers at three shares."""
    return pd.DataFrame(
        {"explainer": name, "measure": f"{m} {p}", "reproduced": v, "low": v - 2, "high": v + 3, "N": 9}
        for i, name in enumerate(NAMES)
        for p in (100, 50, 15)
        for m, v in (("AD", 10 + 20 * i + (100 - p) / 10), ("IC", 40 - 10 * i - (100 - p) / 10))
    )


def shown(axis):
    """Points drawn with a mark."""
    return [tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() not in ("None", "")]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_quality_plane(rows):
    figure = comparisons.quality_plane(rows)
    assert len(figure.axes) == 6  # the lower three without the control
    assert shown(figure.axes[0]) == [(10, 40), (30, 30), (50, 20)]
    assert shown(figure.axes[5]) == [(18.5, 31.5), (38.5, 21.5)]
    interval = figure.axes[0].lines[0]
    assert interval.get_xdata().tolist() == [8, 13]
    assert legend(figure) == ["TAME", "Grad-CAM", "random (control)"]
    assert len(comparisons.quality_plane(rows[rows.explainer != "random"], (50,)).axes) == 1


def test_bands():
    torch.manual_seed(0)
    values = torch.rand(40, 3).double().numpy()
    table = pd.DataFrame(values, columns=["insertion_0", "insertion_1", "insertion_2"])
    table = table.assign(explainer=["tame"] * 20 + ["rise"] * 20, morf_10=values[:, 0], morf_90=values[:, 1])
    found = comparisons.bands(table, "insertion")
    shares, mean, low, high = found["rise"]
    assert shares.tolist() == [0, 50, 100]
    np.testing.assert_allclose(mean, values[20:].mean(0))
    np.testing.assert_allclose([low[1], high[1]], statistics.bootstrap(values[20:, 1]), atol=0.02)
    assert comparisons.bands(table, "morf")["tame"][0].tolist() == [10, 90]


def test_perturbation_curves():
    line = np.array([0.0, 50, 100]), np.array([0.1, 0.5, 0.8]), np.array([0, 0.4, 0.7]), np.array([0.2, 0.6, 0.9])
    curves = {key: dict.fromkeys(NAMES, line) for key in ("insertion", "deletion", "morf", "lerf")}
    figure = comparisons.perturbation_curves(curves)
    assert [axis.get_title() for axis in figure.axes][:2] == [
        "insertion (higher is better)",
        "deletion (lower is better)",
    ]
    assert [len(axis.lines) for axis in figure.axes] == [3] * 4
    assert [len(axis.collections) for axis in figure.axes] == [3] * 4
    assert figure.axes[3].lines[0].get_ydata().tolist() == [0.1, 0.5, 0.8]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--", "--"]
    assert len(comparisons.perturbation_curves({"lerf": curves["lerf"]}).axes) == 1


def test_threshold_curves(rows):
    figure = comparisons.threshold_curves(rows)
    assert [axis.get_ylabel() for axis in figure.axes] == ["AD (%)", "IC (%)"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[15, 18.5], [50, 15], [100, 10]]
    assert figure.axes[1].lines[2].get_ydata().tolist() == [11.5, 15, 20]


def test_cost_quality():
    rows = pd.DataFrame({"explainer": NAMES, "seconds": [0.1, 0.12, 0.001], "passes": [1, 1, 0]})
    rows = rows.assign(reproduced=[10.0, 11.0, 60.0]).assign(
        low=lambda r: r.reproduced - 1, high=lambda r: r.reproduced + 1
    )
    (axis,) = comparisons.cost_quality(rows).axes
    assert axis.get_xscale() == "log"
    assert shown(axis) == [(0.1, 10), (0.12, 11), (0.001, 60)]
    assert [text.get_text() for text in axis.texts][1:] == ["TAME, 1", "Grad-CAM, 1", "random (control), 0"]


def test_placed_texts_cover_nothing():
    figure, axis = plt.subplots(figsize=(6, 4))
    points = [(0.5, 0.5), (0.5, 0.51), (0.51, 0.5), (0.99, 0.9), (0.5, 0.53)]
    axis.set(xlim=(0, 1), ylim=(0, 1))
    placing.place(figure, axis, [f"label {i}" for i in range(5)], points, [(y, y) for _, y in points], ["black"] * 5)
    boxes = [text.get_window_extent() for text in axis.texts]
    frame = axis.get_window_extent()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    plt.close(figure)


def test_superimposed():
    pixels, maps = torch.rand(2, 3, 8, 8), {name: torch.rand(2, 8, 8) for name in NAMES}
    figure = comparisons.superimposed(pixels, maps, ["a $ b", "two"])
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", "TAME", "Grad-CAM", "random (control)"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a $ b", "two"]
    np.testing.assert_allclose(axes[1, 2].images[1].get_array(), maps["grad-cam"][1])
    jet = comparisons.superimposed(pixels, maps, jet=True).axes[6].images
    wanted = pixels[1].permute(1, 2, 0).numpy() + plt.get_cmap("jet")(maps["grad-cam"][1].numpy())[..., :3]
    np.testing.assert_allclose(jet[0].get_array(), wanted / wanted.max(), atol=1e-6)


def test_convention_bars():
    table = pd.DataFrame(
        {
            "convention": k,
            "description": c.description,
            "reproduced": 10.0 * i,
            "low": 10.0 * i - 1,
            "high": 10.0 * i + 2,
        }
        for i, (k, c) in enumerate(CONVENTIONS.items(), start=1)
    )
    (axis,) = comparisons.convention_bars(table).axes
    assert [x for x, _ in shown(axis)] == [10.0 * i for i in range(1, 9)]
    assert [line.get_marker() for line in axis.lines].count("D") == 1  # the papers'
    assert [text.get_text() for text in axis.texts][:2] == ["10.0", "20.0"]
    assert len(axis.get_yticklabels()) == 8


def test_explainers_look_alike_everywhere_and_differ_from_each_other():
    every = [*comparisons.TRAINED, *comparisons.UNTRAINED, "tame, 1 layer", "tame-no-skip", "mine"]
    found = comparisons.looks(every)
    assert len(set(found.values())) == len(every)
    assert comparisons.looks(["rise"])["rise"] == found["rise"]
    assert found["tame, 1 layer"][0] == found["tame"][0]
    assert found["mine"][0] == comparisons.OTHER
