"""A population: edits with their users and labels, as a model is trained and judged on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from lib.model import evidence, text

EDITS_PER_USER = 50  # a user's edits that the model of texts learns from: more say the same again


@dataclass(frozen=True)
class Population:
    """Edits in order of time with their users: what a model is trained and judged on.

    Parameters
    ----------
    table : pyarrow.Table
        Edits of ``edits.ARROW_SCHEMA``; those without a user are left out, as nobody can be judged by them.
    """

    table: pa.Table
    names: np.ndarray = field(repr=False)  #: user names, in order of first edit
    user: np.ndarray = field(repr=False)  #: row of `names` of each edit
    flagged: np.ndarray = field(repr=False)  #: edits with the flag: the label's source, never a feature

    @classmethod
    def of(cls, table: pa.Table) -> Population:
        """Order edits by time (equal times stay as they are) and number their users."""
        table = table.filter(table.column("user").is_valid())
        times = table.column("timestamp").to_numpy()
        table = table.take(np.argsort(times, kind="stable")).combine_chunks()
        codes = table.column("user").combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        names = np.array(codes.dictionary.to_pylist(), object)
        flagged = table.column("bot").fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        return cls(table, names, codes.indices.to_numpy().astype(np.int64), flagged)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def times(self) -> np.ndarray:
        """Event time of each edit in milliseconds."""
        return self.table.column("timestamp").to_numpy()

    @cached_property
    def edits(self) -> np.ndarray:
        """Number of edits of each user."""
        return np.bincount(self.user, minlength=len(self))

    @cached_property
    def bots(self) -> np.ndarray:
        """Users of whose edits more than half carry the flag."""
        return 2 * np.bincount(self.user, self.flagged, len(self)) > self.edits

    @cached_property
    def taught(self) -> np.ndarray:
        """Users that the model learns as bots: any edit carries the flag, for only accounts with a right can set it."""
        return np.bincount(self.user, self.flagged, len(self)) > 0

    @cached_property
    def texts(self) -> sp.csr_matrix:
        """Pieces of the texts, one row per edit."""
        return evidence.text_matrix(self.table)

    @cached_property
    def bare(self) -> np.ndarray:
        """Evidence without the model of texts: its column is zero."""
        return evidence.of(self.table, evidence.Weights(np.zeros(text.BUCKETS, np.float32), 0.0))

    def subset(self, keep: np.ndarray) -> Population:
        """Give the edits that a mask keeps, as a population of their own."""
        return Population.of(self.table.filter(pa.array(keep)))

    @cached_property
    def place(self) -> np.ndarray:
        """How many edits of the same user came before each edit."""
        order = np.argsort(self.user, kind="stable")
        first = np.cumsum(self.edits) - self.edits
        place = np.empty_like(order)
        place[order] = np.arange(len(order)) - first[self.user[order]]
        return place

    @cached_property
    def sample(self) -> np.ndarray:
        """At most :data:`EDITS_PER_USER` edits of each user, evenly spread over theirs."""
        n = self.edits[self.user]
        wanted = np.minimum(n, EDITS_PER_USER)
        return np.flatnonzero((self.place * wanted) // n != ((self.place - 1) * wanted) // n)
