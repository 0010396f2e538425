"""The filter: a Bloom filter of the ledger's members, small enough to send to every executor.

The bits are pybloom-live's; this module adds what they lack. A file with a header and a checksum, so that a
flipped bit or another version is refused instead of losing members in silence. A promise that holds:
:meth:`Filter.error` is the exact chance that a user who is not a member is taken for one, :meth:`Filter.build`
takes more bits until it is below the promise, and :func:`keep_up` grows the filter from the ledger before it is
full. Questions and additions in bulk.

A yes of the filter is not the truth: ask the ledger where the answer is used for good.

>>> sieve = Filter.build(["AnyBot", "OtherBot"], capacity=100)
>>> "AnyBot" in sieve, sieve.contains(["AnyBot", "A person", None]).tolist()
(True, [True, False, False])
>>> Filter.from_bytes(sieve.to_bytes()).error() == sieve.error() <= sieve.error_rate
True
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bitarray import bitarray
from pybloom_live import BloomFilter

from lib import artifacts, paths
from lib.blacklist.ledger import Ledger

MAGIC = b"WSIEVE\x00B"
FORMAT = 1
ERROR_RATE = 0.001  # promised share of strangers taken for members
MIN_CAPACITY = 1024  # below it a filter is smaller than its header is worth
LIBRARY = "pybloom-live " + importlib.metadata.version("pybloom-live")

_START = struct.Struct("<8sHI")  # magic, format, length of the JSON header
_SUM = hashlib.sha256().digest_size


class FilterError(Exception):
    """The filter's file or bytes must not be used; the message says why. Rebuild the filter from the ledger."""


class FilterFull(Exception):
    """More users than the filter has room for; :func:`keep_up` grows it from the ledger."""


