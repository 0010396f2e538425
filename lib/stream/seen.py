"""Which events have come already: those that the server sent twice, and those that come again because we went back."""

from __future__ import annotations

from collections.abc import Mapping

SEEN = 200_000
REMEMBERED = 4_096


class Seen:
    """Which keys have come, of the last many: two sets of hashes, of which the older is dropped when one is full.

    Parameters
    ----------
    size : int
        How many keys are remembered at least; at most twice as many.

    Examples
    --------
    >>> seen = Seen(2)
    >>> [seen.add(key) for key in ("a", "b", "a", "c", "b")]
    [True, True, False, True, False]
    """

    def __init__(self, size: int = SEEN) -> None:
        self._size = size
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, key: str) -> bool:
        """Remember a key; return whether it is new."""
        number = hash(key)
        if number in self._new or number in self._old:
            return False
        if len(self._new) >= self._size:
            self._old, self._new = self._new, set()
        self._new.add(number)
        return True


class Repeats:
    """Tells what the server sent twice from what comes again because we went back after a break.

    Until a topic gives something new on a connection, we are where we were before, and only what comes more often than
    it did then is a duplicate.

    Parameters
    ----------
    times : mapping of str to int, optional
        Of keys that came more than once, how often they did: the latest `REMEMBERED` are kept.

    Examples
    --------
    >>> repeats = Repeats()
    >>> repeats.note("a", "topic")
    False
    >>> repeats.connect(went_back=True)
    >>> [repeats.note("a", "topic") for _ in range(3)]
    [True, True, False]
    """

    def __init__(self, times: Mapping[str, int] = {}) -> None:
        self.times = dict(times)
        self._here: dict[str, int] = {}  # the same, on this connection
        self._caught_up: set[str | None] = set()
        self._went_back = False

    def connect(self, *, went_back: bool) -> None:
        """Note that a connection begins, and whether before the end of the last."""
        self._went_back = went_back
        self._here.clear()
        self._caught_up.clear()

    def caught_up(self, topic: str | None) -> None:
        """Note that a topic has given something new."""
        self._caught_up.add(topic)

    def note(self, key: str, topic: str | None) -> bool:
        """Note a key that is not new; return whether it came again because we went back."""
        before = self.times.get(key, 1)
        now = before + 1
        if self._went_back and topic not in self._caught_up:
            now = self._here[key] = self._here.get(key, 0) + 1
        if now <= before:
            return True
        self.times[key] = now
        if len(self.times) > REMEMBERED:
            del self.times[next(iter(self.times))]
        return False
