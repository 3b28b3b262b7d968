"""Charts draw the marks, lines and values that they were given, in the same look everywhere."""

import colorsys
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from lficam.data import papers
from lficam.data.papers import published_iou
from lficam.metrics import statistics
from lficam.metrics.conventions import CONVENTIONS
from lficam.plots import charts, pictures, style
from lficam.training.lr_range import LRRange

NAMES = ["tame", "grad-cam", "centre"]


def history(*terms):
    return [{"epoch": e} | {f"{s}_{t}": 1.0 / e for s in ("train", "validation") for t in terms} for e in (1, 2, 3)]


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


def test_the_authors_trainings_have_a_panel_each_and_ours_where_it_belongs():
    log = papers.published_trainings()
    ours = {"abn": [{"epoch": 1, "validation_accuracy": 0.25}, {"epoch": 2, "validation_accuracy": 0.5}]}
    panels = charts.authors_trainings(log, ours, ("CIFAR-100", "WRN-28-10")).axes
    assert [len(panel.lines) for panel in panels] == [3, 3, 4, 3, 3]
    assert "18.1, at last 20.0" in panels[2].get_title()
    assert panels[2].lines[2].get_ydata().tolist() == [75, 50]


def test_trainings():
    full, ce = history("loss", "cross_entropy", "area", "variation"), history("loss")
    axes = charts.loss_terms({"tame": full, "l-cam-img-ce": ce}).axes
    assert [axis.get_title() for axis in axes] == ["cross-entropy", "area", "variation"]
    assert [len(axis.lines) for axis in axes] == [4, 2, 2]  # cross-entropy alone has no other term
    assert axes[0].lines[0].get_ydata().tolist() == [1.0, 0.5, 1 / 3]
    loss, accuracy = charts.training_curves({"abn": history("loss", "accuracy")}).axes
    assert [line.get_linestyle() for line in loss.lines] == [":", "-"]
    assert accuracy.lines[1].get_ydata() == pytest.approx([100, 50, 100 / 3])


def test_lr_curve_marks_the_suggestion():
    lrs = [1e-4, 1e-3, 1e-2, 1e-1]
    found = LRRange(lrs, [4.0, 3.5, 2.0, 9.0], [4.0, 3.0, 2.0, 5.0], 1e-3)
    (axis,) = charts.lr_curve({"tame": found}).axes
    assert axis.get_xscale() == "log"
    assert axis.lines[2].get_xdata()[0] == 1e-3
    assert len(charts.lr_curve({"tame": found._replace(suggestion=None)}).axes[0].lines) == 2


def test_intervals(rows):
    panels = charts.intervals(rows, {"AD 50": "drop", "IoU": "not measured"})
    assert panels == {"drop": {name: (15.0 + 20 * i, 13.0 + 20 * i, 18.0 + 20 * i) for i, name in enumerate(NAMES)}}
    (axis,) = charts.interval_dots(panels).axes
    assert shown(axis) == [(15, 0), (35, 1), (55, 2)]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["TAME", "Grad-CAM", "centre (control)"]


