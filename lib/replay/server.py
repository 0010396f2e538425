"""A local EventStreams: serves a recording over HTTP as ``stream.wikimedia.org`` would.

``python -m lib.replay RECORDING --port 8888 --speed 60`` serves a recording sixty times as fast as it happened;
without ``--speed`` as fast as the client reads. ``--faults plan.yml`` makes things go wrong (`lib.replay.faults`).

What it does as Wikimedia's service does (mediawiki-services-eventstreams and KafkaSSE):

- ``/v2/stream/recentchange``; 404 for another stream.
- ``:ok``, then events with an ``id`` that is a JSON array: per topic the Kafka timestamp **plus one**, or
  ``"offset": -1`` for a topic that was silent on this connection.
- ``?since=`` in milliseconds or as an ISO 8601 date, ignored when ``Last-Event-ID`` is sent; 400 for what is neither.
  Per topic Kafka's look-up: from the first message whose timestamp is not smaller.
- No heartbeat.

What it does differently, because a recording has an end: a stream that is over sends ``event: end`` before it
closes, and a request from there gets 204, which stops a browser's EventSource from coming back. A client
without a position starts at the recording's beginning.
"""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from lib.replay import faults
from lib.replay.faults import Plan
from lib.replay.timeline import PREFIX, Assignment, Timeline, parse_request
from lib.stream import recording
from lib.stream.relay import BackgroundServer

BLOCK_BYTES = 1 << 16


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
