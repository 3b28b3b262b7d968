"""Figures of how an explainer is trained (terms of the loss, learning rates), and of scenes with two objects."""

import math

import numpy as np
from matplotlib import pyplot as plt

from .style import METHOD_COLOURS, METHOD_TITLES, OTHER, overlay, styled

TERMS = {"cross_entropy": "cross-entropy", "area": "area", "variation": "variation"}


@styled
def loss_terms(histories):
    """The weighted terms of the loss over the epochs, solid training, dotted validation, a panel a term.

    histories: {name: [dict per epoch]}, as `jobs.train` returns; a run without a term has no line there.
    """
    figure, axes = plt.subplots(1, len(TERMS), figsize=(7.4, 2.5))
    for axis, (term, title) in zip(axes, TERMS.items(), strict=True):
        for name, history in histories.items():
            epochs = [row["epoch"] for row in history]
            colour = METHOD_COLOURS.get(name, OTHER)
            for split, style in (("train", "-"), ("validation", ":")):
                # Where cross-entropy is the only term it is the loss.
                column = f"{split}_{term}"
                column = f"{split}_loss" if term == "cross_entropy" and column not in history[0] else column
                if column in history[0]:
                    label = METHOD_TITLES.get(name, name) if split == "train" else None
                    values = [row[column] for row in history]
                    axis.plot(epochs, values, style, color=colour, label=label, marker="o", markersize=3)
        axis.set(title=title, xlabel="epoch", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("weighted loss")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


@styled
def lr_curve(ranges):
    """Loss over a rising learning rate, faint as it was, strong smoothed, with the suggested rate marked.

    ranges: {name: lr_range.LRRange}.
    """
    figure, axis = plt.subplots(figsize=(4.6, 2.9))
    for name, found in ranges.items():
        colour = METHOD_COLOURS.get(name, OTHER)
        axis.plot(found.lrs, found.losses, color=colour, alpha=0.25, linewidth=0.8)
        label = METHOD_TITLES.get(name, name)
        axis.plot(found.lrs, found.smoothed, color=colour, linewidth=1.6, label=label)
        if found.suggestion:
            at = int(np.argmin(np.abs(np.log(found.lrs) - math.log(found.suggestion))))
            axis.plot(found.lrs[at], found.smoothed[at], "o", color=colour, markersize=6)
            note = {"textcoords": "offset points", "xytext": (4, 5), "fontsize": 8, "color": colour}
            axis.annotate(f"{found.suggestion:.2g}", (found.lrs[at], found.smoothed[at]), **note)
    everything = [value for found in ranges.values() for value in (*found.smoothed, *found.losses)]
    low, high = min(everything), max(found.smoothed[0] for found in ranges.values())
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.1 * (high - low), 1.2 * high))
    axis.legend(fontsize=8)
    return figure


@styled
def scenes(pixels, maps, names, share):
    """Scenes of two objects, and the map of each of the two classes.

    pixels (N, 3, H, W) in [0, 1]; maps (N, 2, H, W) in [0, 1]; names [(left, right)] classes; share (N, 2) of the
    map's mass in the half of its class.
    """
    rows = len(pixels)
    figure, axes = plt.subplots(rows, 3, figsize=(6.6, 1.22 * rows), squeeze=False)
    for i, row in enumerate(axes):
        image = pixels[i].permute(1, 2, 0).numpy()
        row[0].imshow(image)
        row[0].set_title(f"{names[i][0]} | {names[i][1]}", fontsize=8, pad=2)
        for k in range(2):
            overlay(row[k + 1], image, maps[i, k].numpy())
            row[k + 1].axvline(image.shape[1] / 2 - 0.5, color="white", linewidth=0.8)
            row[k + 1].set_title(f"why {names[i][k]}?  {100 * share[i, k]:.0f} % in its half", fontsize=8, pad=2)
        for axis in row:
            axis.axis("off")
    return figure
