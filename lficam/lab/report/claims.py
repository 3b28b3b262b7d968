"""Sentences of README and notebooks that order methods, and whether the numbers of a run bear them out.

data/tables/claims.csv has a line a condition: in one table of a notebook, left is less (<) or more (>) than right.
Either is a number, or "row | column" as in values.csv; in a row, * stands for every word, and "* but a / b" for every
word but these two; a row is not compared with itself. Lines of the same claim and profile hold together or not at all.
`sentence` is what `file` says, word for word, with {count} for "K of S" runs of figures/PROFILE in which it is true;
without it, it is true in all. `python tools/docs.py` writes the counts into the files.
"""

import csv
import functools
import itertools
import re
from pathlib import Path
from typing import NamedTuple

from ... import files
from .tables import number
from .values import Cell, Values, read

Numbers = dict[Cell | None, dict[int, float]]  # by place (none: a number of the claim itself) and seed


class Condition(NamedTuple):
    """A comparison in a table."""

    table: str
    left: str
    relation: str
    right: str


class Claim(NamedTuple):
    """What is claimed in which file, and its conditions in the tables of a notebook."""

    claim: str
    profile: str
    file: str
    sentence: str
    notebook: str
    conditions: list[Condition]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Its sentence in a text, over line breaks too; the group is the count, if it has one."""
        words = r"\s+".join(map(re.escape, self.sentence.split()))
        return re.compile(words.replace(re.escape("{count}"), r"(\d+ of \d+)"))


@functools.cache
def claims() -> list[Claim]:
    """All claims of data/tables/claims.csv."""
    found: dict[tuple[str, str], Claim] = {}
    with files.table("claims.csv").open(encoding="utf-8", newline="") as file:
        for row in list(csv.reader(file))[1:]:
            claim, profile, where, sentence, notebook, *condition = row
            one = found.setdefault((claim, profile), Claim(claim, profile, where, sentence, notebook, []))
            one.conditions.append(Condition(*condition))
    return list(found.values())


def holds(values: Values, claim: Claim) -> dict[int, bool]:
    """Of each run whether a claim holds in it: {seed: bool}, without those that lack one of its numbers."""
    sides = []
    for table, left, relation, right in claim.conditions:
        a, b = (_cells(values, claim.notebook, table, side) for side in (left, right))
        sides.append((a, relation, b))
    found = {}
    for seed in values.seeds_of(claim.notebook):
        parts = [_compared(seed, *side) for side in sides]
        if all(parts):
            found[seed] = all(map(all, parts))
    return found


def counted(text: str, file: str, figures: Path) -> str:
    """A page's text, or a notebook cell's, with the counts of its claims as the references in figures/ have them."""
    reference = functools.cache(lambda profile: read(figures / profile))  # a text has many claims of one
    for claim in claims():
        match = claim.pattern.search(text) if claim.file == file else None
        if match and match.groups() and (figures / claim.profile / "values.csv").is_file():
            start, end = match.span(1)
            if found := holds(reference(claim.profile), claim):
                text = f"{text[:start]}{sum(found.values())} of {len(found)}{text[end:]}"
    return text


def shared(ours: Values, theirs: Values, notebook: str) -> dict[str, bool]:
    """Whether all our runs of a notebook bear out what all runs of the reference do: {claim: bool}."""
    found = {}
    for claim in claims():
        if (claim.profile, claim.notebook) == (theirs.profile, notebook):
            reference, mine = holds(theirs, claim), holds(ours, claim)
            if reference and mine and all(reference.values()):
                found[claim.claim] = all(mine.values())
    return found


def _compared(seed: int, left: Numbers, relation: str, right: Numbers) -> list[bool]:
    """For each pair of numbers of a run whether they stand in that relation."""
    pairs = [(x, y) for (a, x), (b, y) in itertools.product(left.items(), right.items()) if a != b]
    pairs = [(x, y) for x, y in pairs if seed in x and seed in y]
    return [x[seed] < y[seed] if relation == "<" else x[seed] > y[seed] for x, y in pairs]


def _cells(values: Values, notebook: str, table: str, what: str) -> Numbers:
    """The numbers of one side by seed, and where they stand."""
    if (known := number(what)) is not None:
        return {None: dict.fromkeys(values.seeds_of(notebook), known)}
    *words, column = what.split(" | ")
    return {
        cell: by_seed
        for cell, by_seed in values.cells.items()
        if (cell.notebook, cell.table, cell.column) == (notebook, table, column)
        and len(row := cell.row.split(" | ")) == len(words)
        and all(map(_fits, words, row))
    }


def _fits(pattern: str, word: str) -> bool:
    if pattern.startswith("* but "):
        return word not in pattern.removeprefix("* but ").split(" / ")
    return pattern in ("*", word)
