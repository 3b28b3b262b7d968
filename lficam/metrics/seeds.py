"""Numbers of several runs that differ in their seed alone: their mean, its interval, and whether one more run agrees.

The value of a run varies with its training (another seed, another processor) and with the images that happen to be in
the test set. Of S runs, all on the same N images, with values v_s:

    mean      m = sum(v_s) / S
    training  s^2 = sum((v_s - m)^2) / (S - 1)
    images    w^2 = mean of the squared standard errors over images that the runs have by themselves

    interval of the mean               m -+ t(nu) sqrt(s^2 / S + w^2),  nu = (S - 1) (1 + w^2 / (s^2 / S))^2
    p of a mean of 0                   that of t(nu) beyond |m| / sqrt(s^2 / S + w^2), on both sides
    prediction interval of a further run   m -+ t(S - 1) s sqrt(1 + 1 / S)

The first is Welch and Satterthwaite's: t with S - 1 degrees of freedom where training is all that varies, normal where
images are. It says where the mean of many trainings on many images lies. It is a little wide where runs err on
different images, because that part is both in s and in w. The second has no w: a further run sees the same images.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ..errors import InputError

Z = NormalDist().inv_cdf(0.975)


def _checked(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise InputError(
            f"Runs: expected the finite values of at least two runs, got {len(np.atleast_1d(array))}: "
            "a single run says nothing of how trainings vary."
        )
    return array


def _quantile(p: float, freedom: float) -> float:
    """Of Student's t; normal for infinitely many degrees of freedom."""
    from scipy import special  # which takes half a second to import, and the tables of a profile ask thousands of times

    return float(special.stdtrit(freedom, p))


def standard_error(low: float, high: float) -> float:
    """The standard error behind a 95 % interval of one run: a quarter of its width, nearly."""
    return (high - low) / (2 * Z)


def interval(values: Sequence[float], errors: Sequence[float] = (), confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean over trainings and images: (low, high).

    values (S,): of the runs. errors (S,): their standard errors over images; none where images do not matter.
    Raises `InputError` for fewer than two runs and for values that are not finite.
    """
    mean, error, freedom = _mean(values, errors)
    half = _quantile((1 + confidence) / 2, freedom) * error
    return mean - half, mean + half


def p_value(values: Sequence[float], errors: Sequence[float] = ()) -> float:
    """Two-sided p of a mean of 0 over trainings and images: below .05 exactly where `interval` leaves 0 out.

    Arguments and errors as there; 1 where all values are 0 and nothing varies.
    """
    from scipy import special

    mean, error, freedom = _mean(values, errors)
    return 2 * float(special.stdtr(freedom, -abs(mean) / error)) if error else float(mean == 0)


def _mean(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float, float]:
    """The mean, its standard error over trainings and images, and the degrees of freedom of that."""
    array = _checked(values)
    training = float(array.var(ddof=1)) / len(array)
    images = float(np.mean(np.square(errors))) if len(errors) else 0.0
    freedom = (len(array) - 1) * (1 + images / training) ** 2 if training else math.inf
    return float(array.mean()), math.sqrt(training + images), freedom


def prediction(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Where one more run on the same images lies with that confidence: (low, high). Raises as `interval` does."""
    array = _checked(values)
    half = _quantile((1 + confidence) / 2, len(array) - 1) * array.std(ddof=1) * math.sqrt(1 + 1 / len(array))
    return float(array.mean() - half), float(array.mean() + half)


def variation(values: Sequence[float]) -> float:
    """CV*, the coefficient of variation in percent, corrected for few runs (Belz et al., ACL 2022, section 4).

    100 (1 + 1 / 4S) s* / |m| with s* = s / c4(S), the unbiased standard deviation. NaN where the mean is 0.
    Raises as `interval` does.
    """
    array = _checked(values)
    count, mean = len(array), abs(float(array.mean()))
    c4 = math.sqrt(2 / (count - 1)) * math.exp(math.lgamma(count / 2) - math.lgamma((count - 1) / 2))
    return 100 * (1 + 1 / (4 * count)) * float(array.std(ddof=1)) / c4 / mean if mean else math.nan
