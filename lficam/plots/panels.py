"""The figure of one explanation of one photo, and the files it becomes."""

import warnings

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image

from ..files import atomic
from ..maps import minmax
from .style import MAP_COLOURS, overlay, styled


@styled
def explanation_panels(explanation, explainer="", warning=""):
    """Photo, map, overlay and masked photo of a `photos.Explanation`, with the probability of the class in both photos.

    explainer: its name, for the upper right corner; warning: a line in red.
    """
    photo, masked = (pixels.permute(1, 2, 0).numpy() for pixels in (explanation.pixels, explanation.masked))
    figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.25 + 0.18 * bool(warning)))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02)
    axes[0].imshow(photo)
    axes[0].set_title(f"photo: {share(explanation.before)}")
    shown = axes[1].imshow(explanation.map.numpy(), cmap=MAP_COLOURS, vmin=0, vmax=1)
    axes[1].set_title("heat map" if explanation.of_class else "attention (of no class)")
    overlay(axes[2], photo, explanation.map.numpy())
    axes[2].set_title("overlay")
    axes[3].imshow(masked)
    axes[3].set_title(f"photo × map: {share(explanation.after)}")
    for axis in axes:
        axis.axis("off")
    bar = figure.colorbar(shown, cax=axes[1].inset_axes([1.03, 0, 0.035, 1]), ticks=[0, 1])
    bar.ax.tick_params(labelsize=7, length=0, pad=2)
    bar.outline.set_visible(False)
    room = int(62 - 0.67 * len(explainer))  # letters that fit beside it and the probabilities
    heading = f"{title(explanation, max(room, 8))}:  {share(explanation.before)} → {share(explanation.after)}"
    height = figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - (0.24 + 0.18 * bool(warning)) / height))
    lines = [(0.01, 0.02, heading, {"fontsize": 10, "weight": "bold"})]
    lines += [(0.995, 0.04, explainer, {"fontsize": 7.5, "ha": "right", "color": "#666666"})]
    lines += [(0.01, 0.2, warning, {"fontsize": 8, "weight": "bold", "color": "#D55E00"})] if warning else []
    for x, inches, text, look in lines:  # names may hold what mathtext would set as a formula
        figure.text(x, 1 - inches / height, text, va="top", parse_math=False, **look)
    return figure


def title(explanation, longest):
    """The class as a heading: its name, cut to so many letters, or its number."""
    name = explanation.name if len(explanation.name) <= longest else explanation.name[: longest - 3] + "..."
    return name if explanation.name != str(explanation.index) else f"class {name}"


def share(probability):
    """A probability for reading.

    >>> share(0.8241), share(0.0004), share(0.99996)
    ('82.4 %', '0.04 %', '100.0 %')
    """
    return f"{100 * probability:.{1 if probability >= 0.001 else 2}f} %"


def save_figure(figure, path):
    """Write a figure as PNG, whole or not at all; letters that the font lacks become boxes without a warning."""
    with warnings.catch_warnings(), atomic(path) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight", pad_inches=0.04)


def save_map(raw, path):
    """Write a raw map (h, w) as a grey PNG of its own size, min-max scaled to 0..255."""
    grey = (255 * minmax(raw.float())).round().numpy().astype(np.uint8)
    with atomic(path) as file:
        Image.fromarray(grey).save(file, format="PNG")
