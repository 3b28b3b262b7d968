"""Whether a run agrees with the reference: reports/PROFILE/values.csv against figures/PROFILE/values.csv.

The reference is S runs that differ in the seed alone. A number agrees when it lies in the prediction interval of one
more such run (`metrics.seeds`). How many agree is set against the reference itself: each of its runs is judged by the
other S - 1 in the same way. A notebook agrees when each of our runs has a share not below what one more run of the
reference would have, with an error of 5 % over all (Bonferroni); and what has no interval and does not vary in the
reference, nor in another row of its column, as a number of parameters, must be equal. Beside it stands how many of the
reference's conclusions (`claims`) hold in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ... import files
from ...errors import InputError
from ...files import short
from ...metrics import seeds
from ...metrics.statistics import HOLM
from .claims import shared
from .tables import RANGED, number
from .values import MADE, Cell, Values, bounds, located, named, read

LEAST = 3  # runs of a reference
ERROR = 0.05
UNJUDGED = (HOLM, "low", "high")  # what follows from other columns, or has no spread to speak of
SHOWN = 20  # cells outside


@dataclass
class Outside:
    """A number that does not agree: cell, seed, value, where it was expected, and how many half-widths away it is.

    exact: it has no interval and is the same in all runs of the reference.
    """

    cell: Cell
    seed: int
    value: float | None
    low: float
    high: float
    exact: bool = False

    @property
    def distance(self) -> float:
        """Distance from the middle in half-widths, above 1; infinite where all runs of the reference agree."""
        half = (self.high - self.low) / 2
        if self.value is None or not half:
            return math.inf
        return abs(self.value - (self.low + self.high) / 2) / half


@dataclass
class Judgement:
    """A notebook: judged cells, the share inside of each of our runs, and of the reference's among themselves.

    variation: the median over cells of the reference's CV*, in percent. conclusions: whether what all runs of the
    reference bear out holds in all of ours.
    """

    notebook: str
    cells: int
    shares: list[float]
    among: list[float]
    outside: list[Outside]
    level: float
    variation: float
    conclusions: dict[str, bool] = field(default_factory=dict)

    @property
    def least(self) -> float:
        """The share that one more run of the reference would reach, but for `level` of them."""
        return seeds.prediction(self.among, 1 - 2 * self.level / len(self.shares))[0] - 1e-9

    @property
    def agrees(self) -> bool:
        """Whether the notebook's numbers agree."""
        return not any(one.exact for one in self.outside) and min(self.shares) >= self.least


def judged(cell: Cell) -> bool:
    """Whether a number is judged: of intervals the middle alone."""
    return not (cell.column in UNJUDGED or cell.column.endswith((" low", " high")))


def expected(values: Mapping[int, float], error: float) -> tuple[float, float]:
    """Where a further run's number lies; with one image's worth of room where the runs do not differ at all."""
    low, high = seeds.prediction(list(values.values()))
    return (low - error, high + error) if low == high else (low, high)


def inside(value: float | None, low: float, high: float) -> bool:
    """Whether a number lies there, but for rounding; one that is not there does not."""
    slack = 1e-9 * max(abs(low), abs(high))
    return value is not None and low - slack <= value <= high + slack


def verify(profile: str = "desk", reference: Path | str | None = None) -> tuple[list[Judgement], Path]:
    """Judge reports/PROFILE notebook by notebook; also the reference's folder.

    reference: a folder with values.csv, by default figures/PROFILE. Raises `InputError` where nothing can be judged:
    results or reference missing, other settings or another version, fewer than three runs in the reference.
    """
    folder = Path(reference) if reference else files.root() / "figures" / profile
    made = f"`lficam reproduce --profile {profile} --seeds 1-5`, then `lficam publish --profile {profile}`,"
    return judge(read(files.root() / "reports" / profile), read(folder, made)), folder


