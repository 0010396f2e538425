"""The state of stage 4: one SQLite file with everything that must move together, and a file of verdicts per batch.

The ledger, the users' states, the ids of the last events, the dead letters, Kafka's offsets, the producer's position
and the counts are written in transactions. Whatever is killed, the file is as it was after some whole batch, and what
is not in it did not happen: a file of verdicts whose batch is not in it is removed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lib import artifacts, paths
from lib.blacklist.ledger import Entry, Ledger, connect, transaction
from lib.model import user_features

NAME = "ledger.sqlite"
VERDICTS = "verdicts"  # the folder of the files of verdicts
FORMAT = 5  # of the tables below; a run of another format cannot be resumed
OUTPUT_FILES = (
    f"{NAME}* {VERDICTS} kafka {artifacts.DEAD_LETTERS} blacklist.bloom metrics.json .new-* .*.tmp".split()
)
RECENT_EVENTS = 1_000_000  # ids of the last events that are known, at least: a duplicate comes soon or never
#: Columns of the verdicts.
VERDICT_SCHEMA = pa.schema(
    [
        ("meta_id", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("wiki", pa.string()),
        ("user", pa.string()),
        ("bot", pa.bool_()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
    ]
)

_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS offsets (partition INTEGER PRIMARY KEY, next INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS user_states (
        user TEXT PRIMARY KEY, shadow INTEGER NOT NULL, score REAL, state BLOB NOT NULL
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

    users: Sequence[str]
    state: np.ndarray  #: float64, shape (users, S): see lib.model.user_features
    score: np.ndarray  #: the last score, shape (users,); nan where there is none yet


class BatchResult(NamedTuple):
    """What a batch changes, computed and not yet written."""

    verdicts: pa.Table  #: one row per edit, :data:`VERDICT_SCHEMA`
    entries: list[Entry]  #: of each user who is new on the blacklist
    states: UserStates
    shadow_states: UserStates
    ids: np.ndarray  #: int64: the hashed ids of events that came for the first time
    collisions: list[str]  #: users whom the filter took for members
    dead_letters: list[tuple[int, int, bytes, str]]  #: partition, offset, text, reason
    kafka_ms: np.ndarray  #: Kafka's timestamp of each edit
    counts: dict[str, float]  #: by name; those of all batches are added up
    offsets: dict[int, int]  #: next offset of each partition that was read


class StateStore(AbstractContextManager["StateStore"]):
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

    def counters(self, run: int | None = None) -> Counter[str]:
        """Return the sums of the counts of all batches, or of one run."""
        select = (
            "SELECT key, sum(value) FROM batches, json_each(counts) WHERE run = coalesce(?, run) GROUP BY key"
        )
        return Counter(dict(self.connection.execute(select, (run,))))

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
        state, score = user_features.new_states(len(users)), np.full(len(users), np.nan)
        select = "SELECT score, state FROM user_states WHERE user = ? AND shadow = ?"
        for row, user in enumerate(users):
            if found := self.connection.execute(select, (user, shadow)).fetchone():
                score[row], state[row] = found[0], np.frombuffer(found[1])
        return UserStates(users, state, score)

    def all_states(self) -> np.ndarray:
        """Return the states of all users who are judged, by name, shape (users, S)."""
        rows = self.connection.execute("SELECT state FROM user_states WHERE shadow = 0 ORDER BY user")
        return np.frombuffer(b"".join([row[0] for row in rows])).reshape(-1, user_features.STATE_SIZE)

    def shadow_states(self) -> UserStates:
        """Return the states of the shadow edits of every user whom a model put on the blacklist, by name."""
        rows = self.connection.execute(
            "SELECT user, s.state, s.score FROM user_states AS s JOIN blacklist USING (user) "
            "WHERE shadow AND blacklist.score IS NOT NULL ORDER BY user"
        ).fetchall()
        state = np.frombuffer(b"".join([row[1] for row in rows])).reshape(-1, user_features.STATE_SIZE)
        return UserStates([row[0] for row in rows], state, np.array([row[2] for row in rows], float))

    def dead_letters(self) -> Iterator[tuple[bytes, str]]:
        """Yield text and reason of every invalid event, in Kafka's order."""
        yield from self.connection.execute("SELECT raw, reason FROM dead_letters ORDER BY partition, offset")

    # --- writing, inside a transaction ---

    def set_meta(self, name: str, value: Any) -> None:
        """Keep a value that JSON can hold."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, json.dumps(value)))

    def set_offsets(self, offsets: Mapping[int, int]) -> None:
        """Keep the next Kafka offset of some partitions."""
        self.connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?)", offsets.items())

    def write_batch(self, batch: int, run: int, result: BatchResult) -> None:
        """Write everything that a batch changes.

        Parameters
        ----------
        batch, run : int
            Its number, and that of the run it belongs to.
        result : BatchResult
        """
        self.ledger.add(result.entries)
        self.write_states(result.states)
        self.write_states(result.shadow_states, shadow=True)
        execute, each = self.connection.execute, self.connection.executemany
        each("DELETE FROM user_states WHERE user = ? AND shadow = 0", [(e.user,) for e in result.entries])
        new = each("INSERT OR IGNORE INTO collisions VALUES (?)", [(user,) for user in result.collisions])
        counts = {**result.counts, "collisions": new.rowcount if result.collisions else 0}
        each("INSERT INTO dead_letters VALUES (?, ?, ?, ?)", result.dead_letters)
        self.set_offsets(result.offsets)
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

    def write_states(self, states: UserStates, shadow: bool = False) -> None:
        """Keep the states of users, or those of their shadow edits."""
        blobs = (row.tobytes() for row in states.state)
        rows = zip(states.users, repeat(shadow), states.score.tolist(), blobs, strict=False)
        self.connection.executemany("INSERT OR REPLACE INTO user_states VALUES (?, ?, ?, ?)", rows)


def prepare(out_dir: Path, model_dir: Path, **meta: Any) -> None:
    """Remove what an earlier run left, and make a state that starts with the ledger of stage 3.

    The state appears at the end and whole: a run that is killed in here has left nothing to continue with.
    """
    for path in chain.from_iterable(map(out_dir.glob, OUTPUT_FILES)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    with tempfile.TemporaryDirectory(prefix=".new-", dir=out_dir) as name:
        file = Path(name) / NAME
        with Ledger.open(model_dir / NAME, read_only=True) as ledger:
            ledger.connection.execute("VACUUM INTO ?", (str(file),))
        with StateStore(file.parent) as new, new.transaction():
            name = f"wikisieve-{secrets.token_hex(4)}"
            topics = {kind: f"{name}-{kind}" for kind in ("events", "verdicts")}
            meta |= {"format": FORMAT, "members_start": len(new.ledger), "topics": topics}
            for key, value in meta.items():
                new.set_meta(key, value)
        os.replace(file, out_dir / NAME)


def part_path(folder: Path, batch: int) -> Path:
    """Return the file of a batch's verdicts."""
    return folder / VERDICTS / f"part-{batch:08d}.parquet"


