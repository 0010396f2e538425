"""The position of a reader of EventStreams: one per topic, from which no event is missed; and what came already.

The service puts the position of every topic into each event's ``id``. A client that returns that id unchanged loses
events in two ways: its timestamp is Kafka's **plus one**, so events of the same millisecond that were not delivered yet
are skipped; and a topic that was silent so far carries ``offset: -1``, which means "latest", so what it received
while nobody was connected is skipped too. Here every position is rewound by a few seconds, ``-1`` becomes the
time at which reading began, and the reader drops what it has already (`lib.stream.client`).
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

REWIND_MS = 5_000
SEEN_KEYS = 200_000
RECENT_KEYS = 20_000  # of a topic


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The position of one topic in an id; without a timestamp it has sent nothing on this connection."""

    topic: str
    partition: int = 0
    timestamp: int | None = None
    offset: int | None = None


_entries = msgspec.json.Decoder(list[Entry])


def parse_id(text: bytes) -> list[Entry]:
    """Return the entries of an event's id; none if it is not one of EventStreams.

    Examples
    --------
    >>> parse_id(b'[{"topic":"eqiad.x","partition":0,"timestamp":5}]')
    [Entry(topic='eqiad.x', partition=0, timestamp=5, offset=None)]
    >>> parse_id(b"42")
    []
    """
    try:
        return _entries.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []


def place_of(before: bytes, id_: bytes, topic: str) -> tuple[str, int | bytes]:
    """Return a message's topic and its timestamp there: what changed between the id before it and its own.

    Parameters
    ----------
    before, id_ : bytes
        The two ids.
    topic : str
        Topic of the message before, for ids that are equal: two messages of one millisecond.

    Returns
    -------
    topic : str
    timestamp : int or bytes
        As in the id; the id itself if it does not show it.
    """
    old, new = (
        {entry.topic: entry.timestamp for entry in parse_id(text) if entry.timestamp is not None}
        for text in (before, id_)
    )
    changed = new.items() - old.items()
    return max(changed, key=lambda item: item[1], default=(topic, new.get(topic, id_)))


class Cursor(msgspec.Struct):
    """A position in every topic; msgspec converts it to plain values and back.

    Parameters
    ----------
    start : int, optional
        Milliseconds since the epoch before which nothing is wanted: SINCE, else the time of the first event.
    time : int, optional
        Time of the last event, for servers whose ids are no positions.
    entries : list of Entry
        The topics.

    Examples
    --------
    >>> cursor = Cursor(start=1442018818771)
    >>> cursor.update(b'[{"topic":"eqiad.x","timestamp":1442018828772},{"topic":"codfw.x","offset":-1}]')
    >>> for entry in json.loads(cursor.last_event_id()):
    ...     print(entry)
    {'topic': 'eqiad.x', 'partition': 0, 'timestamp': 1442018823771}
    {'topic': 'codfw.x', 'partition': 0, 'timestamp': 1442018818771}
    """

    start: int | None = None
    time: int | None = None
    entries: list[Entry] = []

    def update(self, id_: bytes) -> None:
        """Take the positions of an event's id; a topic that has a position does not lose it."""
        known = {(entry.topic, entry.partition): entry for entry in self.entries}
        for entry in parse_id(id_):
            if entry.timestamp is not None or (entry.topic, entry.partition) not in known:
                known[entry.topic, entry.partition] = entry
        self.entries = [*known.values()]

    def last_event_id(self) -> str:
        """Return the value of ``Last-Event-ID`` that misses nothing; empty if no event had an id."""
        requested = [self._rewound(entry) for entry in self.entries]
        return json.dumps(requested) if requested else ""

    def since(self) -> int | None:
        """Return the value of ``since`` that misses nothing, in milliseconds; None if nothing is known."""
        return self.start if self.time is None else self._rewind(self.time)

    def _rewind(self, moment: int) -> int:
        return max(self.start or 0, moment - REWIND_MS)

    def _rewound(self, entry: Entry) -> dict[str, Any]:
        if entry.timestamp is not None:
            rewound = {"timestamp": self._rewind(entry.timestamp - 1)}
        else:
            rewound = {"offset": -1} if self.start is None else {"timestamp": self.start}
        return {"topic": entry.topic, "partition": entry.partition, **rewound}


class Deduplicator:
    """The keys of events that came: of the last many, and per topic those that may come again after a rewind.

    Parameters
    ----------
    recent : mapping of str to iterable of str
        By topic, the keys of its last events, in order and with repetitions: an earlier one's `recent`.

    Examples
    --------
    >>> keys = Deduplicator({})
    >>> [keys.add(key, "topic") for key in ("a", "b", "b")]
    ['new', 'new', 'duplicates']
    >>> keys.rewind()
    >>> [keys.add(key, "topic") for key in ("b", "b", "b", "c", "c")]
    ['repeated', 'repeated', 'duplicates', 'new', 'duplicates']
    """

    def __init__(self, recent: Mapping[str, Iterable[str]]) -> None:
        self.recent = {topic: deque(keys, RECENT_KEYS) for topic, keys in recent.items()}
        self._seen = OrderedDict.fromkeys(key for keys in self.recent.values() for key in keys)
        self._expected: dict[str, Counter[str]] = {}

    def rewind(self) -> None:
        """Expect the recent keys again: until a topic sends a new one, each as often as it came before."""
        self._expected = {topic: Counter(keys) for topic, keys in self.recent.items()}

    def add(self, key: str, topic: str) -> str:
        """Remember a key; return ``new``, ``repeated`` (because of a rewind) or ``duplicates``."""
        expected = self._expected.get(topic)
        if expected and expected[key] > 0:
            expected[key] -= 1
            return "repeated"
        self.recent.setdefault(topic, deque(maxlen=RECENT_KEYS)).append(key)
        if key in self._seen:
            self._seen.move_to_end(key)
            return "duplicates"
        self._seen[key] = None
        if len(self._seen) > SEEN_KEYS:
            self._seen.popitem(last=False)
        self._expected.pop(topic, None)
        return "new"
