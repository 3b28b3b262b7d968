"""Figures that compare explainers: faithfulness, perturbation curves, cost, maps side by side, conventions.

Filled marks and solid lines are trained explainers, hollow marks and dashed lines need no training.
"""

import itertools
import textwrap

import numpy as np
from matplotlib import pyplot as plt

from ..metrics.statistics import bootstrap
from .placing import place
from .style import METHOD_COLOURS, METHOD_TITLES, OTHER, overlay, styled

TRAINED = {"l-cam-fm": "o", "l-cam-img": "s", "tame": "D", "t-tame": "P"}
# Colours beyond those of style.py are of Paul Tol's palettes for the colour-blind.
UNTRAINED = {
    "grad-cam": ("^", METHOD_COLOURS["grad-cam"]),
    "grad-cam++": ("v", "#DDAA33"),
    "layer-cam": ("<", "#44AA99"),
    "score-cam": (">", "#332288"),
    "ablation-cam": ("p", "#661100"),
    "rise": ("h", "#AA4499"),
    "random": ("X", OTHER),
    "centre": ("*", METHOD_COLOURS["centre"]),
}
PANELS = {"insertion": "insertion", "deletion": "deletion", "morf": "ROAD, MoRF", "lerf": "ROAD, LeRF"}
_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 1}
BETTER = {"insertion": "higher", "deletion": "lower", "morf": "lower", "lerf": "higher"}


def looks(names):
    """{explainer: (colour, marker, trained)}: of methods always the same; variants as "tame, 1 layer" share colour."""
    found, spare = {}, itertools.cycle("Hd8XP*<>")
    for name in names:
        base = max((m for m in TRAINED if name.startswith(m)), key=len, default=None)
        if name in UNTRAINED:
            found[name] = UNTRAINED[name][1], UNTRAINED[name][0], False
        elif base:
            found[name] = METHOD_COLOURS[base], TRAINED[name] if name in TRAINED else next(spare), True
        else:
            found[name] = OTHER, next(spare), True
    return found


