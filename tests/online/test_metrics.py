"""The metrics that are counted from the verdicts' files are what a reader who has them all in memory counts."""

import collections
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.online import metrics
from lib.online.state import VERDICT_SCHEMA, write_part


def test_shares_are_of_edits_with_the_flag_and_of_users_without(tmp_path, recwarn):
    rows = [("B", True, "flagged"), ("B", True, "dropped"), ("C", True, "kept"), ("H", None, "kept")]
    rows += [("I", False, "flagged"), ("J", True, "kept"), ("J", False, "dropped"), (None, None, "kept")]
    write_part(tmp_path, 1, world.verdict_table(*rows))
    found = metrics.compute(metrics.tally(tmp_path))
    assert found["bot_edits_stopped"] == 2 / 4 and found["human_edits_stopped"] == 2 / 4
    # a user with the flag on half of the edits is no bot
    assert found["human_users"] == 3 and found["human_users_flagged_count"] == 2
    assert found["human_users_flagged_in_this_stage"] == 1
    assert found["bot_edits_last_quarter"] == 0 and found["bot_edits_stopped_last_quarter"] == 0.0
    low, high = found["bot_edits_stopped_interval"]
    assert low < 0.5 < high and found["human_users_flagged_upper95"] > 2 / 3
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_of_nothing_there_is_nothing(tmp_path):
    data = metrics.load_verdicts(tmp_path)
    assert (
        len(data)
        == metrics.compute(data)["human_users"]
        == metrics.compute(metrics.tally(tmp_path))["human_users"]
        == 0
    )


ROW = st.fixed_dictionaries(
    {
        "user": st.none() | st.sampled_from("ABC"),
        "bot": st.none() | st.booleans(),
        "verdict": st.sampled_from(["kept", "flagged", "dropped"]),
        "timestamp": st.integers(0, 3).map(lambda minute: minute * 60_000) | st.integers(0, 200_000),
    }
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(ROW, max_size=9), max_size=4), st.randoms())
def test_however_the_verdicts_lie_in_files_the_counts_are_those_of_the_whole(parts, random):
    names = [f"{n:03d}" for n in range(sum(map(len, parts)))]
    random.shuffle(names)
    ids = iter(names)
    parts = [[row | {"meta_id": next(ids)} for row in part] for part in parts]
    with tempfile.TemporaryDirectory() as name:
        for batch, part in enumerate(parts, 1):
            write_part(Path(name), batch, pa.Table.from_pylist(part, VERDICT_SCHEMA))
        found = metrics.compute(metrics.tally(Path(name)))
        assert found == metrics.compute(metrics.load_verdicts(Path(name)))
    rows = sorted((row for part in parts for row in part), key=lambda row: (row["timestamp"], row["meta_id"]))
    bots = [row for row in rows if row["bot"]]
    late_bots = [row for row in rows[len(rows) - len(rows) // 4 :] if row["bot"]]
    for suffix, shown in (("", bots), ("_last_quarter", late_bots)):
        stopped = sum(row["verdict"] != "kept" for row in shown)
        assert found[f"bot_edits{suffix}"] == len(shown)
        assert found[f"bot_edits_stopped{suffix}"] * len(shown) == pytest.approx(stopped)
    edits = collections.Counter(row["user"] for row in rows if row["user"])
    flags = collections.Counter(row["user"] for row in bots if row["user"])
    humans = {user for user, n in edits.items() if 2 * flags[user] <= n}
    assert (found["human_edits"], found["human_users"]) == (sum(edits[user] for user in humans), len(humans))
    stopped = sum(row["verdict"] != "kept" for row in rows if row["user"] in humans)
    assert found["human_edits_stopped"] * found["human_edits"] == pytest.approx(stopped)
    assert found["human_edits_stopped"] <= found["human_edits_stopped_upper95"]
    assert found["human_users_flagged_count"] == len(
        {row["user"] for row in rows if row["verdict"] != "kept"} & humans
    )