def judge(ours: Values, theirs: Values) -> list[Judgement]:
    """As `verify`, of two sets of values."""
    if ours.profile != theirs.profile:
        raise InputError(
            f"The results are of profile {ours.profile!r}, the reference of {theirs.profile!r}: give a reference of "
            "the same profile (--reference)."
        )
    for name, runs in theirs.runs.items():
        if len(runs) < LEAST:
            raise InputError(
                f"The reference has {len(runs)} run of {name}, which say nothing of how trainings vary: it needs at "
                f"least {LEAST}, as `lficam reproduce --profile {theirs.profile} --seeds 1-5` makes them."
            )
        if name not in ours.runs:
            raise InputError(f"{name} was not run: `lficam reproduce --profile {ours.profile}` runs what is missing.")
        _comparable(name, ours, theirs)
    level = ERROR / max(1, len(theirs.runs))
    return [_of_notebook(name, ours, theirs, level) for name in theirs.runs]


def _comparable(name: str, ours: Values, theirs: Values) -> None:
    """Raise `InputError` naming what makes the two incomparable."""
    first = next(iter(theirs.runs[name].values()))
    for seed, run in ours.runs[name].items():
        changed = [
            f"{key} is {run['settings'].get(key)!r} instead of {first['settings'].get(key)!r}"
            for key in sorted(run["settings"].keys() | first["settings"].keys())
            if run["settings"].get(key) != first["settings"].get(key)
        ]
        if run["lficam"] != first["lficam"]:
            changed.append(f"lficam is {run['lficam']} instead of {first['lficam']}")
        if changed:
            raise InputError(
                f"{name} (seed {seed}) cannot be compared with the reference: {'; '.join(changed)}. Run it with the "
                "profile's settings, or make a reference of these (--reference)."
            )


def _of_notebook(name: str, ours: Values, theirs: Values, level: float) -> Judgement:
    runs = theirs.seeds_of(name)
    cells = {
        cell: by_seed
        for cell, by_seed in theirs.cells.items()
        if cell.notebook == name and judged(cell) and set(by_seed) == set(runs)
    }
    outside, shares = [], []
    for seed in ours.seeds_of(name):
        found = _outside(cells, {cell: ours.cells.get(cell, {}).get(seed) for cell in cells}, theirs, seed)
        shares.append(1 - len(found) / len(cells) if cells else 1.0)
        outside += found
    among = []
    for left in runs:
        rest = {cell: {s: v for s, v in by.items() if s != left} for cell, by in cells.items()}
        found = _outside(rest, {cell: by[left] for cell, by in cells.items()}, theirs, left)
        among.append(1 - len(found) / len(cells) if cells else 1.0)
    outside.sort(key=lambda one: -one.distance)
    varied = [seeds.variation(list(by.values())) for cell, by in cells.items() if _room(cell, theirs, by)]
    variation = float(np.nanmedian(varied or [0.0]))
    return Judgement(name, len(cells), shares, among, outside, level, variation, shared(ours, theirs, name))


def _outside(
    reference: Mapping[Cell, Mapping[int, float]], run: Mapping[Cell, float | None], theirs: Values, seed: int
) -> list[Outside]:
    found = []
    moving = {(cell.table, cell.column) for cell, by_seed in reference.items() if len(set(by_seed.values())) > 1}
    for cell, by_seed in reference.items():
        low, high = expected(by_seed, _room(cell, theirs, by_seed))
        if not inside(run[cell], low, high):
            # A count that varies in another row of its column is none of the settings: it is the same here by luck.
            exact = low == high and not _bounded(cell, theirs) and (cell.table, cell.column) not in moving
            found.append(Outside(cell, seed, run[cell], low, high, exact))
    return found


def _bounded(cell: Cell, theirs: Values) -> bool:
    """Whether a number has an interval over images."""
    return theirs.cells.keys() >= {cell._replace(column=end) for end in bounds(cell.column)}


def _room(cell: Cell, theirs: Values, by_seed: Mapping[int, float]) -> float:
    """Half the runs' own interval over images, for numbers that have one: no spread in five runs is luck."""
    if not _bounded(cell, theirs):
        return 0.0
    low, high = (cell._replace(column=end) for end in bounds(cell.column))
    return float(np.mean([theirs.cells[high][s] - theirs.cells[low][s] for s in by_seed])) / 2


