"""An explanation of a photo as a figure, and a folder of them: figures, maps, and explanations.csv, which lists them.

Results of the same photo and class are replaced; nothing else in the folder is ever overwritten.
"""

import contextlib
import csv
import io
import itertools
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ...errors import InputError
from ...files import atomic
from ...maps import minmax
from ...plots.grids import Tile, draw
from ...plots.style import MAP_COLOURS, styled
from ...progress import Progress, say
from ..photos import Explanation, explain_photo, read_photo

COLUMNS = (
    "photo",  # relative to the folder of the table
    "class_index",
    "class_name",
    "probability",
    "probability_masked",
    "drop_percent",
    "explainer",
    "figure",
)


@styled
def explanation_panels(explanation: Explanation, explainer: str = "", warning: str = "") -> Figure:
    """Photo, map, overlay and masked photo of a `photos.Explanation`, with the probability of the class in both photos.

    explainer: its name, for the upper right corner; warning: a line in red.
    """
    height, head = 2.25 + 0.18 * bool(warning), 0.24 + 0.18 * bool(warning)
    figure, axes = plt.subplots(1, 4, figsize=(7.2, height))
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, rect=(0, 0, 1, 1 - head / height))
    draw(axes[0], Tile(explanation.pixels, title=f"photo: {share(explanation.before)}"), 9)
    shown = axes[1].imshow(explanation.map.numpy(), cmap=MAP_COLOURS, vmin=0, vmax=1)
    axes[1].set_title("heat map" if explanation.of_class else "attention (of no class)", pad=2)
    draw(axes[2], Tile(explanation.pixels, explanation.map, "overlay"), 9)
    draw(axes[3], Tile(explanation.masked, title=f"photo × map: {share(explanation.after)}"), 9)
    for axis in axes:
        axis.axis("off")
    bar = figure.colorbar(shown, cax=axes[1].inset_axes([1.03, 0, 0.035, 1]), ticks=[0, 1])
    bar.ax.tick_params(labelsize=7, length=0, pad=2)
    bar.outline.set_visible(False)
    room = int(62 - 0.67 * len(explainer))  # letters that fit beside it and the probabilities
    heading = f"{_title(explanation, max(room, 8))}:  {share(explanation.before)} → {share(explanation.after)}"
    lines: list[tuple[float, float, str, dict[str, Any]]] = [(0.01, 0.02, heading, {"fontsize": 10, "weight": "bold"})]
    lines += [(0.995, 0.04, explainer, {"fontsize": 7.5, "ha": "right", "color": "#666666"})]
    lines += [(0.01, 0.2, warning, {"fontsize": 8, "weight": "bold", "color": "#D55E00"})] if warning else []
    for x, inches, text, look in lines:  # names may hold what mathtext would set as a formula
        figure.text(x, 1 - inches / height, text, va="top", parse_math=False, **look)
    return figure


def _title(explanation: Explanation, longest: int) -> str:
    """The class as a heading: its name, cut to so many letters, or its number."""
    if not explanation.named:
        return f"class {explanation.index}"
    return explanation.name if len(explanation.name) <= longest else explanation.name[: longest - 3] + "..."


