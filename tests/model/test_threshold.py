"""The threshold keeps the requested bound."""

import numpy as np
import pytest

from lib.model.classifier import ThresholdNotAttainable, choose_threshold


def test_the_bound_holds_with_95_percent_confidence():
    """Draw people again and again: the true share above the threshold is too high in at most 5 % of the draws."""
    random = np.random.default_rng(0)
    broken = 0
    for _ in range(2000):
        threshold = choose_threshold(random.uniform(size=700), 0.01)
        broken += (1 - threshold) > 0.01
    assert broken / 2000 < 0.06


def test_299_people_are_the_fewest_for_one_percent():
    scores = np.linspace(0, 0.5, 299)
    assert choose_threshold(scores, 0.01) > scores.max()
    with pytest.raises(ThresholdNotAttainable, match="which takes 299 humans"):
        choose_threshold(scores[1:], 0.01)


@pytest.mark.parametrize("fpr", [0.0, 1e-4])
def test_a_bound_that_too_few_humans_can_guarantee_is_refused(fpr):
    with pytest.raises(ThresholdNotAttainable, match="Raise MAX_HUMAN_FPR"):
        choose_threshold(np.zeros(1300), fpr)
    with pytest.raises(ThresholdNotAttainable):
        choose_threshold(np.empty(0), fpr)


def test_ties_do_not_break_the_bound():
    scores = np.r_[np.zeros(1000), np.full(40, 0.5)]
    assert (scores >= choose_threshold(scores, 0.01)).sum() == 0
