"""The ledger: nothing is lost, the allow-list wins, and changes join the caller's transaction."""

import itertools
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
from lib.blacklist import ledger as ledger_module
from lib.blacklist.ledger import BlacklistError, Entry, Ledger, transaction

USERS = st.text(
    st.characters(exclude_categories=["Cs"]), max_size=6
)  # any text but lone surrogates: Arrow and SQLite have none


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def listed(user: str, since: int = 1000) -> Entry:
    return Entry(user, "model", since, {"edits": 3, "comment": "<b>"}, 0.99, "m1")


def is_empty(ledger: Ledger) -> bool:
    return not (ledger.members() or ledger.history() or ledger.allowed())


def test_entry_comes_back_as_it_was_put_in(ledger):
    entry = Entry("Bot, \"the\" 'bot'\n\x00é", "model", 1, {"b": [1.5, None], "a": "✓"}, 0.1 + 0.2, "v")
    assert ledger.add([entry]) == [entry.user]
    assert ledger.get(entry.user) == entry and ledger.get("Bot, \"the\" 'bot'\n") is None
    assert list(ledger.entries()) == [entry]


def test_second_entry_of_a_user_changes_nothing(ledger):
    assert ledger.add([listed("A"), listed("B"), listed("A", since=5)]) == ["A", "B"]
    assert ledger.add([listed("A", since=7)]) == []
    assert ledger.get("A").since == 1000


def test_removed_user_is_kept_as_history(ledger):
    ledger.add([listed("A"), listed("B")])
    assert ledger.remove(["A", "nobody", "A"], reason="a person", at=2000) == ["A"]
    assert ledger.members() == ["B"]
    assert [(ended.entry, ended.ended, ended.ended_reason) for ended in ledger.history()] == [
        (listed("A"), 2000, "a person")
    ]


def test_allowed_user_is_never_listed(ledger):
    ledger.add([listed("A")])
    ledger.allow("A", reason="ours", at=1200)
    assert ledger.members() == []
    assert ledger.add([listed("A", since=1300), listed("B")]) == ["B"]
    assert ledger.history()[0].ended_reason == "allowed: ours"
    assert ledger.allowed() == {"A": "ours"}
    assert ledger.disallow("A") and not ledger.disallow("A")
    assert ledger.add([listed("A", since=1400)]) == ["A"]


def test_rules_of_entries_and_removals(ledger):
    with pytest.raises(BlacklistError, match="must have a reason"):
        ledger.remove(["A"], reason="", at=1)
    with pytest.raises(BlacklistError, match="named by a string"):
        Entry(None, "model", 1)  # type: ignore[arg-type]


def test_bulk_look_up_finds_thousands(ledger):
    ledger.add(listed(f"bot {i}") for i in range(5000))
    found = ledger.look_up([f"bot {i}" for i in range(2500, 7500)])
    assert sorted(found) == sorted(f"bot {i}" for i in range(2500, 5000))


def test_file_can_be_read_while_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as writer, Ledger.open(path) as reader:
        writer.add([listed("A")])
        with transaction(writer.connection):
            writer.add([listed("B")])
            assert reader.members() == ["A"]
        assert reader.members() == ["A", "B"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ledger.sqlite"]


def test_a_locked_file_is_waited_for_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "LOCK_TIMEOUT_SECONDS", 0.2)
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as writer, Ledger.open(path) as other, transaction(writer.connection):
        with pytest.raises(BlacklistError, match=r"ledger\.sqlite must not be locked by another program"):
            other.add([listed("A")])
        with pytest.raises(BlacklistError, match="Close the program"):
            Ledger.open(path)


def test_broken_transaction_leaves_nothing(ledger):
    with pytest.raises(KeyError), transaction(ledger.connection):
        ledger.add([listed("A")])
        ledger.allow("B", reason="ours", at=1)
        raise KeyError
    assert is_empty(ledger)


@pytest.mark.parametrize("isolation_level", [None, ""])
def test_in_the_callers_transaction_nothing_is_committed(tmp_path, isolation_level):
    connection = sqlite3.connect(tmp_path / "online.sqlite", isolation_level=isolation_level)
    connection.execute("CREATE TABLE batches (id INTEGER)")
    ledger = Ledger(connection)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO batches VALUES (1)")
    ledger.add([listed("A"), listed("B")])
    ledger.remove(["A"], reason="a person", at=1100)
    ledger.allow("C", reason="ours", at=1)
    with transaction(ledger.connection):
        ledger.add([listed("D")])
    assert connection.in_transaction
    connection.rollback()
    assert is_empty(ledger) and connection.execute("SELECT count(*) FROM batches").fetchone() == (0,)
    connection.close()