def share(probability: float) -> str:
    """A probability for reading.

    >>> share(0.8241), share(0.0004), share(0.99996)
    ('82.4 %', '0.04 %', '100.0 %')
    """
    return f"{100 * probability:.{1 if probability >= 0.001 else 2}f} %"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all; letters that the font lacks become boxes without a warning."""
    with warnings.catch_warnings(), atomic(path) as file:
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight", pad_inches=0.04)


def save_map(raw: torch.Tensor, path: Path) -> None:
    """Write a raw map (h, w) as a grey PNG of its own size, min-max scaled to 0..255."""
    grey = (255 * minmax(raw.float())).round().numpy().astype(np.uint8)
    with atomic(path) as file:
        Image.fromarray(grey).save(file, format="PNG")


class Gallery:
    """The folder and its table, explanations.csv, which is on the disk, whole, after every explanation.

    with Gallery("explanations") as gallery:
        gallery.add("cat.jpg", explanation)

    Raises `InputError` for a folder that cannot be written, or whose explanations.csv is something else.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.shown = Path(folder)
        self.path = self.folder / "explanations.csv"
        self.rows = self._read()  # {(photo, class index, class name): row}
        self.files = {path.name.casefold() for path in self.listed()}

    def _read(self) -> dict[tuple[str, ...], dict[str, str]]:
        try:
            with open(self.path, encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, strict=True)
                foreign = tuple(table.fieldnames or ()) != COLUMNS
                rows = list(table)
                foreign = foreign or not all(map(_is_ours, rows))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, UnicodeDecodeError, csv.Error):
            foreign = True
        if foreign:
            raise InputError(f"{self.path} is no table of `lficam explain`: move it away, or choose another folder.")
        return {tuple(row[column] for column in COLUMNS[:3]): row for row in rows}

    def listed(self) -> list[Path]:
        """The paths of all figures and maps in the table."""
        return [self.folder / name for row in self.rows.values() for name in _pair(row["figure"])]

    def __enter__(self) -> Self:
        self.write()  # now, not after an hour, the disk may refuse
        return self

    def __exit__(self, *_: object) -> None:
        self.write()  # of what was drawn when it was interrupted

    def write(self) -> None:
        """Replace the table on the disk."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows.values())
        with atomic(self.path, "w") as file:
            file.write(text.getvalue())

    def add(self, photo: str | Path, explanation: Explanation, explainer: str = "", warning: str = "") -> Path:
        """Draw an explanation of a photo (a path) and list it. Returns the path of the figure."""
        key = self._relative(photo), str(explanation.index), explanation.name
        figure, grey = (self.folder / name for name in self._names(Path(photo), explanation, key))
        new = [path for path in (figure, grey) if not path.exists()]
        try:
            save_map(explanation.raw, grey)
            save_figure(explanation_panels(explanation, explainer, warning), figure)
        except BaseException:  # an interrupt, too, leaves no file that is not in the table
            for path in new:
                path.unlink(missing_ok=True)
            raise
        self.files |= {path.name.casefold() for path in (figure, grey)}
        self.rows.pop(key, None)
        values = *key, *(f"{p:.6g}" for p in (explanation.before, explanation.after))
        values += f"{explanation.drop:.4g}", ", ".join(filter(None, (explainer, warning))), figure.name
        self.rows[key] = dict(zip(COLUMNS, values, strict=True))
        self.write()
        return self.shown / figure.name

    def _relative(self, photo: str | Path) -> str:
        path = os.path.abspath(photo)
        with contextlib.suppress(ValueError):  # another drive
            path = os.path.relpath(path, self.folder)
        return os.fsencode(Path(path).as_posix()).decode("utf-8", "backslashreplace")

    def _names(self, photo: Path, explanation: Explanation, key: tuple[str, ...]) -> tuple[str, str]:
        """File names of figure and map: this photo's and class's from before, or free ones."""
        if key in self.rows:
            return _pair(self.rows[key]["figure"])
        name = _plain(explanation.name.lower(), 60, r"[\W_]+") if explanation.named else ""
        tail = f"{explanation.index}-{name}".strip("-")
        stem = _plain(photo.stem, 110) or "photo"
        folder = _plain(Path(os.path.abspath(photo)).parent.name, 50)
        heads = itertools.chain([stem, f"{folder}-{stem}"], (f"{stem}-{n}" for n in itertools.count(2)))
        pairs = (_pair(f"{head}-{tail}.png") for head in heads)
        return next(pair for pair in pairs if all(map(self._is_free, pair)))

    def _is_free(self, name: str) -> bool:
        return name.casefold() not in self.files and not (self.folder / name).exists()


def _is_ours(row: dict) -> bool:
    return None not in row and None not in row.values() and os.path.basename(row["figure"]) == row["figure"]


def _pair(figure: str) -> tuple[str, str]:
    return figure, figure.removesuffix(".png") + "-map.png"


def _plain(text: str, most: int, strange: str = r'[\s\\/:*?"<>|\x00-\x1f\x7f\ud800-\udfff-]+') -> str:
    """A text as part of a file name on any system, of at most so many bytes."""
    return re.sub(strange, "-", text).encode()[:most].decode("utf-8", "ignore").strip("-.")


def explain_photos(
    paths: Sequence[Path],
    explainer: Callable,
    size: int,
    gallery: Gallery,
    *,
    targets: Sequence[int] | None = None,
    top: int = 1,
    name: str = "",
    warning: str = "",
) -> dict[Path, InputError]:
    """Explain photos one by one, with a line for each class. Returns the paths of those that failed, and why.

    size: of the image that the classifier sees; targets, top: see `photos.explain_photo`; name of the explainer and
    warning: for figures and table. A photo that cannot be read or explained is told at once and does not end the run.
    """
    failed = {}
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(paths), "photos")) if len(paths) > 1 else None
        stack.enter_context(gallery)
        for path in paths:
            try:
                explanations = explain_photo(explainer, read_photo(path, size), targets, top)
            except InputError as error:
                failed[path] = error
                say(f"lficam: {error}", sys.stderr)
                explanations = []
            for each in explanations:
                figure = gallery.add(path, each, name, warning)
                say(line(path, each, figure))
            if progress:
                progress.update()
    return failed


def line(photo: Path, explanation: Explanation, figure: Path) -> str:
    """What is printed of one class of one photo."""
    what = explanation.name if explanation.named else "class"
    change = f"{share(explanation.before)} -> {share(explanation.after)}"
    change += f", {'drop' if explanation.drop >= 0 else 'rise'} {abs(explanation.drop):.1f} %"
    return f"{photo}: {what} {explanation.index}  {change}  {figure}"
