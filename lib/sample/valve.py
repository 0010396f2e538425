"""The valve: one connection to a relay, watched and held back, on the way into Spark's socket source.

Spark's socket source takes in whatever comes, into the memory of its JVM, and looks each line of a batch up by walking
a linked list from its head: the time grows with the square of the batch. A recording of half a million events filled a
heap of 1 GB, and the query stood still without an error. Nor does it tell when its connection is lost.

So the lines pass through here. The valve lets only so many be under way, which holds the relay back by TCP's own means,
and it sees what Spark hides: nobody there, a connection cut, silence.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from typing import Any, Self

from lib.stream import relay

WINDOW_LINES = 10_000  # a batch of so many takes Spark longer to compute than to walk through
WINDOW_BYTES = 64 << 20
_BLOCK = 1 << 16


class RelayLost(ConnectionError):
    """The relay did not answer, or was lost before it said that it is over."""


def word(line: bytes) -> dict[str, Any]:
    """Return what a control line says; nothing for any other line, and for one that was cut off.

    Examples
    --------
    >>> word(relay.end_line(3)), word(relay.end_line(3)[:-4]), word(b'{"type": "edit"}')
    ({'end': True, 'events': 3}, {}, {})
    """
    if line.startswith(relay.CONTROL):
        with contextlib.suppress(ValueError):
            said = json.loads(line)["$relay"]
            return said if isinstance(said, dict) else {}
    return {}


class Valve:
    """A port on loopback that gives one client the lines of a relay, as fast as the client gets them done.

    It is open for the length of a ``with`` block.

    Parameters
    ----------
    host : str
        Where the relay listens.
    port : int
        Its port.
    patience : float
        Seconds of silence after which the relay counts as lost; an idle relay says every second that it is alive.
    most_lines : int, default 10,000
        Lines that may be under way: passed on and not yet reported as done.
    most_bytes : int, default 64 MiB
        The same in bytes.

    Attributes
    ----------
    host, port : str, int
        Where the client connects.
    lost : str or None
        Why the relay was lost; None as long as it was not.

    Raises
    ------
    RelayLost
        When nobody answers.
    """

    def __init__(
        self,
        host: str,
        port: int,
        patience: float,
        most_lines: int = WINDOW_LINES,
        most_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.lost: str | None = None
        self._patience = patience
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._blocks: deque[tuple[int, int]] = deque()  # last line and bytes of each block under way
        self._bytes = self._lines = self._done = 0
        self._room = threading.Condition()
        self._closed = False
        self._of = host, port

    def __enter__(self) -> Self:
        try:
            self._relay = socket.create_connection(self._of, timeout=self._patience)
        except OSError as error:
            raise RelayLost(error.strerror or str(error)) from None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._server.getsockname()
        self._thread = threading.Thread(target=self._run, name="valve", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._closed = True
            self._room.notify()
        for end in (self._relay, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._thread.join()

    def done(self, lines: int) -> None:
        """Report how many lines, from the first on, the client is done with."""
        with self._room:
            self._done = lines
            while self._blocks and self._blocks[0][0] <= lines:
                self._bytes -= self._blocks.popleft()[1]
            self._room.notify()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the client went away, or the valve was closed
            client, _ = self._server.accept()
            with client:
                self._pass_on(client)
                client.shutdown(socket.SHUT_WR)

    def _pass_on(self, client: socket.socket) -> None:
        tail = b""
        while block := self._receive():
            self._count(block)
            client.sendall(block)
            tail = (tail + block)[-_BLOCK:]
            self._wait_for_room()
        if self.lost is None and not word(tail.rstrip(b"\n").rpartition(b"\n")[2]).get("end"):
            self.lost = "its connection closed before its end line"

    def _receive(self) -> bytes:
        """Return what comes next; nothing when the relay hung up or was lost."""
        try:
            return self._relay.recv(_BLOCK)
        except TimeoutError:
            self.lost = f"it sent nothing for {self._patience:g} seconds, neither events nor its end"
        except OSError as error:
            self.lost = error.strerror or str(error)
        return b""

    def _count(self, block: bytes) -> None:
        with self._room:
            self._lines += block.count(b"\n")
            self._bytes += len(block)
            self._blocks.append((self._lines, len(block)))

    def _wait_for_room(self) -> None:
        with self._room:
            self._room.wait_for(lambda: self._closed or self._has_room())

    def _has_room(self) -> bool:
        return self._lines - self._done < self._most_lines and self._bytes < self._most_bytes
