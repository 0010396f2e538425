"""A recording laid out for serving, and what a client of EventStreams may request of it.

Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from lib.replay import faults
from lib.replay.faults import TOPICS, Record
from lib.stream.cursor import SECONDS_BELOW

PREFIX = "/v2/stream/"
PATHS = (f"{PREFIX}recentchange", f"{PREFIX}mediawiki.recentchange")


class Timeline:
    """A recording laid out for serving: texts in a file that is mapped, times and topics in arrays.

    Parameters
    ----------
    records : iterable of Record
        The stream, in order.

    Attributes
    ----------
    faults : dict of int to frozenset
        By place, the transport's faults that are still to happen: each happens once.

    Notes
    -----
    Memory is about 40 bytes per event, whatever its size; the texts are in an unnamed temporary file.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.topics = {topic: number for number, topic in enumerate(TOPICS)}
        self.times, self.topic_of = array("q"), array("H")
        self.faults: dict[int, frozenset[str]] = {}
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the timeline
        for place, record in enumerate(records):
            self._file.write(record.raw)
            self._ends.append(self._ends[-1] + len(record.raw))
            self.times.append(record.time)
            self.topic_of.append(self.topics.setdefault(record.topic, len(self.topics)))
            if record.faults:
                self.faults[place] = record.faults
        self._file.flush()
        self._text = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""
        #: Greatest timestamp up to each place: when the message is due in real time.
        self.due = np.maximum.accumulate(self.times)
        topic_of, times = np.array(self.topic_of), np.array(self.times)
        self._places = [np.flatnonzero(topic_of == topic) for topic in self.topics.values()]
        self._newest = [np.maximum.accumulate(times[places]) for places in self._places]

    def __len__(self) -> int:
        return len(self.times)

    def text(self, place: int) -> bytes:
        """Return the message at a place."""
        return self._text[self._ends[place] : self._ends[place + 1]]

    def first_since(self, topic: int, moment: int) -> int:
        """Return the place of a topic's first message whose timestamp is not smaller; the length if none is."""
        return self._nth(topic, bisect_left(self._newest[topic], moment))

    def first_from(self, topic: int, place: int) -> int:
        """Return the place of a topic's first message at a place or after it; the length if none is."""
        return self._nth(topic, bisect_left(self._places[topic], place))

    def _nth(self, topic: int, number: int) -> int:
        places = self._places[topic]
        return int(places[number]) if number < len(places) else len(self)


def with_canaries(records: Iterable[Record], seconds: int) -> Iterator[Record]:
    """Add the operators' test events: one per data centre whenever another `seconds` of event time have started."""
    period_ms, last = 1000 * seconds, None
    for record in records:
        period = record.time // period_ms if seconds > 0 else 0
        if last is not None and period > last:
            for topic in TOPICS:
                yield faults.canary(record._replace(topic=topic, time=period * period_ms))
        last = period if last is None else max(last, period)
        yield record


def parse_since(text: str) -> int:
    """Return ``since`` in milliseconds, from milliseconds or an ISO 8601 date.

    Raises
    ------
    ValueError
        400 and a message, for anything else.

    Examples
    --------
    >>> parse_since("1442018818771"), parse_since("2015-09-12T00:46:58.771Z")
    (1442018818771, 1442018818771)
    """
    try:
        if text.isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text)
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ValueError(400, f"Could not parse `since` parameter: {text[:100]!r}") from None


class Assignment(NamedTuple):
    """Where one topic's messages begin for a client."""

    name: str
    start: int  #: place of the first message to send
    state: str  #: its part of the id until its first message: ``"timestamp":…`` or ``"offset":-1``


class _Entry(msgspec.Struct):
    topic: str
    partition: Literal[0]
    timestamp: int | None = None
    offset: Literal[-1] | None = None  #: the latest


def parse_request(path: str, last_id: str, timeline: Timeline, head: int) -> list[Assignment]:
    """Return where each topic begins, in the order of their numbers.

    Parameters
    ----------
    path : str
        Path and query.
    last_id : str
        The header ``Last-Event-ID``; empty if there is none.
    timeline : Timeline
        What is served.
    head : int
        Place that counts as "latest".

    Raises
    ------
    ValueError
        The status that EventStreams answers with, 400 or 404, and a message.
    """
    url = urlsplit(path)
    if url.path not in PATHS:
        raise ValueError(404, f"No such stream: {url.path}. Streams: {PREFIX}recentchange.")
    query = parse_qs(url.query, keep_blank_values=True)
    entries: dict[str, _Entry] = {}
    default = _Entry("", 0)
    if last_id:
        entries = _parse_last_id(last_id)
    elif "since" in query:
        default = _Entry("", 0, parse_since(query["since"][-1]))
    else:
        head = 0
    assignments = []
    for name, topic in timeline.topics.items():
        entry = entries.get(name, default)
        moment = entry.timestamp
        if moment is None or entry.offset is not None:
            assignments.append(Assignment(name, timeline.first_from(topic, head), '"offset":-1'))
        else:
            in_seconds = moment < SECONDS_BELOW and entry.topic  # as ids were until 2025; `since` never is
            start = timeline.first_since(topic, moment * 1000 if in_seconds else moment)
            assignments.append(Assignment(name, start, f'"timestamp":{moment}'))
    return assignments


def _parse_last_id(text: str) -> dict[str, _Entry]:
    try:
        return {entry.topic: entry for entry in msgspec.json.decode(text, type=list[_Entry])}
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(400, f"Last-Event-ID must be a JSON array of topics. {error}") from None