def _mark(look, size=6):
    colour, marker, trained = look
    face = colour if trained else "white"
    return {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": size, "markeredgewidth": 1.2}


def _legend(figure, names, lines=False, columns=5):
    """One legend of explainers below all panels."""
    handles = []
    for name, look in looks(names).items():
        style = ("-" if look[2] else "--") if lines else ""
        handles.append(plt.Line2D([], [], linestyle=style, label=METHOD_TITLES.get(name, name), **_mark(look, 5)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), fontsize=8)


def _better(axis, corner):
    """A light note in the corner where the best lies, "upper left" or "lower left"."""
    y, text, side = (0.98, "↖ better", "top") if corner == "upper left" else (0.02, "↙ better", "bottom")
    axis.text(0.02, y, text, transform=axis.transAxes, fontsize=8, color="#777777", ha="left", va=side)


@styled
def quality_plane(rows, percents=(100, 50, 15)):
    """AD against IC, a panel per share of the pixels kept, with 95 % intervals; the best lie in the upper left.

    rows: of `scoring.summary`, columns explainer, measure ("AD 100", "IC 100" ...), reproduced, low, high. With
    controls ("random", "centre") among the explainers there is a second row of panels without them, closer up.
    """
    names = list(dict.fromkeys(rows.explainer))
    close = [name for name in names if name not in ("random", "centre")]
    shown = [names, close] if close and len(close) < len(names) else [names]
    found = {(r.explainer, r.measure): (r.reproduced, r.low, r.high) for r in rows.itertuples()}
    size = 2.4 * len(percents), 0.8 + 2.2 * len(shown)
    figure, axes = plt.subplots(len(shown), len(percents), figsize=size, squeeze=False)
    for (i, line), (k, percent) in itertools.product(enumerate(shown), enumerate(percents)):
        axis = axes[i, k]
        for name, look in looks(line).items():
            (x, left, right), (y, bottom, top) = (found[name, f"{measure} {percent}"] for measure in ("AD", "IC"))
            axis.plot([left, right], [y, y], color=look[0], linewidth=1)
            axis.plot([x, x], [bottom, top], color=look[0], linewidth=1)
            axis.plot(x, y, linestyle="", zorder=3, **_mark(look))
        axis.margins(0.08, 0.16)
        axis.set(title="without controls" if i else f"{percent} % of the pixels")
        _better(axis, "upper left")
    for axis in axes[-1]:
        axis.set_xlabel("AD (%)")
    for axis in axes[:, 0]:
        axis.set_ylabel("IC (%)")
    _legend(figure, names)
    return figure


def bands(table, measure):
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
def perturbation_curves(curves):
    """Mean score of the class over the share of pixels, with 95 % bands.

    curves: {"insertion", "deletion", "morf" or "lerf": {explainer: (shares in %, mean, low, high)}}, see `bands`; a
    panel for each that is given.
    """
    count, wide = len(curves), 2 if len(curves) in (2, 4) else min(len(curves), 3)
    high = -(-count // wide)
    figure, axes = plt.subplots(high, wide, figsize=(7.2, 0.8 + 2.2 * high), squeeze=False)
    for axis, (key, lines) in zip(axes.flat, curves.items(), strict=False):
        _lines(axis, lines)
        done = "inserted" if key == "insertion" else "removed"
        axis.set(title=f"{PANELS[key]} ({BETTER[key]} is better)", xlabel=f"pixels {done} (%)")
        axis.set(xlim=(-3, 103), xticks=range(0, 101, 20), ylim=(0, None))
    for axis in axes.flat[count:]:
        axis.axis("off")
    for axis, key in zip(axes[:, 0], list(curves)[::wide], strict=True):
        axis.set_ylabel("share of predictions that stay" if key in ("morf", "lerf") else "probability")
    _legend(figure, dict.fromkeys(name for lines in curves.values() for name in lines), lines=True)
    return figure


def _lines(axis, lines, marks=6):
    """{explainer: (x, mean, low, high)} as lines with bands, and about so many marks, not all at the same places."""
    for i, (name, look) in enumerate(looks(lines).items()):
        x, mean, low, high = lines[name]
        every = max(1, round(len(x) / marks))
        place = {"markevery": (i % every, every), "linestyle": "-" if look[2] else "--", "linewidth": 1.3}
        axis.plot(x, mean, **place, **_mark(look, 4))
        axis.fill_between(x, low, high, color=look[0], alpha=0.15, linewidth=0)


@styled
def threshold_curves(rows):
    """AD and IC over the share of the pixels that the mask keeps, with 95 % bands.

    rows: of `scoring.summary` for several fractions, columns explainer, measure ("AD 15" ...), reproduced, low, high.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2))
    names = list(dict.fromkeys(rows.explainer))
    for axis, measure, better in zip(axes, ("AD", "IC"), ("lower", "higher"), strict=True):
        part = rows[rows.measure.str.startswith(f"{measure} ")]
        part = part.assign(kept=part.measure.str.split().str[1].astype(float)).sort_values("kept")
        lines = {name: part[part.explainer == name] for name in names}
        _lines(
            axis,
            {name: tuple(line[["kept", "reproduced", "low", "high"]].T.to_numpy()) for name, line in lines.items()},
        )
        axis.set(xlabel="pixels kept (%)", ylabel=f"{measure} (%)", title=f"{better} is better", ylim=(0, None))
    _legend(figure, names, lines=True)
    return figure


@styled
def cost_quality(rows):
    """Seconds an image (logarithmic) against AD, each mark with its name and forward passes (#FW).

    rows: columns explainer, seconds, passes (of the classifier an image), reproduced, low, high (AD 100 in %).
    """
    figure, axis = plt.subplots(figsize=(7.2, 3.8))
    for row, look in zip(rows.itertuples(), looks(rows.explainer).values(), strict=True):
        axis.plot([row.seconds] * 2, [row.low, row.high], color=look[0], linewidth=1)
        axis.plot(row.seconds, row.reproduced, linestyle="", zorder=3, **_mark(look))
    axis.set(xscale="log", xlabel="seconds an image; number beside the name: forward passes (#FW)", ylabel="AD (%)")
    axis.margins(0.12)
    _better(axis, "lower left")
    texts = [f"{METHOD_TITLES.get(r.explainer, r.explainer)}, {r.passes:g}" for r in rows.itertuples()]
    points, spans = (rows[pair].to_numpy(dtype=float) for pair in (["seconds", "reproduced"], ["low", "high"]))
    place(figure, axis, texts, points, spans, [look[0] for look in looks(rows.explainer).values()])
    return figure


@styled
def superimposed(pixels, maps, titles=None, jet=False):
    """The papers' comparison: a row an image, first the image, then the map of each explainer over it.

    pixels (N, 3, H, W) and maps {explainer: (N, H, W)} in [0, 1]; titles: N texts, as the predicted class, on the left.
    jet: the map in the colours of jet plus the image, divided by the largest value, as the papers show it.
    """
    heads = ["image", *(METHOD_TITLES.get(name, name) for name in maps)]
    wide = (7.1 - 0.45 * bool(titles)) / len(heads)
    height = wide * pixels.shape[2] / pixels.shape[3]
    figure, axes = plt.subplots(
        len(pixels), len(heads), figsize=(7.2, len(pixels) * (height + 0.02) + 0.35), squeeze=False
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    across, down = (textwrap.TextWrapper(max(8, int(17 * x)), break_on_hyphens=False).fill for x in (wide, height))
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(across(head), fontsize=min(7, 11 * wide), pad=2)
    for i, row in enumerate(axes):
        image = pixels[i].permute(1, 2, 0).numpy()
        row[0].imshow(image)
        for axis, values in zip(row[1:], maps.values(), strict=True):
            if jet:
                axis.imshow(_jet(image, values[i].numpy()))
            else:
                overlay(axis, image, values[i].numpy())
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        if titles:
            row[0].set_ylabel(down(titles[i]), fontsize=7, parse_math=False)
    return figure


def _jet(image, values):
    """Image (H, W, 3) plus map (H, W) in jet, divided by the largest value of the sum."""
    mixed = image + plt.get_cmap("jet")(values)[..., :3]
    return mixed / mixed.max()


@styled
def convention_bars(table):
    """The Average Drop of one explainer by convention, as dots with 95 % intervals; the papers' one is marked.

    table: of `conventions.average_drops`, columns convention, description, reproduced, low, high.
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.6 + 0.38 * len(table)))
    for y, row in enumerate(table.itertuples()):
        colour = METHOD_COLOURS["tame"] if row.convention == "papers" else "#444444"
        axis.plot([0, row.reproduced], [y, y], color=colour, linewidth=5, alpha=0.2, solid_capstyle="butt")
        axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.6)
        axis.plot(row.reproduced, y, "D" if row.convention == "papers" else "o", color=colour, markersize=5)
        axis.annotate(
            f"{row.reproduced:.1f}",
            (row.high, y),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            bbox=_WHITE,
        )
        if row.convention == "papers":
            axis.axvline(row.reproduced, color=colour, linewidth=0.8, linestyle="--", zorder=0)
    texts = [
        textwrap.fill(f"{row.convention}: {row.description}", 56, break_on_hyphens=False) for row in table.itertuples()
    ]
    axis.set_yticks(range(len(table)), texts, fontsize=8, parse_math=False)
    axis.set(
        xlabel="Average Drop (%)",
        ylim=(len(table) - 0.4, -0.6),
        xlim=(min(0, table.low.min()), 1.12 * table.high.max()),
    )
    axis.grid(False, axis="y")
    return figure
