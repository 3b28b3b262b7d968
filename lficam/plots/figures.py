"""Figures of classifiers: training, maps, accuracy, stability. All are drawn in the style of style.py."""

import itertools

import numpy as np
from matplotlib import pyplot as plt

from .style import MAP_COLOURS, METHOD_COLOURS, METHOD_TITLES, OTHER, overlay, styled


@styled
def training_curves(histories):
    """Loss and accuracy over the epochs, dotted training, solid validation. histories: {method: [dict per epoch]}."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.8))
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for method, history in histories.items():
            epochs = [row["epoch"] for row in history]
            colour = METHOD_COLOURS[method]
            scale = 100 if quantity == "accuracy" else 1
            for split, style in (("train", ":"), ("validation", "-")):
                values = [scale * row[f"{split}_{quantity}"] for row in history]
                label = METHOD_TITLES[method].split(" +")[0] if split == "validation" else None
                axis.plot(
                    epochs,
                    values,
                    style,
                    color=colour,
                    label=label,
                    marker="o",
                    markersize=2.5,
                    linewidth=1.3,
                )
        axis.set(xlabel="epoch", ylabel="loss" if quantity == "loss" else "top-1 accuracy (%)")
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes[0].set_ylim(bottom=0)
    axes[1].legend(title="solid: validation\ndotted: training", loc="lower right")
    return figure


@styled
def contact_sheet(pixels, titles, masks=None, columns=8):
    """Images (N, 3, H, W) in [0, 1] with a title each; masks bool (N, H, W): outlined in white."""
    rows = -(-len(pixels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(0.95 * columns, 1.1 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for i, axis in zip(range(len(pixels)), axes.flat, strict=False):
        axis.imshow(pixels[i].permute(1, 2, 0).numpy())
        axis.set_title(titles[i], fontsize=8, pad=2)
        if masks is not None:
            axis.contour(masks[i].numpy(), [0.5], colors="white", linewidths=0.8)
    return figure


@styled
def map_grid(pixels, maps, titles=None, masks=None):
    """Images beside the maps of several methods. pixels (N, 3, H, W) in [0, 1]; maps {method: (N, H, W) in [0, 1]}.

    titles: {method: [N texts]} above each map, as the predicted class; masks bool (N, H, W): outlined in white.
    """
    columns = [("image", None), *maps.items()]
    rows = len(pixels)
    figure, axes = plt.subplots(rows, len(columns), figsize=(1.35 * len(columns), 1.42 * rows), squeeze=False)
    for i in range(rows):
        image = pixels[i].permute(1, 2, 0).numpy()
        for axis, (method, values) in zip(axes[i], columns, strict=True):
            if values is None:
                axis.imshow(image)
            else:
                overlay(axis, image, values[i].numpy())
            if masks is not None:
                axis.contour(masks[i].numpy(), [0.5], colors="white", linewidths=0.8)
            text = titles[method][i] if titles and method in titles else ""
            head = METHOD_TITLES.get(method, method) if i == 0 else ""
            axis.set_title("\n".join(filter(None, (head, text))), fontsize=7.5, pad=2)
            axis.axis("off")
    return figure


@styled
def feature_importance(pixels, grey, features, masked, weights, attention, top=6):
    """LFI-CAM step by step for one image: the most and the least important feature maps, the masks and the sum.

    pixels (3, H, W); grey (h, w); features, masked (C, h, w); weights (C,) importances; attention (h, w).
    """
    order = weights.argsort(descending=True)
    chosen = [*order[: top - 2].tolist(), *order[-2:].tolist()]
    figure = plt.figure(figsize=(7.4, 3.6))
    grid = figure.add_gridspec(3, top + 2, width_ratios=[1.15, *[1] * top, 1.15], height_ratios=[1, 1, 0.8])
    first = figure.add_subplot(grid[0, 0])
    first.imshow(pixels.permute(1, 2, 0).numpy())
    first.set_title("image")
    second = figure.add_subplot(grid[1, 0])
    second.imshow(grey.numpy(), cmap="gray")
    second.set_title("grey, small")
    for column, k in enumerate(chosen, start=1):
        above, below = figure.add_subplot(grid[0, column]), figure.add_subplot(grid[1, column])
        above.imshow(features[k].numpy(), cmap=MAP_COLOURS)
        above.set_title(f"$F_{{{k}}}$", fontsize=8)
        limit = float(masked.abs().max()) or 1.0
        below.imshow(masked[k].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        below.set_title(f"$w$={weights[k]:.3f}", fontsize=8)
    last = figure.add_subplot(grid[0:2, top + 1])
    last.imshow(attention.numpy(), cmap=MAP_COLOURS, vmin=0, vmax=1)
    last.set_title("$M$")
    for axis in figure.axes:
        axis.axis("off")
    bars = figure.add_subplot(grid[2, :])
    bars.bar(np.arange(len(weights)), weights[order].numpy(), color=METHOD_COLOURS["lfi-cam"], width=1.0)
    bars.axhline(1 / len(weights), color="black", linewidth=0.8, linestyle="--", label="equal importance 1/C")
    bars.set(xlabel="feature maps, most important first", ylabel="importance $w$", xlim=(-0.5, len(weights) - 0.5))
    bars.set_ylim(0, 1.6 * float(weights.max()))
    bars.legend(loc="upper right")
    return figure


@styled
def interval_dots(panels):
    """Values with intervals, one panel per quantity. panels: {axis label: {method: (value, low, high)}}."""
    most = max(map(len, panels.values()))
    figure, axes = plt.subplots(1, len(panels), figsize=(2.2 + 1.9 * len(panels), 0.9 + 0.27 * most), squeeze=False)
    for axis, (label, rows) in zip(axes[0], panels.items(), strict=True):
        for y, (method, (value, low, high)) in enumerate(rows.items()):
            colour = METHOD_COLOURS.get(method, OTHER)
            axis.plot([low, high], [y, y], color=colour, linewidth=1.6)
            axis.plot(value, y, "o", color=colour, markersize=5)
            axis.annotate(
                f"{value:.3g}",
                (value, y),
                textcoords="offset points",
                xytext=(0, 5),
                ha="center",
                fontsize=7.5,
            )
        axis.set_yticks(range(len(rows)), [METHOD_TITLES.get(m, m) for m in rows])
        axis.set(xlabel=label, ylim=(len(rows) - 0.4, -0.7))
    return figure


@styled
def stability_examples(pixels, maps):
    """The same images seen by several models: the first row the images, then one row per model.

    pixels (N, 3, H, W) in [0, 1]; maps {title of the row: (N, H, W) in [0, 1]}.
    """
    rows, columns = 1 + len(maps), len(pixels)
    figure, axes = plt.subplots(rows, columns, figsize=(0.85 * columns + 0.5, 0.87 * rows), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for row, (title, values) in zip(axes, [("image", None), *maps.items()], strict=True):
        for i, axis in enumerate(row):
            image = pixels[i].permute(1, 2, 0).numpy()
            if values is None:
                axis.imshow(image)
            else:
                overlay(axis, image, np.asarray(values[i]))
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
    return figure


@styled
def iou_between_models(reproduced, published=None):
    """IoU between models (a) pair by pair and (b) on average; filled: ours with 95 % intervals, hollow: published.

    reproduced: {(method, title of the data set): table of `overlap.consensus`}. Of n models the line joins the n pairs
    of neighbours, the last model and the first among them; points at "other" are the rest. published: `published_iou`.
    """
    per_model, mean = published or (None, None)
    theirs = {} if mean is None else {(row.method, row.dataset): row.published for row in mean.itertuples()}
    cases = list(dict.fromkeys([*reproduced, *theirs]))
    shapes = dict(zip(dict.fromkeys(dataset for _, dataset in cases), itertools.cycle("osD^vP"), strict=False))
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.8, 3.2), gridspec_kw={"width_ratios": [1, 1.1]})
    last = 5 if theirs else 1
    for method, dataset in cases:
        look = {"color": METHOD_COLOURS[method], "marker": shapes[dataset], "linewidth": 1.1, "markersize": 4.5}
        if (method, dataset) in theirs:
            line = per_model[(per_model.method == method) & (per_model.dataset == dataset)].published
            left.plot(range(1, len(line) + 1), line, ":", markerfacecolor="white", **look)
        if (method, dataset) in reproduced:
            line, rest = _neighbours(reproduced[method, dataset])
            left.plot(range(1, len(line) + 1), line, "-", **look)
            left.plot([6] * len(rest), rest, **look | {"linestyle": "", "markersize": 3, "alpha": 0.6})
            last = max(last, len(line), 6 if rest else 0)
    left.set_xticks(range(1, last + 1), ["1st", "2nd", "3rd", "4th", "5th", "other"][:last])
    left.set(xlabel="pair of models", ylabel="IoU", ylim=(0, 1), title="(a) each pair")
    _averages(right, reproduced, theirs, list(shapes))
    marks = [plt.Line2D([], [], color="#444444", marker=m, linestyle="", label=d) for d, m in shapes.items()]
    figure.legend(handles=[*marks, *_method_legend(cases, theirs)], loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _neighbours(table):
    """IoU of neighbouring models in their order, the last with the first at the end; and of all other pairs."""
    table = table[table.base != "all pairs"]
    names = list(dict.fromkeys([*table.base, *table.target]))
    ring = list(itertools.pairwise(names)) + ([(names[0], names[-1])] if len(names) > 2 else [])
    values = {(row.base, row.target): row.iou for row in table.itertuples()}
    return [values[pair] for pair in ring], [value for pair, value in values.items() if pair not in ring]


def _averages(axis, reproduced, theirs, datasets):
    """Bars side by side per data set: of each method the published value, hatched, then ours with its interval."""
    methods = list(dict.fromkeys(method for method, _ in [*theirs, *reproduced]))
    for x, dataset in enumerate(datasets):
        bars = []  # colour, value, row of ours
        for case in ((method, dataset) for method in methods):
            bars += [(METHOD_COLOURS[case[0]], theirs[case], None)] if case in theirs else []
            rows = [reproduced[case].iloc[-1]] if case in reproduced else []
            bars += [(METHOD_COLOURS[case[0]], row.iou, row) for row in rows]
        for k, (colour, value, row) in enumerate(bars):
            place, top = x + 0.23 * (k - (len(bars) - 1) / 2), value
            look = {"facecolor": "white", "hatch": "////"} if row is None else {"facecolor": colour}
            axis.bar(place, value, 0.2, edgecolor=colour, **look)
            if row is not None:
                axis.plot([place, place], [row.low, row.high], color="black", linewidth=1.2)
                top = row.high
            offset = {"textcoords": "offset points", "xytext": (0, 2)}
            axis.annotate(f"{value:.2f}", (place, top), **offset, ha="center", fontsize=6.5)
    axis.set_xticks(range(len(datasets)), datasets, rotation=25, ha="right", rotation_mode="anchor")
    axis.set(ylabel="mean IoU", ylim=(0, 1), title="(b) average")
    axis.grid(False, axis="x")


def _method_legend(cases, theirs):
    methods = dict.fromkeys(method for method, _ in cases)
    marks = [plt.Rectangle((0, 0), 1, 1, color=METHOD_COLOURS[m], label=METHOD_TITLES[m]) for m in methods]
    if theirs:
        for label, look in (("ours", {"facecolor": "#777777"}), ("published", {"facecolor": "white", "hatch": "////"})):
            marks.append(plt.Rectangle((0, 0), 1, 1, edgecolor="#777777", label=label, **look))
    return marks


@styled
def iou_curve(curves, threshold=100):
    """IoU over the threshold, with its interval. curves: {method: (thresholds, mean, low, high)}, of `overlap.band`.

    threshold: the papers', marked; None: no mark.
    """
    figure, axis = plt.subplots(figsize=(3.8, 2.7))
    for method, (thresholds, mean, low, high) in curves.items():
        colour = METHOD_COLOURS.get(method)
        (line,) = axis.plot(thresholds, mean, color=colour, linewidth=1.5, label=METHOD_TITLES.get(method, method))
        axis.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.25, linewidth=0)
    if threshold is not None:
        axis.axvline(threshold, color="#444444", linewidth=0.8, linestyle="--")
    axis.set(xlabel="threshold (of 255)", ylabel="IoU", xlim=(0, 255), ylim=(0, 1.02))
    axis.legend(fontsize=8)
    return figure
