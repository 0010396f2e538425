"""How long verdicts took: counts in bins, so that a run of any length keeps a few hundred numbers."""

from __future__ import annotations

from typing import Self

import numpy as np

#: Upper edges of the bins in seconds: 2 ms to 3 hours, 5 % apart.
EDGES = 0.002 * 1.05 ** np.arange(316)


class Latency:
    """Latencies so far.

    Parameters
    ----------
    counts : sequence of int, optional
        From :meth:`counts`, one per bin and one for what is above all; without it there are none yet.

    Examples
    --------
    >>> Latency().and_(np.array([0.1, 0.1, 0.1, 3.0])).quantile(0.5)
    0.1041
    """

    def __init__(self, counts: list[int] | None = None) -> None:
        self._counts = np.zeros(len(EDGES) + 1, np.int64) if counts is None else np.array(counts, np.int64)

    def and_(self, seconds: np.ndarray) -> Self:
        """Give these and more of them, shape (n,), in seconds."""
        more = np.bincount(np.searchsorted(EDGES, seconds), minlength=len(EDGES) + 1)
        return type(self)((self._counts + more).tolist())

    def counts(self) -> list[int]:
        """Give the counts, to be kept."""
        return self._counts.tolist()

    def quantile(self, share: float) -> float:
        """Give a quantile in seconds: the upper edge of its bin, at most 5 % too much; 0 when there is nothing."""
        total = self._counts.sum()
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), share * total))
        return round(float(EDGES[min(place, len(EDGES) - 1)]), 4)
