"""A local EventStreams: serves a recording over HTTP as ``stream.wikimedia.org`` would.

``python -m lib.replay RECORDING --port 8888 --speed 60`` serves a recording sixty times as fast as it happened;
without ``--speed`` as fast as the client reads. ``--faults plan.yml`` makes things go wrong (`lib.replay.faults`).

What it does as Wikimedia's service does (mediawiki-services-eventstreams and KafkaSSE):

- ``/v2/stream/recentchange``; 404 for another stream.
- ``:ok``, then events with an ``id`` that is a JSON array: per topic the Kafka timestamp **plus one**, or
  ``"offset": -1`` for a topic that was silent on this connection.
- ``?since=`` in milliseconds or as an ISO 8601 date, ignored when ``Last-Event-ID`` is sent; 400 for what is neither.
  Per topic Kafka's look-up: from the first message whose timestamp is not smaller.
- A canary event every hour and data centre, if asked for; no heartbeat.

What it does differently, because a recording has an end: a stream that is over sends ``event: end`` before it
closes, and a request from there gets 204, which stops a browser's EventSource from coming back. A client
without a position starts at the recording's beginning.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
import zlib
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from lib.replay import faults
from lib.replay.faults import Plan
from lib.replay.timeline import PREFIX, Assignment, Timeline, parse_request, with_canaries
from lib.stream import recording
from lib.stream.relay import BackgroundServer

BLOCK_BYTES = 1 << 16
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


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
    canary_seconds : int, default 0
        Event time between two canaries of a topic; 0 is none.

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
        self,
        lines: Iterable[bytes],
        plan: Plan = faults.NO_FAULTS,
        port: int = 0,
        *,
        speed: float = 0.0,
        canary_seconds: int = 0,
    ) -> None:
        self.plan, self.speed = plan, speed
        records = faults.with_faults(plan, faults.records(lines))
        self.timeline = Timeline(with_canaries(records, canary_seconds))
        self.head = self.served = 0
        self._clock: float | None = None  #: monotonic time at which event time 0 would have been due
        super().__init__("127.0.0.1", port, Handler)
        self.url = f"http://{self.address}{PREFIX}recentchange"

    def wait_seconds(self, place: int) -> float:
        """Return the seconds until the message at a place is due; the first that is asked for is due now."""
        if not self.speed:
            return 0.0
        due = self.timeline.due[place] / 1000 / self.speed
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
            if number in plan.hang_up:
                return
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
        plan = self.server.plan
        self.random = random.Random(f"{plan.seed}:connection {number}")
        self.line_end, self.buffer = LINE_ENDS[plan.line_end], bytearray()
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        self.gzip = None
        if plan.gzip and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.gzip = zlib.compressobj(wbits=31)
            headers["Content-Encoding"] = "gzip"
        self._send_head(200, headers)
        self._special(":ok")
        if plan.retry is not None:
            self._special(f"retry: {plan.retry}")
        is_over = number in plan.empty
        if not is_over and self._send_messages(assignments):
            self._special("event: end", "data: the recording is over")
            is_over = True
        self._flush(zlib.Z_FINISH if is_over else zlib.Z_SYNC_FLUSH)
        if is_over:
            self.wfile.write(b"0\r\n\r\n")

    def _send_messages(self, assignments: list[Assignment]) -> bool:
        """Send the messages; return whether all were sent."""
        server, timeline = self.server, self.server.timeline
        starts = [assignment.start for assignment in assignments]
        entries = [_id_entry(assignment.name, assignment.state) for assignment in assignments]
        order = [*range(len(entries))]
        if server.plan.id_order == "reversed":
            order.reverse()
        for place in range(min(starts), len(timeline)):
            topic = timeline.topic_of[place]
            if place < starts[topic]:
                continue
            if (seconds := server.wait_seconds(place)) > 0:
                self._flush()
                server.closed.wait(seconds)
            moment = timeline.times[place] // (1000 if server.plan.id_unit == "seconds" else 1)
            entries[topic] = _id_entry(assignments[topic].name, f'"timestamp":{moment + 1}')
            if server.plan.id_order == "shuffled":
                self.random.shuffle(order)
            message = self._message(",".join([entries[topic] for topic in order]), timeline.text(place))
            closes = self._send_with_faults(message, timeline.faults.pop(place, frozenset()), place)
            if closes or server.closed.is_set():
                return False
            server.head = max(server.head, place + 1)
        return True

    def _send_with_faults(self, message: bytes, here: frozenset[str], place: int) -> bool:
        """Send one message with its faults; return whether to close the connection."""
        server, plan = self.server, self.server.plan
        if "comments" in here:
            self._special(": the world is quiet")
        if "stalls" in here:
            self._flush()
            server.closed.wait(plan.stalls.seconds)
        is_cut = "cuts" in here and plan.cuts.where == "middle"
        self._write(message[: len(message) // 2] if is_cut else message)
        if "errors" in here and not is_cut:
            self._special("event: error", 'data: {"message": "as in the fault plan"}')
        if "gaps" in here and not is_cut:
            server.head = max(server.head, place + 1 + plan.gaps.events)
        return bool(here & {"cuts", "gaps", "errors"})

    def _message(self, id_: str, text: bytes) -> bytes:
        """Return one event."""
        if self.server.plan.multiline:  # a line end may stand where JSON has a space between two members
            text = text.replace(b', "', b',\n"')
        text = text.replace(
            b"\r", b"\n"
        )  # it would end the line, and what follows would be read as another field
        lines = [
            b"event: message",
            f"id: [{id_}]".encode(),
            *(b"data: " + line for line in text.split(b"\n")),
            b"",
            b"",
        ]
        return self.line_end.join(lines)

    def _special(self, *lines: str) -> None:
        """Send lines that are no event of the recording."""
        self._write(self.line_end.join([*(line.encode() for line in lines), b"", b""]))

    def _write(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) >= BLOCK_BYTES:
            self._flush()

    def _flush(self, mode: int = zlib.Z_SYNC_FLUSH) -> None:
        """Send what was written, in HTTP chunks of the size in the plan."""
        data, self.buffer = bytes(self.buffer), bytearray()
        if self.gzip is not None:
            data = self.gzip.compress(data) + self.gzip.flush(mode)
        chunk = self.server.plan.chunk or len(data)
        smallest, largest = chunk if isinstance(chunk, tuple) else (chunk, chunk)
        parts: list[bytes] = []
        rest = memoryview(data)
        while rest:
            part = rest[: self.random.randint(smallest, largest)].tobytes()
            parts.append(b"%x\r\n%b\r\n" % (len(part), part))
            rest = rest[len(part) :]
        self.wfile.write(b"".join(parts))


def _id_entry(topic: str, state: str) -> str:
    """Return a topic's part of an id."""
    return f'{{"topic":{json.dumps(topic)},"partition":0,{state}}}'


def serve(path: Path, speed: float = 0.0) -> Server:
    """Return a server of a recording, just as it is; see `Server`."""
    return Server(recording.lines(path), speed=speed)
