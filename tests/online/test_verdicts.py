"""Counting in the verdicts, by hand and by the module."""

import pyarrow as pa
import pytest

from lib.online import verdicts
from lib.online.judging import SCHEMA


def table(*rows):
    """Rows of user, bot, verdict; the place is the time."""
    return pa.Table.from_pylist(
        [
            {
                "meta_id": f"{n:03d}",
                "timestamp": n,
                "wiki": "enwiki",
                "user": user,
                "bot": bot,
                "verdict": verdict,
            }
            for n, (user, bot, verdict) in enumerate(rows)
        ],
        SCHEMA,
    )


@pytest.fixture
def folder(tmp_path):
    verdicts.tidy(tmp_path, [])
    return tmp_path


def test_shares_are_of_edits_with_the_flag_and_of_users_without(folder):
    rows = [("B", True, "flagged"), ("B", True, "dropped"), ("C", True, "kept"), ("H", False, "kept")]
    rows += [("I", False, "flagged"), ("J", True, "kept"), ("J", False, "dropped"), (None, None, "kept")]
    verdicts.write(folder, 1, table(*rows))
    found = verdicts.metrics(folder)
    assert (found["edits"], found["kept"], found["flagged"], found["dropped"]) == (8, 4, 2, 2)
    assert found["bot_edits_stopped"] == 2 / 4
    assert (
        found["human_users"] == 3 and found["human_users_flagged_count"] == 2
    )  # half with the flag is no bot
    assert found["human_users_flagged_in_this_stage"] == 1
    assert found["bot_edits_last_quarter"] == 0 and found["bot_edits_stopped_last_quarter"] == 0.0
    low, high = found["bot_edits_stopped_interval"]
    assert low < 0.5 < high and found["human_users_flagged_upper95"] > 2 / 3
    assert "50.0 % of 4 bot edits" in verdicts.sentence(found)


def test_the_last_quarter_is_by_time_and_not_by_order_of_arrival(folder):
    verdicts.write(folder, 1, table(("B", True, "kept"), ("B", True, "dropped")).take([1, 0]))
    verdicts.write(
        folder, 2, table(*[("B", True, "kept")] * 2, ("B", True, "kept"), ("B", True, "dropped")).slice(2)
    )
    assert verdicts.last_quarter(verdicts.read(folder)).tolist() == [False, False, False, True]
    assert verdicts.metrics(folder)["bot_edits_stopped_last_quarter"] == 1.0


def test_an_epoch_written_again_replaces_the_first(folder):
    verdicts.write(folder, 1, table(("A", False, "kept"), ("A", False, "kept")))
    verdicts.write(folder, 1, table(("A", False, "kept")))
    assert verdicts.read(folder).num_rows == 1
    verdicts.write(folder, 1, table())
    assert verdicts.read(folder).num_rows == 0 and verdicts.metrics(folder)["edits"] == 0


def test_what_is_not_in_the_books_is_tidied_away(folder):
    for epoch in (1, 2, 3):
        verdicts.write(folder, epoch, table(("A", False, "kept")))
    (folder / "verdicts" / ".part-00000004.parquet.tmp").write_bytes(b"half")
    (folder / "verdicts" / "notes.txt").write_text("mine")
    verdicts.tidy(folder, [1, 3])
    assert sorted(path.name for path in (folder / "verdicts").iterdir()) == [
        "notes.txt",
        "part-00000001.parquet",
        "part-00000003.parquet",
    ]
