"""Figures of numbers: trainings, values with intervals, overlap of models, explainers compared.

Explainers stand in families, of a hue each (`style.FAMILIES`). Filled marks and solid lines are trained explainers,
hollow marks and dashed lines need no training. Figures are as wide as a column of a paper, 85 mm, or as its page.
"""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn
from adjustText import adjust_text
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from ..metrics.statistics import bootstrap
from .style import LOOKS, OTHER, Look, families, look, looks, ordered, styled

if TYPE_CHECKING:
    from ..training.lr_range import LRRange

Histories = Mapping[str, Sequence[Mapping[str, float]]]  # {name: [a row per epoch]}, as `jobs.train` returns
Interval = tuple[float, float, float]  # value, low, high
Band = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, mean, low, high
TERMS = {"cross_entropy": "cross-entropy", "area": "area", "variation": "variation"}
PANELS = {
    "insertion": "insertion ↑\nprobability",
    "deletion": "deletion ↓\nprobability",
    "morf": "ROAD, MoRF ↓\nshare that stays",
    "lerf": "ROAD, LeRF ↑\nshare that stays",
}
CONTROL = "centre"  # of the explainers, the one to beat
COLUMN, PAGE = 3.35, 7.1  # inches
_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 1}


# --- Trainings


@styled
def training_curves(histories: Histories) -> Figure:
    """Loss and accuracy over the epochs, dotted training, solid validation. histories: {method: [dict per epoch]}."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8))
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for method, history in histories.items():
            for split, style in (("train", ":"), ("validation", "-")):
                label = look(method).title.split(" +")[0] if split == "validation" else None
                scale = 100 if quantity == "accuracy" else 1
                _history(axis, method, history, f"{split}_{quantity}", style, label, scale)
        axis.set(xlabel="epoch", ylabel="loss" if quantity == "loss" else "top-1 accuracy (%)")
    axes[0].set_ylim(bottom=0)
    axes[1].legend(title="solid: validation\ndotted: training", loc="lower right")
    return figure


@styled
def authors_trainings(log: pd.DataFrame, ours: Histories, place: tuple[str, str]) -> Figure:
    """What ABN's authors logged, a panel a network: error (%) over the epochs, dotted training, solid test.

    log: of `papers.published_trainings`. ours: {method: [dict per epoch]} of the data set and backbone `place`; where
    there is a panel of these, dashed: the error on validation images.
    """
    groups = list(log.groupby(["dataset", "backbone"], sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(1.9 * len(groups), 2.3), sharey=True)
    for axis, (where, part) in zip(axes, groups, strict=True):
        axis.plot(part.epoch, part.train_top1_error_pct, ":", color="0.5", linewidth=1)
        axis.plot(part.epoch, part.test_top1_error_pct, "-", color=look("abn").colour, linewidth=1.2)
        for method, history in ours.items() if where == place else ():
            errors = [100 - 100 * row["validation_accuracy"] for row in history]
            axis.plot([row["epoch"] for row in history], errors, "--", color=look(method).colour, linewidth=1.2)
        best = part.loc[part.test_top1_error_pct.idxmin()]
        axis.plot(best.epoch, best.test_top1_error_pct, "o", color="black", markersize=3)
        last = part.iloc[-1].test_top1_error_pct
        axis.set_title(f"{where[1]}\n{where[0]}: {best.test_top1_error_pct:.1f}, at last {last:.1f}", fontsize=7)
        axis.set(xlabel="epoch", ylim=(0, 80))
    axes[0].set_ylabel("top-1 error (%)")
    return figure


@styled
def loss_terms(histories: Histories) -> Figure:
    """The weighted terms of the loss over the epochs, solid training, dotted validation, a panel a term.

    histories: {name: [dict per epoch]}; a run without a term has no line there.
    """
    figure, axes = plt.subplots(1, len(TERMS), figsize=(7.4, 2.5))
    for axis, (term, title) in zip(axes, TERMS.items(), strict=True):
        for name, history in histories.items():
            for split, style in (("train", "-"), ("validation", ":")):
                # Where cross-entropy is the only term it is the loss.
                column = f"{split}_{term}"
                column = f"{split}_loss" if term == "cross_entropy" and column not in history[0] else column
                if column in history[0]:
                    _history(axis, name, history, column, style, look(name).title if split == "train" else None)
        axis.set(title=title, xlabel="epoch", ylim=(0, None))
    axes[0].set_ylabel("weighted loss")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _history(
    axis: Axes,
    name: str,
    history: Sequence[Mapping[str, float]],
    column: str,
    style: str,
    label: str | None,
    scale: float = 1,
) -> None:
    epochs, values = [row["epoch"] for row in history], [scale * row[column] for row in history]
    axis.plot(epochs, values, style, color=look(name).colour, label=label, marker="o", markersize=3, linewidth=1.4)
    locator: Any = axis.xaxis.get_major_locator()
    locator.set_params(integer=True, min_n_ticks=1)


@styled
def lr_curve(ranges: "Mapping[str, LRRange]") -> Figure:
    """Loss over a rising learning rate, faint as it was, strong smoothed, with the suggested rate marked."""
    figure, axis = plt.subplots(figsize=(4.6, 2.9))
    for name, found in ranges.items():
        colour = look(name).colour
        axis.plot(found.lrs, found.losses, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(found.lrs, found.smoothed, color=colour, linewidth=1.6, label=look(name).title)
        if found.suggestion:
            at = int(np.argmin(np.abs(np.log(found.lrs) - math.log(found.suggestion))))
            axis.plot(found.lrs[at], found.smoothed[at], "o", color=colour, markersize=6)
            _note(axis, f"{found.suggestion:.2g}", found.lrs[at], found.smoothed[at], (4, 5), fontsize=8, color=colour)
    everything = [value for found in ranges.values() for value in (*found.smoothed, *found.losses)]
    low, high = min(everything), max(found.smoothed[0] for found in ranges.values())
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.1 * (high - low), 1.2 * high))
    axis.legend(fontsize=8)
    return figure


def _note(axis: Axes, text: str, x: float, y: float, away: tuple[float, float], **look: Any) -> None:
    """A text beside a point, so many points away."""
    axis.annotate(text, (x, y), away, textcoords="offset points", **look)


# --- Values with intervals


def intervals(table: pd.DataFrame, labels: Mapping[str, str], name: str = "explainer") -> dict[str, dict]:
    """{label: {name: (value, low, high)}} for `interval_dots`, of the measures that the table has.

    table: columns `name`, measure, reproduced, low, high; labels: {measure: label of its panel}.
    """
    found = {}
    for measure, label in labels.items():
        part = table[table.measure == measure]
        if len(part):
            values = part[["reproduced", "low", "high"]].itertuples(index=False, name=None)
            found[label] = dict(zip(part[name], values, strict=True))
    return found


@styled
def interval_dots(panels: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Values with intervals, one panel per quantity. panels: {axis label: {method: (value, low, high)}}.

    One panel is as wide as a column, several at most as a page; those of the same methods share their names.
    """
    most, alike = max(map(len, panels.values())), len({tuple(rows) for rows in panels.values()}) == 1
    size = (COLUMN if len(panels) == 1 else min(PAGE, 2.2 + 1.9 * len(panels)), 0.7 + 0.26 * most)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=alike)
    for axis, (label, rows) in zip(axes[0], panels.items(), strict=True):
        for y, (method, (value, low, high)) in enumerate(rows.items()):
            axis.plot([low, high], [y, y], color=look(method).colour, linewidth=1.4)
            axis.plot(value, y, linestyle="", **_mark(look(method), 5))
            _note(axis, f"{value:.3g}", value, y, (0, 4), ha="center", fontsize=7)
        axis.set_yticks(range(len(rows)), [look(method).title for method in rows], fontsize=8)
        axis.set(xlabel=label, ylim=(len(rows) - 0.4, -0.7))
        _between_families(axis, list(rows))
    return figure


