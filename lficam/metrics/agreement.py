"""Which metric can be trusted? How its ranking of explainers agrees with the mask's, and with those of other metrics.

rows = agreement(score(explainers, images, measures=("masking", "overlap", "deletion")))
rows = over_seeds([table_of_seed_1, ..., table_of_seed_5])
matrix = between(tables)                                        # every metric with every other

Kendall's tau-b: of the pairs of explainers, those in the same order minus those in the other one, over the geometric
mean of the pairs that are no ties in either ranking. 1 is the same ranking, 0 chance, -1 the reverse.

A mask says where the object *is*, not what the network used: a faithful map of a wrong network need not lie on it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..errors import InputError, choose
from . import seeds
from .scoring import values_of
from .statistics import average, bootstrap

LOWER = ("AD", "deletion", "MoRF", "complexity")  # first words of the measures of which less is better
TRUTH = "energy"
CHANCE = {"per image": 0.0, "undefined 0": 0.0, "of means": 0.0, "pairs": 0.5}


def kendall(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Kendall's tau-b of a and b (..., E) over the E last values: (...), NaN where either is constant.

    Kendall (Biometrika 1945).
    """
    return (_orders(np.asarray(a, np.float64)) * _orders(np.asarray(b, np.float64))).sum(-1)


def _signs(values: np.ndarray) -> np.ndarray:
    """The order of each pair of (..., E): -1, 0 or 1, (..., pairs)."""
    first, second = np.triu_indices(values.shape[-1], 1)
    return np.sign(values[..., first] - values[..., second])


def _orders(values: np.ndarray) -> np.ndarray:
    """`_signs` scaled to length 1, NaN where there is no order: the sum of products of two is their tau-b."""
    signs = _signs(values)
    length = np.sqrt((signs**2).sum(-1, keepdims=True))
    return np.divide(signs, length, out=np.full_like(signs, np.nan), where=length > 0)


def ranked(table: pd.DataFrame, measures: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """{measure: values (N, E) of images and explainers, larger is better}, of a table of `scoring.score`.

    measures: of `summary`, by default all but those that leave images out. Raises `InputError` for unknown ones, fewer
    than two explainers, and explainers that were not scored on the same images.
    """
    parts = [part.set_index("image") for _, part in table.groupby("explainer", sort=False)]
    if len(parts) < 2 or not all(part.index.equals(parts[0].index) for part in parts):
        raise InputError("A ranking needs at least two explainers, scored on the same images in the same order.")
    found = [values_of(part) for part in parts]
    names = [name for name in found[0] if not name.endswith("defined")] if measures is None else measures
    signs = {name: -1 if name.split()[0] in LOWER else 1 for name in names}
    return {name: signs[name] * np.stack([choose("measure", name, own) for own in found], 1) for name in names}


def agreement(table: pd.DataFrame, truth: str = TRUTH, measures: Sequence[str] | None = None) -> pd.DataFrame:
    """How each measure ranks the explainers of a table of `score` against the ranking by `truth`, a measure too.

    truth: "energy", the share of the map in the exact mask; "IoU" depends on a threshold. Rows measure, ranking,
    reproduced, low, high (95 % bootstrap over images, the same resamples for all), N:
    - "per image": tau-b of each image, mean of the N where both rankings order anything;
    - "undefined 0": mean of all images, with 0 for the others;
    - "of means": tau-b of the means over images; of E explainers it has E (E - 1) / 2 pairs, hence wide intervals;
    - "pairs": the share of pairs of explainers, image by image, that the measure orders as the truth does; its
      ties count one half, pairs that are equal in truth do not count. 0.5 is chance.
    A ranking that orders nothing has no row. Raises `InputError` as `ranked`.
    """
    values, rows = ranked(table, measures), []
    true = values.get(truth, ranked(table, [truth])[truth])
    for name, own in values.items():
        if name == truth:
            continue
        tau, found = kendall(own, true), {}
        known = tau[~np.isnan(tau)]
        if len(known):
            found = {"per image": average(known), "undefined 0": average(np.nan_to_num(tau))}
        if not np.isnan(of_means := kendall(own.mean(0), true.mean(0))):
            low, high = bootstrap(np.hstack([own, true]), of=lambda means: kendall(*np.split(means.T, 2, 1)))
            found["of means"] = {"reproduced": float(of_means), "low": low, "high": high, "N": len(own)}
        ours, theirs = _signs(own), _signs(true)
        if (count := (theirs != 0).sum(1).clip(min=1e-12)).sum() >= 1:
            right = ((1 + ours * theirs) / 2 * (theirs != 0)).sum(1)
            found["pairs"] = average(right / count, count)
        rows += [{"measure": name, "ranking": ranking} | row for ranking, row in found.items()]
    return pd.DataFrame(rows, columns=["measure", "ranking", "reproduced", "low", "high", "N"])


def over_seeds(
    tables: Sequence[pd.DataFrame], truth: str = TRUTH, measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """`agreement` of runs that differ in their seed: rows measure, ranking, reproduced (mean), low, high, above, S.

    low, high: interval of the mean over trainings and images (`seeds.interval`); above: in how many of the S runs that
    have a value it is above chance. What one run alone has is left out. Raises `InputError` for fewer than two tables.
    """
    if len(tables) < 2:
        raise InputError(f"tables: expected the scores of at least two seeds, got {len(tables)}.")
    found, rows = pd.concat([agreement(table, truth, measures) for table in tables]), []
    for (measure, ranking), part in found.groupby(["measure", "ranking"], sort=False):
        if len(part) < 2:
            continue
        errors = [seeds.standard_error(low, high) for low, high in zip(part.low, part.high, strict=True)]
        low, high = seeds.interval(part.reproduced.to_list(), errors)
        above = int((part.reproduced > CHANCE[ranking]).sum())
        row = {"reproduced": part.reproduced.mean(), "low": low, "high": high, "above": above, "S": len(part)}
        rows.append({"measure": measure, "ranking": ranking} | row)
    return pd.DataFrame(rows)


def between(
    tables: Sequence[pd.DataFrame], ranking: str = "per image", measures: Sequence[str] | None = None
) -> pd.DataFrame:
    """Tau-b of every measure with every other, mean over the tables of several seeds: a square table, by their names.

    ranking: "per image", the mean over images where both order anything, or "of means"; NaN where a seed
    has none. Raises `InputError` as `ranked`. What shares its masked images (AD, IC, AG) agrees by construction.
    """
    choose("ranking", ranking, ("per image", "of means"))
    found = []
    for table in tables:
        values = ranked(table, measures)
        orders = _orders(np.stack([own if ranking == "per image" else own.mean(0)[None] for own in values.values()]))
        tau = np.einsum("anp,bnp->abn", orders, orders)
        known = ~np.isnan(tau)
        found.append(np.where(known, tau, 0).sum(2) / np.where(known.any(2), known.sum(2), np.nan))
    names = list(values)
    return pd.DataFrame(np.mean(found, 0), names, names)
