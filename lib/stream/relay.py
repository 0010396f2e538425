"""The relay: a recording as JSON lines over TCP, for Spark or for ``nc``.

Every client gets the recording from its first line, however late it comes. The relay reads from the files, so a
slow client keeps nobody waiting and fills no memory. A recording that is still growing is followed.

A closed TCP connection does not show whether a recording is over or the connection broke, so there are control lines:
JSON objects with the single key ``$relay``::

    {"$relay": {"alive": true}}                  every second while nothing else is sent
    {"$relay": {"end": true, "events": 23704}}   the recording is over; the relay then closes the connection

A connection that closes without the end line is broken. An event whose text begins like a control line is sent
with a space before it: the same JSON, and no control line.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lib import artifacts
from lib.stream import recording
from lib.stream.recording import StreamError

CONTROL = b'{"$relay"'
HEARTBEAT = b'{"$relay": {"alive": true}}'
HEARTBEAT_SECONDS = 1.0
BUFFER_BYTES = 1 << 16
TIMEOUT_SECONDS = 15.0  # without a byte; an idle relay sends a heartbeat every second


def end_line(events: int) -> bytes:
    """Return the line that ends a recording.

    Examples
    --------
    >>> end_line(3)
    b'{"$relay": {"end": true, "events": 3}}'
    """
    return json.dumps({"$relay": {"end": True, "events": events}}).encode()


_servers: set[BackgroundServer] = set()  # of this process


class BackgroundServer(socketserver.ThreadingTCPServer):
    """A TCP server with a thread that accepts clients and one for each of them; a context manager.

    Parameters
    ----------
    host, port : str, int
        Where to listen; port 0 takes a free one.
    handler : type
        What serves a client.

    Attributes
    ----------
    address : str
        ``host:port``.
    closed : Event
        Set when the server stops.
    """

    address: str
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.closed = threading.Event()
        for earlier in [server for server in _servers if server.address == f"{host}:{port}"]:
            earlier.close()  # the notebook's cell is run again
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            raise OSError(
                f"The address of a server must be free and of this machine. Got {host}:{port}: "
                f"{error.strerror or error}. Choose another port, or 0 for a free one."
            ) from None
        self.address = "{}:{}".format(*self.server_address[:2])
        _servers.add(self)
        threading.Thread(target=self.serve_forever, args=(0.05,), name=self.address, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        _servers.discard(self)
        self.closed.set()
        self.shutdown()
        self.server_close()

    def __exit__(self, *_: object) -> None:
        self.close()


class Relay(BackgroundServer):
    """A TCP server for one recording.

    Parameters
    ----------
    source : Path
        A folder of segments as 01_stream writes it, or a file of JSON lines.
    address : str, default ""
        ``host:port`` to listen on; port 0 takes a free one. Empty: a free port on loopback, for there is no password.
    follow : bool, default False
        Whether the recording may still be growing. Then the end line waits for the recording's manifest, which
        01_stream writes last.

    Attributes
    ----------
    address : str
        ``host:port``, as the parameter SOCKET takes it.

    Raises
    ------
    OSError
        If the address cannot be bound.
    RecordingError
        If there is no recording, unless it is still to come (`follow`).

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> recording.write_segment(folder / recording.segment_name(1), [b'{"n": 1}', b'{"n": 2}'])
    >>> with Relay(folder) as relay:
    ...     list(read_lines(relay.address))
    [b'{"n": 1}', b'{"n": 2}']
    """

    def __init__(self, source: Path, address: str = "", *, follow: bool = False) -> None:
        self.source, self.follow = source, follow
        if not follow:
            recording.files(source)  # raises before anybody connects
        self.clients: set[socket.socket] = set()
        host, _, port = (address or "127.0.0.1:0").rpartition(":")
        super().__init__(host, int(port), _Client)

    def wait_for_clients(self, seconds: float) -> int:
        """Wait until no client is left, at most so many seconds; return how many still are."""
        end = time.monotonic() + seconds
        while self.clients and time.monotonic() < end:
            time.sleep(0.1)
        return len(self.clients)

    def close(self) -> None:
        """Stop listening; clients that have not read everything get a broken connection."""
        super().close()
        for client in [*self.clients]:
            self.shutdown_request(client)  # also if its thread waits for it

    def lines(self) -> Iterator[bytes | None]:
        """Yield the lines from the first file on; None every second while there is nothing to send."""
        sent = 0
        while not self.closed.is_set():
            is_complete = not self.follow or (self.source / artifacts.NAME).exists()
            files = recording.segments(self.source) if self.source.is_dir() else [self.source]
            for path in files[sent:]:
                yield from recording.file_lines(path)
            if is_complete:
                return
            sent = len(files)
            if not self.closed.wait(HEARTBEAT_SECONDS):
                yield None


class _Client(socketserver.StreamRequestHandler):
    """One connection."""

    server: Relay
    wbufsize = BUFFER_BYTES

    def handle(self) -> None:
        relay, events = self.server, 0
        relay.clients.add(self.request)
        try:
            for line in relay.lines():
                if line is None:
                    self.wfile.write(HEARTBEAT + b"\n")
                    self.wfile.flush()
                    continue
                self.wfile.write(b"%b%b\n" % (b" " if line.startswith(CONTROL) else b"", line))
                events += 1
            if not relay.closed.is_set():
                self.wfile.write(end_line(events) + b"\n")
            self.wfile.flush()
        except (OSError, recording.RecordingError):
            pass  # the client went away, or the recording is damaged: no end line, so the client knows
        finally:
            relay.clients.discard(self.request)

    def finish(self) -> None:
        """Close the connection; what is left for a client that went away is dropped."""
        with contextlib.suppress(OSError):
            super().finish()


def read_lines(address: str) -> Iterator[bytes | None]:
    """Yield a relay's lines until its end line.

    Parameters
    ----------
    address : str
        ``host:port``.

    Yields
    ------
    bytes or None
        One event without its line end, of a line that is too long its beginning; None for a heartbeat.

    Raises
    ------
    StreamError
        If nobody listens, or the connection ends or falls silent before the end line.
    """
    host, _, port = address.rpartition(":")
    events, reason = 0, "the connection closed"
    try:
        with (
            socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as client,
            client.makefile("rb") as file,
        ):
            for line in bounded_lines(file):
                if not line.endswith(b"\n"):  # the connection broke in the middle of it
                    break
                if not line.startswith(CONTROL):
                    events += 1
                    yield line[:-1]
                elif "end" in json.loads(line)["$relay"]:
                    return
                else:
                    yield None
    except OSError as error:
        reason = error.strerror or str(error)
    raise StreamError(
        f"The relay at {address} must send all lines and its end line. Got {events:,} lines: {reason}. "
        "Start the relay (notebooks/01_stream.ipynb) and run this again, or leave SOCKET empty to read IN_DIR."
    )


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    r"""Yield a file's lines; of one that is longer than `recording.MAX_EVENT_BYTES`, its beginning and its line end.

    Examples
    --------
    >>> import io
    >>> [len(line) for line in bounded_lines(io.BytesIO(b"1\n" + bytes(10_000_000) + b"\n"))]
    [2, 65537]
    """
    while line := file.readline(recording.MAX_EVENT_BYTES):
        rest = line
        while len(rest) == recording.MAX_EVENT_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(recording.MAX_EVENT_BYTES)
        yield line if rest is line else line[: recording.KEPT_BYTES] + rest[-1:]
