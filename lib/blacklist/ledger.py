"""The ledger: the exact list of blacklisted users, with the reason for each.

The ledger is the truth and the Bloom filter (:mod:`lib.blacklist.bloom`) is its shadow. One row of the table
``blacklist`` is one user who is on the list now; a stay that ended moves to ``history``; a user in ``allowed`` is
never listed. Every time is an event's time in milliseconds and is given by the caller, so the same events make the
same ledger.

:meth:`Ledger.open` owns its file and commits each change. ``Ledger(connection)`` works inside the caller's
transaction and never commits, so that stage 4 can write the ledger and everything else of an epoch at once.

>>> with Ledger.open(":memory:") as ledger:
...     ledger.add([Entry("AnyBot", reason="model", since=1000, score=0.99)])
...     ledger.remove(["AnyBot"], reason="a person, after all", at=2000)
...     ledger.members(at=1500), ledger.members()
['AnyBot']
['AnyBot']
(['AnyBot'], [])
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from lib import paths

EXPIRED = "expired"  # why a stay ended by itself
#: What `evidence["edit"]` of an entry tells of the edit that tipped the balance.
EDIT_COLUMNS = ("meta_id", "timestamp", "wiki", "namespace", "type", "title", "comment", "delta")
FORMAT = 1  # of the tables below; another number is refused

_TABLES = (
    "CREATE TABLE IF NOT EXISTS ledger_format (version INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS blacklist (
        user TEXT NOT NULL PRIMARY KEY,
        reason TEXT NOT NULL,
        evidence TEXT NOT NULL CHECK (json_valid(evidence)),
        score REAL,
        model_version TEXT NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER CHECK (until > since)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS history (
        user TEXT NOT NULL,
        reason TEXT NOT NULL,
        evidence TEXT NOT NULL,
        score REAL,
        model_version TEXT NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER,
        ended INTEGER NOT NULL,
        ended_reason TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS history_user ON history (user)",
    """CREATE TABLE IF NOT EXISTS allowed (
        user TEXT NOT NULL PRIMARY KEY, reason TEXT NOT NULL, since INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
)
_COLUMNS = "user, reason, evidence, score, model_version, since, until"
_T = TypeVar("_T")
_CHUNK = 1000  # users per statement of a bulk look-up


@contextmanager
def whole(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all changes inside, or none: one transaction of a connection that begins none by itself."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class LedgerError(Exception):
    """The file is not a ledger this version can use, or a change breaks a rule of the ledger."""


class Entry(msgspec.Struct, frozen=True):
    """One user's stay on the blacklist.

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
        The model that judged; empty when none did.
    until : int or None
        Event time in milliseconds at which the stay ends by itself; None: never.
    """

    user: str
    reason: str
    since: int
    evidence: dict[str, Any] = {}
    score: float | None = None
    model_version: str = ""
    until: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.user, str):
            raise LedgerError(
                f"A blacklisted user must be named by a string. Got {self.user!r}. Leave such users out."
            )
        if self.until is not None and self.until <= self.since:
            raise LedgerError(
                f"A stay must end after it begins. Got since={self.since} and until={self.until} for {self.user!r}."
            )


class Past(msgspec.Struct, frozen=True):
    """A stay that ended: the entry, the time at which it ended and why."""

    entry: Entry
    ended: int
    ended_reason: str