class Filter:
    """A Bloom filter of user names. Make one with :meth:`build`, :meth:`load` or :meth:`from_bytes`.

    Attributes
    ----------
    capacity : int
        Users that fit under the promise.
    error_rate : float
        The promise: the share of strangers that may be taken for members.
    """

    def __init__(self, capacity: int, error_rate: float = ERROR_RATE, *, asked: float | None = None):
        if capacity < 1:
            raise ValueError(f"The capacity of a filter must be at least 1. Got {capacity}.")
        if not 0 < error_rate < 1:
            raise ValueError(f"The error rate of a filter must be between 0 and 1. Got {error_rate}.")
        self.capacity = capacity
        self.error_rate = error_rate
        self._asked = error_rate if asked is None else asked
        self._bloom = BloomFilter(capacity, self._asked)

    @classmethod
    def build(
        cls, members: Iterable[str], capacity: int | None = None, error_rate: float = ERROR_RATE
    ) -> Filter:
        """Build the filter of `members`.

        pybloom-live takes its bits from a formula; with few bits the real error can pass the promise. So the exact
        error is computed, and bits are added until the promise holds.

        Parameters
        ----------
        members : iterable of str
            Repeated names count once.
        capacity : int, optional
            Users to have room for; raised to the number of members if that is larger. By default twice the members.
        error_rate : float
            The promise.

        Returns
        -------
        Filter
        """
        users = list(dict.fromkeys(members))
        capacity = max(len(users), max(MIN_CAPACITY, 2 * len(users)) if capacity is None else capacity, 1)
        asked = error_rate
        while True:
            sieve = cls(capacity, error_rate, asked=asked)
            sieve._put(users)
            if sieve.error() <= error_rate:
                return sieve
            asked *= 0.9

    def __len__(self) -> int:
        return self.count

    def __contains__(self, user: object) -> bool:
        return isinstance(user, str) and user in self._bloom

    @property
    def count(self) -> int:
        """Users put in."""
        return int(self._bloom.count)

    @property
    def nbytes(self) -> int:
        """Bytes of the bits alone."""
        return len(self._bits())

    def contains(self, users: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Which users the filter takes for members.

        Parameters
        ----------
        users : sequence of str or None, or an Arrow array of strings, (n,)
            None is never a member. An Arrow array is asked once per distinct user.

        Returns
        -------
        numpy.ndarray of bool, (n,)
        """
        if isinstance(users, pa.ChunkedArray):
            users = users.combine_chunks()
        if isinstance(users, pa.Array):
            return self._contains_arrow(users)
        answers = np.fromiter((user is not None for user in users), bool, len(users))
        answers[answers] = self._contains_names([user for user in users if user is not None])
        return answers

    def add(self, users: Iterable[str]) -> None:
        """Put in users who are new in the ledger.

        Raises
        ------
        FilterFull
            They do not fit; nothing was put in.
        """
        users = list(dict.fromkeys(users))
        if self.count + len(users) > self.capacity:
            raise FilterFull(
                f"A filter must hold at most {self.capacity} users. Got {self.count} + {len(users)}. "
                "Grow it from the ledger with keep_up()."
            )
        self._put(users)

    def error(self) -> float:
        """The exact chance that the hash of a user who was not put in hits only bits that are set.

        pybloom-live takes one bit of each slice, ``hash % bits``, where the hash has 16 bits in small filters: the
        bits are then not equally likely, which its formula overlooks.
        """
        size, slices = self._bloom.bits_per_slice, self._bloom.num_slices
        bits = np.unpackbits(self._bits(), bitorder="little")[: size * slices].reshape(slices, size)
        if size >= 1 << 15:
            return float(np.prod(bits.mean(axis=1)))
        chance = np.bincount(np.arange(1 << 16) % size, minlength=size) / (1 << 16)
        return float(np.prod(bits @ chance))

    def to_bytes(self) -> bytes:
        """Header, bits and checksum; the same members put in in any order give the same bytes."""
        header = json.dumps(
            {
                "library": LIBRARY,
                "error_rate": self.error_rate,
                "asked_error_rate": self._asked,
                "capacity": self.capacity,
                "count": self.count,
                "slices": int(self._bloom.num_slices),
                "bits_per_slice": int(self._bloom.bits_per_slice),
            }
        ).encode()
        body = _START.pack(MAGIC, FORMAT, len(header)) + header + self._bloom.bitarray.tobytes()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Filter:
        """The filter that :meth:`to_bytes` wrote.

        Raises
        ------
        FilterError
            Truncated, changed, or written by another format or another version of pybloom-live.
        """
        header, bits = _unpack(data)
        sieve = cls(header["capacity"], header["error_rate"], asked=header["asked_error_rate"])
        bloom = sieve._bloom
        if (bloom.num_slices, bloom.bits_per_slice) != (header["slices"], header["bits_per_slice"]):
            raise FilterError("The filter was laid out by another formula than this pybloom-live uses.")
        loaded = bitarray(endian="little")
        loaded.frombytes(bits)
        if len(loaded) // 8 != (bloom.num_bits + 7) // 8:
            raise FilterError(f"The filter must have {bloom.num_bits} bits. Got {len(loaded)}.")
        bloom.bitarray = loaded[: bloom.num_bits]
        bloom.count = header["count"]
        return sieve

    def save(self, path: str | Path) -> None:
        """Write the file at once: whoever reads it finds the old one or the new one."""
        artifacts.atomic_write(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Filter:
        """Read a file of :meth:`save`.

        Raises
        ------
        FilterError
            The file is missing or must not be used.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise FilterError(
                f"There is no filter to read at {paths.show(path)}: {error.strerror}."
            ) from error
        return cls.from_bytes(data)

    def _bits(self) -> np.ndarray:
        """The bits as bytes, shared with pybloom-live's bit array."""
        return np.frombuffer(self._bloom.bitarray, dtype=np.uint8)

    def _put(self, users: Sequence[str]) -> None:
        positions = self._positions(users).ravel()
        np.bitwise_or.at(self._bits(), positions >> 3, np.left_shift(1, positions & 7).astype(np.uint8))
        self._bloom.count += len(users)

    def _positions(self, users: Sequence[str]) -> np.ndarray:
        """The bits of each user as pybloom-live chooses them, (n, slices): its hashes, taken apart in bulk."""
        size, slices = self._bloom.bits_per_slice, self._bloom.num_slices
        width = np.dtype("<u8" if size >= 1 << 31 else "<u4" if size >= 1 << 15 else "<u2")
        per_hash = self._bloom.hashfn().digest_size // width.itemsize
        salts = [
            self._bloom.hashfn(self._bloom.hashfn(struct.pack("I", i)).digest())
            for i in range(-(-slices // per_hash))
        ]
        raw = b"".join(_digests(salts, users))
        hashes = np.frombuffer(raw, dtype=width).reshape(len(users), per_hash * len(salts))[:, :slices]
        return (hashes % width.type(size)).astype(np.int64) + np.arange(slices, dtype=np.int64) * size

    def _contains_names(self, users: Sequence[str]) -> np.ndarray:
        found = np.ones(len(users), dtype=bool)
        bits = self._bits()
        for positions in self._positions(users).T:  # slice by slice; most strangers are out after the first
            rest = np.flatnonzero(found)
            if not len(rest):
                break
            positions = positions[rest]
            found[rest] = (bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1
        return found

    def _contains_arrow(self, users: pa.Array) -> np.ndarray:
        if not pa.types.is_dictionary(users.type):
            users = users.dictionary_encode()
        # The last one answers for null.
        answers = np.append(self.contains(users.dictionary.to_pylist()), False)
        return answers[users.indices.fill_null(len(answers) - 1).to_numpy(zero_copy_only=False)]


def keep_up(sieve: Filter, ledger: Ledger, added: Sequence[str]) -> Filter:
    """Teach the filter the users that the ledger has just added; grow it when they do not fit.

    Parameters
    ----------
    sieve : Filter
        It is changed in place while there is room.
    ledger : Ledger
        Already holds `added`.
    added : sequence of str
        What :meth:`Ledger.add` returned.

    Returns
    -------
    Filter
        The same filter, or one of at least twice the capacity, built from the ledger, when the users did not fit or the
        promised error would have been passed.
    """
    if sieve.count + len(added) <= sieve.capacity:
        sieve.add(added)
        if sieve.error() <= sieve.error_rate:
            return sieve
    members = ledger.members()
    return Filter.build(members, max(2 * sieve.capacity, 2 * len(members)), sieve.error_rate)


def load_or_rebuild(path: str | Path, ledger: Ledger) -> tuple[Filter, str | None]:
    """Read the filter's file, or build the filter from the ledger when the file must not be used.

    Parameters
    ----------
    path : str or Path
    ledger : Ledger

    Returns
    -------
    filter : Filter
    reason : str or None
        Why the filter was rebuilt; None when the file was good.
    """
    members = ledger.members()
    try:
        sieve = Filter.load(path)
        missing = len(members) - int(sieve.contains(members).sum())
        if missing:
            raise FilterError(f"The filter lacks {missing} of the ledger's {len(members)} members.")
    except FilterError as error:
        return Filter.build(members), str(error)
    return sieve, None


def _digests(salts: Sequence[Any], users: Sequence[str]) -> list[bytes]:
    """Hash every user with every salt, user by user; in one loop, as this is where the time goes."""
    digests = []
    for user in users:
        name = user.encode()
        for salt in salts:
            state = salt.copy()
            state.update(name)
            digests.append(state.digest())
    return digests


def _unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and bits of :meth:`Filter.to_bytes`, or the reason why not."""
    if len(data) < _START.size + _SUM:
        raise FilterError(f"The filter is truncated: {len(data)} bytes are less than its header.")
    magic, version, length = _START.unpack_from(data)
    if magic != MAGIC:
        raise FilterError("These bytes are not a filter of this project: they begin with another mark.")
    if hashlib.sha256(data[:-_SUM]).digest() != data[-_SUM:]:
        raise FilterError("The filter was truncated or changed: its checksum does not fit.")
    if version != FORMAT:
        raise FilterError(f"The filter must have format {FORMAT}. Got format {version}.")
    header = json.loads(data[_START.size : _START.size + length])
    if header["library"] != LIBRARY:
        raise FilterError(
            f"The filter must be of {LIBRARY}. Got {header['library']}: its bits could mean nothing here."
        )
    return header, data[_START.size + length : -_SUM]