def _between_families(axis: Axes, rows: Sequence[str]) -> None:
    """A light line between two rows of methods of different families."""
    for y, (above, below) in enumerate(itertools.pairwise(rows)):
        if above and below and look(above).family != look(below).family:
            axis.axhline(y + 0.55, color="0.8", linewidth=0.6, zorder=0)


def _mark(own: Look, size: float = 6) -> dict[str, Any]:
    face = own.colour if own.trained else "white"
    shape = {"marker": own.marker or "o", "markersize": size, "markeredgewidth": 1.0}
    return {"color": own.colour, "markerfacecolor": face} | shape


class Runs(NamedTuple):
    """A number in several runs: of each, their mean with its interval, published ones, and the control's mean."""

    values: Sequence[float]
    interval: Interval
    published: Sequence[float] = ()
    control: float | None = None


@styled
def seed_dots(panels: Mapping[str, Mapping[tuple[str, str], Runs]], point: str = "a run") -> Figure:
    """Runs as points, their means with intervals above, a panel a quantity, on rows that all panels share.

    panels: {axis label: {(group, method): runs}}; point: what a point is. One panel is as wide as a column (85 mm),
    several as a page; means stand at the right, with three digits where all are below 1, else with one.
    """
    names = list(dict.fromkeys(key for rows in panels.values() for key in rows))
    groups = list(dict.fromkeys(group for group, _ in names))
    lines = [key for g in groups for key in [(g, "")] * (len(groups) > 1) + [key for key in names if key[0] == g]]
    size = (COLUMN if len(panels) == 1 else PAGE, 0.95 + 0.27 * len(lines))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (label, rows) in zip(axes[0], panels.items(), strict=True):
        digits = 3 if all(abs(row.interval[0]) < 1 for row in rows.values()) else 1
        for key, row in rows.items():
            y, own = lines.index(key), look(key[1])
            colour, (mean, low, high) = own.colour, row.interval
            if row.control is not None:
                axis.plot([row.control] * 2, [y - 0.5, y + 0.5], color=look(CONTROL).colour, linewidth=0.8, zorder=1)
            axis.plot(row.values, [y + 0.2] * len(row.values), "o", color=colour, alpha=0.45, markersize=3, mew=0)
            axis.plot([low, high], [y - 0.12] * 2, color=colour, linewidth=1.6)
            axis.plot(mean, y - 0.12, linestyle="", **_mark(own, 4.5))
            axis.plot(row.published, [y - 0.12] * len(row.published), "D", color="black", mfc="white", markersize=4.5)
            where = axis.get_yaxis_transform()
            axis.text(1.03, y, f"{mean:.{digits}f}", transform=where, va="center", fontsize=7.5)
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(axis="x", labelsize=7.5)
        axis.tick_params(axis="y", length=0)
        axis.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
        axis.grid(False, axis="y")
        _between_families(axis, [method for _, method in lines])
    axes[0, 0].set_yticks(range(len(lines)), [look(method).title if method else group for group, method in lines])
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    for text, (_, method) in zip(axes[0, 0].get_yticklabels(), lines, strict=True):
        text.set(fontsize=8, fontweight="normal" if method else "bold")
    marks: list[tuple[str, dict[str, Any]]] = [(point, {"marker": "o", "alpha": 0.45, "markersize": 3, "mew": 0})]
    marks += [("mean, 95 % interval", {"marker": "o", "markersize": 4.5, "linestyle": "-", "linewidth": 1.6})]
    every = [row for rows in panels.values() for row in rows.values()]
    if any(len(row.published) for row in every):
        marks += [("published", {"marker": "D", "color": "black", "mfc": "white", "markersize": 4.5})]
    if any(row.control is not None for row in every):
        marks += [(look(CONTROL).title, {"color": look(CONTROL).colour, "linestyle": "-", "linewidth": 0.8})]
    handles = [Line2D([], [], label=name, **{"linestyle": "", "color": OTHER} | mark) for name, mark in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(panels) == 1 else 4, fontsize=7.5)
    return figure


