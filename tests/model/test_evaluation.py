"""Measures against their definitions, a simulation against one by hand, and a forward test grouped by user."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lib.model import classifier, evaluation, user_features
from lib.model.classifier import CrossFit
from lib.model.dataset import EditDataset
from lib.stats import name_contains_bot, rates_by_activity
from tests import synthetic

scored_users = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30).filter(
    lambda users: len({bot for bot, _ in users}) == 2
)


@pytest.fixture(scope="module")
def ahead():
    cross = CrossFit(EditDataset(synthetic.sample(500, 30, seed=1)))
    return evaluation.forward_test(cross, 0.02, 0.02, at=0.3)


# --- measures ---------------------------------------------------------------------------------------------------------


@given(scored_users, st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=100, deadline=None)
def test_recall_at_a_rate_is_the_best_of_all_thresholds(users, fpr):
    bots, scores = np.array([b for b, _ in users]), np.array([float(s) for _, s in users])
    allowed = [t for t in [*scores, 9.0] if ((scores >= t) & ~bots).sum() <= fpr * (~bots).sum()]
    best = max(((scores >= t) & bots).sum() for t in allowed) / bots.sum()
    assert evaluation.recall_at_fpr(bots, scores, fpr) == pytest.approx(best)


def test_the_bootstrap_is_repeatable_and_tight_where_nothing_can_vary():
    bots = np.arange(100) < 30
    assert evaluation.bootstrap_interval(bots, bots.astype(float)) == (1.0, 1.0)
    scores = bots + np.random.default_rng(0).normal(size=100)
    first, second = (evaluation.bootstrap_interval(bots, scores, 200) for _ in range(2))
    assert first == second
    assert first[0] < average_precision_score(bots, scores) < first[1]


def test_the_bootstrap_resamples_average_precision_with_ties():
    random = np.random.default_rng(3)
    bots, scores = random.uniform(size=60) < 0.3, random.integers(4, size=60)
    picks = np.random.default_rng(0)
    again = [average_precision_score(bots[i], scores[i]) for i in picks.integers(60, size=(50, 60))]
    expected = np.quantile(again, [0.025, 0.975])
    np.testing.assert_allclose(evaluation.bootstrap_interval(bots, scores, 50), expected)


def test_errors_count_every_user_once():
    random = np.random.default_rng(0)
    bots, flagged = random.uniform(size=300) < 0.2, random.uniform(size=300) < 0.5
    group = random.integers(5, size=300)
    table = evaluation.errors_by(group.astype(str), bots, flagged)
    assert table["humans"].sum() + table["bots"].sum() == 300
    assert table["humans flagged"].sum() == (flagged & ~bots).sum()
    assert table["bots missed"].sum() == (~flagged & bots).sum()


def test_the_comment_baseline_without_any_word_knows_the_share_of_flags():
    rows = [
        synthetic.row(i, i, f"user {u}", bot=u < 5, comment=[None, "", " "][i % 3])
        for i, u in enumerate([*range(10)] * 3)
    ]
    dataset = EditDataset(synthetic.table(rows))
    scores = evaluation.comment_scores(dataset, classifier.assign_folds(dataset, 5, 0))
    np.testing.assert_allclose(scores, 0.5)


# --- in the stream ----------------------------------------------------------------------------------------------------


def test_a_user_is_flagged_at_the_first_edit_whose_margin_reaches_the_threshold(people, model):
    features = model.edit_features(people.table)
    at = evaluation.flagged_at(model, people, features)
    for user in [*np.flatnonzero(people.is_bot)[:5], *np.flatnonzero(~people.is_bot)[:5]]:
        mine = np.flatnonzero(people.user == user)
        states, zeros = user_features.new_states(1), np.zeros(1, int)
        expected = len(people.user)
        for edit in mine:
            states, rows, x = user_features.update_states(
                states, zeros, people.times[[edit]], features[[edit]]
            )
            if len(rows) and model.is_flagged(x, model.score(x))[0]:
                expected = edit
                break
        assert at[user] == expected
    assert (
        evaluation.stopped_edits(model, people).sum()
        == (np.arange(len(people.user)) >= at[people.user]).sum()
    )


def test_activity_counts_every_user_once():
    table = rates_by_activity(np.array([1, 2, 4, 5, 500]), np.array([0, 0, 3, 5, 1]))
    assert table["users"].tolist() == [1, 2, 1, 0, 1] and table["flagged"].tolist() == [0, 1, 1, 0, 1]
    assert table["edits"].tolist() == [1, 6, 5, 0, 500] and table["stopped"].tolist() == [0, 3, 5, 0, 1]


def test_where_every_bot_is_stopped_all_their_edits_are(cross):
    dataset = cross.dataset
    rates = evaluation.stop_rates(dataset, dataset.is_bot[dataset.user])
    assert rates["bot_edits_stopped"] == 1.0
    assert (rates["humans"], rates["humans_flagged"]) == ((~dataset.is_bot).sum(), 0)
    assert rates["human_user_fpr"] <= rates["human_user_fpr_upper95"]


def test_forward_in_time_only_later_edits_are_scored(ahead):
    assert ahead.later.times.min() >= ahead.earlier.times.max()
    assert len(ahead.stopped) == len(ahead.later.user) == ahead.rates["edits"]
    assert ahead.rates["bot_edits_stopped"] > 0.5


@pytest.mark.parametrize(("humans", "bots", "fpr"), [(400, 25, 0.001), (300, 4, 0.02)])
def test_forward_with_few_humans_is_strict_and_with_few_bots_takes_fewer_folds(humans, bots, fpr):
    dataset = EditDataset(synthetic.sample(humans, bots))
    few = evaluation.forward_test(CrossFit(dataset, folds=min(5, bots)), fpr, fpr, at=0.5)
    assert len(few.stopped) == few.rates["edits"]
    assert few.rates["human_user_fpr"] <= 0.02


def test_flags_of_later_edits_decide_nothing(ahead):
    """Turn them around: they are truth, not input."""
    sample = synthetic.sample(500, 30, seed=1)
    later = sample.column("timestamp").to_numpy() >= ahead.later.times.min()
    flags = sample.column("bot").to_numpy(zero_copy_only=False)
    turned = sample.set_column(7, "bot", [np.where(later, ~flags, flags)])
    again = evaluation.forward_test(CrossFit(EditDataset(turned)), 0.02, 0.02, at=0.3)
    np.testing.assert_array_equal(again.stopped, ahead.stopped)


# --- the report and its tables ----------------------------------------------------------------------------------------


def test_the_report_has_the_contracts_keys_and_is_json(cross, ahead):
    report = evaluation.report(cross, ahead)
    assert set(report) == {"users", "edits", "forward"}
    users = report["users"]
    assert (users["n"], users["bots"]) == (len(cross.dataset), cross.dataset.is_bot.sum())
    for side in ("with_name", "without_name"):
        assert set(users[side]) == {"average_precision", "interval", "recall_at_half_percent_fpr"}
        low, high = users[side]["interval"]
        assert low <= users[side]["average_precision"] <= high
        assert set(report["edits"][side]) == {"f1"}
    assert set(users["name_rule"]) == {"average_precision", "precision", "recall"}
    assert {"bot_edits_stopped", "human_user_fpr", "human_user_fpr_upper95"} <= set(report["forward"])
    assert {"human_edits_stopped", "human_edits_stopped_upper95_unnamed"} <= set(report["forward"])
    assert json.dumps(report, allow_nan=False)


def test_recall_grows_with_the_edits_of_the_same_bots(cross):
    table = evaluation.recall_by_edits(cross, 0.0)
    assert table["edits"].iloc[0] == 1
    assert table["bots"].is_monotonic_decreasing
    assert ((table["low"] <= table["recall"]) & (table["recall"] <= table["high"])).all()


def test_the_model_is_not_below_what_is_simpler(cross):
    is_bot = cross.dataset.is_bot
    words = evaluation.comment_scores(cross.dataset, cross.fold)
    rule = name_contains_bot(cross.dataset.names)
    best = max(average_precision_score(is_bot, simpler) for simpler in (words, rule))
    assert average_precision_score(is_bot, cross.scores()) >= best


def test_reasons_are_what_speaks_for_a_bot(cross, model):
    bots, humans = np.flatnonzero(cross.dataset.is_bot), np.flatnonzero(~cross.dataset.is_bot)
    reasons = evaluation.reasons(model, cross.dataset, np.array([bots[0], humans[0]]))
    assert len(reasons) == 2
    assert "bot" in reasons[0].lower() and reasons[0].count(";") <= 3
