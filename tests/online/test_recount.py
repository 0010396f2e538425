"""What is recounted from the verdicts' files is what a reader who has them all in memory counts."""

import collections
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.online import recount, verdicts
from lib.online.judging import SCHEMA


@pytest.fixture
def folder(tmp_path):
    verdicts.tidy(tmp_path, [])
    return tmp_path


def test_shares_are_of_edits_with_the_flag_and_of_users_without(folder):
    rows = [("B", True, "flagged"), ("B", True, "dropped"), ("C", True, "kept"), ("H", False, "kept")]
    rows += [("I", False, "flagged"), ("J", True, "kept"), ("J", False, "dropped"), (None, None, "kept")]
    verdicts.write(folder, 1, world.verdict_table(*rows))
    found = recount.metrics(folder)
    assert (found["edits"], found["kept"], found["flagged"], found["dropped"]) == (8, 4, 2, 2)
    assert found["bot_edits_stopped"] == 2 / 4
    assert (
        found["human_users"] == 3 and found["human_users_flagged_count"] == 2
    )  # half with the flag is no bot
    assert found["human_users_flagged_in_this_stage"] == 1
    assert found["bot_edits_last_quarter"] == 0 and found["bot_edits_stopped_last_quarter"] == 0.0
    low, high = found["bot_edits_stopped_interval"]
    assert low < 0.5 < high and found["human_users_flagged_upper95"] > 2 / 3
    assert "50.0 % of 4 bot edits" in recount.sentence(found)


def test_the_last_quarter_is_by_time_and_not_by_order_of_arrival(folder):
    verdicts.write(folder, 1, world.verdict_table(("B", True, "kept"), ("B", True, "dropped")).take([1, 0]))
    verdicts.write(
        folder,
        2,
        world.verdict_table(*[("B", True, "kept")] * 2, ("B", True, "kept"), ("B", True, "dropped")).slice(2),
    )
    assert recount.metrics(folder)["bot_edits_stopped_last_quarter"] == 1.0


def test_of_nothing_there_is_nothing(folder):
    assert recount.metrics(folder)["edits"] == 0


ROW = st.fixed_dictionaries(
    {
        "user": st.none() | st.sampled_from("ABC"),
        "bot": st.none() | st.booleans(),
        "verdict": st.sampled_from(["kept", "flagged", "dropped"]),
        "timestamp": st.integers(0, 3).map(lambda minute: minute * 60_000) | st.integers(0, 200_000),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(ROW, max_size=9), max_size=4))
def test_however_the_verdicts_lie_in_files_the_counts_are_those_of_the_whole(parts):
    rows = [row | {"meta_id": f"{n:03d}"} for n, row in enumerate(row for part in parts for row in part)]
    with tempfile.TemporaryDirectory() as name:
        verdicts.tidy(Path(name), [])
        begin = 0
        for epoch, part in enumerate(parts, 1):
            here = rows[begin : begin + len(part)]
            verdicts.write(Path(name), epoch, pa.Table.from_pylist(here, SCHEMA))
            begin += len(part)
        found = recount.metrics(Path(name))
    stopped = [row["verdict"] != "kept" for row in rows]
    late = sorted(rows, key=lambda row: (row["timestamp"], row["meta_id"]))[len(rows) - len(rows) // 4 :]
    late_bots = [row for row in late if row["bot"]]
    assert found["edits"] == len(rows)
    assert found["bot_edits"] == sum(bool(row["bot"]) for row in rows)
    assert found["bot_edits_stopped"] * found["bot_edits"] == pytest.approx(
        sum(bool(row["bot"]) and yes for row, yes in zip(rows, stopped, strict=True))
    )
    assert found["bot_edits_last_quarter"] == len(late_bots)
    assert found["bot_edits_stopped_last_quarter"] * len(late_bots) == pytest.approx(
        sum(row["verdict"] != "kept" for row in late_bots)
    )
    edits = collections.Counter(row["user"] for row in rows if row["user"])
    flags = collections.Counter(row["user"] for row in rows if row["user"] and row["bot"])
    humans = {user for user, n in edits.items() if 2 * flags[user] <= n}
    assert found["human_users"] == len(humans)
    assert found["human_users_flagged_count"] == len(
        {row["user"] for row, yes in zip(rows, stopped, strict=True) if yes} & humans
    )


def test_the_interval_of_a_share_of_edits_knows_that_one_bot_makes_most_of_them(folder):
    rows = [("Busy", True, "dropped")] * 300 + [(f"Bot {n}", True, "kept") for n in range(10)]
    verdicts.write(folder, 1, world.verdict_table(*rows))
    found = recount.metrics(folder)
    low, high = found["bot_edits_stopped_interval"]
    assert (
        low == 0.0 and found["bot_edits_stopped"] > 0.96 and high > 0.99
    )  # without the busy one nothing was stopped
