"""What all figures share. Colours are Okabe and Ito's and Paul Tol's, for the colour-blind too; maps are in magma."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

OTHER = "#555555"  # colour of what has none of its own
MAP_COLOURS = "magma"
_SPARE = "Hd8XP*<>"  # marks of what has none of its own


class Look(NamedTuple):
    """How a method is named and drawn, everywhere alike; trained: its marks are filled, and its lines solid."""

    title: str
    colour: str = OTHER
    marker: str | tuple[int, int] = ""
    trained: bool = True


LOOKS = {
    "plain": Look("plain + CAM", "#000000"),
    "abn": Look("ABN", "#E69F00"),
    "lfi-cam": Look("LFI-CAM", "#0072B2"),
    "l-cam-fm": Look("L-CAM-Fm", "#56B4E9", "o"),
    "l-cam-img": Look("L-CAM-Img", "#009E73", "s"),
    "l-cam-fm-ce": Look("L-CAM-Fm*", "#7D93B2"),  # as the papers star the rows trained by cross-entropy alone
    "l-cam-img-ce": Look("L-CAM-Img*", "#8FBF3F"),
    "tame": Look("TAME", "#D55E00", "D"),
    "tame-no-skip": Look("no skip", "#E69F00"),
    "tame-no-skip-no-norm": Look("no skip, no norm", "#0072B2"),
    "tame-sigmoid": Look("sigmoid", "#6A3D9A"),
    "t-tame": Look("T-TAME", "#CC79A7", "P"),
    "p-tame": Look("P-TAME", "#B22222", (3, 1)),
    "own": Look("its own map", "#000000"),
    "grad-cam": Look("Grad-CAM", "#8C6D1F", "^", False),
    "grad-cam++": Look("Grad-CAM++", "#DDAA33", "v", False),
    "layer-cam": Look("LayerCAM", "#44AA99", "<", False),
    "hires-cam": Look("HiResCAM", "#EE8866", "8", False),
    "finer-cam": Look("FinerCAM", "#117733", "d", False),
    "score-cam": Look("Score-CAM", "#332288", ">", False),
    "ablation-cam": Look("Ablation-CAM", "#661100", "p", False),
    "opti-cam": Look("Opti-CAM", "#EE3377", (4, 1), False),
    "rise": Look("RISE", "#AA4499", "h", False),
    "rollout": Look("rollout (no class)", "#BBBBBB", "H", False),
    "legrad": Look("LeGrad", "#999933", (6, 1), False),
    "chefer": Look("Chefer et al.", "#882255", "x", False),
    "random": Look("random (control)", OTHER, "X", False),
    "centre": Look("centre (control)", "#999999", "*", False),
}
STYLE: Any = {
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


def look(name: str) -> Look:
    """The `Look` of a method; a variant, as "tame, 1 layer", has the colour of its method; others have grey."""
    near = max((known for known in LOOKS if name.startswith((f"{known},", f"{known}-"))), key=len, default="")
    return LOOKS[name] if name in LOOKS else LOOKS.get(near, Look(name))._replace(title=name, marker="")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """{name: `Look`} of what stands in one figure, each with a mark; those that have none of their own take turns."""
    spare, found = itertools.cycle(_SPARE), {name: look(name) for name in names}
    return {name: own if own.marker else own._replace(marker=next(spare)) for name, own in found.items()}


P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the project's style and leave matplotlib's settings as they were; tensors may lie on any device."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **options: P.kwargs) -> Figure:
        given, named = _on_host((args, options))
        with matplotlib.rc_context(STYLE):
            figure = draw(*given, **named)
        plt.close(figure)  # shown by being returned, not twice by the notebook's inline backend
        return figure

    return wrapper


def _on_host(value: Any) -> Any:
    """The value with all tensors in it on the CPU, without a graph."""
    if hasattr(value, "detach"):  # a tensor; figures of numbers need no torch
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = map(_on_host, value)
        return value._make(items) if hasattr(value, "_make") else type(value)(items)
    return value
