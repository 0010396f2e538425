"""A recording laid out for serving, and what a client of EventStreams may request of it.

Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from lib.replay.faults import TOPICS, Record

PREFIX = "/v2/stream/"
PATHS = (f"{PREFIX}recentchange", f"{PREFIX}mediawiki.recentchange")


class Timeline:
    """A recording laid out for serving: texts in a file, times and topics in arrays.

    Parameters
    ----------
    records : iterable of Record
        The stream, in order.

    Attributes
    ----------
    topics : dict of str to int
        The topics, numbered.
    times, topic_of : ndarray of int
        By place, the message's timestamp and the number of its topic.
    faults : dict of int to frozenset
        By place, the transport's faults that are still to happen: each happens once.

    Notes
    -----
    Memory is about 20 bytes per event, whatever its size; the texts are in an unnamed temporary file.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.topics = {topic: number for number, topic in enumerate(TOPICS)}
        self.faults: dict[int, frozenset[str]] = {}
        times, topic_of, self._ends = array("q"), array("H"), array("q", [0])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the timeline
        for place, record in enumerate(records):
            self._file.write(record.raw)
            self._ends.append(self._ends[-1] + len(record.raw))
            times.append(record.time)
            topic_of.append(self.topics.setdefault(record.topic, len(self.topics)))
            if record.faults:
                self.faults[place] = record.faults
        self._file.flush()
        self.times, self.topic_of = np.array(times), np.array(topic_of)

    def __len__(self) -> int:
        return len(self.times)

    def text(self, place: int) -> bytes:
        """Return the message at a place."""
        start, end = self._ends[place : place + 2]
        return os.pread(self._file.fileno(), end - start, start)

    def first(self, topic: int, moment: int | None, head: int) -> int:
        """Return the place of a topic's first message whose timestamp is not smaller than a moment.

        Without a moment it is that of its first at the head or after it; the length if there is none.
        """
        is_wanted = np.arange(len(self)) >= head if moment is None else self.times >= moment
        places = np.flatnonzero((self.topic_of == topic) & is_wanted)
        return int(places[0]) if len(places) else len(self)


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
    moments: dict[str, int | None] = dict.fromkeys(timeline.topics)
    if last_id:
        moments |= {entry.topic: entry.timestamp for entry in _parse_last_id(last_id)}
    elif "since" in query:
        moments = dict.fromkeys(timeline.topics, parse_since(query["since"][-1]))
    else:
        head = 0
    assignments = []
    for name, topic in timeline.topics.items():
        moment = moments[name]
        state = '"offset":-1' if moment is None else f'"timestamp":{moment}'
        assignments.append(Assignment(name, timeline.first(topic, moment, head), state))
    return assignments


def _parse_last_id(text: str) -> list[_Entry]:
    try:
        return msgspec.json.decode(text, type=list[_Entry])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(400, f"Last-Event-ID must be a JSON array of topics. {error}") from None
