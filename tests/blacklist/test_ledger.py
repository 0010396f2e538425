"""The ledger: nothing is lost, the allow-list wins, and the caller's transaction is the caller's."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import paths
from lib.blacklist.ledger import Entry, Ledger, LedgerError

USERS = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)  # any text but lone surrogates: Arrow and SQLite have none


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def listed(user: str, since: int = 1000, until: int | None = None, reason: str = "model") -> Entry:
    return Entry(user, reason, since, {"edits": 3, "comment": "<b>"}, 0.99, "m1", until)


def test_entry_comes_back_as_it_was_put_in(ledger):
    entry = Entry("Bot, \"the\" 'bot'\n\x00é", "model", 1, {"b": [1.5, None], "a": "✓"}, 0.1 + 0.2, "v", 9)
    assert ledger.add([entry]) == [entry.user]
    assert ledger.get(entry.user) == entry
    assert list(ledger.entries()) == [entry]


def test_second_entry_of_a_user_changes_nothing(ledger):
    assert ledger.add([listed("A"), listed("B"), listed("A", since=5)]) == ["A", "B"]
    assert ledger.add([listed("A", since=7)]) == []
    assert ledger.get("A").since == 1000


def test_removed_user_is_kept_as_history(ledger):
    ledger.add([listed("A"), listed("B")])
    assert ledger.remove(["A", "nobody", "A"], reason="a person", at=2000) == ["A"]
    assert ledger.members() == ["B"]
    assert [(past.entry.user, past.ended, past.ended_reason) for past in ledger.history()] == [
        ("A", 2000, "a person")
    ]
    assert ledger.members(at=1999) == ["A", "B"]
    assert ledger.members(at=2000) == ["B"]


def test_removal_needs_a_reason(ledger):
    with pytest.raises(LedgerError, match="must have a reason"):
        ledger.remove(["A"], reason="", at=1)


def test_stay_is_over_when_its_time_has_come(ledger):
    ledger.add([listed("A", until=1500), listed("B", until=5000), listed("C")])
    assert ledger.look_up(["A", "B", "C"], at=1500).keys() == {"B", "C"}


def test_allowed_user_is_never_listed(ledger):
    ledger.add([listed("A")])
    ledger.allow("A", reason="ours", at=1200)
    assert ledger.members() == []
    assert ledger.add([listed("A", since=1300), listed("B")]) == ["B"]
    assert ledger.history("A")[0].ended_reason == "allowed: ours"
    assert ledger.allowed() == {"A": "ours"}
    assert ledger.disallow("A") and not ledger.disallow("A")
    assert ledger.add([listed("A", since=1400)]) == ["A"]


def test_counts(ledger):
    ledger.add([listed("A"), listed("B", reason="flagged in the sample"), listed("C")])
    ledger.remove(["C"], reason="tired", at=2000)
    ledger.allow("D", reason="ours", at=1)
    assert ledger.counts() == {
        "listed": 2,
        "ended": 1,
        "allowed": 1,
        "listed: flagged in the sample": 1,
        "listed: model": 1,
    }
    assert len(ledger) == 2 and "A" in ledger and "C" not in ledger


def test_bulk_look_up_finds_thousands(ledger):
    ledger.add(listed(f"bot {i}") for i in range(5000))
    found = ledger.look_up(f"bot {i}" for i in range(2500, 7500))
    assert sorted(found) == sorted(f"bot {i}" for i in range(2500, 5000))


def test_file_is_kept_and_can_be_read_while_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as writer, Ledger.open(path, must_exist=True) as reader:
        writer.add([listed("A")])
        with writer.transaction():
            writer.add([listed("B")])
            assert reader.members() == ["A"]
        assert reader.members() == ["A", "B"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ledger.sqlite"]


def test_broken_transaction_leaves_nothing(ledger):
    with pytest.raises(KeyError), ledger.transaction():
        ledger.add([listed("A")])
        ledger.allow("B", reason="ours", at=1)
        raise KeyError
    assert ledger.counts() == {"listed": 0, "ended": 0, "allowed": 0}


@pytest.mark.parametrize("isolation_level", [None, ""])
def test_in_the_callers_transaction_nothing_is_committed(tmp_path, isolation_level):
    path = tmp_path / "online.sqlite"
    connection = sqlite3.connect(path, isolation_level=isolation_level)
    connection.execute("CREATE TABLE epoch (id INTEGER)")
    Ledger(connection)
    connection.commit()
    connection.execute("BEGIN")
    inside = Ledger(connection)
    connection.execute("INSERT INTO epoch VALUES (1)")
    inside.add([listed("A"), listed("B", until=1500)])
    inside.remove(["A"], reason="a person", at=1100)
    inside.allow("C", reason="ours", at=1)
    with inside.transaction():
        inside.add([listed("D")])
    assert connection.in_transaction
    connection.rollback()
    assert inside.counts() == {"listed": 0, "ended": 0, "allowed": 0}
    assert connection.execute("SELECT count(*) FROM epoch").fetchone() == (0,)
    connection.close()


def test_copy_is_whole_and_independent(ledger, tmp_path):
    ledger.add([listed("A")])
    ledger.copy_to(tmp_path / "copy.sqlite")
    ledger.add([listed("B")])
    with Ledger.open(tmp_path / "copy.sqlite", must_exist=True) as copy:
        assert copy.members() == ["A"]


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(LedgerError, match=r"03_eda_train"):
        Ledger.open(tmp_path / "none.sqlite", must_exist=True)
    assert not list(tmp_path.iterdir())


def test_foreign_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one " * 100)
    with pytest.raises(LedgerError, match="SQLite says"):
        Ledger.open(path)
    assert path.read_bytes().startswith(b"not a database")


def test_damaged_page_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add(listed(f"bot {number}") for number in range(500))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    with pytest.raises(LedgerError, match="must be a sound SQLite file"):
        Ledger.open(path, must_exist=True)


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add(listed(f"bot {number}") for number in range(500))
    path.write_bytes(path.read_bytes()[:-8192])
    with pytest.raises(LedgerError, match="must be a sound SQLite file"):
        Ledger.open(path, must_exist=True)


def test_other_format_is_refused(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.connection.execute("UPDATE ledger_format SET version = 99")
    with pytest.raises(LedgerError, match="Got format 99"):
        Ledger.open(path)


def test_user_without_a_name_is_refused():
    with pytest.raises(LedgerError, match="named by a string"):
        Entry(None, "model", 1)  # type: ignore[arg-type]


def test_stay_must_end_after_it_begins():
    with pytest.raises(LedgerError, match="end after it begins"):
        listed("A", since=5, until=5)


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(USERS, max_size=4), st.one_of(st.none(), st.integers(1, 20))),
    st.tuples(st.just("remove"), st.lists(USERS, max_size=4), st.none()),
    st.tuples(st.just("allow"), st.lists(USERS, min_size=1, max_size=1), st.none()),
    st.tuples(st.just("disallow"), st.lists(USERS, min_size=1, max_size=1), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_ledger_is_a_plain_set_that_remembers(actions):
    """Against a model of dictionaries: the same members at every time, and every stay is listed or in the history."""
    now: dict[str, tuple[int, int | None]] = {}
    past: list[tuple[str, int, int]] = []
    allowed: set[str] = set()
    with Ledger.open(":memory:") as ledger:
        for time, (action, users, stay) in enumerate(actions):
            if action == "add":
                until = None if stay is None else time + stay
                ledger.add([listed(user, time, until) for user in users])
                now |= {user: (time, until) for user in users if user not in allowed and user not in now}
            elif action == "remove":
                ledger.remove(users, reason="test", at=time)
                past += [(user, now.pop(user)[0], time) for user in dict.fromkeys(users) if user in now]
            elif action == "allow":
                ledger.allow(users[0], reason="ours", at=time)
                allowed.add(users[0])
                past += [(user, now.pop(user)[0], time) for user in users if user in now]
            else:
                assert ledger.disallow(users[0]) == (users[0] in allowed)
                allowed.discard(users[0])
        assert ledger.members() == sorted(now)
        assert sorted((p.entry.user, p.entry.since, p.ended) for p in ledger.history()) == sorted(past)
        for at in range(len(actions) + 1):
            current = {
                u for u, (since, until) in now.items() if since <= at and (until is None or at < until)
            }
            before = {u for u, since, ended in past if since <= at < ended}
            assert set(ledger.members(at)) == current | before


def test_same_changes_make_the_same_ledger(tmp_path):
    dumps = []
    for name in ("a", "b"):
        with Ledger.open(tmp_path / name) as ledger:
            ledger.add([listed("A"), listed("B", until=1500)])
            ledger.remove(["A"], reason="a person", at=2000)
            dumps.append(list(ledger.connection.iterdump()))
    assert dumps[0] == dumps[1]


def test_ledger_survives_a_process_that_dies_in_the_middle(tmp_path):
    """Changes that were committed are there although the file was never closed; the others are not."""
    path = tmp_path / "ledger.sqlite"
    dying = Ledger.open(path)
    dying.add([listed("A")])
    dying.connection.execute("BEGIN IMMEDIATE")
    dying.add([listed("B")])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("ledger.sqlite*"):
        Path(crashed / file.name).write_bytes(file.read_bytes())
    with Ledger.open(crashed / "ledger.sqlite", must_exist=True) as ledger:
        assert ledger.members() == ["A"]
    dying.close()


def stored(path, wal):
    """A ledger file with two entries; with `wal`, the second is still in the write-ahead log."""
    ledger = Ledger.open(path)
    ledger.add([Entry("A", "test", 1)])
    ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.add([Entry("B", "test", 1)])
    if wal:
        beside = [
            (f, f.read_bytes()) for f in path.parent.glob(f"{path.name}*") if not f.name.endswith("-shm")
        ]
    ledger.close()
    for file, content in beside if wal else ():
        file.write_bytes(content)


READ = """
import os, sys
from lib.blacklist.ledger import Ledger
os.setgid(65534); os.setuid(65534)
assert not os.access(os.path.dirname(sys.argv[1]), os.W_OK)
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    print(ledger.members())
"""


@pytest.mark.parametrize("wal", [False, True])
def test_reading_touches_neither_the_file_nor_its_folder(tmp_path, wal):
    path = tmp_path / "a folder?" / "ledger.sqlite"
    path.parent.mkdir()
    stored(path, wal)
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.parent.iterdir()}
    assert f"{path.name}-wal" in before or not wal
    with Ledger.open(path, read_only=True) as ledger:
        assert ledger.members() == ["A", "B"]
        ledger.copy_to(tmp_path / "copy.sqlite")
    with Ledger.open(tmp_path / "copy.sqlite") as copy:
        assert copy.add([Entry("C", "test", 1)]) == ["C"]
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.parent.iterdir()}
    assert after == before


@pytest.mark.parametrize("wal", [False, True])
def test_a_ledger_that_only_may_be_read_is_read(wal):
    """As another user, because root may write everywhere."""
    if os.geteuid():
        pytest.skip("Reading without the right to write was NOT tested: only root can become another user.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored(folder / "ledger.sqlite", wal)
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ, str(folder / "ledger.sqlite")],
            cwd=paths.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if "PermissionError" in done.stderr or "No module named" in done.stderr:
        pytest.skip(f"Reading without the right to write was NOT tested: {done.stderr[-200:]}")
    assert done.stdout == "['A', 'B']\n", done.stderr


def test_reading_what_is_not_there_or_damaged_is_refused(tmp_path):
    with pytest.raises(LedgerError, match="Got no file"):
        Ledger.open(tmp_path / "none.sqlite", read_only=True)
    (tmp_path / "bad.sqlite").write_bytes(b"no ledger" * 100)
    with pytest.raises(LedgerError, match="must be a sound SQLite file"):
        Ledger.open(tmp_path / "bad.sqlite", read_only=True)
