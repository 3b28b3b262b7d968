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
    """How a method is named and drawn, everywhere alike."""

    title: str
    colour: str = OTHER
    marker: str | tuple[int, int] = ""
    family: str = "others"

    @property
    def trained(self) -> bool:
        """Whether its marks are filled, and its lines solid: of what needs no training they are hollow and dashed."""
        return self.family in ("classifiers", "trained", "others")


# A hue a family, a shade and a mark a method, in the order in which figures have them. Ablations differ by line alone.
FAMILIES: dict[str, dict[str, tuple[str, str, str | tuple[int, int]]]] = {
    "classifiers": {
        "plain": ("plain + CAM", "#000000", ""),
        "abn": ("ABN", "#E69F00", ""),
        "lfi-cam": ("LFI-CAM", "#0072B2", ""),
    },
    "trained": {
        "tame": ("TAME", "#D55E00", "D"),
        "tame-no-skip": ("no skip", "#F2A93B", ""),
        "tame-no-skip-no-norm": ("no skip, no norm", "#5C2E0E", ""),
        "tame-sigmoid": ("sigmoid", "#B3001B", ""),
        "t-tame": ("T-TAME", "#9C6A1E", "P"),
        "p-tame": ("P-TAME", "#C8102E", (3, 1)),
        "l-cam-img": ("L-CAM-Img", "#6B1408", "s"),
        "l-cam-img-ce": ("L-CAM-Img*", "#D98A73", ""),  # as the papers star the rows trained by cross-entropy alone
        "l-cam-fm": ("L-CAM-Fm", "#E8A317", "o"),
        "l-cam-fm-ce": ("L-CAM-Fm*", "#A08A5B", ""),
    },
    "gradients": {
        "grad-cam": ("Grad-CAM", "#0B2E6F", "^"),
        "grad-cam++": ("Grad-CAM++", "#2F7FD1", "v"),
        "layer-cam": ("LayerCAM", "#8DBFE0", "<"),
        "hires-cam": ("HiResCAM", "#6A5ACD", "8"),
        "finer-cam": ("FinerCAM", "#1598C9", "d"),
    },
    "masked images": {
        "score-cam": ("Score-CAM", "#00493A", ">"),
        "ablation-cam": ("Ablation-CAM", "#66C2A4", "p"),
        "opti-cam": ("Opti-CAM", "#00A087", (4, 1)),
        "rise": ("RISE", "#238B45", "h"),
    },
    "attention": {
        "rollout": ("rollout (no class)", "#E78AC3", "H"),
        "legrad": ("LeGrad", "#C51B7D", (6, 1)),
        "chefer": ("Chefer et al.", "#7A0F4F", "x"),
    },
    "others": {},
    "controls": {
        "own": ("its own map", "#000000", "+"),
        "random": ("random (control)", "#999999", "X"),
        "centre": ("centre (control)", "#333333", "*"),
        "ones": ("ones (control)", "#666666", "1"),
    },
}
LOOKS = {name: Look(*own, family) for family, methods in FAMILIES.items() for name, own in methods.items()}
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
    return LOOKS[name] if name in LOOKS else LOOKS.get(_method(name), Look(name))._replace(title=name, marker="")


def _method(name: str) -> str:
    """The method of `LOOKS` that a name is of, "" for none."""
    return max((known for known in LOOKS if f"{name},".startswith((f"{known},", f"{known}-"))), key=len, default="")


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """{family: its names} of those that stand in one figure, in the order of `FAMILIES`; variants after their method.

    >>> families(["centre", "rise", "tame, 1 layer", "mine", "tame"])
    {'trained': ['tame', 'tame, 1 layer'], 'masked images': ['rise'], 'others': ['mine'], 'controls': ['centre']}
    """
    ranks = {name: rank for rank, name in enumerate(["", *LOOKS])}
    ranked = sorted(names, key=lambda name: (ranks[_method(name)], name not in LOOKS))
    return {family: own for family in FAMILIES if (own := [name for name in ranked if look(name).family == family])}


def ordered(names: Iterable[str]) -> list[str]:
    """The names, family by family."""
    return [name for own in families(names).values() for name in own]


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
