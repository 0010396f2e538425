"""Power laws are found where they are, with their exponent, and refused where another law made the counts."""

import numpy as np
import pytest

from lib.model import eda


@pytest.mark.parametrize("exponent", [1.6, 2.5, 3.5])
def test_draws_follow_the_law_and_the_fit_finds_its_exponent_again(exponent):
    uniform = np.random.default_rng(0).random(3000)
    counts = eda._draw(exponent, 3, uniform)
    assert counts.min() == 3
    tail = eda.fit(counts)
    assert abs(tail.exponent - exponent) < 3 * tail.error
    assert tail.p > 0.05


def test_draws_are_the_inverse_of_the_survival_function():
    uniform = np.random.default_rng(0).random(5000)
    counts = eda._draw(1.5, 2, uniform)
    assert counts.max() > eda._TABLE
    small = counts < 2**40
    at, beyond = counts[small].astype(float), counts[small] + 1.0
    assert (eda._survival(at, 1.5, 2) >= uniform[small] - 1e-12).all()
    assert (eda._survival(beyond, 1.5, 2) <= uniform[small] + 1e-12).all()


def test_counts_of_another_law_are_told_apart():
    counts = np.random.default_rng(0).geometric(0.02, 3000) + 100
    tail = eda.fit(counts)
    exponential = next(rival for rival in tail.rivals if rival.name == "exponential")
    assert tail.p < 0.05 or exponential.ratio < 0 or tail.share < 0.2


def test_fit_is_the_same_each_time():
    counts = np.random.default_rng(0).zipf(2.0, 500)
    assert eda.fit(counts, seed=1) == eda.fit(counts, seed=1)


def test_survival_joins_the_data_where_the_tail_begins():
    counts = np.random.default_rng(0).zipf(2.2, 500)
    tail = eda.fit(counts)
    assert tail.survival(np.array([tail.start]))[0] == pytest.approx((counts >= tail.start).mean())


@pytest.mark.parametrize("counts", [[], [5], [1] * 100, [1, 2] * 50, list(range(1, 9))])
def test_too_little_to_say_anything(counts):
    assert eda.fit(np.array(counts, dtype=int)) is None
