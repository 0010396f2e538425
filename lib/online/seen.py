"""Which events have been seen: exact, for as many as come, in memory that does not grow with them.

An id is kept as 64 bits of a hash. Numbers of one epoch make a sorted run; small runs are merged into larger ones;
large ones lie on disk, one file each, and are read through the page cache. Two of a hundred million ids share their 64
bits with a chance below one in three thousand (n² / 2⁶⁵); nothing else is approximate, and nothing is forgotten.

What belongs to an epoch is written in the caller's transaction, so ids and verdicts move together.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa

from lib import artifacts
from lib.model import kernels

RUN = 1 << 20  # ids that are gathered before they become a file (8 MB)
LARGEST = 1 << 24  # files of this many ids are merged no more
_SHIFT = np.uint64(32)
_SEED = np.uint64(0x2545F4914F6CDD1D)
_FACTOR = np.uint64(0x9FB21C651E98DF25)
_BYTE = np.uint64(8)

_TABLES = (
    "CREATE TABLE IF NOT EXISTS seen_epochs (epoch INTEGER PRIMARY KEY, ids BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS seen_files (name TEXT PRIMARY KEY, ids INTEGER NOT NULL) STRICT",
)


@kernels.njit_cached
def _hashes(offsets: np.ndarray, data: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(out)):
        start, stop = offsets[row], offsets[row + 1]
        value = _SEED ^ np.uint64(stop - start)
        place = start
        while place < stop:
            word = np.uint64(0)
            for byte in range(place, min(place + 8, stop)):
                word = (word << _BYTE) | np.uint64(data[byte])
            value = (value ^ word) * _FACTOR
            value ^= value >> _SHIFT
            place += 8
        out[row] = kernels.mix64(value)


def hashes(ids: pa.Array) -> np.ndarray:
    """Hash texts to 64 bits each.

    Parameters
    ----------
    ids : pyarrow.Array of string
        No nulls.

    Returns
    -------
    ndarray of uint64, shape (n,)

    Examples
    --------
    >>> one, other, again = hashes(pa.array(["a", "b", "a"]))
    >>> one == again, one == other
    (np.True_, np.False_)
    """
    offsets, data = kernels.buffers(ids)
    out = np.empty(len(ids), np.uint64)
    _hashes(offsets, data, out)
    return out


def chosen(ids: np.ndarray, share: float) -> np.ndarray:
    """Choose a share of the events by their hash: the same ones wherever and whenever they are asked for.

    Parameters
    ----------
    ids : ndarray of uint64, shape (n,)
        What :func:`hashes` gave.
    share : float
        From 0 to 1.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    return (ids >> _SHIFT) < np.uint64(round(share * 2**32))


class Seen:
    """The ids of every event that was judged.

    Parameters
    ----------
    connection : sqlite3.Connection
        The caller's; tables are made in it, and :meth:`remember` writes inside the caller's transaction.
    folder : Path
        For the files; what a killed run left there unfinished is removed.
    run : int
        Ids that are gathered before they become a file.

    Examples
    --------
    >>> import tempfile
    >>> seen = Seen(sqlite3.connect(":memory:"), Path(tempfile.mkdtemp()))
    >>> ids = np.array([7, 9, 7], np.uint64)
    >>> seen.fresh(ids)
    array([ True,  True, False])
    >>> seen.remember(1, ids[:2])
    >>> seen.fresh(np.array([9, 8], np.uint64))
    array([False,  True])
    """

    def __init__(self, connection: sqlite3.Connection, folder: Path, run: int = RUN):
        self._connection = connection
        self._folder = folder
        self._run = run
        for statement in _TABLES:
            connection.execute(statement)
        names = [row[0] for row in connection.execute("SELECT name FROM seen_files ORDER BY name")]
        self._files = {name: self._open(name) for name in names}
        for path in folder.glob("*.ids") if folder.is_dir() else ():
            if path.name not in self._files:
                path.unlink()
        self._gathered: list[np.ndarray] = []
        for (blob,) in connection.execute("SELECT ids FROM seen_epochs ORDER BY epoch"):
            self._gather(np.frombuffer(blob, np.uint64))

    def __len__(self) -> int:
        return sum(map(len, self._runs()))

    def fresh(self, ids: np.ndarray) -> np.ndarray:
        """Tell which are seen for the first time; of equal ones in `ids` only the first is.

        Parameters
        ----------
        ids : ndarray of uint64, shape (n,)

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        new = np.ones(len(ids), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        for run in self._runs():
            places = np.minimum(np.searchsorted(run, ordered), len(run) - 1)
            new &= run[places] != ordered
        answer = np.empty(len(ids), bool)
        answer[order] = new
        return answer

    def remember(self, epoch: int, ids: np.ndarray) -> None:
        """Keep the fresh ids of an epoch, in the caller's transaction.

        Parameters
        ----------
        epoch : int
            Larger than every one before.
        ids : ndarray of uint64, shape (n,)
            All fresh.
        """
        if not len(ids):
            return
        ordered = np.sort(ids)
        self._gather(ordered)
        if sum(map(len, self._gathered)) < self._run:
            self._connection.execute("INSERT INTO seen_epochs VALUES (?, ?)", (epoch, ordered.tobytes()))
            return
        self._write(epoch)

    def _runs(self) -> list[np.ndarray]:
        return [*self._files.values(), *self._gathered]

    def _gather(self, run: np.ndarray) -> None:
        """Merge runs of like size, so that n ids are moved log n times and lie in log n runs."""
        while self._gathered and len(self._gathered[-1]) <= 2 * len(run):
            run = _merge([self._gathered.pop(), run])
        self._gathered.append(run)

    def _write(self, epoch: int) -> None:
        """Turn what is gathered, and the files that are no larger, into one file."""
        parts, absorbed = self._gathered, []
        size = sum(map(len, parts))
        for name in sorted(self._files, key=lambda name: len(self._files[name])):
            if len(self._files[name]) > 2 * size or size + len(self._files[name]) > LARGEST:
                break
            absorbed.append(name)
            parts = [*parts, self._files[name]]
            size += len(self._files[name])
        name = f"{epoch:012d}.ids"
        artifacts.atomic_write(self._folder / name, _merge(parts).tobytes())
        self._connection.execute("DELETE FROM seen_epochs")
        self._connection.executemany("DELETE FROM seen_files WHERE name = ?", [(old,) for old in absorbed])
        self._connection.execute("INSERT INTO seen_files VALUES (?, ?)", (name, size))
        for old in absorbed:
            del self._files[old]  # its file stays until the next start: the transaction may still fail
        self._gathered = []
        self._files[name] = self._open(name)

    def _open(self, name: str) -> np.ndarray:
        return np.memmap(self._folder / name, np.uint64, mode="r")


def _merge(runs: list[np.ndarray]) -> np.ndarray:
    merged = np.concatenate(runs)
    merged.sort(kind="stable")  # radix or timsort: runs that are sorted already are merged
    return merged
