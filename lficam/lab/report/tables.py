"""A table for reading, from a CSV file's full numbers: published, reproduced, interval and difference side by side."""

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

DASH = "—"
BLOCK = ("published", "reproduced", "low", "Δ", "reference", "agrees")  # columns, in this order
MINUS = "−"
RANGED = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")  # a number with its interval in one cell
SIGN = re.compile(r"(?<![\w.])-(?=\d)")  # of a negative number, not of an exponent


class Readable(NamedTuple):
    """header: names; rows: texts, as long as the header; numeric: which columns are of numbers; n: N of all rows."""

    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    n: str = ""


def cell(text: str, digits: int | None) -> str:
    """A table's cell for reading: a number with its column's digits, else six significant ones; empty is a dash."""
    value = number(text)
    if value is None:
        return text or DASH
    if math.isnan(value):
        return DASH
    if re.fullmatch(r"-?\d+", text):
        return text
    return f"{value:.{digits}f}" if isinstance(digits, int) else f"{value:.6g}"


def column(texts: Sequence[str], digits: int | None) -> list[str]:
    """A column's cells for reading; in one of numbers alone the minus is a minus."""
    cells = [cell(text, digits) for text in texts]
    return [SIGN.sub(MINUS, text) for text in cells] if numbers(texts) else cells


def numbers(texts: Iterable[str]) -> bool:
    """Whether a column holds numbers alone."""
    return all(number(text) is not None for text in texts if text)


def number(text: Any) -> float | None:
    """A text as float, None if it is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file, the rows as long as the header. Raises `ValueError` when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
    return header, [(row + [""] * len(header))[: len(header)] for row in rows if row]


def columns_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """A table's columns, {name: texts}."""
    return dict(zip(header, zip(*rows, strict=True) if rows else ((),) * len(header), strict=True))


def difference(reproduced: str, published: str, digits: int | None = None) -> str:
    """reproduced - published of two cells, signed, from the full numbers; a dash unless both are there."""
    ours, theirs = number(reproduced), number(published)
    if ours is None or theirs is None or not math.isfinite(ours - theirs):
        return DASH
    text = cell(repr(ours - theirs), digits)
    if float(text) == 0:
        return text.removeprefix("-")
    return MINUS + text[1:] if text.startswith("-") else f"+{text}"


def readable(
    header: Sequence[str], rows: Sequence[Sequence[str]], digits: Mapping[str, int] | None = None, fold: bool = True
) -> Readable:
    """Columns put in order: keys, published, reproduced, interval, Δ, reference, agrees, then the rest.

    "low" and "high" become "[low, high]"; Δ is reproduced - published where both are. fold: leave out empty columns
    (not "published": that nothing is known is a result) and N if it is the same in all rows; the result's `n` then.
    """
    places: Mapping[str, int] = digits if isinstance(digits, dict) else {}  # of a record, which may be damaged
    raw = columns_of(header, rows)
    shown = {name: column(texts, places.get(name)) for name, texts in raw.items()}
    numeric = {name: numbers(texts) for name, texts in raw.items()} | {"Δ": True}
    intervals = {"low", "high"} <= raw.keys()
    if intervals:
        bounds = zip(shown["low"], shown.pop("high"), strict=True)
        shown["low"], numeric["low"] = [DASH if DASH in pair else "[{}, {}]".format(*pair) for pair in bounds], True
    order = list(shown)
    if "reproduced" in raw:
        if "published" in raw:
            pairs = zip(raw["reproduced"], raw["published"], strict=True)
            shown["Δ"] = [difference(*pair, places.get("reproduced")) for pair in pairs]
        block = [name for name in BLOCK if name in shown]
        at = order.index("reproduced")
        before, after = ([name for name in part if name not in block] for part in (order[:at], order[at:]))
        order = [*before, *block, *after]
    n = set(shown.get("N", ())) - {DASH}
    if fold:
        order = [c for c in order if c == "published" or not rows or set(shown[c]) != {DASH}]
        order = [c for c in order if c != "N" or len(n) > 1]
    names = ["interval" if c == "low" and intervals else c for c in order]
    texts = [list(row) for row in zip(*(shown[c] for c in order), strict=True)]
    return Readable(names, texts, [numeric[c] for c in order], n.pop() if fold and len(n) == 1 else "")
