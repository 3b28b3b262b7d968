"""Intervals of means and shares over the images of one run: Wilson's and the bootstrap. Holm's correction of p."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

if TYPE_CHECKING:  # verdicts need no torch
    from torch import Tensor

HOLM = "p (Holm)"  # the column of p values that `holm` corrected


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: (low, high) in [0, 1] for `hits` of `n` (Wilson, 1927).

    Raises `InputError` unless 0 <= hits <= n and n > 0.
    """
    from scipy.stats import binomtest  # takes a second to import

    if not 0 <= hits <= n or n < 1:
        raise InputError(f"Wilson interval: expected 0 <= hits <= n and n > 0, got {hits} of {n}.")
    low, high = binomtest(hits, n).proportion_ci(confidence, "wilson")
    return float(low), float(high)


def bootstrap(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[Any, Any]:
    """Percentile bootstrap interval of the mean of per-image values: (low, high). Seeded, so it repeats.

    values (N,): low and high are numbers; (N, S): arrays (S,), all from the same resamples of the images.
    weights (N,): of a weighted mean; they are drawn together with the values.
    of: the interval of a function of the S means instead: of the means of R resamples (S, R) its values, (R,),
    of which those that are NaN do not count.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size or not np.isfinite(values).all():
        raise InputError(f"Bootstrap: expected a non-empty list of finite numbers, got shape {values.shape}.")
    n, rng = len(values), np.random.default_rng(seed)
    weights = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    sums = np.column_stack([values.reshape(n, -1) * weights[:, None], weights])
    drawn = np.empty((resamples, 1, sums.shape[1]))
    for part in np.split(drawn, range(rows := max(1, 10_000 // n), resamples, rows)):
        draws = rng.integers(n, size=(len(part), n)) + n * np.arange(len(part))[:, None]
        counts = np.bincount(draws.ravel(), minlength=draws.size).astype(np.float64)
        np.matmul(counts.reshape(-1, 1, n), sums, out=part)  # a product for each, as many at once round differently
    drawn = drawn[:, 0]
    tail = 100 * (1 - confidence) / 2
    means = drawn[:, :-1] / drawn[:, -1:]
    if of is not None:
        low, high = np.nanpercentile(of(means.T), [tail, 100 - tail])
        return float(low), float(high)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return (float(low[0]), float(high[0])) if values.ndim == 1 else (low, high)


def percentage(hits: "Sequence[bool] | Tensor") -> dict[str, float]:
    """Share of true values among per-image outcomes (N,), in percent, with Wilson's 95 % interval."""
    n, count = len(hits), int(sum(hits))
    low, high = wilson(count, n)
    return {"reproduced": 100 * count / n, "low": 100 * low, "high": 100 * high, "N": n}


def average(values: ArrayLike, weights: np.ndarray | None = None) -> dict[str, float]:
    """Mean of per-image values (N,), weighted by `weights` (N,) if given, with its bootstrap 95 % interval."""
    values = np.asarray(values, dtype=np.float64)
    low, high = bootstrap(values, weights)
    return {"reproduced": float(np.average(values, weights=weights)), "low": low, "high": high, "N": len(values)}


def holm(p: ArrayLike) -> np.ndarray:
    """p values (n,) of n tests, corrected for being n (Holm, 1979): the least times n, the next times n - 1, and so on.

    None below the one before it, none above 1; in the order of `p`. The chance that any true null hypothesis falls
    below .05 is then at most 5 %.
    """
    p = np.asarray(p, dtype=np.float64)
    order, corrected = p.argsort(kind="stable"), np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))).clip(max=1)
    return corrected
