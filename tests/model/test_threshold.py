"""The threshold keeps both bounds, and does not list the busiest people for being busy."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.model import classifier, evaluation
from lib.model.classifier import CrossFit, ThresholdNotAttainable, choose_threshold, margin, threshold_curve
from lib.model.dataset import EditDataset
from lib.stats import edits_upper_bound, upper_bound
from tests import synthetic


def curve(*rows):
    return pd.DataFrame(rows, columns=["threshold", "humans_upper95", "human_edits_upper95"])


def test_the_lowest_threshold_with_both_bounds_at_half_of_the_limits_is_chosen():
    falling = curve((3, 0.001, 0.001), (2, 0.004, 0.005), (1, 0.006, 0.005), (0, 0.004, 0.004))
    assert choose_threshold(falling, 0.01, 0.01) == 2
    assert choose_threshold(falling, 0.01, 0.009) == 3
    assert choose_threshold(falling, 0.02, 0.02) == 0


def test_where_half_cannot_be_had_it_is_the_one_that_flags_nobody():
    assert choose_threshold(curve((3, 0.008, 0.001), (2, 0.009, 0.001)), 0.01, 0.01) == 3


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.0001, 0.01), "MAX_HUMAN_FPR must be at least 0.003 .* Got 0.0001, which takes 29956 humans"),
        ((0.01, 0.001), "MAX_HUMAN_EDIT_FPR must be at least 0.002 .* which takes 2995 edits of humans"),
        ((0.0, 0.01), "which takes inf humans. Raise MAX_HUMAN_FPR"),
    ],
)
def test_a_limit_that_too_few_humans_can_guarantee_is_refused(limits, message):
    with pytest.raises(ThresholdNotAttainable, match=message):
        choose_threshold(curve((3, 0.003, 0.002)), *limits)


@given(st.floats(0, 1), st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_margin_falls_with_the_edits_and_without_penalty_it_does_not(score, few, more):
    low, high = sorted((few, more))
    after_few, after_more = margin(np.array([score, score]), np.log([low, high]))
    assert after_few >= after_more and np.isfinite(after_more)
    assert margin(score, np.log(low), c=0) == margin(score, np.log(high), c=0)


def test_a_curve_starts_where_no_human_is_flagged_and_counts_what_is_stopped(cross, people):
    found = threshold_curve(cross)
    assert found["humans"].iloc[0] == 0 and found["human_edits"].iloc[0] == 0
    for column in ("bots", "bot_edits", "humans", "humans_upper95", "human_edits"):
        assert found[column].is_monotonic_increasing, column
    for row in found.itertuples():
        flagged = cross.highest_margins() >= row.threshold
        assert row.humans == (flagged & people.is_human).sum()
        assert row.humans_upper95 == upper_bound(row.humans, int(people.is_human.sum()))
        assert row.human_edits <= row.human_edits_upper95
        assert row.bots == (cross.highest_margins(repeats=1) >= row.threshold)[people.is_bot].mean()


def test_edits_of_a_flagged_user_count_from_the_flag_on(cross, people):
    threshold = threshold_curve(cross)["threshold"].iloc[-1]
    after, rows = cross.flagged_after(threshold, repeats=1), cross.rows
    for user in range(0, len(people), 7):
        mine = (rows.user == user) & ~rows.last
        margins = margin(cross.row_scores[True][mine], rows.x[mine, 0])
        reached = rows.edits[mine][margins >= threshold]
        assert after[user] == (reached[0] if len(reached) else people.edits_per_user[user] + 1)


def test_one_busy_person_makes_the_bound_of_the_edits_wide():
    edits = np.r_[np.ones(1000, int), 500]
    stopped = np.r_[np.zeros(1000, int), 500]
    assert edits_upper_bound(stopped, edits) > 0.5 > upper_bound(1, 1001)
    assert edits_upper_bound(np.zeros(3, int), np.ones(3, int)) == upper_bound(0, 3)


@pytest.mark.slow
def test_both_guarantees_hold_on_other_users_of_the_same_wiki():
    """Train on half of the people, judge the other half edit by edit, again and again."""
    broken = []
    for seed in range(10):
        whole = EditDataset(synthetic.sample(1400, 60, seed=seed))
        half = classifier.assign_folds(whole, 2, seed)[whole.user] == 0
        model = synthetic.train(CrossFit(whole.subset(half), repeats=1, seed=seed), 0.01)
        others = whole.subset(~half)
        rates = evaluation.stop_rates(others, evaluation.stopped_edits(model, others))
        broken.append((rates["human_user_fpr_unnamed"] > 0.01, rates["human_edits_stopped_unnamed"] > 0.01))
        assert rates["bot_edits_stopped"] > 0.9
    assert np.sum(broken, axis=0).max() <= 1
