"""What all figures share. Colours are Okabe and Ito's, for the colour-blind too; maps are in magma."""

import functools

import matplotlib
import torch
from matplotlib import pyplot as plt

METHOD_COLOURS = {
    "plain": "#000000",
    "abn": "#E69F00",
    "lfi-cam": "#0072B2",
    "l-cam-fm": "#56B4E9",
    "l-cam-img": "#009E73",
    "l-cam-fm-ce": "#7D93B2",
    "l-cam-img-ce": "#8FBF3F",
    "tame": "#D55E00",
    "tame-no-skip": "#E69F00",
    "tame-no-skip-no-norm": "#0072B2",
    "tame-sigmoid": "#6A3D9A",
    "t-tame": "#CC79A7",
    "own": "#000000",
    "grad-cam": "#8c6d1f",
    "centre": "#999999",
}
METHOD_TITLES = {
    "plain": "plain + CAM",
    "abn": "ABN",
    "lfi-cam": "LFI-CAM",
    "l-cam-fm": "L-CAM-Fm",
    "l-cam-img": "L-CAM-Img",
    "l-cam-fm-ce": "L-CAM-Fm*",  # as the papers star the rows trained by cross-entropy alone
    "l-cam-img-ce": "L-CAM-Img*",
    "tame": "TAME",
    "tame-no-skip": "no skip",
    "tame-no-skip-no-norm": "no skip, no norm",
    "tame-sigmoid": "sigmoid",
    "t-tame": "T-TAME",
    "own": "its own map",
    "grad-cam": "Grad-CAM",
    "grad-cam++": "Grad-CAM++",
    "score-cam": "Score-CAM",
    "ablation-cam": "Ablation-CAM",
    "layer-cam": "LayerCAM",
    "rise": "RISE",
    "random": "random (control)",
    "centre": "centre (control)",
}
OTHER = "#555555"  # colour of what has none of its own
MAP_COLOURS = "magma"

STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


def styled(draw):
    """Draw in the project's style and leave matplotlib's settings as they were; tensors may lie on any device."""

    @functools.wraps(draw)
    def wrapper(*args, **options):
        args, options = _on_host((args, options))
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
        plt.close(figure)  # shown by being returned, not twice by the notebook's inline backend
        return figure

    return wrapper


def _on_host(value):
    """The value with all tensors in it on the CPU, without a graph."""
    if torch.is_tensor(value):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = map(_on_host, value)
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    return value


def overlay(axis, image, values, opacity=0.65):
    """A map (H, W) in [0, 1] in colour over the grey image (H, W, 3)."""
    axis.imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
    axis.imshow(values, cmap=MAP_COLOURS, vmin=0, vmax=1, alpha=opacity, interpolation="bilinear")
