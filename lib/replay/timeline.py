"""A recording laid out for serving, and what a client of EventStreams may ask of it.

Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
"""

from __future__ import annotations

import bisect
import email.utils
import itertools
import json
import mmap
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from lib.replay import faults
from lib.replay.faults import Plan, Record

PREFIX = "/v2/stream/"
STREAMS = tuple(name.removeprefix("mediawiki.") for name in (faults.STREAM, *faults.OTHER_STREAMS))
CENTRES = ("eqiad", "codfw")


class BadRequest(ValueError):
    """A request that EventStreams answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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
    Memory is about 40 bytes per event, whatever its size; the texts lie in an unnamed temporary file.
    """

    def __init__(self, records: Iterable[Record], plan: Plan) -> None:
        self.topics: list[str] = []
        self.streams: list[str] = []
        self.times = array("q")
        self.topic_of = array("H")
        self.faults: dict[int, frozenset[str]] = {}
        self.others: Counter[str] = Counter()  #: events that are no recent changes, by their streams
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the timeline
        self._index_of: dict[tuple[str, str], int] = {}
        self._fill(records, plan)
        self._file.flush()
        self._text = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if self._ends[-1] else b""
        self._latest = _running_maxima(self.times, self.topic_of)
        #: Greatest timestamp up to each place: when the message is due in real time.
        self.due = array("q", itertools.accumulate(self.times, max))

    def _fill(self, records: Iterable[Record], plan: Plan) -> None:
        marks = plan.marks(faults.TRANSPORT)
        ordinal, end = -1, 0
        for record in records:
            self._file.write(record.raw)
            end += len(record.raw)
            self._ends.append(end)
            self.times.append(record.time)
            self.topic_of.append(self._topic(record.topic, record.stream))
            if record.stream != faults.STREAM:
                self.others[record.stream] += 1
            while ordinal < record.ordinal:
                ordinal += 1
                if here := next(marks):
                    self.faults[len(self.times) - 1] = here

    def _topic(self, topic: str, stream: str) -> int:
        index = self._index_of.get((topic, stream))
        if index is None:
            index = self._index_of[topic, stream] = len(self.topics)
            self.topics.append(topic)
            self.streams.append(stream)
        return index

    def __len__(self) -> int:
        return len(self.times)

    def text(self, place: int) -> bytes:
        """The message at a place."""
        return self._text[self._ends[place] : self._ends[place + 1]]

    def first_since(self, topic: int, moment: int) -> int:
        """Place of a topic's first message whose timestamp is not smaller than `moment`; the length if none is."""
        places, maxima = self._latest.get(topic, ([], []))
        found = bisect.bisect_left(maxima, moment)
        return places[found] if found < len(places) else len(self)

    def offset(self, topic: int, number: int) -> int:
        """Place of a topic's message of that number, counted from 0; the length if there are fewer."""
        places, _ = self._latest.get(topic, ([], []))
        return places[number] if number < len(places) else len(self)


def _running_maxima(times: array, topic_of: array) -> dict[int, tuple[array, array]]:
    """Per topic the places of its messages, and the greatest timestamp up to each."""
    found: dict[int, tuple[array, array]] = defaultdict(lambda: (array("q"), array("q")))
    for place, (moment, topic) in enumerate(zip(times, topic_of, strict=True)):
        places, maxima = found[topic]
        places.append(place)
        maxima.append(max(moment, maxima[-1]) if maxima else moment)
    return dict(found)


def with_hourly_canaries(records: Iterable[Record], seconds: int) -> Iterator[Record]:
    """Add the operators' test events: one per data centre whenever another `seconds` of event time have begun."""
    hour = None
    for record in records:
        current = record.time // (1000 * seconds) if seconds > 0 else None
        if hour is not None and current is not None and current > hour:
            for centre in CENTRES:
                moment = record._replace(topic=f"{centre}.{record.stream}", time=current * 1000 * seconds)
                yield faults.canary(moment)
        hour = current if hour is None or (current is not None and current > hour) else hour
        yield record


