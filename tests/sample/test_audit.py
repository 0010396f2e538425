"""The audit says what is known to be true of samples made for it, and nothing of samples too small to tell."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from lib import stats
from lib.sample import audit


def table(rows):
    """Make the table of users of a sample: user, bucket, minute, edits, bot edits."""
    frame = pd.DataFrame(rows, columns=["user", "bucket", "minute", "edits", "bot_edits"])
    return pa.Table.from_pandas(
        frame.astype(
            {"user": object, "bucket": "int64", "minute": "int64", "edits": "int64", "bot_edits": "int64"}
        ),
        preserve_index=False,
    )


def crowd(size, seed=0, bots=0.1):
    rng = np.random.default_rng(seed)
    edits = rng.pareto(1.1, size).astype(int) + 1
    is_bot = rng.random(size) < bots
    rows = zip(
        (f"user {n}" for n in range(size)), rng.integers(0, 100, size), edits, edits * is_bot, strict=True
    )
    return table([(user, bucket, 5, number, flagged) for user, bucket, number, flagged in rows])


def test_users_are_summed_over_minutes_and_nobody_is_no_user():
    frame = audit.users(
        table([("b", 30, 1, 2, 1), ("b", 30, 2, 1, 1), ("a", 3, 1, 2, 1), (None, 42, 1, 9, 0)]), 20
    )
    assert frame.to_dict("records") == [
        {"user": "a", "bucket": 3, "edits": 2, "bot_edits": 1, "bot": False, "kept": True},
        {"user": "b", "bucket": 30, "edits": 3, "bot_edits": 2, "bot": True, "kept": False},
    ]


def test_a_sample_of_everybody_is_everybody():
    shares = audit.shares(audit.users(crowd(500), 100), seed=0)
    assert {share.value for share in shares.values()} == {1.0}
    assert (shares["edits"].low, shares["edits"].high) == (1.0, 1.0)
    assert shares["users"].high == 1.0


def test_the_same_seed_gives_the_same_interval():
    frame = audit.users(crowd(500), 20)
    assert audit.shares(frame, seed=3) == audit.shares(frame, seed=3)
    assert audit.shares(frame, seed=3)["edits"] != audit.shares(frame, seed=4)["edits"]


def test_drawing_numbers_of_alike_users_is_drawing_users():
    frame = audit.users(crowd(200), 20)
    edits, kept = frame["edits"].to_numpy(), frame["kept"].to_numpy()
    fast = stats.bootstrap_users(edits * kept, edits, seed=0, draws=4000)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(frame), (4000, len(frame)))
    plain = (edits * kept)[drawn].sum(axis=1) / edits[drawn].sum(axis=1)
    assert ks_2samp(fast, plain).pvalue > 0.01


def test_effective_users_are_the_users_when_all_are_alike():
    assert audit.effective_users(np.full(80, 7)) == pytest.approx(80)
    assert audit.effective_users(np.array([10_000, 1])) == pytest.approx(1, abs=1e-3)
    assert audit.effective_users(np.array([])) == 0


def test_a_hash_that_favours_bots_is_found_out():
    humans = [(f"human {n}", n % 100, 1, 1, 0) for n in range(900)]
    fair = audit.independence(audit.users(table([(f"bot {n}", n, 1, 1, 1) for n in range(100)] + humans), 20))
    unfair = audit.independence(
        audit.users(table([(f"bot {n}", n % 25, 1, 1, 1) for n in range(100)] + humans), 20)
    )
    assert fair.table.to_numpy().tolist() == [[180, 720], [20, 80]]
    assert fair.p == 1.0
    assert fair.low < 1 < fair.high
    assert unfair.table.to_numpy().tolist() == [[180, 720], [80, 20]]
    assert unfair.p < 1e-20
    assert unfair.low < 16 < unfair.high  # (80 / 20) / (180 / 720)
    even = audit.Uniformity(np.full(100, 10), 100, 0.0, 1.0)
    assert audit.blindness(fair, even).startswith("Bots are kept as humans are: odds ratio 1.00")
    assert audit.blindness(unfair, even).startswith("Bots are NOT kept as humans are: odds ratio 15.9")


def test_without_bots_there_is_nothing_to_test():
    found = audit.independence(audit.users(crowd(50, bots=0), 20))
    assert found.p == 1.0
    assert np.isnan(found.odds_ratio)


def test_a_lopsided_hash_is_found_out():
    even = audit.uniformity(audit.users(table([(f"u{n}", n % 100, 1, 1, 0) for n in range(1000)]), 20))
    lopsided = audit.uniformity(audit.users(table([(f"u{n}", n % 50, 1, 1, 0) for n in range(1000)]), 20))
    assert (even.groups, even.chi2, even.p) == (100, 0.0, 1.0)
    assert lopsided.chi2 == 1000
    assert lopsided.p < 1e-100
    humans = audit.independence(audit.users(crowd(50, bots=0), 20))
    assert audit.blindness(humans, lopsided).endswith(
        "The buckets are NOT even: χ² = 1000.0 over 100 groups, p = 0.00."
    )


def test_few_users_are_tested_in_fewer_groups():
    assert audit.uniformity(audit.users(crowd(60), 20)).groups == 10
    assert audit.uniformity(audit.users(crowd(9), 20)).groups == 1


def test_the_wrong_ways_are_wrong(spark):
    frame = audit.users(crowd(3000), 20)
    ways = audit.wrong_ways(spark, frame, 20, seed=0)
    right, signed, edits = ways.to_dict("records")
    assert right["users"] == frame["kept"].mean()
    assert right["whole"] == signed["whole"] == 1.0
    # Half of all hashes are negative, and a fifth of the others below 20.
    assert 0.57 < signed["users"] < 0.63
    assert edits["edits"] == pytest.approx(0.2, abs=0.01)
    assert edits["users"] > 0.3
    assert edits["whole"] < 0.1
    assert f"the signed hash gives {100 * signed['users']:.1f} %, the rule" in audit.mistakes(ways, 20)


def test_coverage_counts_what_a_list_from_the_first_minutes_stops_later():
    rows = [
        ("bot 10", 10, 1, 30, 30),
        ("bot 50", 50, 1, 20, 20),
        ("turned bot 11", 11, 1, 10, 4),
        ("bot 10", 10, 2, 6, 6),
        ("bot 50", 50, 2, 2, 2),
        ("turned bot 11", 11, 2, 8, 8),
        ("new bot 12", 12, 2, 4, 4),
    ]
    found = audit.coverage(table(rows), 20)
    assert found.split_minute == 2
    assert (found.full_bots, found.ours_bots) == (2, 1)
    assert (found.full, found.ours) == (pytest.approx(8 / 20), pytest.approx(6 / 20))
    assert audit.worth(found, 20).startswith(
        "The sample has 1 of the 2 early bots; a list of them stops 30.0 % of the later bot edits, one of all early "
        "bots 40.0 %."
    )
    assert found.mean == pytest.approx(8 / 20 * found.percents / 100)
    assert found.high[19] == pytest.approx(6 / 20)
    assert found.high[99] == pytest.approx(found.low[99]) == pytest.approx(found.full)


@pytest.mark.parametrize("rows", [[], [("one", 7, 1, 1, 0)], [("one", 7, 1, 1, 1)], [(None, 42, 1, 3, 3)]])
def test_the_smallest_samples_break_nothing(spark, rows):
    frame = audit.users(table(rows), 20)
    assert all(0 <= share.low <= share.high <= 1 for share in audit.shares(frame, seed=0).values())
    assert audit.unevenness(frame).startswith(f"The ten busiest of {len(frame)} users")
    assert audit.independence(frame).p == 1.0
    assert audit.uniformity(frame).p == 1.0
    assert audit.wrong_ways(spark, frame, 20, seed=0).to_numpy().max() <= 1
    assert audit.blindness(audit.independence(frame), audit.uniformity(frame)).startswith(
        "There are too few users"
    )
    assert audit.worth(audit.coverage(table(rows), 20), 20).startswith("No bot")
