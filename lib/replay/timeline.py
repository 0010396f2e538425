"""A recording laid out for serving, and what a client of EventStreams may request of it.

Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
"""

from __future__ import annotations

import bisect
import email.utils
import itertools
import mmap
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from lib.replay import faults
from lib.replay.faults import Plan, Record

PREFIX = "/v2/stream/"
STREAMS = tuple(name.removeprefix("mediawiki.") for name in (faults.STREAM, *faults.OTHER_STREAMS))
CENTERS = ("eqiad", "codfw")


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
        self.topics: dict[tuple[str, str], int] = {}  #: topic and stream, and its number
        self.times = array("q")
        self.topic_of = array("H")
        self.faults: dict[int, frozenset[str]] = {}
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the timeline
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
        topic = self.topics.setdefault((record.topic, record.stream), len(self.topics))
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
        return self.by_offset(topic, bisect.bisect_left(self._of_topic[topic][1], moment))

    def by_offset(self, topic: int, offset: int) -> int:
        """Return the place of a topic's message of that number, from 0; the length if there are fewer."""
        places = self._of_topic[topic][0]
        return places[offset] if offset < len(places) else len(self)

    def other_streams(self) -> Counter[str]:
        """Return how many events are no recent changes, by their streams."""
        streams = [stream for _, stream in self.topics]
        counts = Counter(streams[topic] for topic in self.topic_of)
        del counts[faults.STREAM]
        return counts


def with_hourly_canaries(records: Iterable[Record], seconds: int) -> Iterator[Record]:
    """Add the operators' test events: one per data centre whenever another `seconds` of event time have begun."""
    period_ms, last = 1000 * seconds, None
    for record in records:
        period = record.time // period_ms if seconds > 0 else 0
        if last is not None and period > last:
            for center in CENTERS:
                topic = f"{center}.{record.stream}"
                yield faults.canary(record._replace(topic=topic, time=period * period_ms))
        last = period if last is None else max(last, period)
        yield record


def parse_since(text: str) -> int:
    """Return ``since`` in milliseconds, from milliseconds or a date that JavaScript's ``Date.parse`` takes.

    Raises
    ------
    ValueError
        400 and a message, for anything else.

    Examples
    --------
    >>> parse_since("1442018818771"), parse_since("2015-09-12T00:46:58.771Z")
    (1442018818771, 1442018818771)
    """
    for parse in (int, datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            moment = parse(text)
        except ValueError:
            continue
        if isinstance(moment, int):
            return moment
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    raise ValueError(400, f"Could not parse `since` parameter: {text!r}")


class Assignment(NamedTuple):
    """Where one topic's messages begin for a client."""

    name: str
    topic: int | None  #: its number in the timeline; None for a topic that the recording does not have
    start: int  #: place of the first message to send
    state: str  #: its part of the id until its first message: ``"timestamp":…`` or ``"offset":-1``


class _Entry(msgspec.Struct):
    topic: str
    partition: Literal[0]
    timestamp: int | None = None
    offset: int | None = None

    def __post_init__(self) -> None:
        if self.timestamp is None and self.offset is None:
            raise ValueError("an entry must have a timestamp or an offset")


def parse_request(path: str, last_id: str, timeline: Timeline, head: int, start: int = 0) -> list[Assignment]:
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
    start : int, default 0
        Place where a client without a position starts.

    Raises
    ------
    ValueError
        The status that EventStreams answers with, 400 or 404, and a message.
    """
    url = urlsplit(path)
    if not url.path.startswith(PREFIX):
        raise ValueError(404, f"Not found: {url.path}. Streams are below {PREFIX}.")
    topics = _topics(unquote(url.path.removeprefix(PREFIX)), timeline)
    since = parse_qs(url.query, keep_blank_values=True).get("since", [""])[-1]
    if last_id:
        entries = _parse_last_id(last_id)
        default = _Entry("", 0, offset=-1)
    elif "since=" in url.query:
        entries, default = {}, _Entry("", 0, timestamp=parse_since(since))
    else:
        entries, default, head = {}, _Entry("", 0, offset=-1), start
    return [
        _assign(name, topic, entries.get(name, default), timeline, head) for name, topic in topics.items()
    ]


def _topics(names: str, timeline: Timeline) -> dict[str, int | None]:
    """Return the topics of a comma-joined list of streams, each with its number in the timeline."""
    topics: dict[str, int | None] = {}
    for name in names.split(","):
        if name.removeprefix("mediawiki.") not in STREAMS:
            raise ValueError(404, f"No such stream: {name!r}. Streams: {', '.join(sorted(STREAMS))}.")
        wanted = f"mediawiki.{name.removeprefix('mediawiki.')}"
        topics |= {f"{center}.{wanted}": None for center in CENTERS if f"{center}.{wanted}" not in topics}
        topics |= {topic: number for (topic, stream), number in timeline.topics.items() if stream == wanted}
    return topics


def _parse_last_id(text: str) -> dict[str, _Entry]:
    try:
        return {entry.topic: entry for entry in msgspec.json.decode(text, type=list[_Entry])}
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(400, f"Last-Event-ID must be a JSON array of topics. {error}") from None


def _assign(name: str, topic: int | None, entry: _Entry, timeline: Timeline, head: int) -> Assignment:
    """Return the start of one topic; an offset beats a timestamp, and a negative one means latest."""
    if topic is None:
        is_since = not entry.topic and entry.timestamp is not None
        state = f'"timestamp":{entry.timestamp}' if is_since else '"offset":-1'
        return Assignment(name, topic, len(timeline), state)
    if entry.offset is not None:
        start = head if entry.offset < 0 else timeline.by_offset(topic, entry.offset)
        return Assignment(name, topic, start, f'"offset":{entry.offset}')
    moment = entry.timestamp or 0
    in_seconds = entry.topic and moment < 10**11  # as ids were until 2025; `since` is in milliseconds
    start = timeline.first_since(topic, moment * 1000 if in_seconds else moment)
    return Assignment(name, topic, start, f'"timestamp":{entry.timestamp}')
