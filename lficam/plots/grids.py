"""Figures of images and maps: data, maps side by side, scenes, LFI-CAM step by step."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import LOOKS, MAP_COLOURS, families, look, styled

Maps = Mapping[str, torch.Tensor | np.ndarray]
WIDEST = 9  # maps in a row of `superimposed`: two families of usual size


class Tile(NamedTuple):
    """One place of a grid: an image (3, H, W) in [0, 1], grey below a map (H, W) in [0, 1] if it has one."""

    image: torch.Tensor
    map: torch.Tensor | np.ndarray | None = None
    title: str = ""
    mask: torch.Tensor | None = None  # bool (H, W), outlined in white


def draw(axis: Axes, tile: Tile, size: float) -> None:
    """A tile in its place, with a title of so many points."""
    image = tile.image.permute(1, 2, 0).numpy()
    if tile.map is None:
        axis.imshow(image)
    else:
        axis.imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
        axis.imshow(np.asarray(tile.map), cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=0.65, interpolation="bilinear")
    if tile.mask is not None:
        axis.contour(tile.mask.numpy(), [0.5], colors="white", linewidths=0.8)
    axis.set_title(tile.title, fontsize=size, pad=2)


def _grid(
    tiles: Sequence[Sequence[Tile]],
    size: tuple[float, float],
    titles: float = 8,
    labels: Sequence[str] = (),
    space: float | None = None,
    **label: Any,
) -> Figure:
    """Rows of tiles in a figure of that size in inches, titles in points; a label at the left of each row, if given.

    space: between tiles, as a share of them, by default the layout's; label: how labels are set.
    """
    figure, axes = plt.subplots(len(tiles), max(map(len, tiles)), figsize=size, squeeze=False)
    if space is not None:
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=space, hspace=space)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for row, line in zip(axes, tiles, strict=True):
        for axis, tile in zip(row, line, strict=False):  # some rows may be shorter
            draw(axis, tile, titles)
    for axis, text in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(text, parse_math=False, **label)
    return figure


@styled
def contact_sheet(pixels: torch.Tensor, titles: Sequence[str], masks: torch.Tensor | None = None) -> Figure:
    """Images (N, 3, H, W) in [0, 1] with a title each, eight a row; masks bool (N, H, W): outlined in white."""
    tiles = [Tile(image, None, titles[i], None if masks is None else masks[i]) for i, image in enumerate(pixels)]
    rows = [tiles[i : i + 8] for i in range(0, len(tiles), 8)]
    return _grid(rows, (0.95 * len(rows[0]), 1.1 * len(rows)))


@styled
def map_grid(
    pixels: torch.Tensor,
    maps: Maps,
    titles: Mapping[str, Sequence[str]] | None = None,
    masks: torch.Tensor | None = None,
) -> Figure:
    """Images beside the maps of several methods. pixels (N, 3, H, W) in [0, 1]; maps {method: (N, H, W) in [0, 1]}.

    titles: {method: [N texts]} above each map, as the predicted class; masks bool (N, H, W): outlined in white.
    """
    tiles = []
    for i, image in enumerate(pixels):
        mask = None if masks is None else masks[i]
        row = [Tile(image, None, "image" if i == 0 else "", mask)]
        for method, values in maps.items():
            lines = [look(method).title if i == 0 else "", (titles or {}).get(method, [""] * len(pixels))[i]]
            row.append(Tile(image, values[i], "\n".join(filter(None, lines)), mask))
        tiles.append(row)
    return _grid(tiles, (1.35 * len(tiles[0]), 1.42 * len(tiles)), 7.5)


@styled
def stability_examples(pixels: torch.Tensor, maps: Maps) -> Figure:
    """The same images seen by several models: the first row the images, then one row per model.

    pixels (N, 3, H, W) in [0, 1]; maps {title of the row: (N, H, W) in [0, 1]}.
    """
    tiles = [[Tile(image) for image in pixels]]
    tiles += [[Tile(image, values[i]) for i, image in enumerate(pixels)] for values in maps.values()]
    size = 0.85 * len(pixels) + 0.5, 0.87 * len(tiles)
    beside = {"fontsize": 8, "rotation": 0, "ha": "right", "va": "center"}
    return _grid(tiles, size, 8, ["image", *maps], 0.02, **beside)


@styled
def superimposed(pixels: torch.Tensor, maps: Maps, titles: Sequence[str] = ()) -> Figure:
    """The papers' comparison: a row an image, first the image, then the map of each explainer over it.

    pixels (N, 3, H, W) and maps {explainer: (N, H, W)} in [0, 1]; titles: N texts, as the predicted class, on the left.
    More than nine maps become blocks, one below the other, of as many whole families of explainers as fit.
    """
    groups = list(families(maps).values())
    blocks = [groups[0]]
    for own in groups[1:]:
        if len(blocks[-1]) + len(own) <= WIDEST:
            blocks[-1] = blocks[-1] + own
        else:
            blocks.append(own)
    columns = 1 + max(map(len, blocks))
    wide = (7.1 - 0.45 * bool(titles)) / (columns if len(blocks) == 1 else 1 + WIDEST)
    height = wide * pixels.shape[2] / pixels.shape[3]
    across, down = (textwrap.TextWrapper(max(8, int(17 * x)), break_long_words=False).fill for x in (wide, height))
    tiles = []
    for block in blocks:
        rows = [[Tile(image), *(Tile(image, maps[name][i]) for name in block)] for i, image in enumerate(pixels)]
        heads = ["image", *(look(name).title for name in block)]
        rows[0] = [tile._replace(title=across(head)) for tile, head in zip(rows[0], heads, strict=True)]
        tiles += rows
    size = columns * wide + 0.1 + 0.45 * bool(titles), len(tiles) * (height + 0.02) + 0.35 * len(blocks)
    return _grid(tiles, size, min(7, 11 * wide), list(map(down, titles)) * len(blocks), 0.01, fontsize=7)


@styled
def scenes(pixels: torch.Tensor, maps: torch.Tensor, names: Sequence[Sequence[str]], share: torch.Tensor) -> Figure:
    """Scenes of two objects, and the map of each of the two classes.

    pixels (N, 3, H, W) in [0, 1]; maps (N, 2, H, W) in [0, 1]; names [(left, right)] classes; share (N, 2) of the
    map's mass in the half of its class.
    """
    tiles = [
        [Tile(image, None, f"{pair[0]} | {pair[1]}")]
        + [Tile(image, maps[i, k], f"why {pair[k]}?  {100 * share[i, k]:.0f} % in its half") for k in range(2)]
        for i, (image, pair) in enumerate(zip(pixels, names, strict=True))
    ]
    figure = _grid(tiles, (6.6, 1.22 * len(tiles)))
    for i, axis in enumerate(figure.axes):
        if i % 3:
            axis.axvline(pixels.shape[3] / 2 - 0.5, color="white", linewidth=0.8)
    return figure


@styled
def feature_importance(
    pixels: torch.Tensor,
    grey: torch.Tensor,
    features: torch.Tensor,
    masked: torch.Tensor,
    weights: torch.Tensor,
    attention: torch.Tensor,
) -> Figure:
    """LFI-CAM step by step for one image: the most and the least important feature maps, the masks and the sum.

    pixels (3, H, W); grey (h, w); features, masked (C, h, w); weights (C,) importances; attention (h, w).
    """
    order = weights.argsort(descending=True)
    chosen = [*order[:4].tolist(), *order[-2:].tolist()]
    figure = plt.figure(figsize=(7.4, 3.6))
    grid = figure.add_gridspec(3, 8, width_ratios=[1.15, *[1] * 6, 1.15], height_ratios=[1, 1, 0.8])

    def show(place: Any, values: torch.Tensor, title: str, **colours: Any) -> None:
        axis = figure.add_subplot(place)
        axis.imshow(values.numpy(), **colours)
        axis.set_title(title, fontsize=8)
        axis.axis("off")

    show(grid[0, 0], pixels.permute(1, 2, 0), "image")
    show(grid[1, 0], grey, "grey, small", cmap="gray")
    for column, k in enumerate(chosen, start=1):
        limit = float(masked.abs().max()) or 1.0
        show(grid[0, column], features[k], f"$F_{{{k}}}$", cmap=MAP_COLOURS)
        show(grid[1, column], masked[k], f"$w$={weights[k]:.3f}", cmap="RdBu_r", vmin=-limit, vmax=limit)
    show(grid[0:2, 7], attention, "$M$", cmap=MAP_COLOURS, vmin=0, vmax=1)
    bars = figure.add_subplot(grid[2, :])
    bars.bar(np.arange(len(weights)), weights[order].numpy(), color=LOOKS["lfi-cam"].colour, width=1.0)
    bars.axhline(1 / len(weights), color="black", linewidth=0.8, linestyle="--", label="equal importance 1/C")
    bars.set(xlabel="feature maps, most important first", ylabel="importance $w$", xlim=(-0.5, len(weights) - 0.5))
    bars.set_ylim(0, 1.6 * float(weights.max()))
    bars.legend(loc="upper right")
    return figure
