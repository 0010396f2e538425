"""The ledger: the exact list of blacklisted users, with the reason for each, in SQLite.

The ledger is the truth and the Bloom filter (:mod:`lib.blacklist.bloom`) is its shadow. One row of the table
``blacklist`` is a user who is listed now; a listing that ended moves to ``history``; a user in ``allowed`` is never
listed. Every time is an event's time in milliseconds, passed by the caller, so the same events make the same ledger.

Changes join the transaction that is open on the connection, if there is one, so that stage 4 writes the ledger and
everything else of a batch at once; otherwise each change is a transaction of its own.

>>> with Ledger.open(":memory:") as ledger:
...     ledger.add([Entry("AnyBot", reason="model", since=1000, score=0.99)])
...     ledger.remove(["AnyBot"], reason="a person", at=2000)
...     ledger.members(), ledger.history()[0].ended_reason
['AnyBot']
['AnyBot']
([], 'a person')
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from lib import artifacts, paths

#: What `evidence["edit"]` of an entry holds of the edit that crossed the threshold.
EDIT_COLUMNS = ("meta_id", "timestamp", "wiki", "namespace", "type", "title", "comment", "delta")
LOCK_TIMEOUT_SECONDS = 30  # while another program has the file locked
LOCK_LOG_SECONDS = 5
MADE_BY = "notebooks/03_eda_train.ipynb"

_TABLES = (
    # With a rowid, although the key is a text: entries are large, and so the look-up of a user who is not listed
    # reads the index alone.
    """CREATE TABLE IF NOT EXISTS blacklist (
        user TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, evidence TEXT NOT NULL, score REAL,
        model_version TEXT NOT NULL, since INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS history (
        user TEXT NOT NULL, reason TEXT NOT NULL, evidence TEXT NOT NULL, score REAL, model_version TEXT NOT NULL,
        since INTEGER NOT NULL, ended INTEGER NOT NULL, ended_reason TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS allowed (user TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, since INTEGER) STRICT",
)
_ENTRY = "user, reason, evidence, score, model_version, since"
_ENDED = f"{_ENTRY}, ended, ended_reason"


class BlacklistError(Exception):
    """The file of the ledger or of the filter cannot be used."""


class Entry(msgspec.Struct, frozen=True):
    """One user's listing.

    Parameters
    ----------
    user : str
        The name, exactly as in the stream.
    reason : str
        Why, in a few words: "model", "flagged in the sample" …
    since : int
        Event time in milliseconds from which the user is listed.
    evidence : dict
        What led to it, anything that JSON can hold.
    score : float or None
        The model's score, a probability in 0…1.
    model_version : str
        The model that scored; empty when none did.
    """

    user: str
    reason: str
    since: int
    evidence: dict[str, Any] = {}
    score: float | None = None
    model_version: str = ""


class EndedEntry(msgspec.Struct, frozen=True):
    """A listing that ended: the entry, the event time at which it ended, and why."""

    entry: Entry
    ended: int
    ended_reason: str


def connect(path: str | Path) -> sqlite3.Connection:
    """Open a SQLite file with a write-ahead log; changes wait visibly while another program has it locked.

    Raises
    ------
    BlacklistError
        The file is not SQLite, or it stays locked.
    """
    connection = sqlite3.connect(path, LOCK_LOG_SECONDS, isolation_level=None, check_same_thread=False)
    with translate_errors(path):
        _execute(connection, "PRAGMA journal_mode = WAL", path)
    return connection


def _execute(connection: sqlite3.Connection, statement: str, path: str | Path) -> None:
    """Execute a statement; wait, and print so, while another program has the file locked."""
    end = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
        print(f"Waiting for {paths.show(path)}, which another program has locked.")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all changes inside, or none; inside another transaction, keep them with that one.

    Raises
    ------
    BlacklistError
        The file is damaged, or another program has it locked.
    """
    if connection.in_transaction:
        yield
        return
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    with translate_errors(path), connection:
        _execute(connection, "BEGIN IMMEDIATE", path)
        yield


@contextmanager
def translate_errors(path: str | Path) -> Iterator[None]:
    """Raise :class:`BlacklistError` when SQLite finds the file at `path` locked or damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:  # damage is of this very class, a lock of one of its subclasses
        if type(error) is not sqlite3.DatabaseError and "locked" not in str(error):
            raise
        raise BlacklistError(
            f"{paths.show(path)} must be a sound SQLite file that no other program has locked. Got: {error}. "
            f"Close the program that has it open, restore a copy, or run {MADE_BY} again."
        ) from error


class Ledger(AbstractContextManager["Ledger"]):
    """The blacklist in SQLite.

    Parameters
    ----------
    connection : sqlite3.Connection
        The tables are created in it if they are missing.
    """

    def __init__(self, connection: sqlite3.Connection):
        self.connection = connection
        with transaction(connection):
            for statement in _TABLES:
                connection.execute(statement)

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False) -> Ledger:
        """Open a ledger file, or create it.

        Parameters
        ----------
        path : str or Path
            The file; ":memory:" keeps the ledger in memory.
        read_only : bool
            Read a copy of an existing file: neither it nor its folder is written to.

        Returns
        -------
        Ledger
            A context manager that closes the file.

        Raises
        ------
        lib.params.ParameterError
            The file is missing, with `read_only`.
        BlacklistError
            The file is damaged or locked.
        """
        return cls(_read_copy(artifacts.require(Path(path), MADE_BY)) if read_only else connect(path))

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __exit__(self, *failure: object) -> None:
        self.close()

    def add(self, entries: Iterable[Entry]) -> list[str]:
        """List users.

        Parameters
        ----------
        entries : iterable of Entry
            A user who is listed already keeps the older entry; an allowed user is skipped.

        Returns
        -------
        list of str
            The users who were not listed before, in order.
        """
        row = "SELECT * FROM (VALUES (?, ?, ?, ?, ?, ?)) WHERE column1 NOT IN (SELECT user FROM allowed)"
        insert = f"INSERT OR IGNORE INTO blacklist ({_ENTRY}) {row}"
        with transaction(self.connection):
            return [entry.user for entry in entries if self.connection.execute(insert, _row(entry)).rowcount]

    def remove(self, users: Iterable[str], *, reason: str, at: int) -> list[str]:
        """Take users off the list; their entries are kept as history.

        Parameters
        ----------
        users : iterable of str
            Users who are not listed are skipped.
        reason : str
            Why.
        at : int
            Event time in milliseconds.

        Returns
        -------
        list of str
            The users who were listed, in order.
        """
        move = f"INSERT INTO history ({_ENDED}) SELECT {_ENTRY}, ?, ? FROM blacklist WHERE user = ?"
        removed = []
        with transaction(self.connection):
            for user in users:
                if self.connection.execute(move, (at, reason, user)).rowcount:
                    self.connection.execute("DELETE FROM blacklist WHERE user = ?", (user,))
                    removed.append(user)
        return removed

    def allow(self, user: str, *, reason: str, at: int) -> None:
        """Put a user on the allow-list: the listing ends, and there is none until :meth:`disallow`.

        Parameters
        ----------
        user : str
            Need not be listed.
        reason : str
            Why; a user who is allowed already keeps the older reason.
        at : int
            Event time in milliseconds.
        """
        with transaction(self.connection):
            self.remove([user], reason=f"allowed: {reason}", at=at)
            self.connection.execute("INSERT OR IGNORE INTO allowed VALUES (?, ?, ?)", (user, reason, at))

    def disallow(self, user: str) -> bool:
        """Take a user off the allow-list. Returns whether the user was on it."""
        with transaction(self.connection):
            return self.connection.execute("DELETE FROM allowed WHERE user = ?", (user,)).rowcount > 0

    def allowed(self) -> dict[str, str]:
        """Return the allow-list, sorted by user, each with the reason."""
        return dict(self.connection.execute("SELECT user, reason FROM allowed ORDER BY user"))

    def replace(self, entries: Iterable[Entry], automatic: Sequence[str]) -> None:
        """List users in place of those whom no person listed; whom a person took off the list stays off it.

        Parameters
        ----------
        entries : iterable of Entry
        automatic : sequence of str
            Reasons of the entries that are replaced.
        """
        with transaction(self.connection):
            released = {ended.entry.user for ended in self.history()} - set(self.members())
            self.connection.executemany("DELETE FROM blacklist WHERE reason = ?", zip(automatic))
            self.add(entry for entry in entries if entry.user not in released)

    def __contains__(self, user: object) -> bool:
        return bool(self.connection.execute("SELECT 1 FROM blacklist WHERE user = ?", (user,)).fetchone())

    def get(self, user: str) -> Entry | None:
        """Return the entry of one user, or None."""
        found = self.connection.execute(f"SELECT {_ENTRY} FROM blacklist WHERE user = ?", (user,)).fetchone()
        return None if found is None else _entry(found)

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM blacklist").fetchone()[0])

    def members(self) -> list[str]:
        """Return the listed users, sorted."""
        return [row[0] for row in self.connection.execute("SELECT user FROM blacklist ORDER BY user")]

    def entries(self) -> Iterator[Entry]:
        """Yield every entry, by user."""
        return map(_entry, self.connection.execute(f"SELECT {_ENTRY} FROM blacklist ORDER BY user"))

    def history(self) -> list[EndedEntry]:
        """Return the listings that ended, in the order in which they ended."""
        rows = self.connection.execute(f"SELECT {_ENDED} FROM history ORDER BY ended, user")
        return [EndedEntry(_entry(row), row[-2], row[-1]) for row in rows]


def _row(entry: Entry) -> tuple[object, ...]:
    evidence = msgspec.json.encode(entry.evidence, order="deterministic").decode()
    return (entry.user, entry.reason, evidence, entry.score, entry.model_version, entry.since)


def _entry(row: Sequence[Any]) -> Entry:
    user, reason, evidence, score, model_version, since = row[:6]
    return Entry(user, reason, since, msgspec.json.decode(evidence), score, model_version)


def _read_copy(path: Path) -> sqlite3.Connection:
    """Read a database with its write-ahead log into memory, by way of a copy: SQLite would write beside the file."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with translate_errors(path), tempfile.TemporaryDirectory() as folder:
        for file in filter(Path.exists, (path, path.with_name(f"{path.name}-wal"))):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as copy:
            problem = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(problem)
            if not copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'blacklist'").fetchone():
                raise sqlite3.DatabaseError("it has no blacklist")  # an empty file is a sound database
            copy.backup(connection)
    return connection
