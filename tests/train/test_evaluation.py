"""Measures against their definitions, intervals that cover, and a forward test in which nobody is on both sides."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lib.train import evaluation, model
from lib.train.model import Model, Population
from tests import made_up

scored_users = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30).filter(
    lambda users: any(bot for bot, _ in users)
)


@pytest.fixture(scope="module")
def people():
    return Population.of(made_up.sample())


@pytest.fixture(scope="module")
def cross(people):
    return model.cross_validate(people)


@pytest.fixture(scope="module")
def judge(people, cross):
    return Model.fit(people, max_human_fpr=0.02, cross=cross)


@pytest.fixture(scope="module")
def ahead():
    return evaluation.forward(Population.of(made_up.sample(500, 30, seed=1)), max_human_fpr=0.02, at=0.3)


# --- measures ---------------------------------------------------------------------------------------------------------


@given(scored_users, st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_average_precision_is_scikit_learns_weighted_or_not(users, seed):
    bots, scores = np.array([b for b, _ in users]), np.array([float(s) for _, s in users])
    assert evaluation.average_precision(bots, scores) == pytest.approx(average_precision_score(bots, scores))
    weights = np.random.default_rng(seed).integers(0, 4, size=(5, len(users)))
    for w, got in zip(weights, evaluation.average_precision(bots, scores, weights), strict=True):
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
    assert evaluation.bootstrap(evaluation.average_precision, bots, bots.astype(float)) == (1.0, 1.0)
    scores = bots + np.random.default_rng(0).normal(size=100)
    first, second = (evaluation.bootstrap(evaluation.average_precision, bots, scores, 200) for _ in range(2))
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
        low, high = evaluation.bootstrap(evaluation.average_precision, *draw(300), resamples=200)
        inside += low <= truth <= high
    assert inside / 200 > 0.88


def test_rates_of_a_yes_or_no_answer():
    truth, said = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert evaluation.rates(truth, said) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert evaluation.rates(truth, np.zeros(4, bool))["precision"] == 0.0


def test_the_comment_model_without_any_word_knows_the_share_of_flags():
    rows = [
        made_up.row(i, i, f"user {u}", bot=u < 5, comment=[None, "", " "][i % 3])
        for i, u in enumerate([*range(10)] * 3)
    ]
    people = Population.of(made_up.table(rows))
    scores = evaluation.comment_model(people, model.deal(people, 5, 0))
    np.testing.assert_allclose(scores, 0.5)


# --- in the stream ----------------------------------------------------------------------------------------------------


def slow_simulation(user, score_at, threshold, listed):
    """One edit after the other, as a person would do it by hand."""
    on_list, verdicts = set(np.flatnonzero(listed)), []
    for i, u in enumerate(user):
        if u in on_list:
            verdicts.append(evaluation.DROPPED)
        elif score_at.get(i, -1.0) >= threshold:
            on_list.add(u)
            verdicts.append(evaluation.FLAGGED)
        else:
            verdicts.append(evaluation.KEPT)
    return verdicts


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_simulation_is_what_one_would_do_by_hand(seed):
    random = np.random.default_rng(seed)
    user = random.integers(6, size=40)
    rows = np.flatnonzero(random.uniform(size=40) < 0.5)
    scores = random.uniform(size=len(rows))
    listed = random.uniform(size=6) < 0.2
    got = evaluation.simulate(user, rows, scores, 0.8, listed, 6)
    assert got.tolist() == slow_simulation(user, dict(zip(rows, scores, strict=True)), 0.8, listed)


def test_a_list_from_the_start_drops_every_edit(people, judge):
    verdicts = evaluation.replay(judge, people, listed=people.names[people.bots])
    assert (verdicts[people.bots[people.user]] == evaluation.DROPPED).all()
    facts = evaluation.stopped(people, verdicts)
    assert facts["bot_edits_stopped"] == 1.0
    assert facts["humans"] == (~people.bots).sum()
    assert facts["human_user_fpr"] <= facts["human_user_fpr_upper95"]


def test_forward_in_time_only_later_edits_are_judged(ahead):
    assert (ahead.later.times >= ahead.at_ms).all()
    assert len(ahead.verdicts) == len(ahead.later.user) == ahead.facts["edits"]
    assert ahead.facts["bot_edits_stopped"] > 0.5
    first, last = made_up.sample(500, 30, seed=1).column("timestamp").to_numpy()[[0, -1]]
    assert ahead.at_ms == first + int(0.3 * (last - first))


def test_forward_with_too_few_people_for_the_promise_is_strict(people):
    few = evaluation.forward(people, max_human_fpr=0.001, at=0.3)
    assert few.facts["human_user_fpr"] <= 0.01


def test_forward_with_few_bots_takes_fewer_folds():
    few = evaluation.forward(Population.of(made_up.sample(300, 4)), max_human_fpr=0.02, at=0.5)
    assert len(few.verdicts) == few.facts["edits"]


def test_the_forward_test_judges_each_fold_by_others_only(ahead):
    """Turning around the flags of later edits changes nothing that was decided: they are truth, not input."""
    sample = made_up.sample(500, 30, seed=1)
    later = sample.column("timestamp").to_numpy() >= ahead.at_ms
    flags = sample.column("bot").to_numpy(zero_copy_only=False)
    turned = sample.set_column(7, "bot", [np.where(later, ~flags, flags)])
    again = evaluation.forward(Population.of(turned), max_human_fpr=0.02, at=0.3)
    np.testing.assert_array_equal(again.verdicts, ahead.verdicts)


# --- the report and its tables ----------------------------------------------------------------------------------------


def test_the_report_has_the_contracts_keys_and_is_json(people, cross, ahead):
    report = evaluation.report(people, cross=cross, ahead=ahead)
    assert set(report) == {"users", "edits", "forward"}
    users = report["users"]
    assert (users["n"], users["bots"]) == (len(people), people.bots.sum())
    for side in ("with_name", "without_name"):
        assert set(users[side]) == {"average_precision", "interval", "recall_at_half_percent_fpr"}
        low, high = users[side]["interval"]
        assert low <= users[side]["average_precision"] <= high
        assert set(report["edits"][side]) == {"f1"}
    assert set(users["name_rule"]) == {"average_precision", "precision", "recall"}
    assert set(report["forward"]) == {"bot_edits_stopped", "human_user_fpr", "human_user_fpr_upper95"}
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_tables_count_every_user_once(people, cross, judge):
    bots, scores = people.bots, cross.final()
    assert evaluation.confusion(bots, scores, judge.threshold).to_numpy().sum() == len(people)
    assert evaluation.calibration(bots, scores)["users"].sum() == len(people)
    for group in (evaluation.kind_of(people.names), evaluation.main_wiki(people)):
        table = evaluation.errors_by(group, bots, scores, judge.threshold)
        assert table["humans"].sum() + table["bots"].sum() == len(people)
    curve = evaluation.precision_recall(bots, scores)
    assert curve["flagged"].iloc[-1] == len(people)
    assert curve["recall"].iloc[-1] == 1.0
    assert curve["threshold"].is_monotonic_decreasing


def test_recall_grows_with_the_edits_seen_of_the_same_bots(cross):
    table = evaluation.recall_by_edits(cross, 0.5)
    assert table["edits seen"].iloc[0] == 1
    assert table["bots"].is_monotonic_decreasing
    assert ((table["low"] <= table["recall"]) & (table["recall"] <= table["high"])).all()


def test_baselines_are_there_and_the_model_is_not_below_them(cross):
    table = evaluation.baselines(cross)
    assert len(table) == 5
    assert table["average precision"].idxmax() in (0, 1)
    assert table["average precision"].iloc[-1] == pytest.approx(cross.people.bots.mean())


def test_label_noise_finds_what_was_put_there():
    table = made_up.sample().to_pylist()
    more = [made_up.row(90_000 + i, made_up.START + i, "Both", bot=i % 2 == 0) for i in range(6)]
    more += [
        made_up.row(95_000 + i, made_up.START + i * 9000, "Secret bot", comment=f"Bot: archiving page {i}")
        for i in range(9)
    ]
    people = Population.of(made_up.table(table + more))
    cross = model.cross_validate(people)
    noise = evaluation.label_noise(cross, Model.fit(people, max_human_fpr=0.02, cross=cross))
    assert noise.both["user"].tolist() == ["Both"]
    assert noise.named["user"].tolist() == ["Secret bot"]
    assert noise.likely["user"].iloc[0] == "Secret bot"
    assert noise.likely["reasons"].iloc[0]
    assert (noise.likely["flagged edits"] == 0).all()
