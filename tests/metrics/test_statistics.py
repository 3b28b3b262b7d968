"""Intervals against known values."""

import numpy as np
import pytest

from lficam.errors import InputError
from lficam.metrics.statistics import bootstrap, holm, wilson


def test_wilson_by_hand():
    # n = 10, p = 0.5, z = 1.96: centre 0.5, half-width 0.2634 (Wilson, 1927)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson(10, 10)
    assert high == pytest.approx(1)
    assert low == pytest.approx(10 / (10 + 1.959964**2))


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(counts):
    with pytest.raises(InputError, match="expected 0 <= hits <= n"):
        wilson(*counts)


def test_bootstrap():
    values = np.random.default_rng(0).normal(3, 1, 400)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(values) == (low, high)
    assert bootstrap([2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(InputError, match="finite"):
        bootstrap([1.0, float("nan")])


def test_holm_by_hand():
    """Four tests: .01 x 4, .02 x 3, .03 x 2 is not below the one before it, .5 x 1; and never above 1."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []
