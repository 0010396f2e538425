"""The relay: a recording as JSON lines over TCP, for Spark's socket source or for ``nc``.

Every client gets the recording from its first line, however late it comes. The relay reads from the files, so a
slow client keeps nobody waiting and fills no memory. A recording that is still growing is followed.

TCP cannot tell "over" from "broken", so control lines say it. They are JSON objects with the single key ``$relay``::

    {"$relay": {"alive": true}}                  every second while nothing else is sent
    {"$relay": {"end": true, "events": 23704}}   the recording is over; the relay then closes

A connection that closes without the end line is broken. An event whose text begins like a control line is sent
with a blank before it: the same JSON, and no control line.

``python -m lib.stream.relay data/01_stream --port 9999`` serves a recording by hand.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from lib import artifacts, paths
from lib.stream import recording

CONTROL = b'{"$relay"'
ALIVE_SECONDS = 1.0
POLL_SECONDS = 0.1
BLOCK_LINES = 256


class RelayBroken(ConnectionError):
    """The relay's connection closed before its end line, so lines are missing."""


def end_line(events: int) -> bytes:
    """The line that says that a recording is over.

    Examples
    --------
    >>> end_line(3)
    b'{"$relay": {"end": true, "events": 3}}'
    """
    return json.dumps({"$relay": {"end": True, "events": events}}).encode()


ALIVE = json.dumps({"$relay": {"alive": True}}).encode()


