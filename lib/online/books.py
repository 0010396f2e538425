"""The books of stage 4: one SQLite file with everything that must move together.

The ledger, the users' summaries, the ids seen, the dead letters, Kafka's offsets and the counts of an epoch are
written in one transaction. Whatever is killed, the file is as it was after some whole epoch, and its offsets say where
to go on.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from lib.blacklist.ledger import Ledger, transaction
from lib.online.seen import Seen

NAME = "ledger.sqlite"
SEEN = "seen"  # folder of the ids that no longer fit in memory
_CHUNK = 10_000  # names per statement

_TABLES = (
    "CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS summaries (
        user TEXT NOT NULL, shadow INTEGER NOT NULL, score REAL, last_ms INTEGER NOT NULL, state BLOB NOT NULL,
        PRIMARY KEY (user, shadow)
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS epochs (
        epoch INTEGER PRIMARY KEY, run INTEGER NOT NULL, rows INTEGER NOT NULL, counts TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS totals (name TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS collisions (user TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS dead_letters (
        partition INTEGER NOT NULL, offset INTEGER NOT NULL, raw BLOB NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (partition, offset)
    ) STRICT""",
)


class Summaries(NamedTuple):
    """Users' summaries, one row per user."""

    state: np.ndarray  #: float64, shape (users, S)
    score: np.ndarray  #: the last score, shape (users,); nan where there is none yet
    last_ms: np.ndarray  #: event time of the latest edit, int64


