"""A local EventStreams: serves a recording over HTTP as ``stream.wikimedia.org`` would.

``python -m lib.replay RECORDING --port 8888 --speed 60`` serves a recording sixty times as fast as it happened;
without ``--speed`` as fast as the client reads. ``--faults plan.yml`` makes things go wrong (`lib.replay.faults`).

What it does as Wikimedia's service does (mediawiki-services-eventstreams and KafkaSSE):

- ``/v2/stream/recentchange`` and comma-joined lists; 404 for a stream that does not exist.
- ``:ok``, then events with an ``id`` that is a JSON array: per topic the Kafka timestamp **plus one**, or
  ``"offset": -1`` for a topic that was silent on this connection.
- ``?since=`` in milliseconds or as an ISO 8601 date, ignored when ``Last-Event-ID`` is sent; 400 for what is neither.
  Per topic Kafka's look-up: from the first message whose timestamp is not smaller.
- A canary event every hour and data centre; no heartbeat.

What it does differently, because a recording has an end: a stream that is over sends ``event: end`` before it
closes, and a request from there gets 204, which stops a browser's EventSource from coming back. A client
without a position starts at the recording's beginning. What a reader should know of the recording comes as
``event: warning`` before the end.
"""

from __future__ import annotations

import bisect
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from lib import paths
from lib.replay import faults
from lib.replay.faults import Plan
from lib.replay.timeline import PREFIX, Assignment, Timeline, parse_request, with_hourly_canaries
from lib.stream.connection import StreamError

CANARY_SECONDS = 3600
BLOCK_BYTES = 1 << 16
HOST = "127.0.0.1"
LINE_ENDS = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Server(ThreadingHTTPServer):
    """The replay server; one thread per client.

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
    canary_seconds : int, default 3600
        Event time between two canaries of a topic; 0 is none.

    Raises
    ------
    OSError
        If the address cannot be had.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        lines: Iterable[bytes],
        plan: Plan | None = None,
        port: int = 0,
        *,
        speed: float = 0.0,
        canary_seconds: int = CANARY_SECONDS,
    ) -> None:
        self.plan = plan or Plan()
        records = faults.with_content_faults(self.plan, faults.records(lines))
        self.timeline = Timeline(with_hourly_canaries(records, canary_seconds), self.plan)
        self.speed = speed
        self.closed = threading.Event()
        self.warning = ""  #: what a reader should know of the recording
        self.head = 0  #: place up to which the stream was sent: what counts as "latest"
        self.served = 0  #: stream requests so far
        self.lock = threading.Lock()
        self.happened: set[tuple[int, str]] = set()  #: transport faults: each happens once
        self._clock: float | None = None  #: monotonic time at which event time 0 would have been due
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise OSError(
                f"The replay server must be able to listen on {HOST}:{port}. Got: {error.strerror or error}. "
                "Choose another port, or 0 for a free one."
            ) from None

    @property
    def url(self) -> str:
        """Address of the recentchange stream."""
        return f"http://{HOST}:{self.server_address[1]}{PREFIX}recentchange"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="replay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()

    def start_clock(self, place: int) -> None:
        """Start real time, once: the message at a place is due now, the others before or after it."""
        with self.lock:
            if self._clock is None:
                self._clock = time.monotonic() - self.timeline.due[place] / 1000 / self.speed

    def wait_until_due(self, place: int) -> int:
        """Wait until the message at a place is due; return the place up to which all are."""
        if not self.speed:
            return len(self.timeline)
        self.start_clock(place)
        assert self._clock is not None
        self.closed.wait(
            max(0.0, self._clock + self.timeline.due[place] / 1000 / self.speed - time.monotonic())
        )
        now = (time.monotonic() - self._clock) * self.speed * 1000
        return max(place + 1, bisect.bisect_right(self.timeline.due, now))

    def set_head(self, place: int) -> None:
        """Move the head forward."""
        with self.lock:
            self.head = max(self.head, min(place, len(self.timeline)))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report nothing about clients that go away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Respond to a request for a stream."""
        self.close_connection = True
        server = self.server
        with server.lock:
            server.served += 1
            number = server.served
        try:
            last_id = self.headers.get("Last-Event-ID", "")
            assignments = parse_request(self.path, last_id, server.timeline, server.head)
        except ValueError as error:
            self._refuse(*error.args)
        else:
            self._respond(number, assignments)

    def _respond(self, number: int, assignments: list[Assignment]) -> None:
        plan = self.server.plan
        refusal = next((refusal for refusal in plan.refuse if number in refusal.connections), None)
        if number in plan.hang_up:
            return
        if refusal is not None:
            self._refuse(refusal.status, "As the fault plan says.", refusal.retry_after)
        elif number not in plan.empty and all(it.start == len(self.server.timeline) for it in assignments):
            self.send_response(204)
            self.end_headers()
        else:
            packed = plan.gzip and "gzip" in self.headers.get("Accept-Encoding", "")
            headers = {"Transfer-Encoding": "chunked", **({"Content-Encoding": "gzip"} if packed else {})}
            self._send_head(200, {"Content-Type": "text/event-stream; charset=utf-8", **headers})
            sender = EventSender(self.server, assignments, self.wfile, number, packed=packed)
            if sender.run(is_empty=number in plan.empty):
                sender.end()

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