def parse_since(text: str) -> int:
    """Read ``since`` as the service does: milliseconds, or a date that JavaScript's ``Date.parse`` takes.

    Parameters
    ----------
    text : str
        The parameter, decoded.

    Returns
    -------
    int
        Milliseconds since the epoch.

    Raises
    ------
    BadRequest
        For anything else: status 400.

    Examples
    --------
    >>> parse_since("1442018818771"), parse_since("2015-09-12T00:46:58.771Z")
    (1442018818771, 1442018818771)
    """
    if text.lstrip("-").isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except ValueError:
            raise BadRequest(400, f"Could not parse `since` parameter: {text!r}") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class Assignment(NamedTuple):
    """Where one topic's messages begin for a client."""

    name: str
    topic: int | None  #: its index in the timeline; None for a topic that the recording does not have
    start: int  #: place of the first message to send
    state: str  #: what the id says of it until its first message: ``"timestamp":…`` or ``"offset":-1``


class Request(NamedTuple):
    """What a client asked for."""

    assignments: list[Assignment]
    json_lines: bool


def parse_request(path: str, headers: Any, timeline: Timeline, head: int, newcomer: int = 0) -> Request:
    """Read a request's path and headers.

    Parameters
    ----------
    path : str
        Path and query.
    headers : mapping
        HTTP headers.
    timeline : Timeline
        What is served.
    head : int
        Place that counts as "latest".
    newcomer : int, default 0
        Place where a client without a position starts.

    Raises
    ------
    BadRequest
        With the status that EventStreams gives: 400 or 404.
    """
    url = urlsplit(path)
    if not url.path.startswith(PREFIX):
        raise BadRequest(404, f"Not found: {url.path}. Streams are below {PREFIX}.")
    topics = _topics(unquote(url.path.removeprefix(PREFIX)), timeline)
    since = parse_qs(url.query, keep_blank_values=True).get("since", [None])[-1]
    last_id = headers.get("Last-Event-ID")
    if last_id:
        given = _parse_last_id(last_id)
        assignments = [
            _resume(name, topic, given.get(name), timeline, head) for name, topic in topics.items()
        ]
    elif since is not None:
        moment = parse_since(since)
        assignments = [
            Assignment(name, topic, _since(timeline, topic, moment), f'"timestamp":{moment}')
            for name, topic in topics.items()
        ]
    else:
        assignments = [
            Assignment(name, topic, len(timeline) if topic is None else newcomer, '"offset":-1')
            for name, topic in topics.items()
        ]
    return Request(assignments, "application/json" in headers.get("Accept", ""))


def _topics(names: str, timeline: Timeline) -> dict[str, int | None]:
    """Topics of a comma-joined list of streams, each with its index in the timeline."""
    topics: dict[str, int | None] = {}
    for name in names.split(","):
        short = name.removeprefix("mediawiki.")
        if short not in STREAMS:
            raise BadRequest(404, f"No such stream: {name!r}. Streams: {', '.join(sorted(STREAMS))}.")
        stream = f"mediawiki.{short}"
        topics |= {f"{centre}.{stream}": None for centre in CENTRES if f"{centre}.{stream}" not in topics}
        topics |= {
            topic: index
            for index, (topic, of) in enumerate(zip(timeline.topics, timeline.streams, strict=True))
            if of == stream
        }
    return topics


def _since(timeline: Timeline, topic: int | None, moment: int) -> int:
    return len(timeline) if topic is None else timeline.first_since(topic, moment)


def _parse_last_id(text: str) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(text)
        if not isinstance(entries, list):
            raise TypeError(f"Got {text[:100]!r}.")
        return {_checked(entry)["topic"]: entry for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise BadRequest(400, f"Last-Event-ID must be a JSON array of topics. {error}") from None


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    position = entry["offset"] if "offset" in entry else entry["timestamp"]
    if not isinstance(position, int) or not isinstance(entry["topic"], str) or entry["partition"] != 0:
        raise ValueError(f"Invalid assignment: {entry}")
    return entry


def _resume(
    name: str, topic: int | None, entry: dict[str, Any] | None, timeline: Timeline, head: int
) -> Assignment:
    """Start of one topic from what the client's last id says of it; a negative offset means latest."""
    if topic is None:
        return Assignment(name, topic, len(timeline), '"offset":-1')
    if entry is None:
        return Assignment(name, topic, head, '"offset":-1')
    if "offset" in entry:  # an offset beats a timestamp
        offset = entry["offset"]
        start = head if offset < 0 else timeline.offset(topic, offset)
        return Assignment(name, topic, start, f'"offset":{offset}')
    moment = entry["timestamp"]
    milliseconds = moment * 1000 if moment < 10**11 else moment
    return Assignment(name, topic, _since(timeline, topic, milliseconds), f'"timestamp":{moment}')