class Books:
    """Open the books of a run.

    Parameters
    ----------
    folder : Path
        The stage's folder; made if it is not there.

    Attributes
    ----------
    ledger : Ledger
        The blacklist.
    seen : Seen
        The ids of all events.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.connection = sqlite3.connect(folder / NAME, isolation_level=None, check_same_thread=False)
        try:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.execute("PRAGMA cache_size = -65536")
            # In pages: one that is written again and again is moved into the file once.
            self.connection.execute("PRAGMA wal_autocheckpoint = 16384")
            with self.transaction():
                self.ledger = Ledger(self.connection)
                for statement in _TABLES:
                    self.connection.execute(statement)
                self.seen = Seen(self.connection, folder / SEEN)
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all changes inside, or none."""
        with transaction(self.connection):
            yield

    # --- reading ---

    @property
    def epoch(self) -> int:
        """The last epoch that is in the books; 0 before the first."""
        return self.connection.execute("SELECT coalesce(max(epoch), 0) FROM epochs").fetchone()[0]

    def parts(self) -> list[int]:
        """The epochs that have verdicts."""
        return [
            row[0]
            for row in self.connection.execute("SELECT epoch FROM epochs WHERE rows > 0 ORDER BY epoch")
        ]

    def offsets(self) -> dict[int, int]:
        """The next Kafka offset of each partition that was read."""
        return dict(self.connection.execute("SELECT partition, next FROM offsets ORDER BY partition"))

    def totals(self, run: int | None = None) -> dict[str, int]:
        """Sum the counts of all epochs, or of one run."""
        if run is None:
            return dict(self.connection.execute("SELECT name, n FROM totals"))
        totals: dict[str, int] = {}
        for (counts,) in self.connection.execute("SELECT counts FROM epochs WHERE run = ?", (run,)):
            for name, n in json.loads(counts).items():
                totals[name] = totals.get(name, 0) + n
        return totals

    def note(self, name: str, default: Any = None) -> Any:
        """Read what :meth:`write_note` wrote."""
        row = self.connection.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def write_note(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold, in the transaction that is open, if one is."""
        self.connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def summaries(self, users: Sequence[str], width: int, shadow: bool = False) -> Summaries:
        """Look up users' summaries.

        Parameters
        ----------
        users : sequence of str
            Distinct names.
        width : int
            Numbers in a summary; a user who is not in the books has zeros.
        shadow : bool
            Whether the summaries of the shadow edits are wanted.

        Returns
        -------
        Summaries
            In the order of `users`.
        """
        place = {user: row for row, user in enumerate(users)}
        state = np.zeros((len(users), width))
        score = np.full(len(users), np.nan)
        last_ms = np.full(len(users), np.iinfo(np.int64).min)
        for start in range(0, len(users), _CHUNK):
            chunk = users[start : start + _CHUNK]
            rows = self.connection.execute(
                "SELECT user, score, last_ms, state FROM summaries "
                f"WHERE shadow = ? AND user IN ({','.join('?' * len(chunk))})",
                (int(shadow), *chunk),
            ).fetchall()
            if not rows:
                continue
            at = np.array([place[row[0]] for row in rows])
            score[at] = [np.nan if row[1] is None else row[1] for row in rows]
            last_ms[at] = [row[2] for row in rows]
            state[at] = np.frombuffer(b"".join([row[3] for row in rows])).reshape(len(rows), width)
        return Summaries(state, score, last_ms)

    def states(self, width: int) -> np.ndarray:
        """All summaries of users who are judged, by name, shape (users, width)."""
        rows = self.connection.execute(
            "SELECT state FROM summaries WHERE shadow = 0 ORDER BY user"
        ).fetchall()
        return np.frombuffer(b"".join([row[0] for row in rows])).reshape(len(rows), width)

    def shadow_scores(self) -> dict[str, float]:
        """The last shadow score of every blacklisted user who has one."""
        rows = self.connection.execute(
            "SELECT user, score FROM summaries WHERE shadow = 1 AND score IS NOT NULL "
            "AND user IN (SELECT user FROM blacklist)"
        )
        return dict(rows)

    def dead_letters(self) -> Iterator[tuple[bytes, str]]:
        """Raw text and reason of every invalid event, in Kafka's order."""
        yield from self.connection.execute("SELECT raw, reason FROM dead_letters ORDER BY partition, offset")

    # --- writing, inside a transaction ---

    def write_summaries(self, users: Sequence[str], summaries: Summaries, shadow: bool = False) -> None:
        """Keep users' summaries.

        Parameters
        ----------
        users : sequence of str, length n
        summaries : Summaries
            Of the same users, in the same order.
        shadow : bool, default False
            Whether they are of shadow edits.
        """
        scores = [None if math.isnan(score) else score for score in summaries.score.tolist()]
        width = summaries.state.shape[1] * 8
        data = np.ascontiguousarray(summaries.state).tobytes()
        self.connection.executemany(
            "INSERT OR REPLACE INTO summaries (user, shadow, score, last_ms, state) VALUES (?, ?, ?, ?, ?)",
            [
                (user, int(shadow), score, last, data[row * width : (row + 1) * width])
                for row, (user, score, last) in enumerate(
                    zip(users, scores, summaries.last_ms.tolist(), strict=True)
                )
            ],
        )

    def drop_summaries(self, users: Iterable[str]) -> None:
        """Forget the summaries of users who are on the blacklist now."""
        self.connection.executemany(
            "DELETE FROM summaries WHERE user = ? AND shadow = 0", [(user,) for user in users]
        )

    def forget_silent(self, before_ms: int) -> int:
        """Forget everyone whose latest edit is older; give their number."""
        return self.connection.execute("DELETE FROM summaries WHERE last_ms < ?", (before_ms,)).rowcount

    def write_epoch(
        self, epoch: int, run: int, rows: int, counts: dict[str, int], offsets: dict[int, int]
    ) -> None:
        """Close an epoch: its counts, and where Kafka is to be read on.

        Parameters
        ----------
        epoch, run : int
            Its number, and that of the run it belongs to.
        rows : int
            Verdicts that it gave.
        counts : dict of str to int
            Added to the totals.
        offsets : dict of int to int
            Next offset of each partition.
        """
        self.connection.execute(
            "INSERT INTO epochs VALUES (?, ?, ?, ?)", (epoch, run, rows, json.dumps(counts))
        )
        self.connection.executemany(
            "INSERT INTO totals VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n",
            counts.items(),
        )
        self.connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?)", offsets.items())

    def write_dead_letters(self, letters: Iterable[tuple[int, int, bytes, str]]) -> None:
        """Keep invalid events: partition, offset, raw text, reason."""
        self.connection.executemany("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", letters)

    def write_collisions(self, users: Iterable[str]) -> None:
        """Keep who was taken for a member by the filter and is none."""
        self.connection.executemany(
            "INSERT OR IGNORE INTO collisions VALUES (?)", [(user,) for user in users]
        )

    def collisions(self) -> int:
        """How many users the filter took for members although they are none."""
        return self.connection.execute("SELECT count(*) FROM collisions").fetchone()[0]

    def newest(self) -> int | None:
        """Event time of the latest edit that was judged."""
        return self.connection.execute("SELECT max(last_ms) FROM summaries").fetchone()[0]
