"""The filter: a Bloom filter of the ledger's members, small enough to send to every executor.

Bits, hashes and the file's format are pybloom-live's; this module adds what it lacks, a bound that holds:
:meth:`BlacklistFilter.error` is the exact chance of a false positive, :meth:`BlacklistFilter.build` takes more bits
until it is below the bound. A run builds its filter from the ledger; the file is for other programs.

A yes of the filter is not the truth: ask the ledger before it is acted on.

>>> bloom = BlacklistFilter.build(["AnyBot", "OtherBot"], capacity=100)
>>> "AnyBot" in bloom, bloom.contains(["AnyBot", "A person", None]).tolist()
(True, [True, False, False])
>>> BlacklistFilter.from_bytes(bloom.to_bytes()).error() == bloom.error() <= ERROR_RATE
True
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from pybloom_live import BloomFilter

from lib import artifacts

ERROR_RATE = 0.001  # largest share of false positives among the users off the list
MIN_CAPACITY = 1024  # below it a filter is smaller than its header is worth


class BlacklistFilter(BloomFilter):
    """A Bloom filter of user names. Make one with :meth:`build`, :meth:`load` or :meth:`from_bytes`.

    Parameters
    ----------
    capacity : int
        Users that fit.
    error_rate : float
        That of pybloom-live's formula.
    """

    @classmethod
    def build(
        cls, members: Iterable[str], capacity: int | None = None, error_rate: float = ERROR_RATE
    ) -> BlacklistFilter:
        """Build the filter of `members`.

        pybloom-live takes its bits from a formula; with few bits the real error can pass the bound. So the exact
        error is computed, and bits are added until the bound holds.

        Parameters
        ----------
        members : iterable of str
            Repeated names count once.
        capacity : int, optional
            Users to have room for; raised to the number of members if that is larger. By default twice the members.
        error_rate : float
            The bound.

        Returns
        -------
        BlacklistFilter
        """
        users = list(dict.fromkeys(members))
        capacity = max(MIN_CAPACITY, 2 * len(users)) if capacity is None else max(capacity, len(users))
        requested_error_rate = error_rate
        while True:
            bloom = cls(capacity, requested_error_rate)
            bloom.update(users)
            if bloom.error() <= error_rate:
                return bloom
            requested_error_rate *= 0.9

    def contains(self, users: Sequence[str | None]) -> np.ndarray:
        """Return which users hit the filter; each distinct user is hashed once.

        Parameters
        ----------
        users : sequence of str or None, (n,)
            None is never a member.

        Returns
        -------
        numpy.ndarray of bool, (n,)
        """
        hits = {user: user is not None and user in self for user in set(users)}
        return np.array([hits[user] for user in users], bool)

    def update(self, users: Iterable[str]) -> None:
        """Add users who are new in the ledger; pybloom-live raises IndexError when they do not fit."""
        for user in users:
            self.add(user, skip_check=True)

    def error(self) -> float:
        """Return the exact chance that the hash of a user who was not added hits only bits that are set.

        pybloom-live takes one bit of each slice, ``hash % bits``, where the hash has 16 bits in small filters: the
        bits are then not equally likely, which its formula overlooks.
        """
        size, slices = self.bits_per_slice, self.num_slices
        packed = np.frombuffer(self.bitarray.tobytes(), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: size * slices].reshape(slices, size)
        if size >= 1 << 15:
            return float(np.prod(bits.mean(axis=1)))
        chance = np.bincount(np.arange(1 << 16) % size, minlength=size) / (1 << 16)
        return float(np.prod(bits @ chance))

    def to_bytes(self) -> bytes:
        """Return the filter as pybloom-live writes it; the same members added in any order make the same bytes."""
        file = io.BytesIO()
        self.tofile(file)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> BlacklistFilter:
        """Return the filter that :meth:`to_bytes` wrote."""
        return cls.fromfile(io.BytesIO(data))

    def save(self, path: str | Path) -> None:
        """Write the file at once: a reader finds the old one or the new one."""
        artifacts.atomic_write(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> BlacklistFilter:
        """Return the filter of a file of :meth:`save`."""
        return cls.from_bytes(Path(path).read_bytes())
