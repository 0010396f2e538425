"""A local EventStreams: serves a recording over HTTP as ``stream.wikimedia.org`` would.

``python -m lib.replay RECORDING --port 8888 --speed 60`` serves a recording sixty times as fast as it happened;
without ``--speed`` as fast as the client reads. ``--faults plan.yml`` lets things go wrong (`lib.replay.faults`).

What it does as Wikimedia's service does (mediawiki-services-eventstreams and KafkaSSE):

- ``/v2/stream/recentchange`` and comma-joined lists; 404 for a stream that does not exist.
- ``:ok``, then events with an ``id`` that is a JSON array: per topic the Kafka timestamp **plus one**, or
  ``"offset": -1`` for a topic that was silent on this connection.
- ``?since=`` in milliseconds or as a date, ignored when ``Last-Event-ID`` is sent; 400 for what is neither.
  Per topic Kafka's look-up: from the first message whose timestamp is not smaller.
- ``Accept: application/json``: JSON lines without ids.
- A canary event every hour and topic; every connection is cut after 15 minutes; no heartbeat.
- 403 for a User-Agent that says nothing, 429 for too many connections from one address.

What it does differently, because a recording has an end: a stream that is over says ``event: end`` before it
closes, and who asks again from there gets 204, which tells a browser's EventSource not to come back. A client
without a position starts at the recording's beginning, or, in real time, at the moment that the replay has
reached.
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
from collections import defaultdict
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from lib import paths
from lib.replay import faults
from lib.replay.faults import Plan
from lib.replay.timeline import PREFIX, BadRequest, Request, Timeline, parse_request, with_hourly_canaries
from lib.replay.wire import Body, Codec

CUT_SECONDS = 900.0
CANARY_SECONDS = 3600
BLOCK_BYTES = 1 << 16
UNKNOWN_AGENTS = ("python-requests/", "python-urllib/")


class Server(ThreadingHTTPServer):
    """The replay server; one thread per client.

    Parameters
    ----------
    lines : iterable of bytes
        The recording: one JSON text per item.
    plan : Plan, optional
        What goes wrong.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    speed : float, default 0
        Seconds of event time per second; 0 is as fast as the client reads.
    cut_seconds : float, default 900
        When a connection is cut, however well it goes; 0 never.
    canary_seconds : int, default 3600
        Event time between two canaries of a topic; 0 is none.
    connections : int, default 0
        Connections that one address may have; 0 is any number.

    Raises
    ------
    OSError
        If the address cannot be had, with one sentence that says what to do.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        lines: Iterable[bytes],
        plan: Plan | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        speed: float = 0.0,
        cut_seconds: float = CUT_SECONDS,
        canary_seconds: int = CANARY_SECONDS,
        connections: int = 0,
    ) -> None:
        self.plan = plan or Plan()
        given = faults.with_content_faults(self.plan, faults.records(lines))
        self.timeline = Timeline(with_hourly_canaries(given, canary_seconds), self.plan)
        self.speed, self.cut_seconds, self.connections = speed, cut_seconds, connections
        self.closed = threading.Event()
        #: What the last message says; under ``warning`` what a reader should know of the recording.
        self.end: dict[str, str] = {"message": "the recording is over"}
        self.head = 0
        self.served = 0  #: stream requests so far
        self._lock = threading.Lock()
        self._fired: set[tuple[int, str]] = set()
        self._active: dict[str, int] = defaultdict(int)
        self._started: tuple[float, int] | None = None
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise OSError(
                f"The replay server must be able to listen on {host}:{port}. Got: {error.strerror or error}. "
                "Choose another port, or 0 for a free one."
            ) from None

    @property
    def url(self) -> str:
        """Address of the recentchange stream."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}{PREFIX}recentchange"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), name="replay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()

    def enter(self, address: str) -> int:
        """Count a client in and return its number, from 1; raise 429 if its address has too many."""
        with self._lock:
            if self.connections and self._active[address] >= self.connections:
                raise BadRequest(429, f"Too many connections from your address: {self.connections} allowed.")
            self._active[address] += 1
            self.served += 1
            return self.served

    def leave(self, address: str) -> None:
        """Count a client out."""
        with self._lock:
            self._active[address] -= 1

    def fires(self, place: int, name: str) -> bool:
        """Whether a transport fault happens now: it does once."""
        with self._lock:
            new = (place, name) not in self._fired
            self._fired.add((place, name))
            return new

    def reached(self, place: int) -> None:
        """Note how far the stream has come: what counts as "latest"."""
        with self._lock:
            self.head = max(self.head, min(place, len(self.timeline)))

    def start_clock(self, place: int) -> None:
        """Start the replay's clock, once: it is as late as the first client's first message."""
        with self._lock:
            if self.speed and self._started is None:
                self._started = (time.monotonic(), self.timeline.due[place])

    def clock(self) -> int | None:
        """The replay's time, milliseconds since the epoch; None while it has none."""
        if self._started is None:
            return None
        started, moment = self._started
        return moment + round((time.monotonic() - started) * 1000 * self.speed)

    def newcomer(self) -> int:
        """Place where a client without a position starts."""
        now = self.clock()
        return 0 if now is None else bisect.bisect_left(self.timeline.due, now)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer a request for a stream."""
        self.close_connection = True
        agent = self.headers.get("User-Agent", "").lower()
        if not agent or agent.startswith(UNKNOWN_AGENTS):
            self._refuse(403, "Please set a User-Agent that says who you are: name/version (url; contact).")
            return
        address = self.client_address[0]
        try:
            number = self.server.enter(address)
        except BadRequest as error:
            self._refuse(error.status, str(error))
            return
        try:
            self._answer(number)
        except BadRequest as error:
            self._refuse(error.status, str(error))
        finally:
            self.server.leave(address)

    def _answer(self, number: int) -> None:
        server, plan = self.server, self.server.plan
        request = parse_request(self.path, self.headers, server.timeline, server.head, server.newcomer())
        refusal = plan.refusal(number)
        if number in plan.hang_up:
            return
        if refusal is not None:
            self._refuse(refusal.status, "As the fault plan says.", refusal.retry_after)
        elif number not in plan.empty and all(
            entry.start >= len(server.timeline) for entry in request.assignments
        ):
            self.send_response(204)
            self.end_headers()
        else:
            self._stream(request, number)

    def _refuse(self, status: int, message: str, retry_after: float | None = None) -> None:
        body = json.dumps({"status": status, "detail": message}).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, request: Request, number: int) -> None:
        server, plan = self.server, self.server.plan
        packed = plan.gzip and "gzip" in self.headers.get("Accept-Encoding", "")
        self.send_response(200)
        kind = "application/json" if request.json_lines else "text/event-stream; charset=utf-8"
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "private, no-store")
        self.send_header("Transfer-Encoding", "chunked")
        if packed:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        chance = random.Random(f"{plan.seed}:connection {number}")
        body = Body(self.wfile, plan, chance, gzip=packed)
        codec = Codec(plan, request, chance)
        if not request.json_lines:
            body.write(codec.special(":ok"))
            if plan.retry is not None:
                body.write(codec.special(f"retry: {plan.retry}"))
        if number in plan.empty or Delivery(server, request, codec, body).run():
            body.close()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a replay in a notebook must not print."""


