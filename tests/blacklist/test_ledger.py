"""The ledger: nothing is lost, the allow-list wins, and changes join the caller's transaction."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.blacklist import ledger as ledger_module
from lib.blacklist.ledger import BlacklistError, Entry, Ledger, transaction
from lib.params import ParameterError


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.sqlite") as opened:
        yield opened


def listed(user: str, since: int = 1000) -> Entry:
    return Entry(user, "model", since, {"edits": 3, "comment": "<b>"}, 0.99, "m1")


def test_entry_comes_back_as_it_was_put_in(ledger):
    entry = Entry("Bot, \"the\" 'bot'\n\x00é", "model", 1, {"b": [1.5, None], "a": "✓"}, 0.1 + 0.2, "v")
    assert ledger.add([entry]) == [entry.user]
    assert ledger.get(entry.user) == entry and ledger.get("Bot, \"the\" 'bot'\n") is None
    assert list(ledger.entries()) == [entry]


def test_file_can_be_read_while_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as writer, Ledger.open(path) as reader:
        writer.add([listed("A")])
        with transaction(writer.connection):
            writer.add([listed("B")])
            assert reader.members() == ["A"]
        assert reader.members() == ["A", "B"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ledger.sqlite"]


def test_a_locked_file_is_waited_for_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger_module, "LOCK_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(ledger_module, "LOCK_LOG_SECONDS", 0.1)
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as writer, Ledger.open(path) as other, transaction(writer.connection):
        for change in (lambda: other.add([listed("A")]), lambda: Ledger.open(path)):
            with pytest.raises(
                BlacklistError, match=r"ledger\.sqlite must be .* that no other program has locked"
            ):
                change()
    assert "ledger.sqlite, which another program has locked" in capsys.readouterr().out


def test_changes_join_the_callers_transaction(ledger):
    with pytest.raises(KeyError), transaction(ledger.connection):
        ledger.add([listed("A"), listed("B")])
        ledger.remove(["A"], reason="a person", at=1100)
        ledger.allow("C", reason="ours", at=1)
        raise KeyError
    assert not (ledger.members() or ledger.history() or ledger.allowed())


@pytest.mark.parametrize(
    ("kind", "read_only"),
    [*itertools.product(["foreign", "truncated"], [False, True]), ("changed", True), ("empty", True)],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_as_it_is(tmp_path, kind, read_only):
    path = tmp_path / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add(listed(f"bot {number}") for number in range(500))
    data = path.read_bytes()
    middle = len(data) // 2 // 4096 * 4096
    contents = {
        "foreign": b"not a database, but long enough " * 100,
        "truncated": data[:-8192],
        "empty": b"",
        "changed": data[:middle] + bytes(64) + data[middle + 64 :],
    }
    path.write_bytes(contents[kind])
    with pytest.raises(BlacklistError, match="must be a sound SQLite file"):
        Ledger.open(path, read_only=read_only).members()
    assert path.read_bytes() == contents[kind]


def test_a_missing_file_is_not_created_to_be_read(tmp_path):
    with pytest.raises(ParameterError, match=r"none.sqlite is missing. Run .*03_eda_train"):
        Ledger.open(tmp_path / "none.sqlite", read_only=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wal", [False, True])
def test_reading_touches_neither_the_file_nor_its_folder(tmp_path, wal):
    """With `wal`, the second entry is in the write-ahead log that a killed program left."""
    folder = tmp_path / "a folder?"
    folder.mkdir()
    path = folder / "ledger.sqlite"
    with Ledger.open(path) as ledger:
        ledger.add([listed("A")])
        ledger.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.add([listed("B")])
        left = {file: file.read_bytes() for file in (path, folder / "ledger.sqlite-wal")}
    for file, content in left.items() if wal else ():
        file.write_bytes(content)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    assert len(before) == 1 + wal
    with Ledger.open(path, read_only=True) as reader:
        assert reader.members() == ["A", "B"]
    assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


#: Any text but lone surrogates: Arrow and SQLite have none.
USERS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=4)
ACTIONS = st.tuples(st.sampled_from(["add", "remove", "allow", "disallow"]), USERS)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_ledger_is_a_plain_set_that_remembers(actions):
    """Against a model of dictionaries: the same members, and every listing is current or in the history."""
    now: dict[str, int] = {}
    past: list[tuple[str, int, int]] = []
    allowed: set[str] = set()
    with Ledger.open(":memory:") as ledger:
        for time, (action, users) in enumerate(actions):
            ended = {"remove": users, "allow": users[:1]}.get(action, [])
            if action == "add":
                new = dict.fromkeys(user for user in users if user not in allowed and user not in now)
                assert ledger.add([listed(user, time) for user in users]) == list(new)
                now |= dict.fromkeys(new, time)
            elif action == "remove":
                assert ledger.remove(users, reason="test", at=time) == [
                    u for u in dict.fromkeys(users) if u in now
                ]
            elif action == "allow":
                ledger.allow(users[0], reason="ours", at=time)
                allowed.add(users[0])
            else:
                assert ledger.disallow(users[0]) == (users[0] in allowed)
                allowed.discard(users[0])
            past += [(user, now.pop(user), time) for user in dict.fromkeys(ended) if user in now]
        assert ledger.members() == sorted(now)
        assert ledger.allowed() == dict.fromkeys(sorted(allowed), "ours")
        assert {entry.user: entry.since for entry in ledger.entries()} == now
        assert all(user in ledger for user in now) and "no such user" not in ledger
        assert sorted((e.entry.user, e.entry.since, e.ended) for e in ledger.history()) == sorted(past)
