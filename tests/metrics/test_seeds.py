"""Statistics over runs: against scipy and by hand, and how often intervals hold what they promise to hold."""

import math

import numpy as np
import pytest
from scipy import stats

from lficam.errors import InputError
from lficam.metrics import seeds


def test_without_images_it_is_the_interval_of_t():
    values = [3.0, 5.0, 4.0, 8.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert seeds.interval(values) == pytest.approx(expected, rel=1e-12)


def test_p_without_images_is_that_of_t():
    values = [3.0, -1.0, 4.0, 1.0]
    assert seeds.p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
    assert seeds.p_value([1.96] * 3, [1.0] * 3) == pytest.approx(0.05, abs=1e-4)  # images alone: normal
    assert (seeds.p_value([0.0, 0.0]), seeds.p_value([1.0, 1.0])) == (1, 0)


def test_of_runs_that_agree_only_images_vary():
    assert seeds.interval([2.0] * 5, [0.5] * 5) == pytest.approx((2 - 0.98, 2 + 0.98), abs=1e-3)
    assert seeds.interval([2.0] * 5) == (2, 2)


def test_freedom_by_hand():
    """s^2 = 1, S = 4: training 1/4; images 1/4; nu = 3 * 2^2."""
    values = np.array([-1, -1, 1, 1]) * math.sqrt(3) / 2
    low, high = seeds.interval(values, [0.5] * 4)
    assert (low, high) == pytest.approx((-stats.t.ppf(0.975, 12) * math.sqrt(0.5), -low))


def test_prediction_by_hand():
    low, high = seeds.prediction([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 * math.sqrt(4 / 3), 2 + 4.302653 * math.sqrt(4 / 3)))


@pytest.mark.parametrize("ratio", [0, 0.3, 1, 3, 10])
def test_intervals_hold_what_they_promise(ratio):
    """Five runs; training noise of `ratio` times the images': 93 to 97 of 100 intervals hold the truth, 0."""
    rng, tries = np.random.default_rng(3), 4000
    images = rng.normal(0, 1, tries)
    runs = images[:, None] + rng.normal(0, ratio, (tries, 6))
    found = [seeds.interval(run[:5], [1.0] * 5) for run in runs]
    assert 0.93 <= np.mean([low <= 0 <= high for low, high in found]) <= 0.97
    p = np.array([seeds.p_value(run[:5], [1.0] * 5) for run in runs])
    assert (p < 0.05).tolist() == [not low <= 0 <= high for low, high in found]
    assert 0.006 <= np.mean(p < 0.01) <= 0.02  # as the degrees of freedom are estimated too
    if ratio:
        found = [seeds.prediction(run[:5]) for run in runs]
        assert 0.94 <= np.mean([low <= run[5] <= high for (low, high), run in zip(found, runs, strict=True)]) <= 0.96


def test_variation_is_unbiased_and_has_no_unit():
    """By hand for two runs, c4(2) = sqrt(2 / pi); of many pairs with 10 % noise the mean is 10 % (and 1/8 more)."""
    assert seeds.variation([9.0, 11.0]) == pytest.approx(100 * 1.125 * math.sqrt(2) / math.sqrt(2 / math.pi) / 10)
    pairs = np.random.default_rng(0).normal(50, 5, (4000, 2))
    assert np.mean([seeds.variation(pair) for pair in pairs]) == pytest.approx(10 * 1.125, rel=0.05)
    assert math.isnan(seeds.variation([-1.0, 1.0]))


@pytest.mark.parametrize("values", [[1.0], [], [1.0, math.nan], [1.0, math.inf]])
def test_what_cannot_be_judged_is_refused(values):
    for statistic in (seeds.interval, seeds.p_value, seeds.prediction, seeds.variation):
        with pytest.raises(InputError, match=r"expected the finite values of at least two runs"):
            statistic(values)