class Delivery:
    """Sends a client its messages until the recording is over, the connection is cut or the client goes."""

    def __init__(self, server: Server, request: Request, codec: Codec, body: Body) -> None:
        self.server, self.request, self.codec, self.body = server, request, codec, body
        self.timeline = server.timeline
        self.deadline = time.monotonic() + server.cut_seconds if server.cut_seconds else float("inf")
        self.slots = {
            entry.topic: (slot, entry.start)
            for slot, entry in enumerate(request.assignments)
            if entry.topic is not None
        }

    def run(self) -> bool:
        """Send; return whether the body ends as it should (False: the connection just closes)."""
        timeline, place = self.timeline, min(start for _, start in self.slots.values())
        self.server.start_clock(place)
        while place < len(timeline):
            due = self._wait(place)
            if due is None:
                return True
            place, hang_up = self._block(place, due)
            self.server.reached(place)
            if hang_up:
                return False
        if not self.codec.json_lines:
            self.body.write(self.codec.special("event: end", f"data: {json.dumps(self.server.end)}"))
        return True

    def _wait(self, place: int) -> int | None:
        """Wait until the message at a place is due; return the place up to which all are, None for a cut."""
        while True:
            if time.monotonic() >= self.deadline or self.server.closed.is_set():
                return None
            now = self.server.clock()
            if now is None:
                return len(self.timeline)
            early = self.timeline.due[place] - now
            if early <= 0:
                return bisect.bisect_right(self.timeline.due, now, lo=place)
            self.server.closed.wait(
                max(0.0, min(early / 1000 / self.server.speed, self.deadline - time.monotonic()))
            )

    def _block(self, place: int, due: int) -> tuple[int, bool]:
        """Send messages from a place on, until a fault or a full buffer; return the next place and the hang-up."""
        timeline, slots, message = self.timeline, self.slots, self.codec.message
        topic_of, times, text, marked = timeline.topic_of, timeline.times, timeline.text, timeline.faults
        parts: list[bytes] = []
        size = 0
        while place < due and size < BLOCK_BYTES:
            slot, start = slots.get(topic_of[place], (0, due))
            if place >= start:
                part = message(slot, times[place], text(place))
                if place in marked and (here := self._fire(place)):
                    self.body.write(b"".join(parts))
                    return place + 1, self._go_wrong(here, part, place)
                parts.append(part)
                size += len(part)
            place += 1
        self.body.write(b"".join(parts))
        return place, False

    def _fire(self, place: int) -> set[str]:
        return {name for name in self.timeline.faults[place] if self.server.fires(place, name)}

    def _go_wrong(self, here: set[str], part: bytes, place: int) -> bool:
        """Send one message with its faults; return whether to hang up."""
        plan, body = self.server.plan, self.body
        if "comments" in here:
            body.write(self.codec.special(": the world is quiet"))
        if "stalls" in here:
            self.server.closed.wait(plan.stalls.seconds)
        if "cuts" in here and plan.cuts.where == "middle":
            body.write(part[: len(part) // 2])
            return True
        body.write(part)
        if "errors" in here:
            body.write(self.codec.special("event: error", 'data: {"message": "as the fault plan says"}'))
        if "gaps" in here:
            self.server.reached(place + 1 + plan.gaps.events)
        return bool(here & {"cuts", "gaps", "errors"})


class ReplayError(RuntimeError):
    """The replay server did not start; the message is what it said."""


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
    ReplayError
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
            raise ReplayError(f"The replay server did not start. It said: {errors.read().strip()}")
        return Replay(url, process)
