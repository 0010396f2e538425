"""Where a reader of EventStreams stands: a position per topic, from which nothing is missed.

The service puts the position of every topic into each event's ``id``. Who sends that id back as it is loses
twice: the timestamp in it is Kafka's **plus one**, so events of the same millisecond that were not delivered yet
are skipped; and a topic that was silent so far carries ``offset: -1``, which means "latest", so what it received
while nobody was connected is skipped too. Here every position is taken back by a few seconds, ``-1`` becomes the
time at which reading began, and the reader drops what it has already (`lib.stream.client`).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Self

import msgspec

SECONDS_BELOW = 10**11
REWIND_MS = 5_000
LATEST_MS = 300_000
REWIND_OFFSETS = 1_000


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an id says of one topic."""

    topic: str
    partition: int = 0
    timestamp: int | None = None
    offset: int | None = None

    @property
    def is_silent(self) -> bool:
        """Whether the topic has sent nothing on this connection."""
        return self.timestamp is None and (self.offset is None or self.offset < 0)


_entries = msgspec.json.Decoder(list[Entry])


def parse_id(text: bytes) -> list[Entry] | None:
    """Read an event's id; None if it is not one of EventStreams.

    Examples
    --------
    >>> parse_id(b'[{"topic":"eqiad.x","partition":0,"timestamp":5}]')
    [Entry(topic='eqiad.x', partition=0, timestamp=5, offset=None)]
    >>> parse_id(b"42") is None
    True
    """
    try:
        return _entries.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Place(NamedTuple):
    """The place of one message in its topic: what changed from one id to the next."""

    topic: str
    position: int  #: the timestamp in its id, in the service's unit

    @property
    def time_ms(self) -> int:
        """Kafka's timestamp in milliseconds: one less than the id says."""
        return (self.position - 1) * (1000 if self.position < SECONDS_BELOW else 1)


def place_of(before: bytes, now: bytes, topic: str | None) -> Place | None:
    """Find a message's place from the id before it and its own.

    Parameters
    ----------
    before, now : bytes
        The two ids.
    topic : str or None
        Topic of the message before, for ids that are equal: two messages of one millisecond.

    Returns
    -------
    Place or None
        None if the ids do not tell.
    """
    old = {entry.topic: entry.timestamp for entry in parse_id(before) or []}
    new = {entry.topic: entry.timestamp for entry in parse_id(now) or [] if entry.timestamp is not None}
    changed = {name: moment for name, moment in new.items() if old.get(name) != moment}
    if len(changed) == 1 or (changed and topic not in new):
        return Place(*max(changed.items(), key=lambda item: item[1]))
    return Place(topic, new[topic]) if topic is not None and topic in new else None


class Cursor:
    """A position in every topic, in the service's own unit, that can be kept as JSON.

    Parameters
    ----------
    base : int, optional
        Milliseconds since the epoch before which nothing is wanted: SINCE, else the time of the first event.
    entries : iterable of Entry, optional
        A position per topic.
    time : int, optional
        Time of the last event, for servers whose ids are no positions.
    late : int, default 0
        How much earlier than one before it an event has been, at most, in milliseconds: times are only almost in order,
        so that much more is gone back.

    Examples
    --------
    >>> cursor = Cursor(base=1442018818771)
    >>> cursor.note(b'[{"topic":"eqiad.x","timestamp":1442018828772},{"topic":"codfw.x","offset":-1}]')
    >>> for wanted in json.loads(cursor.last_event_id()):
    ...     print(wanted)
    {'topic': 'eqiad.x', 'partition': 0, 'timestamp': 1442018823771}
    {'topic': 'codfw.x', 'partition': 0, 'timestamp': 1442018818771}
    """

    def __init__(
        self,
        base: int | None = None,
        entries: tuple[Entry, ...] | list[Entry] = (),
        time: int | None = None,
        late: int = 0,
    ) -> None:
        self.base, self.time, self.late = base, time, late
        self._newest = time
        self.entries = {(entry.topic, entry.partition): entry for entry in entries}

    def note(self, id_: bytes) -> None:
        """Take over the positions of an event's id; an id that is none is left out."""
        for entry in parse_id(id_) or []:
            key = (entry.topic, entry.partition)
            if not (entry.is_silent and key in self.entries):
                self.entries[key] = entry

    def start(self, moment: int) -> None:
        """Note that reading began at an event of this time, unless a beginning is known."""
        if self.base is None:
            self.base = moment

    def note_time(self, moment: int) -> None:
        """Note an event's time, to learn how late events are: five minutes at most, for clocks can be wrong."""
        if self._newest is None or moment >= self._newest:
            self._newest = moment
        elif self._newest - moment > self.late:
            self.late = min(self._newest - moment, LATEST_MS)

    @property
    def rewind_ms(self) -> int:
        """How far a reconnect goes back, in milliseconds."""
        return REWIND_MS + self.late

    def last_event_id(self) -> str | None:
        """Value of ``Last-Event-ID`` that misses nothing; None if no event had an id."""
        wanted = [self._wanted(entry) for entry in self.entries.values()]
        return json.dumps(wanted) if wanted else None

    def since(self) -> int | None:
        """Value of ``since`` that misses nothing, in milliseconds; None if nothing is known."""
        if self.time is None:
            return self.base
        moment = self.time - self.rewind_ms
        return moment if self.base is None else max(self.base, moment)

    def _wanted(self, entry: Entry) -> dict[str, Any]:
        wanted: dict[str, Any] = {"topic": entry.topic, "partition": entry.partition}
        if entry.timestamp is not None:
            unit = 1000 if entry.timestamp < SECONDS_BELOW else 1
            moment = entry.timestamp * unit - unit - self.rewind_ms
            wanted["timestamp"] = (moment if self.base is None else max(self.base, moment)) // unit
        elif not entry.is_silent and entry.offset is not None:
            wanted["offset"] = max(0, entry.offset - REWIND_OFFSETS)
        elif self.base is not None:
            wanted["timestamp"] = self.base // (1000 if self._in_seconds() else 1)
        else:
            wanted["offset"] = -1
        return wanted

    def _in_seconds(self) -> bool:
        return any(
            entry.timestamp is not None and entry.timestamp < SECONDS_BELOW for entry in self.entries.values()
        )

    def to_json(self) -> dict[str, Any]:
        """The cursor as plain values."""
        topics = msgspec.to_builtins([*self.entries.values()])
        return {"base": self.base, "time": self.time, "late": self.late, "topics": topics}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """The cursor from what `to_json` gave."""
        entries = msgspec.convert(kept["topics"], list[Entry])
        return cls(kept["base"], entries, kept["time"], kept.get("late", 0))