def write_part(folder: Path, batch: int, table: pa.Table) -> None:
    """Write a batch's verdicts, whole or not at all.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.
    batch : int
        Names the file.
    table : pyarrow.Table
        :data:`VERDICT_SCHEMA`.
    """
    file, path = pa.BufferOutputStream(), part_path(folder, batch)
    pq.write_table(table, file, compression="zstd", use_dictionary=["wiki", "user", "verdict"])
    artifacts.atomic_write(path, file.getvalue().to_pybytes())


def remove_uncommitted(folder: Path, batches: Iterable[int]) -> None:
    """Remove the files of batches that are not committed.

    Raises
    ------
    OnlineError
        When the file of a committed batch is missing.
    """
    committed = {part_path(folder, batch) for batch in batches}
    if missing := sorted(path for path in committed if not path.exists()):
        raise OnlineError(
            f"RESUME=True needs all files of verdicts that {paths.show(folder)} once had. Got {len(missing)} fewer "
            f"(the first: {missing[0].name}). Put them back, or start again with RESUME=False."
        )
    for path in [*part_files(folder), *(folder / VERDICTS).glob(".part-*.tmp")]:
        if path not in committed:
            path.unlink()


def part_files(folder: Path) -> list[Path]:
    """Return the files of verdicts in OUT_DIR, in the order of their batches."""
    return sorted((folder / VERDICTS).glob("part-*.parquet"))


def verdicts(folder: Path) -> ds.Dataset:
    """Return all verdicts of OUT_DIR, in the order in which they were decided; nothing is read yet."""
    return ds.dataset(part_files(folder), VERDICT_SCHEMA, "parquet")
