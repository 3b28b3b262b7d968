"""Scores that join several: ADCC and ARCC of each image, by several conventions, from a table of `scoring.score`.

rows = combinations(score(explainers, images, measures=("adcc", "adcc-normalised", "arcc")))

ADCC (Poppi et al., CVPR Workshops 2021) joins coherency, 1 - complexity and 1 - Average Drop, each in [0, 1], by their
harmonic mean; ARCC (arXiv 2605.14641, in pytorch-grad-cam) has ROAD in place of the drop.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from ..errors import InputError, check_fields, choose
from . import faithfulness
from .statistics import average, bootstrap

CONVENTION = "coherency of pixels times map, 0 where a map is constant, ADCC and ARCC the harmonic mean of each image"
CHOICES = {
    "third": ("drop", "road"),
    "space": ("pixels", "normalised"),
    "mean": ("harmonic", "geometric"),
    "undefined": ("zero", "half", "out"),
    "average": ("images", "terms"),
}


@dataclasses.dataclass(frozen=True)
class Combination:
    """What one joined score means.

    third: beside coherency and complexity 1 - "drop", ADCC, or "road", ARCC. space: what the map multiplies, "pixels"
    or the "normalised" image. mean: of the three terms. undefined: an image whose coherency does not exist, as a map is
    constant, has "zero", "half", or is left "out". average: of the "images", or the mean of the averaged "terms".
    """

    description: str
    third: str = "drop"
    space: str = "pixels"
    mean: str = "harmonic"
    undefined: str = "zero"
    average: str = "images"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, known in CHOICES.items():
            choose(name, getattr(self, name), known)


COMBINATIONS = {
    "ADCC": Combination("harmonic mean of each image; black pixels; 0 where coherency is undefined"),
    "ADCC defined": Combination("without images whose coherency is undefined", undefined="out"),
    "ADCC half": Combination("coherency 0.5 where undefined (pytorch-grad-cam's epsilon)", undefined="half"),
    "ADCC of means": Combination("of the averaged terms, not averaged over images", average="terms"),
    "ADCC normalised": Combination("map times the normalised image (ADCC's code)", space="normalised"),
    "ARCC": Combination("ROAD for the drop, harmonic mean (pytorch-grad-cam's code)", third="road"),
    "ARCC geometric": Combination("geometric mean (pytorch-grad-cam's documentation)", third="road", mean="geometric"),
    "ARCC half": Combination("as pytorch-grad-cam runs it", third="road", space="normalised", undefined="half"),
}


def join(terms: ArrayLike, mean: str = "harmonic") -> np.ndarray:
    """The "harmonic" or "geometric" mean of terms (3, ...) in [0, 1] -> (...), 0 where one is; NaN stays."""
    terms = np.asarray(terms, dtype=np.float64)
    safe = np.where(terms > 0, terms, 1)
    found = len(terms) / (1 / safe).sum(0) if mean == "harmonic" else safe.prod(0) ** (1 / len(terms))
    return np.where(np.isnan(terms).any(0), np.nan, np.where((terms <= 0).any(0), 0, found))


def _columns(c: Combination) -> tuple[str, str, str]:
    """The columns of `score` that hold coherency, whether it is undefined, and the third term."""
    end = "_normalised" * (c.space == "normalised")
    return f"coherency{end}", f"undefined{end}", "road" if c.third == "road" else "masked" + (end or "_100")


def known(part: pd.DataFrame, c: Combination) -> bool:
    """Whether a table of `score` holds what a combination joins."""
    return {*_columns(c), "complexity"} <= set(part)


def terms(part: pd.DataFrame, c: Combination) -> np.ndarray:
    """Coherency, 1 - complexity and the third term, (3, N), of one explainer's rows of `score`; NaN: left out.

    The third is 1 - drop of probability, or ROAD: twice the mean over 20, 40, 60, 80 % of half the probability that
    removing the least relevant leaves beyond removing the most relevant, cut to [0, 1].
    """
    alike, undefined, third = _columns(c)
    stand = {"zero": 0.0, "half": 0.5, "out": np.nan}[c.undefined]
    coherency = np.where(part[undefined], stand, part[alike])
    clean, found = (torch.tensor(part[column].to_numpy(float)) for column in ("probability", third))
    own = (2 * found).clamp(0, 1) if c.third == "road" else 1 - faithfulness.average_drop(clean, found) / 100
    return np.stack([coherency, 1 - part.complexity.to_numpy(float), own.numpy()])


def combinations(table: pd.DataFrame, conventions: Mapping[str, Combination] = COMBINATIONS) -> pd.DataFrame:
    """Rows explainer, convention, description, reproduced, low, high (95 % bootstrap), N, undefined (how many images).

    table: of `score`; conventions of which it holds no columns are left out, and so is an explainer of which one leaves
    no image. Raises `InputError` for scores that hold none.
    """
    fit = {title: c for title, c in conventions.items() if known(table, c)}
    if not fit:
        raise InputError('These scores hold no coherency: score with measures=("adcc", "adcc-normalised", "arcc").')
    rows = []
    for (name, part), (title, c) in itertools.product(table.groupby("explainer", sort=False), fit.items()):
        found = terms(part, c)
        found = found[:, ~np.isnan(found).any(0)]
        if not found.size:
            continue
        values = average(join(found, c.mean))
        if c.average == "terms":
            low, high = bootstrap(found.T, of=functools.partial(join, mean=c.mean))
            values |= {"reproduced": float(join(found.mean(1), c.mean)), "low": low, "high": high}
        which = {"explainer": name, "convention": title, "description": c.description}
        rows.append(which | values | {"undefined": int(part[_columns(c)[1]].sum())})
    return pd.DataFrame(rows)