def test_runs_are_points_on_rows_that_panels_share():
    iou = {("d", "abn"): charts.Runs([0.2, 0.4], (0.3, 0.1, 0.5), [0.29])}
    drop = {("d", "abn"): charts.Runs([20, 30, 40], (30, 20, 40), (), 52.5), ("e", "tame"): charts.Runs([1], (1, 0, 2))}
    figure = charts.seed_dots({"AD": drop, "IoU": iou})
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["d", "ABN", "e", "TAME"]
    assert left.lines[0].get_xdata().tolist() == [52.5, 52.5]
    assert left.lines[1].get_xdata().tolist() == [20, 30, 40]
    assert [text.get_text() for text in left.texts + right.texts] == ["30.0", "1.0", "0.300"]
    assert right.lines[-1].get_xydata().tolist() == [[0.29, pytest.approx(0.88)]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a run", "mean, 95 % interval", "published", "centre (control)"]


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
    (axis,) = charts.convention_bars(table).axes
    assert [x for x, _ in shown(axis)] == [10.0 * i for i in range(1, 9)]
    assert [line.get_marker() for line in axis.lines].count("D") == 1  # the papers'
    assert [text.get_text() for text in axis.texts][:2] == ["10.0", "20.0"]


def overlap(models, seed, centre):
    """What `overlap.consensus` gives, of made-up numbers."""
    values = np.random.default_rng(seed).normal(centre, 0.04, models * (models - 1) // 2)
    names = [f"model {k}" for k in range(1, models + 1)]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    found = [(a, b, v, v - 0.02, v + 0.02) for (a, b), v in zip(pairs, values, strict=True)]
    found.append(("all pairs", "", values.mean(), values.mean() - 0.02, values.mean() + 0.02))
    return pd.DataFrame(found, columns=["base", "target", "iou", "low", "high"])


@pytest.mark.parametrize("models", [2, 5])
def test_iou_between_models(models):
    ours = {("abn", "CIFAR-10"): overlap(models, 0, 0.3), ("lfi-cam", "photo-digits"): overlap(models, 1, 0.6)}
    left, right = charts.iou_between_models(ours, published_iou()).axes
    assert [len(line.get_xdata()) for line in left.lines].count(5) >= 6
    assert len(right.patches) == 6 + 2
    line, rest = charts._neighbours(ours["abn", "CIFAR-10"])  # every pair once
    assert sorted(line + rest) == sorted(ours["abn", "CIFAR-10"].iou[:-1])
    assert len(line) == (1 if models == 2 else models)


def test_iou_curve():
    x = np.arange(0, 256, 15)
    (axis,) = charts.iou_curve(dict.fromkeys(("abn", "lfi-cam"), (x, x / 300, x / 310, x / 290)), 100).axes
    assert len(axis.collections) == 2


def test_quality_plane(rows):
    figure = charts.quality_plane(rows)
    assert [axis.get_title()[:4] for axis in figure.axes] == ["100 ", "50 %", "15 %"]
    assert shown(figure.axes[0]) == [(10, 40), (30, 30), (50, 20)]
    assert shown(figure.axes[2]) == [(18.5, 31.5), (38.5, 21.5), (58.5, 11.5)]
    assert figure.axes[0].lines[0].get_xdata().tolist() == [8, 13]  # the interval
    upright, across = (line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    assert (upright.get_xdata(), across.get_ydata()) == ([50, 50], [20, 20])  # through the centre
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["TAME", "Grad-CAM", "centre (control)"]
    (first, *_) = charts.quality_plane(rows[rows.explainer != "centre"]).axes
    assert not [line for line in first.lines if line.get_linestyle() == ":"]


def test_bands():
    torch.manual_seed(0)
    values = torch.rand(40, 3).double().numpy()
    table = pd.DataFrame(values, columns=["insertion_0", "insertion_1", "insertion_2"])
    table = table.assign(explainer=["tame"] * 20 + ["rise"] * 20, morf_10=values[:, 0], morf_90=values[:, 1])
    shares, mean, low, high = charts.bands(table, "insertion")["rise"]
    assert shares.tolist() == [0, 50, 100]
    np.testing.assert_allclose(mean, values[20:].mean(0))
    np.testing.assert_allclose([low[1], high[1]], statistics.bootstrap(values[20:, 1]), atol=0.02)
    assert charts.bands(table, "morf")["tame"][0].tolist() == [10, 90]


def test_curves_have_a_row_a_family_and_the_centre_in_each(rows):
    line = np.array([0.0, 50, 100]), np.array([0.1, 0.5, 0.8]), np.array([0, 0.4, 0.7]), np.array([0.2, 0.6, 0.9])
    high = tuple(values + 1 for values in line)
    names = ["rise", "centre", "tame", "random", "l-cam-img"]
    curves = {key: dict.fromkeys(names, line) | {"rise": high} for key in ("insertion", "deletion", "morf", "lerf")}
    axes = np.array(charts.perturbation_curves(curves).axes).reshape(2, 4)
    assert [axis.get_title().split("\n")[0] for axis in axes[0]] == [
        "insertion ↑", "deletion ↓", "ROAD, MoRF ↓", "ROAD, LeRF ↑"
    ]  # fmt: skip
    assert [text.get_text() for text in axes[0, 3].get_legend().get_texts()] == [
        "TAME", "L-CAM-Img", "centre (control)"
    ]  # fmt: skip
    assert [text.get_text() for text in axes[1, 3].get_legend().get_texts()] == ["RISE", "centre (control)"]
    for axis, bands in zip(axes[:, 1], (3, 2), strict=True):
        assert (len(axis.lines), len(axis.collections)) == (5, bands)  # the other families without bands
        assert [line.get_color() for line in axis.lines].count("0.85") == 5 - bands
        assert axis.get_ylim()[1] > 1.9  # of all families
    assert [line.get_linestyle() for line in axes[0, 0].lines[-3:]] == ["-", "-", ":"]
    assert axes[1, 0].lines[-2].get_ydata().tolist() == [1.1, 1.5, 1.8]
    assert len(charts.perturbation_curves({"lerf": dict.fromkeys(["random", "centre"], line)}).axes) == 1
    drop, increase, *below = charts.threshold_curves(rows).axes
    assert [drop.get_title(), increase.get_title()] == ["AD (%) ↓", "IC (%) ↑"]
    assert drop.lines[1].get_xydata().tolist() == [[15, 18.5], [50, 15], [100, 10]]
    assert below[1].lines[2].get_ydata().tolist() == [11.5, 15, 20]


def crowd():
    """Explainers that lie close together, as `cost_quality` takes them."""
    names = ["tame", "grad-cam", "grad-cam++", "l-cam-fm", "ablation-cam", "rise", "tame, 1 layer"]
    rows = pd.DataFrame({"explainer": names, "milliseconds": [4, 4.5, 3.7, 4.2, 6.2, 110, 4.1]})
    rows["forward passes"] = [1, 1, 1, 1, 64, 200, 1]
    rows["lower quartile"], rows["upper quartile"] = 0.9 * rows.milliseconds, 1.2 * rows.milliseconds
    rows = rows.assign(reproduced=[18.0, 59, 52, 53, 56, 23, 19])
    return rows.assign(low=rows.reproduced - 3, high=rows.reproduced + 4)


@pytest.mark.slow
def test_names_of_a_scatter_plot_cover_nothing_and_stay_where_they_are(tmp_path):
    figures = [charts.cost_quality(crowd()) for _ in range(2)]
    for k, figure in enumerate(figures):
        pictures.save(figure, tmp_path / str(k), "cost")
    for kind in ("png", "svg", "pdf"):
        first, second = ((tmp_path / str(k) / f"cost.{kind}").read_bytes() for k in range(2))
        assert first == second
    (axis,) = figures[0].axes
    assert axis.get_xscale() == "log"
    assert shown(axis) == list(zip(crowd().milliseconds, crowd().reproduced, strict=True))
    _, *texts = axis.texts
    assert [text.get_text() for text in texts][:2] == ["TAME, 1", "Grad-CAM, 1"]
    boxes, frame = [text.get_window_extent() for text in texts], axis.get_window_extent()
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert not any(box.contains(*axis.transData.transform(point)) for box in boxes for point in shown(axis))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
    figures[0].draw_without_rendering()
    assert not any(label.get_text() for label in axis.get_xticklabels(minor=True))
    ticks = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    assert len(ticks) >= 4
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(sorted(ticks, key=lambda box: box.x0)))


def test_explainers_look_alike_everywhere_and_differ_from_each_other():
    every = [name for name, look in style.LOOKS.items() if look.marker] + ["tame, 1 layer", "tame-no-skip", "mine"]
    found = style.looks(every)
    assert len({look[1:] for look in found.values()}) == len(every)
    assert style.looks(["rise"])["rise"] == found["rise"]
    assert found["tame, 1 layer"].colour == found["tame"].colour
    assert (found["mine"].title, found["mine"].colour) == ("mine", style.OTHER)


def test_heat_map_holds_every_value_in_its_cell():
    values = pd.DataFrame([[1.0, -0.25], [0.5, 1]], ["AD", "insertion"], ["AD", "insertion"])
    axis, bar = charts.heat_map(values, "tau-b", (-1, 0, 1)).axes
    assert [text.get_text() for text in axis.texts] == ["1.00", "-0.25", "0.50", "1.00"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["AD", "insertion"]
    assert bar.get_ylabel() == "tau-b"
    assert charts.heat_map(100 * values, "%", (0, 50, 100)).axes[0].texts[0].get_text() == "100"


def test_a_family_has_a_hue_and_no_two_share_one():
    hues = {family: [] for family in ("trained", "gradients", "masked images", "attention")}
    for look in style.LOOKS.values():
        if look.family in hues and look.marker:
            hue, saturation, _ = colorsys.rgb_to_hsv(*to_rgb(look.colour))
            hues[look.family].append((360 * hue + 60) % 360)  # red in the middle
            assert saturation > 0.25
    ends = sorted((min(found), max(found)) for found in hues.values())
    assert all(high - low <= 65 for low, high in ends)
    assert all(low - high >= 15 for (_, high), (low, _) in itertools.pairwise(ends))
    controls = [to_rgb(style.look(name).colour) for name in ("own", "random", "centre")]
    assert all(max(colour) == min(colour) for colour in controls)


def test_families_stand_in_one_order_whatever_was_given():
    names = [
        "centre",
        "mine",
        "rise",
        "tame, 1 layer",
        "legrad",
        "finer-cam",
        "p-tame",
        "grad-cam",
        "tame-no-skip",
        "tame",
    ]
    assert style.families(names) == {
        "trained": ["tame", "tame, 1 layer", "tame-no-skip", "p-tame"],
        "gradients": ["grad-cam", "finer-cam"],
        "masked images": ["rise"],
        "attention": ["legrad"],
        "others": ["mine"],
        "controls": ["centre"],
    }
    assert style.ordered(reversed(names)) == style.ordered(names)
    assert style.ordered(["y", "x"]) == ["y", "x"]


def test_rows_of_two_families_are_parted():
    figure = charts.interval_dots({"AD": dict.fromkeys(["tame", "l-cam-img", "rise", "centre"], (1, 0, 2))})
    lines = [line for line in figure.axes[0].lines if line.get_color() == "0.8"]
    assert [line.get_ydata()[0] for line in lines] == [1.55, 2.55]
