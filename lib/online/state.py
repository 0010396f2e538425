"""The state of stage 4: one SQLite file with everything that must move together.

The ledger, the users' states, the ids of the last events, the dead letters, Kafka's offsets, the producer's position
and the counts are written in transactions. Whatever is killed, the file is as it was after some whole batch, and what
is not in it did not happen.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from lib import artifacts
from lib.blacklist.ledger import Ledger, connect, transaction
from lib.model import user_features

NAME = "ledger.sqlite"
FORMAT = 4  # of the tables below; a run of another format cannot be resumed
OUTPUT_FILES = (
    NAME,
    f"{NAME}-wal",
    f"{NAME}-shm",
    "verdicts",
    "kafka",
    "checkpoint",
    artifacts.DEAD_LETTERS,
    "blacklist.bloom",
    "metrics.json",
)
RECENT_EVENTS = 1_000_000  # ids of the last events that are known, at least: a duplicate comes soon or never
MIN_TIME = np.iinfo(np.int64).min
_USERS_PER_QUERY = 10_000

_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS user_states (
        user TEXT PRIMARY KEY, shadow INTEGER NOT NULL, score REAL, last_ms INTEGER NOT NULL, state BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE IF NOT EXISTS batches (
        batch INTEGER PRIMARY KEY, run INTEGER NOT NULL, counts TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS collisions (user TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS dead_letters (
        partition INTEGER NOT NULL, offset INTEGER NOT NULL, raw BLOB NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (partition, offset)
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS recent_ids (batch INTEGER PRIMARY KEY, ids BLOB NOT NULL) STRICT",
)


class OnlineError(RuntimeError):
    """Stage 4 cannot start or continue."""


class UserStates(NamedTuple):
    """What is known of users, one row per user."""

    state: np.ndarray  #: float64, shape (users, S): see lib.model.user_features
    score: np.ndarray  #: the last score, shape (users,); nan where there is none yet
    last_ms: np.ndarray  #: event time of the latest edit, int64


class BatchResult(NamedTuple):
    """What a batch changes, computed and not yet written."""

    verdicts: Any  #: pyarrow.Table, one row per edit, `lib.online.sinks.SCHEMA`
    entries: list[Any]  #: Entry of each user who is new on the blacklist
    users: list[str]
    states: UserStates
    shadow_users: list[str]
    shadow_states: UserStates
    ids: np.ndarray  #: int64: the hashed ids of events that came for the first time
    collisions: list[str]  #: users whom the filter took for members
    dead_letters: list[tuple[int, int, bytes, str]]  #: partition, offset, text, reason
    kafka_ms: np.ndarray  #: Kafka's timestamp of each edit
    counts: dict[str, float]  #: by name; those of all batches are added up
    offsets: dict[int, int]  #: next offset of each partition that was read


class StateStore:
    """The SQLite file of a run.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4; made if it is not there.

    Attributes
    ----------
    ledger : Ledger
        The blacklist.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()  # the producer's thread writes, too
        self.connection = connect(folder / NAME)
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("PRAGMA cache_size = -65536")
        with self.transaction():
            self.ledger = Ledger(self.connection)
            for statement in _TABLES:
                self.connection.execute(statement)
        self._recent = self._recent_ids()

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all changes inside, or none; another thread's transaction waits."""
        with self._lock, transaction(self.connection):
            yield

    # --- reading ---

    def get_meta(self, name: str, default: Any = None) -> Any:
        """Return what :meth:`set_meta` wrote."""
        row = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def batches(self) -> list[int]:
        """Return the numbers of the committed batches, in order."""
        return [number for (number,) in self.connection.execute("SELECT batch FROM batches ORDER BY batch")]

    def offsets(self) -> dict[int, int]:
        """Return the next Kafka offset of each partition that was read."""
        return dict(self.connection.execute("SELECT partition, next FROM offsets ORDER BY partition"))

    def counters(self, run: int | None = None) -> dict[str, Any]:
        """Return the sums of the counts of all batches, or of one run."""
        totals: dict[str, Any] = {}
        for (counts,) in self.connection.execute(
            "SELECT counts FROM batches WHERE ?1 IS NULL OR run = ?1", (run,)
        ):
            for name, n in json.loads(counts).items():
                totals[name] = totals.get(name, 0) + n
        return totals

    def first_seen(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids (int64, shape (n,)) came for the first time; of equal ones only the first did."""
        new = np.zeros(len(ids), bool)
        new[np.unique(ids, return_index=True)[1]] = True
        if len(self._recent):
            place = np.minimum(np.searchsorted(self._recent, ids), len(self._recent) - 1)
            new &= self._recent[place] != ids
        return new

    def user_states(self, users: Sequence[str], shadow: bool = False) -> UserStates:
        """Return users' states.

        Parameters
        ----------
        users : sequence of str
            Distinct names; a user who is not known has zeros.
        shadow : bool
            Whether the states of the shadow edits are wanted.

        Returns
        -------
        UserStates
            In the order of `users`.
        """
        place = {user: row for row, user in enumerate(users)}
        state = user_features.new_states(len(users))
        score = np.full(len(users), np.nan)
        last_ms = np.full(len(users), MIN_TIME)
        for start in range(0, len(users), _USERS_PER_QUERY):
            some = users[start : start + _USERS_PER_QUERY]
            rows = self.connection.execute(
                "SELECT user, score, last_ms, state FROM user_states "
                f"WHERE shadow = ? AND user IN ({','.join('?' * len(some))})",
                (int(shadow), *some),
            ).fetchall()
            if not rows:
                continue
            at = np.array([place[row[0]] for row in rows])
            score[at] = [np.nan if row[1] is None else row[1] for row in rows]
            last_ms[at] = [row[2] for row in rows]
            state[at] = np.frombuffer(b"".join([row[3] for row in rows])).reshape(len(rows), -1)
        return UserStates(state, score, last_ms)

    def all_states(self) -> np.ndarray:
        """Return the states of all users who are judged, by name, shape (users, S)."""
        rows = self.connection.execute("SELECT state FROM user_states WHERE shadow = 0 ORDER BY user")
        return np.frombuffer(b"".join([row[0] for row in rows])).reshape(-1, user_features.STATE_SIZE)

    def shadow_scores(self) -> dict[str, float]:
        """Return the last shadow score of every blacklisted user who has one."""
        rows = self.connection.execute(
            "SELECT user, score FROM user_states WHERE shadow = 1 AND score IS NOT NULL "
            "AND user IN (SELECT user FROM blacklist)"
        )
        return dict(rows)

    def dead_letters(self) -> Iterator[tuple[bytes, str]]:
        """Yield text and reason of every invalid event, in Kafka's order."""
        yield from self.connection.execute("SELECT raw, reason FROM dead_letters ORDER BY partition, offset")

    # --- writing, inside a transaction ---

    def set_meta(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def write_batch(self, batch: int, run: int, result: BatchResult) -> None:
        """Write everything that a batch changes.

        Parameters
        ----------
        batch, run : int
            Its number, and that of the run it belongs to.
        result : BatchResult
        """
        self.ledger.add(result.entries)
        self.write_states(result.users, result.states)
        self.write_states(result.shadow_users, result.shadow_states, shadow=True)
        execute, each = self.connection.execute, self.connection.executemany
        each("DELETE FROM user_states WHERE user = ? AND shadow = 0", [(e.user,) for e in result.entries])
        new = each("INSERT OR IGNORE INTO collisions VALUES (?)", [(user,) for user in result.collisions])
        counts = {**result.counts, "collisions": new.rowcount if result.collisions else 0}
        each("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", result.dead_letters)
        each("INSERT OR REPLACE INTO offsets VALUES (?, ?)", result.offsets.items())
        execute("INSERT INTO batches VALUES (?, ?, ?)", (batch, run, json.dumps(counts)))
        self._remember(batch, result.ids)

    def _remember(self, batch: int, ids: np.ndarray) -> None:
        """Keep the ids of a batch, and forget those of batches that the last :data:`RECENT_EVENTS` do not need."""
        self.connection.execute("INSERT INTO recent_ids VALUES (?, ?)", (batch, ids.tobytes()))
        self.connection.execute(
            "DELETE FROM recent_ids WHERE batch < (SELECT max(batch) FROM (SELECT batch, sum(length(ids)) "
            "OVER (ORDER BY batch DESC) AS bytes FROM recent_ids) WHERE bytes >= ?)",
            (RECENT_EVENTS * ids.itemsize,),
        )
        self._recent = np.sort(np.concatenate([self._recent, ids]), kind="stable")
        if len(self._recent) > 1.5 * RECENT_EVENTS:
            self._recent = self._recent_ids()

    def _recent_ids(self) -> np.ndarray:
        rows = self.connection.execute("SELECT ids FROM recent_ids")
        return np.sort(np.frombuffer(b"".join(ids for (ids,) in rows), np.int64))

    def evict_inactive(self, days: int) -> None:
        """Remove the states of users whose last edit is so many days before the latest of all."""
        self.connection.execute(
            "DELETE FROM user_states WHERE last_ms < (SELECT max(last_ms) FROM user_states) - ?",
            (days * 86_400_000,),
        )

    def write_states(self, users: Iterable[str], states: UserStates, shadow: bool = False) -> None:
        """Keep the states of users, or those of their shadow edits."""
        scores = [None if math.isnan(score) else score for score in states.score.tolist()]
        blobs = [row.tobytes() for row in np.ascontiguousarray(states.state)]
        self.connection.executemany(
            "INSERT OR REPLACE INTO user_states (user, shadow, score, last_ms, state) VALUES (?, ?, ?, ?, ?)",
            zip(users, [int(shadow)] * len(blobs), scores, states.last_ms.tolist(), blobs, strict=True),
        )


def prepare(out_dir: Path, model_dir: Path, **meta: Any) -> None:
    """Remove what an earlier run left, and make a state that starts with the ledger of stage 3.

    The state appears at the end and whole: a run that is killed in here has left nothing to continue with.
    """
    for path in (out_dir / name for name in OUTPUT_FILES):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=out_dir) as name:
        file = Path(name) / NAME
        with Ledger.open(model_dir / NAME, read_only=True) as ledger:
            ledger.copy_to(file)
        with StateStore(file.parent) as new, new.transaction():
            for key, value in {"format": FORMAT, "members_start": len(new.ledger), **meta}.items():
                new.set_meta(key, value)
        os.replace(file, out_dir / NAME)