class EventSender:
    """Sends a client its messages, in the plan's form, until the recording is over or the connection ends."""

    def __init__(
        self,
        server: Server,
        assignments: list[Assignment],
        file: Any,
        number: int,
        *,
        packed: bool,
    ) -> None:
        self.server, self.plan, self.timeline = server, server.plan, server.timeline
        self.file = file
        self.random = random.Random(f"{self.plan.seed}:connection {number}")
        self.gzip = zlib.compressobj(6, zlib.DEFLATED, 31) if packed else None
        self.heads = [f'{{"topic":{json.dumps(entry.name)},"partition":0,' for entry in assignments]
        self.entries = [f"{head}{entry.state}}}" for head, entry in zip(self.heads, assignments, strict=True)]
        self.order = [*range(len(assignments))]
        if self.plan.id_order == "reversed":
            self.order.reverse()
        self.line_end = LINE_ENDS[self.plan.line_end]
        self.starts = {entry.topic: (slot, entry.start) for slot, entry in enumerate(assignments)}

    def run(self, *, is_empty: bool) -> bool:
        """Send what there is; return whether the body ends as it should (False: the connection just closes)."""
        self._special(":ok")
        if self.plan.retry is not None:
            self._special(f"retry: {self.plan.retry}")
        if is_empty:
            return True
        place = min(start for _, start in self.starts.values())
        while place < len(self.timeline):
            place, closes = self._send_block(place, self.server.wait_until_due(place))
            self.server.set_head(place)
            if closes or self.server.closed.is_set():
                return False
        if self.server.warning:
            self._special("event: warning", f"data: {self.server.warning}")
        self._special("event: end", "data: the recording is over")
        return True

    def end(self) -> None:
        """End the body as HTTP requires."""
        if self.gzip and (rest := self.gzip.flush()):
            self.file.write(b"%x\r\n%b\r\n" % (len(rest), rest))
        self.file.write(b"0\r\n\r\n")

    def _send_block(self, place: int, due: int) -> tuple[int, bool]:
        """Send messages from a place on, until a fault or a full buffer; return the next place and whether to close."""
        timeline, starts = self.timeline, self.starts
        parts: list[bytes] = []
        size = 0
        while place < due and size < BLOCK_BYTES:
            slot, start = starts.get(timeline.topic_of[place], (0, due))
            if place >= start:
                part = self._message(slot, timeline.times[place], timeline.text(place))
                if place in timeline.faults and (here := self._faults(place)):
                    self._write(b"".join(parts))
                    return place + 1, self._apply_faults(here, part, place)
                parts.append(part)
                size += len(part)
            place += 1
        self._write(b"".join(parts))
        return place, False

    def _faults(self, place: int) -> set[str]:
        """Return the faults that happen now: each does once."""
        with self.server.lock:
            new = {name for name in self.timeline.faults[place] if (place, name) not in self.server.happened}
            self.server.happened |= {(place, name) for name in new}
        return new

    def _apply_faults(self, here: set[str], part: bytes, place: int) -> bool:
        """Send one message with its faults; return whether to close the connection."""
        if "comments" in here:
            self._special(": the world is quiet")
        if "stalls" in here:
            self.server.closed.wait(self.plan.stalls.seconds)
        if "cuts" in here and self.plan.cuts.where == "middle":
            self._write(part[: len(part) // 2])
            return True
        self._write(part)
        if "errors" in here:
            self._special("event: error", 'data: {"message": "as the fault plan says"}')
        if "gaps" in here:
            self.server.set_head(place + 1 + self.plan.gaps.events)
        return bool(here & {"cuts", "gaps", "errors"})

    def _message(self, slot: int, moment: int, text: bytes) -> bytes:
        """Return one event: `slot` is the place of its topic in the id, `moment` Kafka's timestamp."""
        moment = moment // 1000 if self.plan.id_unit == "seconds" else moment
        self.entries[slot] = f'{self.heads[slot]}"timestamp":{moment + 1}}}'
        if self.plan.id_order == "shuffled":
            self.random.shuffle(self.order)
        id_ = ("[" + ",".join([self.entries[place] for place in self.order]) + "]").encode()
        if self.plan.multiline:  # a line end may stand where JSON has a space between two members
            text = text.replace(b', "', b',\n"')
        if b"\r" in text:  # would end the line, and what follows would be read as another field
            text = text.replace(b"\r", b"\n")
        lines = [b"event: message", b"id: " + id_, b"data: " + text, b"", b""]
        if b"\n" in text:
            lines[2:3] = [b"data: " + line for line in text.split(b"\n")]
        return self.line_end.join(lines)

    def _special(self, *lines: str) -> None:
        """Send lines that are no event of the recording."""
        self._write(self.line_end.join([*(line.encode() for line in lines), b"", b""]))

    def _write(self, data: bytes) -> None:
        if self.gzip:
            data = self.gzip.compress(data) + self.gzip.flush(zlib.Z_SYNC_FLUSH)
        self.file.write(b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in self._chunks(data)))

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        chunk = self.plan.chunk or max(len(data), 1)
        smallest, largest = chunk if isinstance(chunk, tuple) else (chunk, chunk)
        place = 0
        while place < len(data):
            size = self.random.randint(smallest, largest)
            yield data[place : place + size]
            place += size


class Replay:
    """Where a stream can be read: its address, and the process of the local server if there is one.

    Parameters
    ----------
    url : str
        Address of the recentchange stream.
    process : Popen, optional
        The server's; it ends when its standard input closes, so also with this process.
    """

    def __init__(self, url: str, process: subprocess.Popen[str] | None = None) -> None:
        self.url, self.process = url, process

    def close(self) -> None:
        """Stop the server."""
        if self.process is not None:
            self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(source: Path, *arguments: str) -> Replay:
    """Serve a recording from a process of its own.

    Parameters
    ----------
    source : Path
        The recording.
    *arguments : str
        More of the command line, such as ``"--speed", "60"``.

    Raises
    ------
    StreamError
        If the server did not start.
    """
    command = [sys.executable, "-m", "lib.replay", str(source), "--port", "0", "--while-stdin", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=paths.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url.startswith("http"):
            process.communicate()
            errors.seek(0)
            raise StreamError(f"The replay server must start. Got: {errors.read().strip()}")
        return Replay(url, process)