def beside_reference(
    theirs: Values,
    notebook: str,
    entry: Mapping[str, Any],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> tuple[list[str], list[list[str]]]:
    """A table with the reference's mean, the prediction interval of one more run, and whether the number lies in it.

    entry: of the record, with file, digits and of. Of a table with several numbers a row, each with its interval, only
    how many agree. Other tables, and those of which the reference has no numbers, stay as they are.
    """
    made, digits = [name for name in MADE if name in header], entry.get("digits")
    places = digits.get(made[0], 3) if made and isinstance(digits, dict) else 3
    found, known = [], False
    for row, line in zip(named(header, rows)[1], map(list, rows), strict=True):
        judged = []
        for name, text in zip(header, line, strict=True):
            if name in made or (not made and RANGED.fullmatch(text)):
                cell = located(theirs, Cell(notebook, Path(entry["file"]).stem, row, name), str(entry.get("of") or ""))
                if len(by_seed := theirs.cells.get(cell, {})) >= LEAST:
                    ends = expected(by_seed, _room(cell, theirs, by_seed))
                    value = number(text.partition(" ")[0])
                    judged.append((sum(by_seed.values()) / len(by_seed), ends, inside(value, *ends)))
        known = known or bool(judged)
        if made and judged:
            (mean, (low, high), agrees), *_ = judged
            line += [f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]", "yes" if agrees else "NO"]
        else:
            line += [""] * bool(made) + [f"{sum(one[2] for one in judged)} of {len(judged)}" if judged else ""]
        found.append(line)
    added = ["reference", "agrees"] if made else ["agrees"]
    return ([*header, *added], found) if known else (list(header), [list(line) for line in rows])


# --- For reading


def text(found: Sequence[Judgement], reference: Path, profile: str) -> str:
    """The verdict as lines: a table of notebooks, the cells outside, and a sentence."""
    rows = [("notebook", "numbers", "inside", "the reference's own runs", "which vary by CV*")]
    rows += [
        (one.notebook, str(one.cells), _range(one.shares), _range(one.among), f"{one.variation:.1f} %") for one in found
    ]
    width = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(part.ljust(w) for part, w in zip(row, width, strict=True)).rstrip() for row in rows]
    outside = sorted((one for part in found for one in part.outside), key=lambda one: -one.distance)
    if outside:
        lines += ["", "outside, farthest first (distance in half-widths of the prediction interval):"]
        lines += [f"  {_told(one)}" for one in outside[:SHOWN]]
        lines += [f"  and {len(outside) - SHOWN} more"] * (len(outside) > SHOWN)
    return "\n".join([*lines, "", sentence(found, reference, profile)])


def _range(shares: Sequence[float]) -> str:
    """Shares of several runs in percent, from the least to the largest."""
    ends = sorted({f"{min(shares):.0%}", f"{max(shares):.0%}"}, key=lambda text: float(text[:-1]))
    return " to ".join(ends)


def _told(one: Outside) -> str:
    where = f"{one.cell.notebook}, {one.cell.table}: {one.cell.row}, {one.cell.column}"
    if one.value is None:
        return f"{where}: not there"
    far = "" if math.isinf(one.distance) else f" ({one.distance:.1f})"
    return f"{where}: {one.value:.6g}, expected {one.low:.6g} to {one.high:.6g}{far}"


def sentence(found: Sequence[Judgement], reference: Path, profile: str) -> str:
    """The verdict in a sentence."""
    total = sum(one.cells for one in found)
    inside = sum(one.cells * float(np.mean(one.shares)) for one in found) / total if total else 1.0
    wrong = [one.notebook for one in found if not one.agrees]
    runs = len(found[0].among) if found else 0
    share = f"{inside:.1%} of {total} numbers lie where one more run would put them"
    said = f"{share}.{_concluded(found)}"
    if wrong:
        return f"The results of {profile} DIFFER from the reference in {', '.join(wrong)}: {said}"
    return f"The results of {profile} agree with the reference ({short(reference)}, {runs} runs): {said}"


def _concluded(found: Sequence[Judgement]) -> str:
    """How many conclusions hold, and which do not; "" where there are none."""
    every = {claim: held for one in found for claim, held in one.conclusions.items()}
    lost = [claim for claim, held in every.items() if not held]
    count = f" Conclusions: {len(every) - len(lost)} of {len(every)} hold"
    return f"{count}{'; not: ' * bool(lost)}{'; '.join(lost)}." if every else ""
