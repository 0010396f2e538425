"""A recording laid out for serving, and what a client of EventStreams may request of it.

Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
"""

from __future__ import annotations

import itertools
import mmap
import tempfile
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from lib.replay import faults
from lib.replay.faults import CENTERS, STREAM, Plan, Record

PREFIX = "/v2/stream/"
OTHER_STREAMS = ("page-create", "page-delete", "page-move", "page-undelete", "revision-create", "test")


class Timeline:
    """A recording laid out for serving: texts in a file that is mapped, times and topics in arrays.

    Parameters
    ----------
    records : iterable of Record
        The stream, in order.
    plan : Plan
        Where the transport's faults happen.

    Notes
    -----
    Memory is about 40 bytes per event, whatever its size; the texts are in an unnamed temporary file.
    """

    def __init__(self, records: Iterable[Record], plan: Plan) -> None:
        self.topics = {f"{center}.{STREAM}": number for number, center in enumerate(CENTERS)}
        self.times = array("q")
        self.topic_of = array("H")
        self.faults: dict[int, frozenset[str]] = {}
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the timeline
        #: Of each topic: the places of its messages, and the greatest timestamp up to each.
        self._of_topic: dict[int, tuple[array, array]] = defaultdict(lambda: (array("q"), array("q")))
        schedule, ordinal = plan.schedule(faults.TRANSPORT), -1
        for place, record in enumerate(records):
            self._add(place, record)
            while ordinal < record.ordinal:
                ordinal += 1
                if here := next(schedule):
                    self.faults[place] = here
        self._file.flush()
        self._text = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""
        #: Greatest timestamp up to each place: when the message is due in real time.
        self.due = array("q", itertools.accumulate(self.times, max))

    def _add(self, place: int, record: Record) -> None:
        self._file.write(record.raw)
        self._ends.append(self._ends[-1] + len(record.raw))
        self.times.append(record.time)
        topic = self.topics.setdefault(record.topic, len(self.topics))
        self.topic_of.append(topic)
        places, newest = self._of_topic[topic]
        places.append(place)
        newest.append(max(record.time, newest[-1]) if newest else record.time)

    def __len__(self) -> int:
        return len(self.times)

    def text(self, place: int) -> bytes:
        """Return the message at a place."""
        return self._text[self._ends[place] : self._ends[place + 1]]

    def first_since(self, topic: int, moment: int) -> int:
        """Return the place of a topic's first message whose timestamp is not smaller; the length if none is."""
        return self._nth(topic, bisect_left(self._of_topic[topic][1], moment))

    def first_from(self, topic: int, place: int) -> int:
        """Return the place of a topic's first message at a place or after it; the length if none is."""
        return self._nth(topic, bisect_left(self._of_topic[topic][0], place))

    def _nth(self, topic: int, number: int) -> int:
        places = self._of_topic[topic][0]
        return places[number] if number < len(places) else len(self)

    def other_streams(self) -> Counter[str]:
        """Return how many events are no recent changes, by their streams."""
        names = [f"mediawiki.{stream_of(topic)}" for topic in self.topics]
        counts = Counter(names[topic] for topic in self.topic_of)
        del counts[STREAM]
        return counts


def stream_of(topic: str) -> str:
    """Return the stream of a topic; what does not name another stream is a recent change.

    Examples
    --------
    >>> stream_of("codfw.mediawiki.page-create"), stream_of("mine")
    ('page-create', 'recentchange')
    """
    name = topic.partition(".mediawiki.")[2]
    return name if name in OTHER_STREAMS else "recentchange"


def with_hourly_canaries(records: Iterable[Record], seconds: int) -> Iterator[Record]:
    """Add the operators' test events: one per data centre whenever another `seconds` of event time have started."""
    period_ms, last = 1000 * seconds, None
    for record in records:
        period = record.time // period_ms if seconds > 0 else 0
        if last is not None and period > last:
            for center in CENTERS:
                yield faults.canary(record._replace(topic=f"{center}.{STREAM}", time=period * period_ms))
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
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(400, f"Could not parse `since` parameter: {text!r}") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class Assignment(NamedTuple):
    """Where one topic's messages begin for a client."""

    name: str
    topic: int  #: its number in the timeline
    start: int  #: place of the first message to send
    state: str  #: its part of the id until its first message: ``"timestamp":…`` or ``"offset":-1``


class _Entry(msgspec.Struct):
    topic: str
    partition: Literal[0]
    timestamp: int | None = None
    offset: Literal[-1] | None = None  #: the latest


def parse_request(path: str, last_id: str, timeline: Timeline, head: int) -> list[Assignment]:
    """Return where each requested topic begins.

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
    wanted = {name.removeprefix("mediawiki.") for name in unquote(url.path.removeprefix(PREFIX)).split(",")}
    if not url.path.startswith(PREFIX) or not wanted <= {"recentchange", *OTHER_STREAMS}:
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
    return [
        _assign(name, topic, entries.get(name, default), timeline, head)
        for name, topic in timeline.topics.items()
        if stream_of(name) in wanted
    ]


def _parse_last_id(text: str) -> dict[str, _Entry]:
    try:
        return {entry.topic: entry for entry in msgspec.json.decode(text, type=list[_Entry])}
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(400, f"Last-Event-ID must be a JSON array of topics. {error}") from None


def _assign(name: str, topic: int, entry: _Entry, timeline: Timeline, head: int) -> Assignment:
    """Return the start of one topic."""
    if entry.timestamp is None or entry.offset is not None:
        return Assignment(name, topic, timeline.first_from(topic, head), '"offset":-1')
    in_seconds = (
        entry.topic and entry.timestamp < 10**11
    )  # as ids were until 2025; `since` is in milliseconds
    moment = entry.timestamp * 1000 if in_seconds else entry.timestamp
    return Assignment(name, topic, timeline.first_since(topic, moment), f'"timestamp":{entry.timestamp}')