def test_copy_is_whole_and_independent(ledger, tmp_path):
    ledger.add([listed("A")])
    ledger.copy_to(tmp_path / "copy.sqlite")
    ledger.add([listed("B")])
    with Ledger.open(tmp_path / "copy.sqlite", read_only=True) as copy:
        assert copy.members() == ["A"]


@pytest.mark.parametrize(
    ("kind", "read_only"),
    [*itertools.product(["foreign", "truncated", "other format"], [False, True]), ("changed", True)],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(tmp_path, kind, read_only):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add(listed(f"bot {number}") for number in range(500))
        if kind == "other format":
            ledger.connection.execute("UPDATE ledger_format SET version = 99")
    data = bytearray(path.read_bytes())
    if kind == "changed":
        middle = len(data) // 2 // 4096 * 4096
        data[middle : middle + 64] = bytes(64)
    path.write_bytes(
        {"foreign": b"not a database, but long enough " * 100, "truncated": data[:-8192]}.get(kind, data)
    )
    before = path.read_bytes()
    wanted = "Got format 99" if kind == "other format" else "must be a sound SQLite file"
    with pytest.raises(BlacklistError, match=wanted):
        Ledger.open(path, read_only=read_only).members()
    assert path.read_bytes() == before


ACTIONS = st.tuples(
    st.sampled_from(["add", "remove", "allow", "disallow"]), st.lists(USERS, min_size=1, max_size=4)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_ledger_is_a_plain_set_that_remembers(actions):
    """Against a model of dictionaries: the same members, and every listing is current or in the history."""
    now: dict[str, int] = {}
    past: list[tuple[str, int, int]] = []
    allowed: set[str] = set()
    with Ledger.open(":memory:") as ledger:
        for time, (action, users) in enumerate(actions):
            if action == "add":
                ledger.add([listed(user, time) for user in users])
                now |= {user: time for user in users if user not in allowed and user not in now}
                continue
            if action == "remove":
                ledger.remove(users, reason="test", at=time)
            elif action == "allow":
                users = users[:1]
                ledger.allow(users[0], reason="ours", at=time)
                allowed.add(users[0])
            else:
                assert ledger.disallow(users[0]) == (users[0] in allowed)
                allowed.discard(users[0])
                continue
            past += [(user, now.pop(user), time) for user in dict.fromkeys(users) if user in now]
        assert ledger.members() == sorted(now)
        assert {entry.user: entry.since for entry in ledger.look_up([*now, "no such user"]).values()} == now
        assert sorted((e.entry.user, e.entry.since, e.ended) for e in ledger.history()) == sorted(past)


def test_same_changes_make_the_same_ledger(tmp_path):
    dumps = []
    for name in ("a", "b"):
        with Ledger.open(tmp_path / name) as ledger:
            ledger.add([listed("A"), listed("B")])
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
    with Ledger.open(crashed / "ledger.sqlite") as ledger:
        assert ledger.members() == ["A"]
    dying.close()


def stored(path, wal):
    """A ledger file with two entries; with `wal`, the second is still in the write-ahead log."""
    ledger = Ledger.open(path)
    ledger.add([Entry("A", "test", 1)])
    ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.add([Entry("B", "test", 1)])
    beside = {file: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
    ledger.close()
    for file, content in beside.items() if wal else ():
        file.write_bytes(content)


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


@pytest.mark.parametrize("how", ["must_exist", "read_only"])
def test_a_missing_file_is_refused(tmp_path, how):
    with pytest.raises(BlacklistError, match=r"There must be a ledger at .* Got none\. Run .*03_eda_train"):
        Ledger.open(tmp_path / "none.sqlite", **{how: True})
    assert not list(tmp_path.iterdir())


READ = """
import os, sys
from lib.blacklist.ledger import Ledger
os.setgid(65534); os.setuid(65534)
assert not os.access(os.path.dirname(sys.argv[1]), os.W_OK)
with Ledger.open(sys.argv[1], read_only=True) as ledger:
    print(ledger.members())
"""


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
        command = [sys.executable, "-c", READ, str(folder / "ledger.sqlite")]
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr or "No module named" in done.stderr:
        pytest.skip(f"Reading without the right to write was NOT tested: {done.stderr[-200:]}")
    assert done.stdout == "['A', 'B']\n", done.stderr