@styled
def convention_bars(table: pd.DataFrame) -> Figure:
    """The Average Drop of one explainer by convention, as dots with 95 % intervals; the papers' one is marked.

    table: of `conventions.average_drops`, columns convention, description, reproduced, low, high.
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.6 + 0.38 * len(table)))
    for y, row in enumerate(table.itertuples()):
        papers = row.convention == "papers"
        colour = LOOKS["tame"].colour if papers else "#444444"
        axis.plot([0, row.reproduced], [y, y], color=colour, linewidth=5, alpha=0.2, solid_capstyle="butt")
        axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
        axis.plot(row.reproduced, y, "D" if papers else "o", color=colour, markersize=5)
        _note(axis, f"{row.reproduced:.1f}", row.high, y, (5, 0), va="center", fontsize=8, bbox=_WHITE)
        if papers:
            axis.axvline(row.reproduced, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    texts = [f"{row.convention}: {row.description}" for row in table.itertuples()]
    texts = [textwrap.fill(text, 56, break_on_hyphens=False) for text in texts]
    axis.set_yticks(range(len(table)), texts, fontsize=8, parse_math=False)
    axis.set(xlabel="Average Drop (%)", ylim=(len(table) - 0.4, -0.6))
    axis.set_xlim(min(0, table.low.min()), 1.12 * table.high.max())
    axis.grid(False, axis="y")
    return figure


# --- Overlap of models


@styled
def iou_between_models(
    reproduced: Mapping[tuple[str, str], pd.DataFrame], published: tuple[pd.DataFrame, pd.DataFrame]
) -> Figure:
    """IoU between models (a) pair by pair and (b) on average; filled: ours with 95 % intervals, hollow: published.

    reproduced: {(method, title of the data set): table of `overlap.consensus`}. Of n models the line joins the n pairs
    of neighbours, the last model and the first among them; points at "other" are the rest. published: `published_iou`.
    """
    per_model, mean = published
    theirs = {(row.method, row.dataset): row.published for row in mean.itertuples()}
    cases = list(dict.fromkeys([*reproduced, *theirs]))
    shapes = dict(zip(dict.fromkeys(dataset for _, dataset in cases), itertools.cycle("osD^vP"), strict=False))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.2), gridspec_kw={"width_ratios": [1, 1.1]})
    last = 5  # of the published
    for method, dataset in cases:
        drawn = {"color": look(method).colour, "marker": shapes[dataset], "linewidth": 1.1, "markersize": 4.5}
        if (method, dataset) in theirs:
            line = per_model[(per_model.method == method) & (per_model.dataset == dataset)].published
            left.plot(range(1, len(line) + 1), line, ":", markerfacecolor="white", **drawn)
        if (method, dataset) in reproduced:
            line, rest = _neighbours(reproduced[method, dataset])
            left.plot(range(1, len(line) + 1), line, "-", **drawn)
            left.plot([6] * len(rest), rest, **drawn | {"linestyle": "", "markersize": 3, "alpha": 0.6})
            last = max(last, len(line), 6 if rest else 0)
    left.set_xticks(range(1, last + 1), ["1st", "2nd", "3rd", "4th", "5th", "other"][:last])
    left.set(xlabel="pair of models", ylabel="IoU", ylim=(0, 1), title="(a) each pair")
    _averages(right, reproduced, theirs, list(shapes))
    marks: list[Artist] = [Line2D([], [], color="#444444", marker=m, ls="", label=d) for d, m in shapes.items()]
    for method in dict.fromkeys(method for method, _ in cases):
        marks.append(Rectangle((0, 0), 1, 1, color=look(method).colour, label=look(method).title))
    for label, face, hatch in (("ours", "#777777", ""), ("published", "white", "////")):
        marks.append(Rectangle((0, 0), 1, 1, edgecolor="#777777", facecolor=face, hatch=hatch, label=label))
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _neighbours(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    """IoU of neighbouring models in their order, the last with the first at the end; and of all other pairs."""
    table = table[table.base != "all pairs"]
    names = list(dict.fromkeys([*table.base, *table.target]))
    ring = list(itertools.pairwise(names)) + ([(names[0], names[-1])] if len(names) > 2 else [])
    values = {(row.base, row.target): row.iou for row in table.itertuples()}
    return [values[pair] for pair in ring], [value for pair, value in values.items() if pair not in ring]


def _averages(
    axis: Axes,
    reproduced: Mapping[tuple[str, str], pd.DataFrame],
    theirs: Mapping[tuple[str, str], float],
    datasets: Sequence[str],
) -> None:
    """Bars side by side per data set: of each method the published value, hatched, then ours with its interval."""
    methods = list(dict.fromkeys(method for method, _ in [*theirs, *reproduced]))
    for x, dataset in enumerate(datasets):
        bars: list[tuple[str, float, Any]] = []  # colour, value, row of ours
        for case in ((method, dataset) for method in methods):
            colour = look(case[0]).colour
            bars += [(colour, theirs[case], None)] if case in theirs else []
            rows = [reproduced[case].iloc[-1]] if case in reproduced else []
            bars += [(colour, row.iou, row) for row in rows]
        for k, (colour, value, row) in enumerate(bars):
            place, top = x + 0.23 * (k - (len(bars) - 1) / 2), value
            face, hatch = ("white", "////") if row is None else (colour, "")
            axis.bar(place, value, 0.2, edgecolor=colour, facecolor=face, hatch=hatch)
            if row is not None:
                axis.plot([place, place], [row.low, row.high], color="black", linewidth=1.2)
                top = row.high
            _note(axis, f"{value:.2f}", place, top, (0, 2), ha="center", fontsize=6.5)
    axis.set_xticks(range(len(datasets)), datasets, rotation=25, ha="right", rotation_mode="anchor")
    axis.set(ylabel="mean IoU", ylim=(0, 1), title="(b) average")
    axis.grid(False, axis="x")


@styled
def iou_curve(curves: Mapping[str, Band], threshold: float) -> Figure:
    """IoU over the threshold, with its interval. curves: {method: (thresholds, mean, low, high)}, of `overlap.band`.

    threshold: the one that the tables take, marked.
    """
    figure, axis = plt.subplots(figsize=(3.8, 2.7))
    for method, (thresholds, mean, low, high) in curves.items():
        axis.plot(thresholds, mean, color=look(method).colour, linewidth=1.5, label=look(method).title)
        axis.fill_between(thresholds, low, high, color=look(method).colour, alpha=0.25, linewidth=0)
    axis.axvline(threshold, color="#444444", linewidth=0.8, linestyle="--")
    axis.set(xlabel="threshold (of 255)", ylabel="IoU", xlim=(0, 255), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return figure


# --- Explainers compared


def _better(axis: Axes, corner: str) -> None:
    """A light note in the corner where the best lies, "upper left" or "lower left"."""
    y, text, side = (0.98, "↖ better", "top") if corner == "upper left" else (0.02, "↙ better", "bottom")
    axis.text(0.02, y, text, transform=axis.transAxes, fontsize=8, color="#777777", ha="left", va=side)


@styled
def quality_plane(rows: pd.DataFrame) -> Figure:
    """AD against IC, a panel per share of the pixels kept, with 95 % intervals; the best lie in the upper left.

    rows: of `scoring.summary`, columns explainer, measure ("AD 100", "IC 100" ...), reproduced, low, high. Lines cross
    in the control "centre", if it is there: what lies above and left of them is better in both.
    """
    own, found = looks(ordered(rows.explainer.unique())), {(r.explainer, r.measure): r for r in rows.itertuples()}
    figure, axes = plt.subplots(3, 1, figsize=(COLUMN, 5.4 + 0.16 * -(-len(own) // 3)))
    for axis, percent in zip(axes, (100, 50, 15), strict=True):
        for name, drawn in own.items():
            x, y = (found[name, f"{measure} {percent}"] for measure in ("AD", "IC"))
            axis.plot([x.low, x.high], [y.reproduced] * 2, color=drawn.colour, linewidth=0.8)
            axis.plot([x.reproduced] * 2, [y.low, y.high], color=drawn.colour, linewidth=0.8)
            seen_through = {} if drawn.trained else {"markerfacecolor": "none"}  # some lie upon each other
            axis.plot(x.reproduced, y.reproduced, linestyle="", zorder=3, **_mark(drawn, 5) | seen_through)
            if name == CONTROL:
                for line, value in ((axis.axvline, x.reproduced), (axis.axhline, y.reproduced)):
                    line(value, color=drawn.colour, linewidth=0.7, linestyle=":", zorder=0)
        axis.margins(0.06, 0.14)
        axis.set(ylabel="IC (%)", title=f"{percent} % of the pixels")
        _better(axis, "upper left")
    axes[-1].set_xlabel("AD (%)")
    handles = [Line2D([], [], linestyle="", label=drawn.title, **_mark(drawn, 5)) for drawn in own.values()]
    tight: dict[str, Any] = {"fontsize": 7, "handletextpad": 0.1, "columnspacing": 0.8, "labelspacing": 0.3}
    figure.legend(handles=handles, loc="outside lower center", ncols=3, **tight)
    return figure


def bands(table: pd.DataFrame, measure: str) -> dict[str, Band]:
    """Mean score over the share of pixels with its 95 % bootstrap band: {explainer: (shares, mean, low, high)}.

    table: of `scoring.score`, with columns explainer and measure_0, measure_1 ... per image. measure: "insertion" or
    "deletion", whose columns are equal steps up to all pixels; "morf", "lerf" or another, whose columns are percent.
    """
    columns = {int(c.removeprefix(f"{measure}_")): c for c in table if c.startswith(f"{measure}_")}
    steps = sorted(columns)
    shares = np.array(steps, dtype=float) * (100 / steps[-1] if measure in ("insertion", "deletion") else 1)
    found = {}
    for name, part in table.groupby("explainer", sort=False):
        values = part[[columns[step] for step in steps]].to_numpy(dtype=float)
        found[name] = shares, values.mean(0), *bootstrap(values)
    return found


@styled
def perturbation_curves(curves: Mapping[str, Mapping[str, Band]]) -> Figure:
    """Mean score of the class over the share of pixels, with 95 % bands, a row a family of explainers (`_multiples`).

    curves: {"insertion", "deletion", "morf" or "lerf": {explainer: (shares in %, mean, low, high)}}, see `bands`; a
    column for each that is given.
    """
    figure, axes = _multiples({PANELS[key]: lines for key, lines in curves.items()})
    for axis, key in zip(axes[-1], curves, strict=True):
        axis.set_xlabel(f"pixels {'inserted' if key == 'insertion' else 'removed'} (%)", fontsize=8)
    return figure


@styled
def threshold_curves(rows: pd.DataFrame) -> Figure:
    """AD and IC over the share of the pixels that the mask keeps, with 95 % bands, a row a family (`_multiples`).

    rows: of `scoring.summary` for several fractions, columns explainer, measure ("AD 15" ...), reproduced, low, high.
    """
    panels = {}
    for measure, better in (("AD", "↓"), ("IC", "↑")):
        part = rows[rows.measure.str.startswith(f"{measure} ")]
        part = part.assign(kept=part.measure.str.split().str[1].astype(float)).sort_values("kept")
        lines = {name: own[["kept", "reproduced", "low", "high"]] for name, own in part.groupby("explainer")}
        panels[f"{measure} (%) {better}"] = {name: tuple(own.T.to_numpy()) for name, own in lines.items()}
    figure, axes = _multiples(panels)
    for axis in axes[-1]:
        axis.set_xlabel("pixels kept (%)", fontsize=8)
    return figure


def _multiples(panels: Mapping[str, Mapping[str, Band]]) -> tuple[Figure, np.ndarray]:
    """A row a family, a column a panel {title: {explainer: (x in %, mean, low, high)}}: lines with bands, named beside.

    In each the explainers of all other families stand behind in light grey; the control "centre" is the line to beat.
    """
    groups = families(dict.fromkeys(name for lines in panels.values() for name in lines))
    controls = groups.pop("controls", [])
    groups = groups or {"controls": controls}
    size = (COLUMN if len(panels) == 1 else PAGE, 0.8 + 1.25 * len(groups))
    figure, axes = plt.subplots(len(groups), len(panels), figsize=size, squeeze=False, sharex=True, sharey="col")
    for row, own in zip(axes, groups.values(), strict=True):
        shown = looks([*own, *(name for name in controls if name == CONTROL and name not in own)])
        for axis, lines in zip(row, panels.values(), strict=True):
            for name in (name for name in lines if name not in shown):
                axis.plot(*lines[name][:2], color="0.85", linewidth=0.7, zorder=1)
            for i, (name, drawn) in enumerate(shown.items()):
                x, mean, low, high = lines[name]
                every = max(1, round(len(x) / 5))
                style: dict[str, Any] = {"markevery": (i % every, every), "linewidth": 1.2, **_line(drawn)}
                axis.plot(x, mean, **style, **_mark(drawn, 3.5))
                axis.fill_between(x, low, high, color=drawn.colour, alpha=0.12, linewidth=0)
            axis.set(xlim=(-4, 104), xticks=(0, 50, 100))
            axis.tick_params(labelsize=7.5)
        handles = [Line2D([], [], label=drawn.title, **_line(drawn), **_mark(drawn, 4)) for drawn in shown.values()]
        row[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7.5, handlelength=2.4)
    for axis, title in zip(axes[0], panels, strict=True):
        axis.set_title(title, fontsize=8)
        axis.set_ylim(bottom=0)
    return figure, axes


def _line(own: Look) -> dict[str, Any]:
    return {"linestyle": "-" if own.trained else ":" if own.family == "controls" else "--"}


@styled
def cost_quality(rows: pd.DataFrame) -> Figure:
    """Milliseconds an image (logarithmic) against AD, each mark with its name and forward passes (#FW).

    rows: the columns of `scoring.cost`, and reproduced, low, high (AD 100 in %).
    """
    figure, axis = plt.subplots(figsize=(PAGE, 4.4))
    drawn = list(zip(rows.to_dict("records"), looks(rows.explainer).values(), strict=True))
    spans = []
    for row, own in drawn:
        x, y = row["milliseconds"], row["reproduced"]
        light: dict[str, Any] = {"color": own.colour, "linewidth": 1, "alpha": 0.5}
        axis.plot([x, x], [row["low"], row["high"]], **light)
        axis.plot([row["lower quartile"], row["upper quartile"]], [y, y], **light)
        axis.plot(x, y, linestyle="", zorder=3, **_mark(own))
        spans.append((row["lower quartile"], x, row["upper quartile"], row["low"], y, row["high"]))
    axis.set(xscale="log", xlabel="milliseconds an image; beside the name: forward passes (#FW)", ylabel="AD (%)")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(0.17, 0.12)
    _better(axis, "lower left")
    names = [f"{own.title}, {row['forward passes']:g}" for row, own in drawn]
    _label(figure, axis, names, spans, [own.colour for _, own in drawn])
    return figure


def _label(
    figure: Figure,
    axis: Axes,
    names: Sequence[str],
    spans: Sequence[tuple[float, ...]],
    colours: Sequence[str],
) -> None:
    """Write names beside marks with intervals, (left, x, right, low, y, high), so that they cover none nor each other.

    Upright intervals, of which there are many, run behind names, which stand on white. A name that has to stand away
    from its mark is led to it by a thin line. The same figure is the same file: the rounds of moving are limited, not
    the time. Limits and scales of the axes have to be final.
    """
    figure.draw_without_rendering()  # fixes the layout, in which they are moved
    point, to, back = figure.dpi / 72, axis.transData.transform, axis.transData.inverted().transform
    marks = [to([(left, low), (x, y), (right, high)]) for left, x, right, low, y, high in spans]
    covered = [Bbox([(x - 5 * point, y - 5 * point), (x + 5 * point, y + 5 * point)]) for _, (x, y), _ in marks]
    covered += [Bbox([(left, y - 2 * point), (right, y + 2 * point)]) for (left, _), (_, y), (right, _) in marks]
    frame = axis.get_window_extent()

    def cover(text: Text) -> int:
        box = text.get_window_extent()
        return box.count_overlaps(covered) + 10 * (box.x0 < frame.x0 or box.x1 > frame.x1)

    texts, white = [], _WHITE | {"pad": 0.5, "alpha": 0.8}
    for name, (_, (x, y), _), colour in zip(names, marks, colours, strict=True):
        sides = []
        for away, ha in ((7, "left"), (-7, "right")):
            place = back((x + away * point, y)).tolist()
            sides.append(
                axis.text(place[0], place[1], name, fontsize=7.5, color=colour, ha=ha, va="center", bbox=white)
            )
        best, other = sorted(sides, key=cover)
        other.remove()
        texts.append(best)
    _, x, _, _, y, _ = zip(*spans, strict=True)
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4}
    rules = {"avoid_self": False, "explode_radius": 0, "expand": (1.02, 1.15), "force_static": (0.1, 0.3)}
    lead = {"target_x": x, "target_y": y, "arrowprops": line, "min_arrow_len": 12 * point}
    objects = [Bbox(back(box.get_points())) for box in covered]
    adjust_text(texts, objects=objects, ax=axis, iter_lim=1000, **rules, **lead)


# --- Metrics compared


@styled
def heat_map(values: pd.DataFrame, label: str, scale: tuple[float, float, float]) -> Figure:
    """A table of numbers as coloured cells with their values; scale: the least, the neutral and the largest value.

    values: rows and columns by their names; label: of the colours. As wide as a column (85 mm) up to six columns.
    """
    rows, columns = values.shape
    size = (1.35 + 0.4 * columns if columns > 6 else COLUMN, 1.1 + 0.22 * rows)
    figure, axis = plt.subplots(figsize=size)
    low, middle, high = scale
    digits = {"fmt": ".0f" if high - low > 10 else ".2f", "annot_kws": {"fontsize": 6.5}}
    colours = {"cmap": "RdBu_r" if low >= 0 else "RdBu", "vmin": low, "center": middle, "vmax": high}
    bar = {"label": label, "shrink": 0.6}
    seaborn.heatmap(values, annot=True, ax=axis, linewidths=0.5, cbar_kws=bar, **digits, **colours)
    axis.set(xlabel="", ylabel="")
    axis.grid(False)
    axis.tick_params(length=0, labelsize=7.5)
    axis.set_xticklabels(axis.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
    return figure