class Ledger:
    """The blacklist in SQLite.

    Parameters
    ----------
    connection : sqlite3.Connection
        The ledger makes its tables there and works inside the caller's transaction: it never begins, commits or
        rolls back.

    Raises
    ------
    LedgerError
        The database is damaged or holds a ledger of another format.
    """

    def __init__(self, connection: sqlite3.Connection):
        self.connection = connection
        self._owns = False
        with _refused(connection):
            for statement in _TABLES:
                connection.execute(statement)
            version = connection.execute("SELECT max(version) FROM ledger_format").fetchone()[0]
            if version is None:
                connection.execute("INSERT INTO ledger_format VALUES (?)", (FORMAT,))
            elif version != FORMAT:
                raise LedgerError(
                    f"A ledger must have format {FORMAT}. Got format {version}. "
                    "Make it again with notebooks/03_eda_train.ipynb."
                )

    @classmethod
    def open(cls, path: str | Path, *, must_exist: bool = False, read_only: bool = False) -> Ledger:
        """Open a ledger file that commits each change by itself (SQLite's write-ahead log).

        Parameters
        ----------
        path : str or Path
            The file; ":memory:" keeps the ledger in memory.
        must_exist : bool
            Refuse a missing or damaged file instead of making an empty ledger.
        read_only : bool
            Touch neither the file nor its folder, which may be on a medium that cannot be written to; implies
            `must_exist`. Nobody may be writing to the file meanwhile.

        Returns
        -------
        Ledger
            A context manager that closes the file.

        Raises
        ------
        LedgerError
            The file is missing (with `must_exist`), damaged or of another format.
        """
        if (must_exist or read_only) and not Path(path).is_file():
            raise LedgerError(
                f"There must be a ledger at {paths.show(path)}. Got no file. Run notebooks/03_eda_train.ipynb first."
            )
        if read_only:
            return cls._read(Path(path))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with _refused(connection, path, close=True):
            if must_exist:
                _check_pages(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            ledger = cls(connection)
            connection.execute("COMMIT")
        ledger._owns = True
        return ledger

    @classmethod
    def _read(cls, path: Path) -> Ledger:
        """Open a file as it is; what its last writer left in the write-ahead log is put in on a copy in memory."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with _refused(connection, path, close=True), tempfile.TemporaryDirectory() as beside:
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                for source in (path, log):
                    shutil.copyfile(source, Path(beside) / source.name)
                source, mode = Path(beside) / path.name, "rwc"
            else:
                source, mode = path, "ro&immutable=1"
            with contextlib.closing(
                sqlite3.connect(f"{source.absolute().as_uri()}?mode={mode}", uri=True)
            ) as file:
                _check_pages(file)
                file.backup(connection)
            connection.execute("PRAGMA journal_mode = MEMORY")
            ledger = cls(connection)
        ledger._owns = True
        return ledger

    def close(self) -> None:
        """Close the file, if this ledger opened it."""
        if self._owns:
            self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside are kept, or none (the caller's own transaction when the connection is the caller's)."""
        if not self._owns or self.connection.in_transaction:
            yield
            return
        with whole(self.connection):
            yield

    def add(self, entries: Iterable[Entry]) -> list[str]:
        """Put users on the list.

        Parameters
        ----------
        entries : iterable of Entry
            A user who is listed already keeps the older entry; an allowed user is passed over.

        Returns
        -------
        list of str
            The users who are new on the list, in the order given: exactly what the filter must learn.
        """
        added = []
        with self.transaction():
            for chunk in _chunks(entries):
                users = [entry.user for entry in chunk]
                barred = self._present("blacklist", users) | self._present("allowed", users)
                fresh = {entry.user: entry for entry in reversed(chunk) if entry.user not in barred}
                new = list(dict.fromkeys(user for user in users if user in fresh))
                self.connection.executemany(
                    f"INSERT INTO blacklist ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [_row(fresh[user]) for user in new],
                )
                added += new
        return added

    def remove(self, users: Iterable[str], *, reason: str, at: int) -> list[str]:
        """Take users off the list; their stay is kept as history.

        Parameters
        ----------
        users : iterable of str
            Users who are not listed are passed over.
        reason : str
            Why; must not be empty.
        at : int
            Event time in milliseconds.

        Returns
        -------
        list of str
            The users who were listed, in the order given.

        Raises
        ------
        LedgerError
            The reason is empty.
        """
        if not reason:
            raise LedgerError("A removal must have a reason. Got an empty one. Say why the user is released.")
        removed = []
        with self.transaction():
            for chunk in _chunks(users):
                listed = self._present("blacklist", chunk)
                here = list(dict.fromkeys(user for user in chunk if user in listed))
                self.connection.executemany(
                    f"INSERT INTO history ({_COLUMNS}, ended, ended_reason) "
                    f"SELECT {_COLUMNS}, ?, ? FROM blacklist WHERE user = ?",
                    [(at, reason, user) for user in here],
                )
                self.connection.executemany(
                    "DELETE FROM blacklist WHERE user = ?", [(user,) for user in here]
                )
                removed += here
        return removed

    def allow(self, user: str, *, reason: str, at: int) -> None:
        """Never list this user: ends the current stay and bars every later one, until :meth:`disallow`.

        Parameters
        ----------
        user : str
            Need not be listed.
        reason : str
            Why; who is allowed already keeps the older one.
        at : int
            Event time in milliseconds.
        """
        with self.transaction():
            self.remove([user], reason=f"allowed: {reason}", at=at)
            self.connection.execute("INSERT OR IGNORE INTO allowed VALUES (?, ?, ?)", (user, reason, at))

    def disallow(self, user: str) -> bool:
        """Let this user be judged like any other again. Returns whether the user was allowed."""
        with self.transaction():
            return self.connection.execute("DELETE FROM allowed WHERE user = ?", (user,)).rowcount > 0

    def take_over(self, earlier: Ledger, automatic: Container[str]) -> set[str]:
        """Take over from an earlier ledger what people decided, and its history.

        Parameters
        ----------
        earlier : Ledger
        automatic : container of str
            Reasons of entries that nobody decided by hand: those are left behind.

        Returns
        -------
        set of str
            The users whom somebody took off the list, and who were not put on it again: they should stay off it.
        """
        columns = f"{_COLUMNS}, ended, ended_reason"
        with self.transaction():
            self.connection.executemany(
                "INSERT OR REPLACE INTO allowed VALUES (?, ?, ?)",
                earlier.connection.execute("SELECT user, reason, since FROM allowed").fetchall(),
            )
            self.connection.executemany(
                f"INSERT INTO history ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                earlier.connection.execute(f"SELECT {columns} FROM history ORDER BY rowid").fetchall(),
            )
            self.add(entry for entry in earlier.entries() if entry.reason not in automatic)
        removed = {past.entry.user for past in earlier.history() if past.ended_reason != EXPIRED}
        return removed - set(earlier.members())

    def allowed(self) -> dict[str, str]:
        """The users who are never listed, sorted, each with the reason."""
        return dict(self.connection.execute("SELECT user, reason FROM allowed ORDER BY user"))

    def look_up(self, users: Iterable[str], at: int | None = None) -> dict[str, Entry]:
        """The entries of those among `users` who are listed; thousands at once cost a few milliseconds.

        Parameters
        ----------
        users : iterable of str
        at : int or None
            Event time in milliseconds: only entries with ``since <= at < until``. None: every current entry.

        Returns
        -------
        dict of str to Entry
        """
        found: dict[str, Entry] = {}
        for chunk in _chunks(users):
            marks = ", ".join("?" * len(chunk))
            rows = self.connection.execute(f"SELECT {_COLUMNS} FROM blacklist WHERE user IN ({marks})", chunk)
            found |= {row[0]: _entry(row) for row in rows}
        if at is None:
            return found
        return {user: entry for user, entry in found.items() if _covers(entry, at)}

    def get(self, user: str) -> Entry | None:
        """The current entry of one user, or None."""
        return self.look_up([user]).get(user)

    def __contains__(self, user: str) -> bool:
        return bool(self._present("blacklist", [user]))

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM blacklist").fetchone()[0])

    def members(self, at: int | None = None) -> list[str]:
        """The users on the list, sorted.

        Parameters
        ----------
        at : int or None
            Event time in milliseconds: who was listed then, by the current list and the history.
            None: the current list.
        """
        if at is None:
            rows = self.connection.execute("SELECT user FROM blacklist ORDER BY user")
        else:
            rows = self.connection.execute(
                "SELECT user FROM blacklist WHERE since <= :at AND (until IS NULL OR until > :at) UNION "
                "SELECT user FROM history WHERE since <= :at AND ended > :at ORDER BY user",
                {"at": at},
            )
        return [row[0] for row in rows]

    def entries(self) -> Iterator[Entry]:
        """Every current entry, by user."""
        rows = self.connection.execute(f"SELECT {_COLUMNS} FROM blacklist ORDER BY user")
        return (_entry(row) for row in rows)

    def history(self, user: str | None = None) -> list[Past]:
        """The stays that ended, of one user or of all, in the order in which they ended."""
        where, values = ("WHERE user = ? ", (user,)) if user is not None else ("", ())
        rows = self.connection.execute(
            f"SELECT {_COLUMNS}, ended, ended_reason FROM history {where}ORDER BY ended, user", values
        )
        return [Past(_entry(row), row[-2], row[-1]) for row in rows]

    def counts(self) -> dict[str, int]:
        """How many users are listed, how many stays ended, how many users are allowed; listed ones by reason."""
        one = {
            name: int(self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
            for name, table in (("listed", "blacklist"), ("ended", "history"), ("allowed", "allowed"))
        }
        by_reason = self.connection.execute(
            "SELECT reason, count(*) FROM blacklist GROUP BY reason ORDER BY reason"
        )
        return one | {f"listed: {reason}": count for reason, count in by_reason}

    def copy_to(self, path: str | Path) -> None:
        """Write a consistent copy of the whole database to another file, replacing what it held."""
        target = sqlite3.connect(path)
        try:
            self.connection.backup(target)
        finally:
            target.close()

    def _present(self, table: str, users: Sequence[str]) -> set[str]:
        marks = ", ".join("?" * len(users))
        return {
            row[0]
            for row in self.connection.execute(f"SELECT user FROM {table} WHERE user IN ({marks})", users)
        }


def _row(entry: Entry) -> tuple[object, ...]:
    evidence = msgspec.json.encode(entry.evidence, order="deterministic").decode()
    return (entry.user, entry.reason, evidence, entry.score, entry.model_version, entry.since, entry.until)


def _entry(row: Sequence[Any]) -> Entry:
    user, reason, evidence, score, model_version, since, until = row[:7]
    return Entry(user, reason, since, msgspec.json.decode(evidence), score, model_version, until)


def _covers(entry: Entry, at: int) -> bool:
    return entry.since <= at and (entry.until is None or at < entry.until)


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _check_pages(connection: sqlite3.Connection) -> None:
    """Let SQLite look at every page; it opens a damaged file without a word and fails somewhere later."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


@contextmanager
def _refused(
    connection: sqlite3.Connection, path: str | Path | None = None, close: bool = False
) -> Iterator[None]:
    """Turn SQLite's complaint about a foreign or damaged file into one that names the way out."""
    try:
        yield
    except (sqlite3.DatabaseError, LedgerError) as error:
        if close:
            connection.close()
        if isinstance(error, LedgerError) or isinstance(error, sqlite3.OperationalError) and path is None:
            raise
        place = f" at {paths.show(path)}" if path is not None else ""
        raise LedgerError(
            f"The ledger{place} must be a sound SQLite file. SQLite says: {error}. "
            "Put a good copy there, or make it again with notebooks/03_eda_train.ipynb."
        ) from error
