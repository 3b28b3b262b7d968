"""A figure over seeds, from values.csv alone: every run a point, their mean with its interval, what was published."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ...data import papers
from ...metrics import seeds
from ...plots import charts
from .values import Cell, Values, of_runs

NAME, TITLE = "seeds", "Seed by seed"


class Panel(NamedTuple):
    """Numbers of one table in a panel of the figure.

    row: a regular expression of the words of its rows; its groups are "method", "group" (methods stand below its name
    where there are several), and "rival": put "centre" in its place, and it is the row of the control.
    """

    label: str
    table: str
    row: str
    column: str = "reproduced"


def _scores(measure: str, label: str) -> Panel:
    return Panel(label, "scores", rf"[^|]* \| (?P<group>[^|]*) \| (?P<rival>(?P<method>[^|]*)) \| {measure}")


ACCURACY, IOU = "top-1 accuracy (%)", "IoU with the object ↑"
AD = _scores("AD 100", "AD 100 (%) ↓")
MASKED = (AD, _scores("IC 100", "IC 100 (%) ↑"), _scores("IoU", IOU))
CURVES = (_scores("insertion", "insertion ↑"), _scores("deletion", "deletion ↓"))
PANELS: Mapping[str, Sequence[Panel]] = {
    "01_train_lficam": (
        Panel(ACCURACY, "accuracy", r".* \| (?P<method>[^|]*)"),
        Panel(IOU, "overlap", r"(?P<rival>(?P<method>[^|]*)) \| IoU"),
        Panel("AD 50 (%), own map ↓", "faithfulness", r"(?P<method>[^|]*) \| (?P<rival>own)", "AD 50"),
    ),
    "02_abn_stability": (Panel(ACCURACY, "accuracy", r"(?P<group>.*) \| (?P<method>[^|]*) \| \d+"),),
    "03_lcam": MASKED,
    "04_tame": MASKED,
    "05_ad_ic": (AD, _scores("AD 15", "AD 15 (%) ↓"), *CURVES),
    "06_iou": (Panel("IoU between models", "average", r"(?P<group>.*) \| (?P<method>[^|]*)"),),
    "07_metrics": (
        Panel("tau-b with the mask, per image", "agreement", r"precision \| (?P<method>[^|]*) \| per image"),
        Panel("tau-b with the mask, of means", "agreement", r"precision \| (?P<method>[^|]*) \| of means"),
    ),
}


def over_seeds(values: Values, notebook: str) -> tuple[Figure, str] | None:
    """The figure of a notebook's main measures, and its caption; None where no two runs have any of them."""
    panels = {panel.label: _rows(values, notebook, panel) for panel in PANELS.get(notebook, ())}
    panels = {label: rows for label, rows in panels.items() if rows}
    if not panels:
        return None
    runs = len(values.seeds_of(notebook))
    several = any(len(row.values) > runs for rows in panels.values() for row in rows.values())
    point = "a model of a run" if several else "a run"
    caption = f"A point is {point}, of {runs} that differ in the seed; above the points the mean with its 95 % "
    caption += "interval over trainings and images, its number beside them. ↓: less is better, ↑: more."
    return charts.seed_dots(panels, point), caption


def _rows(values: Values, notebook: str, panel: Panel) -> dict[tuple[str, str], charts.Runs]:
    """The rows of a panel that two runs have at least: {(group, method): their numbers}."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    rivals: dict[tuple[str, str], Cell] = {}
    for cell, by_seed in values.cells.items():
        here = (cell.notebook, cell.table, cell.column) == (notebook, panel.table, panel.column) and len(by_seed) > 1
        if here and (match := re.fullmatch(panel.row, cell.row)):
            key = match.groupdict().get("group", ""), match["method"]
            cells.setdefault(key, []).append(cell)
            if "rival" in match.groupdict():
                start, end = match.span("rival")
                rivals[key] = cell._replace(row=f"{cell.row[:start]}centre{cell.row[end:]}")
    published = _published()
    found = {}
    for key, same in cells.items():
        control = values.cells.get(rivals[key], {}).values() if key in rivals else ()
        mean, ends = _mean(values, same)
        points = [value for cell in same for value in values.cells[cell].values()]
        found[key] = charts.Runs(
            points, (mean, *ends), published.get(same[0].row, ()), sum(control) / len(control) if control else None
        )
    return found


def _mean(values: Values, cells: Sequence[Cell]) -> tuple[float, tuple[float, float]]:
    """Over seeds, with its interval; of several numbers a seed, as of five models, the mean, as of their errors."""
    numbers: dict[int, list[float]] = {}
    errors: dict[int, list[float]] = {}
    for cell in cells:
        runs, spread = of_runs(values, cell)
        for i, seed in enumerate(values.cells[cell]):
            numbers.setdefault(seed, []).append(runs[i])
            errors.setdefault(seed, []).extend(spread[i : i + 1])
    means = [float(np.mean(found)) for found in numbers.values()]
    return float(np.mean(means)), seeds.interval(means, [float(np.mean(e)) for e in errors.values() if e])


@functools.cache
def _published() -> dict[str, list[float]]:
    """The papers' numbers by the words of their rows."""
    tables = (
        (papers.published_accuracy(), ["dataset", "backbone", "method"]),
        (papers.published_faithfulness(), ["dataset", "classifier", "explainer", "measure"]),
        (papers.published_iou()[1], ["dataset", "method"]),
    )
    found: dict[str, list[float]] = {}
    for table, keys in tables:
        for *words, value in table.dropna(subset=["published"])[[*keys, "published"]].itertuples(index=False):
            found.setdefault(" | ".join(words), []).append(value)
    return found