class Relay:
    """A TCP server over one recording.

    Parameters
    ----------
    source : Path
        A folder of segments as 01_stream writes it, or a file of JSON lines.
    host : str, default "127.0.0.1"
        Address to listen on; loopback unless said otherwise, for there is no password.
    port : int, default 0
        Port to listen on; 0 takes a free one.
    follow : bool, default False
        Whether the recording may still be growing. Then the end line waits for `finish` or for the recording's
        manifest, which 01_stream writes last.

    Raises
    ------
    OSError
        If the address cannot be had, with one sentence that says what to do.
    RecordingError
        If there is no recording, unless it is still to come (`follow`).

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> recording.write_segment(folder / recording.segment_name(1), [b'{"n": 1}', b'{"n": 2}'])
    >>> with Relay(folder) as relay:
    ...     list(read(relay.host, relay.port))
    [b'{"n": 1}', b'{"n": 2}']
    """

    def __init__(self, source: Path, host: str = "127.0.0.1", port: int = 0, *, follow: bool = False) -> None:
        if not follow:
            recording.files(source)  # says what is wrong before anybody connects
        self.source = source
        self.follow = follow
        self._over = threading.Event()
        self._closed = threading.Event()
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = _listen(host, port)
        self.host, self.port = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    @property
    def address(self) -> str:
        """``host:port``, as the parameter SOCKET takes it."""
        return f"{self.host}:{self.port}"

    def finish(self) -> None:
        """Say that a followed recording grows no more: clients get what is left, then the end line."""
        self._over.set()

    def drain(self, seconds: float) -> int:
        """Wait until no client is left, at most so many seconds; return how many still are."""
        end = time.monotonic() + seconds
        while (left := len(self._clients)) and time.monotonic() < end:
            self._closed.wait(POLL_SECONDS)
        return left

    def close(self) -> None:
        """Stop listening and hang up on everybody; clients that were not through see a broken connection."""
        self._closed.set()
        _hang_up(self._listener)
        with self._lock:
            for client in self._clients:
                _hang_up(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._clients.add(client)
            threading.Thread(target=self._serve, args=(client,), name="relay client", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            events = 0
            for block in self._blocks():
                if block is None:
                    client.sendall(ALIVE + b"\n")
                    continue
                client.sendall(b"".join(block))
                events += len(block)
            if not self._closed.is_set():
                client.sendall(end_line(events) + b"\n")
        except (OSError, recording.RecordingError):
            pass  # the client went away, or the recording is damaged: no end line, so the client knows
        finally:
            with self._lock:
                self._clients.discard(client)
            _hang_up(client)

    def _blocks(self) -> Iterator[list[bytes] | None]:
        """Blocks of lines from the first file on; None once a second while there is nothing to send."""
        done: set[Path] = set()
        alive = time.monotonic()
        while not self._closed.is_set():
            last_look = not self.follow or self._over.is_set() or self._is_finished()
            fresh = [path for path in self._files() if path not in done]
            for path in fresh:
                yield from _blocks_of(path)
                done.add(path)
                alive = time.monotonic()
            if fresh:
                continue
            if last_look:
                return
            if time.monotonic() - alive >= ALIVE_SECONDS:
                yield None
                alive = time.monotonic()
            self._closed.wait(POLL_SECONDS)

    def _files(self) -> list[Path]:
        if self.follow and self.source.is_dir():
            return recording.segments(self.source)
        return recording.files(self.source)

    def _is_finished(self) -> bool:
        return (self.source / artifacts.NAME).exists()


def _blocks_of(path: Path) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    for line in recording.file_lines(path):
        block.append(_as_sent(line))
        if len(block) == BLOCK_LINES:
            yield block
            block = []
    if block:
        yield block


def _as_sent(line: bytes) -> bytes:
    """Make a line one that Spark's socket source, a Java reader, passes on as it is."""
    if b"\r" in line:  # ends a line there; JSON has it between its tokens only, where a blank says the same
        line = line.replace(b"\r", b" ")
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError:  # would become U+FFFD there, and the event a valid one
            line = line.decode("utf-8", "backslashreplace").encode()
    return (b" " if line.startswith(CONTROL) else b"") + line + b"\n"


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise OSError(
            f"The relay must be able to listen on {host}:{port}. Got: {error.strerror or error}. "
            "Choose another port, or 0 for a free one."
        ) from None


def _hang_up(client: socket.socket) -> None:
    """Close a socket, also if another thread waits on it."""
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    client.close()


def address(text: str) -> tuple[str, int]:
    """Host and port of the parameter RELAY or SOCKET; empty: a free port on loopback.

    Examples
    --------
    >>> address("0.0.0.0:9999"), address("")
    (('0.0.0.0', 9999), ('127.0.0.1', 0))
    """
    host, _, port = text.rpartition(":")
    return (host, int(port)) if text else ("127.0.0.1", 0)


def read(host: str, port: int, timeout: float = 30.0) -> Iterator[bytes]:
    """Read a relay's lines until it says that the recording is over.

    Parameters
    ----------
    host : str
        Where the relay listens.
    port : int
        Its port.
    timeout : float, default 30.0
        Seconds without a byte after which the relay counts as broken.

    Yields
    ------
    bytes
        One event, without its line end.

    Raises
    ------
    RelayBroken
        If the connection closes, falls silent, or ends with another number of events than were received.
    """
    events = 0
    with socket.create_connection((host, port), timeout=timeout) as client, client.makefile("rb") as received:
        try:
            for line in received:
                if not line.startswith(CONTROL):
                    events += 1
                    yield line.rstrip(b"\n")
                    continue
                control = json.loads(line)["$relay"]
                if control.get("end"):
                    _check_end(control["events"], events)
                    return
        except (TimeoutError, ConnectionError) as error:
            if isinstance(error, RelayBroken):
                raise
            raise _broken(host, port, events) from error
    raise _broken(host, port, events)


def _check_end(promised: int, received: int) -> None:
    if promised != received:
        raise RelayBroken(
            f"The relay must send as many events as its end line says. Got {received:,} of {promised:,}. Read again."
        )


def _broken(host: str, port: int, events: int) -> RelayBroken:
    return RelayBroken(
        f"The relay at {host}:{port} must say that the recording is over. It fell silent after {events:,} events. "
        "Start it again and read from the first line."
    )


def main(arguments: list[str] | None = None) -> int:
    """Serve a recording until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.stream.relay", description="Serve a recording as JSON lines over TCP."
    )
    add = parser.add_argument
    add("recording", type=paths.resolve, help="a folder of events-*.jsonl.gz or a file of JSON lines")
    add("--host", default="127.0.0.1", help="address to listen on (default: loopback)")
    add("--port", type=int, default=9999, help="port to listen on (default: 9999)")
    add("--follow", action="store_true", help="the recording is still growing: end with its manifest")
    options = parser.parse_args(arguments)
    try:
        with Relay(options.recording, options.host, options.port, follow=options.follow) as relay:
            print(f"{relay.address} serves {paths.show(options.recording)}; stop with Ctrl-C", flush=True)
            threading.Event().wait()
    except (OSError, recording.RecordingError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
