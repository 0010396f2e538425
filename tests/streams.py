"""Made-up events, and a server that does exactly what a test tells it to."""

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading

from lib import events, paths
from lib.replay import faults

START = 1_442_016_000_000
ID = "{}.mediawiki.recentchange"


def event(number, *, centre="eqiad", at=None, **fields):
    """Return a small event; number n happens n seconds after START. A field that is ``...`` is missing."""
    meta = {
        "id": f"id-{number}",
        "dt": events.iso(START + 1000 * number if at is None else at),
        "domain": "en.wikipedia.org",
        "stream": "mediawiki.recentchange",
        "topic": ID.format(centre),
        "partition": 0,
    }
    content = {
        "$schema": "/mediawiki/recentchange/1.0.0",
        "meta": meta | fields.pop("meta", {}),
        "type": "edit",
        "wiki": "enwiki",
        "user": f"User {number % 7}",
        "comment": "a\u2028b\u0085c, é 🤖",
        **fields,
    }
    present = {key: value for key, value in content.items() if value is not ...}
    return json.dumps(present, ensure_ascii=False).encode()


def make_events(count, **fields):
    """Events 0 to count - 1."""
    return [event(number, **fields) for number in range(count)]


def truth(plan, lines):
    """Return what is on a stream: its events' ids, its invalid texts, the numbers of canaries and of duplicates."""
    ids, invalid, canaries, duplicates = [], [], 0, 0
    for record in faults.with_faults(plan, faults.records(lines)):
        try:
            event = events.decode(record.raw)
            if event.is_canary:
                canaries += 1
            elif event.meta.id in ids:
                duplicates += 1
            else:
                ids.append(event.meta.id)
        except events.InvalidEvent:
            invalid.append(record.raw.decode(errors="backslashreplace"))
    return ids, invalid, canaries, duplicates


@contextlib.contextmanager
def command(recording, *options):
    """Serve a recording with ``python -m lib.replay``; the value is the stream's URL."""
    line = [sys.executable, "-m", "lib.replay", recording, "--port", "0", "--canaries", "0", *options]
    with subprocess.Popen(map(str, line), cwd=paths.ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


def message(number, *, raw=None, id_=None):
    """An event as the stream sends it."""
    if id_ is None:
        id_ = json.dumps(
            [{"topic": ID.format("eqiad"), "partition": 0, "timestamp": START + 1000 * number + 1}]
        )
    return b"event: message\nid: " + id_.encode() + b"\ndata: " + (raw or event(number)) + b"\n\n"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n:ok\n\n"
END = b"event: end\ndata: over\n\n"


def status(code, *headers, body=b""):
    """A whole answer that is no stream."""
    lines = [f"HTTP/1.1 {code} Status", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Script:
    """A server whose n-th connection is answered by the n-th part, and every later one by the last.

    A part is bytes, or a function of the connection. Before it, the request is read; afterwards the connection closes.
    """

    def __init__(self, *parts):
        self.parts = parts
        self.heads = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v2/stream/recentchange"
        self.over = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client):
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head and (part := client.recv(65536)):
                head += part
            self.heads.append(head.decode())
            part = self.parts[min(len(self.heads), len(self.parts)) - 1]
            if callable(part):
                part(self, client)
            else:
                client.sendall(part)


def silence(*parts):
    """Send something, then nothing, and keep the connection."""

    def answer(script, client):
        client.sendall(b"".join(parts))
        script.over.wait(30)

    return answer


def reset(*parts):
    """Send something, then break the connection as a crashed machine does."""

    def answer(_, client):
        client.sendall(b"".join(parts))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer
