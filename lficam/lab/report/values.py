"""Every number of a profile's tables, by seed: reports/PROFILE/values.csv, and beside it what it was made by.

values.csv    notebook,table,row,column,seed,value: a line a number; a row is known by its words, as "CIFAR-10 | abn"
values.json   the hash of values.csv; of each notebook and seed its settings, lficam's version, commit and device

Tables, intervals and verdicts over seeds come from these two files alone, without any training. The results of a run
lie in reports/PROFILE, those of `lficam reproduce --seeds 1-5` in reports/PROFILE/seed-1 and so on.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ... import __version__, files
from ...errors import InputError
from ...files import short
from ...metrics import seeds
from ...metrics.statistics import HOLM, holm
from .records import read_record
from .tables import RANGED, columns_of, number, read_csv

COLUMNS = ["notebook", "table", "row", "column", "seed", "value"]
PLACE = "seed-"  # of a seed's results: reports/PROFILE/seed-3
LEFT_OUT = ("published", "last epoch", "source", "seed", "equal")  # columns of tables that no run has made
TIMES = ("milliseconds", "lower quartile", "upper quartile", "in a batch")  # another machine has others
MADE = ("reproduced", "iou", "difference")  # columns that "low" and "high" are the interval of
FREE = ("seed", "parallel", "workers", "examples", "fresh", "tensorboard", "data_root", "output", "profile")


class Cell(NamedTuple):
    """Where a number stands."""

    notebook: str
    table: str
    row: str
    column: str


Run = dict[str, Any]  # what a record says of a run: settings, lficam, commit, device, ...


@dataclass
class Values:
    """The numbers of a profile: {cell: {seed: value}}, in the tables' order; runs: {notebook: {seed: facts}}."""

    profile: str
    cells: dict[Cell, dict[int, float]] = field(default_factory=dict)
    runs: dict[str, dict[int, Run]] = field(default_factory=dict)

    def seeds_of(self, notebook: str) -> list[int]:
        """The seeds that a notebook was run with."""
        return sorted(self.runs.get(notebook, {}))


def places(folder: Path) -> list[Path]:
    """Where the notebooks' folders lie: reports/PROFILE, unless there is nothing, and the seeds' folders in it."""
    found = [path for path in folder.glob(f"{PLACE}*") if path.name.removeprefix(PLACE).isdecimal()]
    found.sort(key=lambda path: int(path.name.removeprefix(PLACE)))
    return found if found and not any(folder.glob("[!.]*/record.json")) else [folder, *found]


def collect(folder: Path) -> Values:
    """The numbers of all finished notebooks in reports/PROFILE; of two runs with the same seed the later one's.

    Notebooks run by hand, of which no settings are known, are left out.
    """
    values = Values(folder.name)
    for place in places(folder):
        for path in sorted(place.glob("[!.]*/record.json")):
            try:
                record = read_record(path.parent)
            except ValueError:
                continue  # the page says so
            settings = record.get("settings") or {}
            if not isinstance(settings.get("seed"), int):
                continue
            seed, name = settings["seed"], path.parent.name
            earlier = values.runs.get(name, {}).get(seed, {}).get("started", "")
            if str(record["started"]) < earlier:
                continue
            kept = {key: record[key] for key in ("commit", "dirty", "device", "versions", "started", "seconds")}
            known = {key: value for key, value in settings.items() if key not in FREE}
            version = record["versions"]["lficam"]
            values.runs.setdefault(name, {})[seed] = {"settings": known, "lficam": version} | kept
            for entry in record["tables"]:
                if not entry.get("of"):
                    for row, column, value in numbers_of(path.parent / entry["file"]):
                        cell = Cell(name, Path(entry["file"]).stem, row, column)
                        values.cells.setdefault(cell, {})[seed] = value
    return values


def numbers_of(path: Path) -> Iterator[tuple[str, str, float]]:
    """(row, column, value) of every number that a table's file holds; "12.3 [11.0, 13.7]" is three of them."""
    header, rows = read_csv(path)
    words, names = named(header, rows)
    for row, line in zip(names, rows, strict=True):
        for name, text in zip(header, line, strict=True):
            if name in words or name in (*LEFT_OUT, *TIMES):
                continue
            if wide := RANGED.fullmatch(text):
                yield from (
                    (row, part, float(found)) for part, found in zip((name, *bounds(name)), wide.groups(), strict=True)
                )
            elif (value := number(text)) is not None and math.isfinite(value):
                yield row, name, value


def named(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The columns that say what a row is about, those of words and the model's number; and what each row is about."""

    def of_words(texts: Sequence[str]) -> bool:
        return any(text and number(text) is None and not RANGED.fullmatch(text) for text in texts)

    columns = columns_of(header, rows)
    words = [k for k, texts in columns.items() if k not in LEFT_OUT and (k == "model" or of_words(texts))]
    at = [header.index(name) for name in words]
    return words, [" | ".join(line[i] for i in at) for line in rows]


def bounds(column: str) -> tuple[str, str]:
    """The columns of the interval that a column's numbers have."""
    return ("low", "high") if column in MADE else (f"{column} low", f"{column} high")


def write(values: Values, folder: Path) -> Path:
    """Write values.csv and values.json into the folder; returns the path of the former."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for cell, by_seed in values.cells.items():
        lines.writerows([*cell, seed, repr(float(value))] for seed, value in sorted(by_seed.items()))
    content = text.getvalue().encode()
    facts = {"profile": values.profile, "lficam": __version__, "sha256": hashlib.sha256(content).hexdigest()}
    runs = {name: {str(seed): run for seed, run in sorted(by.items())} for name, by in values.runs.items()}
    with files.atomic(folder / "values.csv") as file:
        file.write(content)
    with files.atomic(folder / "values.json", "w") as file:
        json.dump(facts | {"runs": runs}, file, indent=1, ensure_ascii=False)
    return folder / "values.csv"


def read(folder: Path, made: str = "") -> Values:
    """The numbers that a folder holds. Raises `InputError` where they are missing, cut, or edited by hand.

    made: the commands that make them, by default those of a profile's results.
    """
    path, made = folder / "values.csv", made or f"`lficam reproduce --profile {folder.name}`"
    anew = f"write it anew by {made}, or restore it with git"
    try:
        content, facts = path.read_bytes(), json.loads((folder / "values.json").read_bytes())
        runs = {name: {int(seed): run for seed, run in by.items()} for name, by in facts["runs"].items()}
        values, known = Values(facts["profile"], runs=runs), facts["sha256"]
    except FileNotFoundError as error:
        missing = short(Path(error.filename))
        raise InputError(f"{missing} is not there: {made} writes it.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{short(path)} cannot be read ({type(error).__name__}): {anew}.") from error
    if hashlib.sha256(content).hexdigest() != known:
        raise InputError(f"{short(path)} was cut or edited since it was written: {anew}.")
    for line in list(csv.reader(io.StringIO(content.decode())))[1:]:
        values.cells.setdefault(Cell(*line[:4]), {})[int(line[4])] = float(line[5])
    return values


def located(values: Values, cell: Cell, of: str = "") -> Cell:
    """Where a table's number is kept; that of a table which shows the table `of` once more, there, by its words."""
    if not of:
        return cell
    words = {*cell.row.split(" | "), cell.column}
    kept = [c for c in values.cells if (c.notebook, c.table, c.column) == (cell.notebook, of, "reproduced")]
    kept = [c for c in kept if words <= set(c.row.split(" | "))]
    return kept[0] if len(kept) == 1 else cell


def over_seeds(
    values: Values, notebook: str, table: str, header: Sequence[str], rows: Sequence[Sequence[str]], of: str = ""
) -> list[list[str]]:
    """A table's rows with means over seeds for one run's numbers, and intervals over trainings and images.

    of: the table whose numbers it shows once more. p of differences is that of t over both, corrected for the number
    of rows with the same measure (Holm). Numbers of which there are fewer than two runs stay.
    """
    at = {name: i for i, name in enumerate(header)}
    found: list[list[str]] = []
    tests: dict[str, dict[int, float]] = {}  # {measure: {number of the row: p}}
    for row, line in zip(named(header, rows)[1], map(list, rows), strict=True):
        for name in header:
            cell, text = located(values, Cell(notebook, table, row, name), of), line[at[name]]
            if name in ("low", "high", HOLM) or len(values.cells.get(cell, {})) < 2:
                continue
            if name == "difference" and HOLM in at:
                measure = line[at["measure"]] if "measure" in at else ""
                tests.setdefault(measure, {})[len(found)] = seeds.p_value(*of_runs(values, cell))
            mean, ends = _mean(values, cell)
            if wide := RANGED.fullmatch(text):
                digits = len(wide[1].partition(".")[2])
                text = f"{mean:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
            else:
                text = repr(int(mean) if mean.is_integer() and "." not in text else mean)
            if name in MADE and "low" in at:
                line[at["low"]], line[at["high"]] = map(repr, ends)
            line[at[name]] = text
        found.append(line)
    for tested in tests.values():
        for i, p in zip(tested, holm(list(tested.values())), strict=True):
            found[i][at[HOLM]] = repr(float(p))
    return found


def of_runs(values: Values, cell: Cell) -> tuple[list[float], list[float]]:
    """A number's values in its runs, and their standard errors over images, where there are any."""
    by_seed = values.cells[cell]
    low, high = (values.cells.get(cell._replace(column=end), {}) for end in bounds(cell.column))
    errors = [seeds.standard_error(low[s], high[s]) for s in by_seed if s in low and s in high]
    return list(by_seed.values()), errors


def _mean(values: Values, cell: Cell) -> tuple[float, tuple[float, float]]:
    """The mean of a number over seeds, with its interval."""
    runs, errors = of_runs(values, cell)
    return sum(runs) / len(runs), seeds.interval(runs, errors)
