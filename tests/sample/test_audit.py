"""The audit finds what is known of samples made for it, and nothing in samples too small for a test."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from lib import stats
from lib.sample import audit

COLUMNS = {"user": object, "minute": "int64", "edits": "int64", "bot_edits": "int64", "kept_edits": "int64"}


def table(rows):
    """Return a sample's users by minute: user, minute, edits, bot edits, kept edits."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def crowd(size, bots=0.1, share=0.2):
    rng = np.random.default_rng(0)
    edits = rng.pareto(1.1, size).astype(int) + 1
    flagged, kept = edits * (rng.random(size) < bots), edits * (rng.random(size) < share)
    return table([(f"user {n}", 5, *row) for n, row in enumerate(zip(edits, flagged, kept, strict=True))])


def test_users_are_summed_over_minutes_and_no_user_is_left_out():
    frame = audit.users(table([("b", 1, 2, 1, 0), ("b", 2, 1, 1, 0), ("a", 1, 2, 1, 2), (None, 1, 9, 0, 9)]))
    assert frame.to_dict("records") == [
        {"user": "a", "edits": 2, "bot_edits": 1, "kept_edits": 2, "bot": False, "kept": True},
        {"user": "b", "edits": 3, "bot_edits": 2, "kept_edits": 0, "bot": True, "kept": False},
    ]


def test_a_sample_of_everybody_is_everybody():
    shares = audit.shares(audit.users(crowd(500, share=1)))
    assert (shares["part"] == shares["whole"]).all()
    assert shares.loc[["edits", "users"], "high"].tolist() == [1.0, 1.0]
    assert shares.loc["edits", "low"] == stats.clopper_pearson(*[shares.loc["edits", "whole"]] * 2)[0]


def test_drawing_numbers_of_alike_users_is_drawing_users():
    frame = audit.users(crowd(200))
    edits, kept = frame["edits"].to_numpy(), frame["kept_edits"].to_numpy()
    fast = stats.bootstrap_users(kept, edits, seed=0, draws=4000)
    drawn = np.random.default_rng(1).integers(0, len(frame), (4000, len(frame)))
    plain = kept[drawn].sum(axis=1) / edits[drawn].sum(axis=1)
    assert ks_2samp(fast, plain).pvalue > 0.01


def test_rules_are_compared_by_users_edits_and_whole_users():
    edits = pd.Series([4, 2, 1, 1])
    rules = {"some users": [4, 0, 0, 0], "some edits": [1, 1, 1, 0], "none": [0, 0, 0, 0]}
    assert audit.compare_rules(rules, edits).to_dict("index") == {
        "some users": {"users": 0.25, "edits": 0.5, "whole": 1.0},
        "some edits": {"users": 0.75, "edits": 0.375, "whole": 0.0},
        "none": {"users": 0.0, "edits": 0.0, "whole": 0.0},
    }


def test_coverage_counts_what_a_list_from_the_first_minutes_stops_later():
    rows = [
        ("bot 10", 1, 30, 30, 30),
        ("bot 50", 1, 20, 20, 0),
        ("turned bot", 1, 10, 4, 10),
        ("bot 10", 2, 6, 6, 6),
        ("bot 50", 2, 2, 2, 0),
        ("turned bot", 2, 8, 8, 8),
        ("new bot", 2, 4, 4, 4),
    ]
    bots = audit.early_bots(table(rows))
    assert bots.to_dict("index") == {
        "bot 10": {"kept": True, "stopped": 6 / 20},
        "bot 50": {"kept": False, "stopped": 2 / 20},
    }
    curve = audit.coverage(bots["stopped"], pd.Series([10, 50]))
    assert curve["mean"].to_numpy() == pytest.approx(8 / 20 * curve.index.to_numpy() / 100)
    assert curve.loc[20, "high"] == pytest.approx(6 / 20)
    assert curve.loc[100, ["low", "high"]].tolist() == pytest.approx([8 / 20, 8 / 20])


@pytest.mark.parametrize("rows", [[], [("one", 1, 1, 0, 0)], [("one", 1, 1, 1, 1)], [(None, 1, 3, 3, 0)]])
def test_the_smallest_samples_break_nothing(rows):
    users, bots = audit.users(table(rows)), audit.early_bots(table(rows))
    assert audit.shares(users)[["low", "high"]].isin([0, 1]).any(axis=None)
    assert audit.compare_rules({"rule": users["kept_edits"]}, users["edits"]).to_numpy().max() <= 1
    assert audit.coverage(bots["stopped"], pd.Series(0, bots.index)).to_numpy().max() == 0
