"""A local EventStreams: serves a recording over HTTP as ``stream.wikimedia.org`` would.

``python -m lib.replay RECORDING --speed 60`` serves a recording sixty times as fast as it happened;
without ``--speed`` as fast as the client reads. ``--faults plan.yml`` makes things go wrong (`lib.replay.faults`).

What it does as Wikimedia's service does (mediawiki-services-eventstreams and KafkaSSE):

- ``/v2/stream/recentchange``; 404 for another stream.
- ``:ok``, then events with an ``id`` that is a JSON array: per topic the Kafka timestamp **plus one**, or
  ``"offset": -1`` for a topic that was silent on this connection.
- ``?since=`` in milliseconds or as an ISO 8601 date, ignored when ``Last-Event-ID`` is sent; 400 for what is neither.
  Positions are looked up as Kafka does: per topic, from the first message whose timestamp is not smaller.
- No heartbeat.

What it does differently, because a recording has an end: a stream that is over sends ``event: end`` before it
closes, and a request from there gets 204, which stops a browser's EventSource from coming back. A client
without a position starts at the recording's beginning.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np

from lib.replay import faults
from lib.replay.faults import TOPICS, Plan, Record
from lib.stream import recording, sample_day
from lib.stream.relay import BackgroundServer
from lib.stream.source import Source

BLOCK_BYTES = 1 << 16
PREFIX = "/v2/stream/"
PATHS = (f"{PREFIX}recentchange", f"{PREFIX}mediawiki.recentchange")


class Server(BackgroundServer):
    """The replay server; a context manager.

    Parameters
    ----------
    lines : iterable of bytes
        The recording: one JSON text per item.
    plan : Plan, optional
        What goes wrong.
    port : int, default 0
        Where to listen on loopback; 0 takes a free port.
    speed : float, default 0
        Seconds of event time per second; 0 is as fast as the client reads.

    Attributes
    ----------
    url : str
        Address of the recentchange stream.
    head : int
        Place up to which the stream was sent: what counts as "latest".
    served : int
        Requests so far.

    Raises
    ------
    OSError
        If the address cannot be had.
    """

    def __init__(
        self, lines: Iterable[bytes], plan: Plan = faults.NO_FAULTS, port: int = 0, *, speed: float = 0.0
    ) -> None:
        self.plan, self.speed = plan, speed
        self.timeline = Timeline(faults.stream(lines, plan))
        self.head = self.served = 0
        self._clock: float | None = None  #: monotonic time at which event time 0 would have been due
        super().__init__("127.0.0.1", port, Handler)
        self.url = f"http://{self.address}{PREFIX}recentchange"

    def wait_seconds(self, place: int) -> float:
        """Return the seconds until the message at a place is due; the first that is asked for is due now."""
        if not self.speed:
            return 0.0
        due = self.timeline.times[place] / 1000 / self.speed
        if self._clock is None:
            self._clock = time.monotonic() - due
        return self._clock + due - time.monotonic()


class Handler(BaseHTTPRequestHandler):
    """One request: a client gets its messages, in the plan's form, until the recording or the connection ends."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Respond to a request for a stream."""
        self.close_connection = True
        server, plan = self.server, self.server.plan
        number = server.served = server.served + 1
        refusal = next((refusal for refusal in plan.refuse if number in refusal.connections), None)
        with contextlib.suppress(OSError):  # the client went away
            try:
                last_id = self.headers.get("Last-Event-ID", "")
                assignments = parse_request(self.path, last_id, server.timeline, server.head)
            except ValueError as error:
                return self._refuse(*error.args)
            if refusal is not None:
                self._refuse(refusal.status, "As in the fault plan.", refusal.retry_after)
            elif number not in plan.empty and all(it.start == len(server.timeline) for it in assignments):
                self._send_head(204, {})
            else:
                self._send_stream(number, assignments)

    def _refuse(self, status: int, message: str, retry_after: float | None = None) -> None:
        body = json.dumps({"status": status, "detail": message}).encode() + b"\n"
        headers = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
        if retry_after is not None:
            headers["Retry-After"] = f"{retry_after:g}"
        self._send_head(status, headers)
        self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Cache-Control": "private, no-store", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a replay in a notebook must not print."""

    def _send_stream(self, number: int, assignments: list[Assignment]) -> None:
        """Send what there is, and end the body as HTTP requires, unless a fault closes the connection before."""
        plan, self.buffer, self.gzip = self.server.plan, bytearray(), None
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        if plan.gzip and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.gzip = zlib.compressobj(wbits=31)
            headers["Content-Encoding"] = "gzip"
        self._send_head(200, headers)
        self._write(b":ok\n\n")
        is_over = number in plan.empty
        if not is_over and self._send_messages(assignments):
            self._write(b"event: end\ndata: the recording is over\n\n")
            is_over = True
        self._flush(zlib.Z_FINISH if is_over else zlib.Z_SYNC_FLUSH)
        if is_over:
            self.wfile.write(b"0\r\n\r\n")

    def _send_messages(self, assignments: list[Assignment]) -> bool:
        """Send the messages; return whether all were sent."""
        server, timeline = self.server, self.server.timeline
        starts = [assignment.start for assignment in assignments]
        entries = [_id_entry(assignment.name, assignment.state) for assignment in assignments]
        for place in range(min(starts), len(timeline)):
            topic = timeline.topic_of[place]
            if place < starts[topic]:
                continue
            if (seconds := server.wait_seconds(place)) > 0:
                self._flush()
                server.closed.wait(seconds)
            entries[topic] = _id_entry(assignments[topic].name, f'"timestamp":{timeline.times[place] + 1}')
            message = _message(",".join(entries), timeline.text(place))
            closes = self._send_with_faults(message, timeline.faults.pop(place, frozenset()), place)
            if closes or server.closed.is_set():
                return False
            server.head = max(server.head, place + 1)
        return True

    def _send_with_faults(self, message: bytes, here: frozenset[str], place: int) -> bool:
        """Send one message with its faults; return whether to close the connection."""
        server, plan = self.server, self.server.plan
        if "stalls" in here:
            self._flush()
            server.closed.wait(plan.stalls.seconds)
        is_cut = "cuts" in here and plan.cuts.where == "middle"
        self._write(message[: len(message) // 2] if is_cut else message)
        if "gaps" in here and not is_cut:
            server.head = max(server.head, place + 1 + plan.gaps.events)
        return bool(here & {"cuts", "gaps"})

    def _write(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) >= BLOCK_BYTES:
            self._flush()

    def _flush(self, mode: int = zlib.Z_SYNC_FLUSH) -> None:
        """Send what was written, as one HTTP chunk."""
        data, self.buffer = bytes(self.buffer), bytearray()
        if self.gzip is not None:
            data = self.gzip.compress(data) + self.gzip.flush(mode)
        if data:  # an empty chunk would end the body
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


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


def _message(id_: str, text: bytes) -> bytes:
    """Return one event; a carriage return in its text would end the line, so each part is a line of its own."""
    data = b"\ndata: ".join(text.splitlines())
    return b"event: message\nid: [%b]\ndata: %b\n\n" % (id_.encode(), data)


def _id_entry(topic: str, state: str) -> str:
    """Return a topic's part of an id."""
    return f'{{"topic":{json.dumps(topic)},"partition":0,{state}}}'


def serve(path: Path, speed: float = 0.0) -> Server:
    """Return a server of a recording, just as it is; see `Server`."""
    return Server(recording.lines(path), speed=speed)


def serve_source(source: Source) -> Server | SimpleNamespace:
    """Return where to read: the stream, or a server on this machine that replays the recording until it is closed.

    The default day is replayed with hourly canaries, any other recording just as it is.
    """
    if source.recording is None:
        return SimpleNamespace(url=source.stream_url, close=lambda: None)  # a server that is not ours
    is_default = source.recording.resolve() == sample_day.PATH.resolve()
    return Server(recording.lines(source.recording), Plan(canary_seconds=3600 if is_default else 0))
