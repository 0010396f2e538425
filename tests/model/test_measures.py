"""Measures against their definitions, and intervals that cover."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lib.model import evaluation

scored_users = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30).filter(
    lambda users: any(bot for bot, _ in users)
)


@given(scored_users, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_average_precision_is_scikit_learns_weighted_or_not(users, seed):
    bots, scores = np.array([b for b, _ in users]), np.array([float(s) for _, s in users])
    assert evaluation.average_precision(bots, scores) == pytest.approx(average_precision_score(bots, scores))
    weights = np.random.default_rng(seed).integers(0, 4, size=(5, len(users)))
    for w, got in zip(weights, evaluation._average_precisions(bots, scores, weights), strict=True):
        if w[bots].sum():
            assert got == pytest.approx(average_precision_score(bots, scores, sample_weight=w))


@given(scored_users, st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=100, deadline=None)
def test_recall_at_a_rate_is_the_best_of_all_thresholds(users, fpr):
    bots, scores = np.array([b for b, _ in users]), np.array([float(s) for _, s in users])
    humans = max((~bots).sum(), 1)
    allowed = [t for t in [*scores, 9.0] if ((scores >= t) & ~bots).sum() <= fpr * humans]
    best = max(((scores >= t) & bots).sum() for t in allowed) / bots.sum()
    assert evaluation.recall_at_fpr(bots, scores, fpr) == pytest.approx(best)


def test_the_bootstrap_is_repeatable_and_tight_where_nothing_can_vary():
    bots = np.arange(100) < 30
    assert evaluation.bootstrap_interval(bots, bots.astype(float)) == (1.0, 1.0)
    scores = bots + np.random.default_rng(0).normal(size=100)
    first, second = (evaluation.bootstrap_interval(bots, scores, 200) for _ in range(2))
    assert first == second
    assert first[0] < evaluation.average_precision(bots, scores) < first[1]


def test_the_bootstrap_covers_as_often_as_said():
    random = np.random.default_rng(0)

    def draw(n):
        bots = random.uniform(size=n) < 0.3
        return bots, bots + random.normal(size=n)

    truth = evaluation.average_precision(*draw(200_000))
    inside = 0
    for _ in range(200):
        low, high = evaluation.bootstrap_interval(*draw(300), resamples=200)
        inside += low <= truth <= high
    assert inside / 200 > 0.88


def test_rates_of_a_yes_or_no_answer():
    truth, said = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert evaluation.rates(truth, said) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert evaluation.rates(truth, np.zeros(4, bool))["precision"] == 0.0


def test_tables_count_every_user_once():
    random = np.random.default_rng(0)
    bots, scores, group = (
        random.uniform(size=300) < 0.2,
        random.uniform(size=300),
        random.integers(5, size=300).astype(str),
    )
    assert evaluation.confusion(bots, scores, 0.5).to_numpy().sum() == 300
    assert evaluation.calibration(bots, scores)["users"].sum() == 300
    table = evaluation.errors_by(group, bots, scores, 0.5)
    assert table["humans"].sum() + table["bots"].sum() == 300
    curve = evaluation.precision_recall(bots, scores)
    assert curve["flagged"].iloc[-1] == 300
    assert curve["recall"].iloc[-1] == 1.0
    assert curve["threshold"].is_monotonic_decreasing
