"""Users kept apart, and a forward test in which nobody is on both sides."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.model import classifier, evaluation
from lib.model.classifier import BotClassifier
from lib.model.dataset import EditDataset
from tests import made_up


@pytest.fixture(scope="module")
def people():
    return EditDataset.from_table(made_up.sample())


@pytest.fixture(scope="module")
def cross(people):
    return classifier.cross_validate(people)


@pytest.fixture(scope="module")
def ahead():
    return evaluation.forward(
        EditDataset.from_table(made_up.sample(500, 30, seed=1)), max_human_fpr=0.02, at=0.3
    )


def test_the_comment_model_without_any_word_knows_the_share_of_flags():
    rows = [
        made_up.row(i, i, f"user {u}", bot=u < 5, comment=[None, "", " "][i % 3])
        for i, u in enumerate([*range(10)] * 3)
    ]
    people = EditDataset.from_table(made_up.table(rows))
    scores = evaluation.comment_model(people, classifier.assign_folds(people, 5, 0))
    np.testing.assert_allclose(scores, 0.5)


# --- in the stream ----------------------------------------------------------------------------------------------------


def slow_simulation(user, score_at, threshold):
    """One edit after the other, as a person would do it by hand."""
    on_list, verdicts = set(), []
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
    got = evaluation.simulate(user, rows, scores, 0.8)
    assert got.tolist() == slow_simulation(user, dict(zip(rows, scores, strict=True)), 0.8)


def test_where_every_bot_is_dropped_all_their_edits_are_stopped(people):
    verdicts = np.where(people.bots[people.user], evaluation.DROPPED, evaluation.KEPT)
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
    few = evaluation.forward(EditDataset.from_table(made_up.sample(300, 4)), max_human_fpr=0.02, at=0.5)
    assert len(few.verdicts) == few.facts["edits"]


def test_the_forward_test_judges_each_fold_by_others_only(ahead):
    """Turning around the flags of later edits changes nothing that was decided: they are truth, not input."""
    sample = made_up.sample(500, 30, seed=1)
    later = sample.column("timestamp").to_numpy() >= ahead.at_ms
    flags = sample.column("bot").to_numpy(zero_copy_only=False)
    turned = sample.set_column(7, "bot", [np.where(later, ~flags, flags)])
    again = evaluation.forward(EditDataset.from_table(turned), max_human_fpr=0.02, at=0.3)
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
    people = EditDataset.from_table(made_up.table(table + more))
    cross = classifier.cross_validate(people)
    noise = evaluation.label_noise(cross, BotClassifier.fit(people, max_human_fpr=0.02, cross=cross))
    assert noise.both["user"].tolist() == ["Both"]
    assert noise.named["user"].tolist() == ["Secret bot"]
    assert noise.likely["user"].iloc[0] == "Secret bot"
    assert noise.likely["reasons"].iloc[0]
    assert (noise.likely["flagged edits"] == 0).all()
