"""A table for reading, from a CSV file's full numbers: published, reproduced, interval and difference side by side."""

import csv
import math
import re
from dataclasses import dataclass

DASH = "—"
MINUS = "−"
SIGN = re.compile(r"(?<![\w.])-(?=\d)")  # of a negative number, not of an exponent


@dataclass(frozen=True)
class Reading:
    """header: names; rows: texts, as long as the header; numeric: which columns are of numbers; n: N of all rows."""

    header: list
    rows: list
    numeric: list
    n: str = ""


def cell(text, digits):
    """A table's cell for reading: a number with its column's digits, else six significant ones; empty is a dash."""
    value = number(text)
    if value is None:
        return text or DASH
    if math.isnan(value):
        return DASH
    if re.fullmatch(r"-?\d+", text):
        return text
    return f"{value:.{digits}f}" if isinstance(digits, int) else f"{value:.6g}"


def number(text):
    """A text as float, None if it is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def read_csv(path):
    """Header and rows of a CSV file, the rows as long as the header. Raises `ValueError` when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from None
    return header, [(row + [""] * len(header))[: len(header)] for row in rows if row]


def difference(reproduced, published, digits=None):
    """reproduced - published of two cells, signed, from the full numbers; a dash unless both are there."""
    ours, theirs = number(reproduced), number(published)
    if ours is None or theirs is None or not math.isfinite(ours - theirs):
        return DASH
    text = cell(repr(ours - theirs), digits)
    if float(text) == 0:
        return text.removeprefix("-")
    return MINUS + text[1:] if text.startswith("-") else f"+{text}"


def reading(header, rows, digits=None, fold=True):
    """Columns put in order: keys, published, reproduced, interval, Δ, then the rest.

    "low" and "high" become "[low, high]"; Δ is reproduced - published where both are. fold: leave out empty columns
    (not "published": that nothing is known is a result) and N if it is the same in all rows; the result's `n` then.
    """
    digits = digits if isinstance(digits, dict) else {}
    raw = dict(zip(header, zip(*rows, strict=True) if rows else ([] for _ in header), strict=True))
    shown = {name: [cell(text, digits.get(name)) for text in column] for name, column in raw.items()}
    intervals = {"low", "high"} <= raw.keys()
    if intervals:
        bounds = zip(shown["low"], shown.pop("high"), strict=True)
        shown["low"] = [DASH if DASH in pair else "[{}, {}]".format(*pair) for pair in bounds]
    order = list(shown)
    if "reproduced" in raw:
        if "published" in raw:
            pairs = zip(raw["reproduced"], raw["published"], strict=True)
            shown["Δ"] = [difference(*pair, digits.get("reproduced")) for pair in pairs]
        block = [name for name in ("published", "reproduced", "low", "Δ") if name in shown]
        at = order.index("reproduced")
        before, after = ([name for name in part if name not in block] for part in (order[:at], order[at:]))
        order = [*before, *block, *after]
    n = set(shown.get("N", ())) - {DASH}
    if fold:
        order = [c for c in order if c == "published" or not rows or set(shown[c]) != {DASH}]
        order = [c for c in order if c != "N" or len(n) > 1]
    numeric = [c == "Δ" or (c == "low" and intervals) or _all_numbers(raw[c]) for c in order]
    shown |= {c: [SIGN.sub(MINUS, text) for text in shown[c]] for c, k in zip(order, numeric, strict=True) if k}
    names = ["interval" if c == "low" and intervals else c for c in order]
    texts = [list(row) for row in zip(*(shown[c] for c in order), strict=True)]
    return Reading(names, texts, numeric, n.pop() if fold and len(n) == 1 else "")


def _all_numbers(column):
    return all(number(text) is not None for text in column if text)
