"""Synthetic events, and a server with scripted answers."""

import contextlib
import json
import socketserver
import subprocess
import sys

from lib import events, paths
from lib.replay import faults
from lib.stream.relay import BackgroundServer

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
    """Return the events 0 to count - 1."""
    return [event(number, **fields) for number in range(count)]


def truth(plan, lines):
    """Return what is on a stream: its events' ids, its invalid texts, the numbers of canaries and of duplicates."""
    ids, invalid, canaries, duplicates = [], [], 0, 0
    for record in faults.stream(lines, plan):
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
    line = [sys.executable, "-m", "lib.replay", recording, "--port", "0", *options]
    with subprocess.Popen(map(str, line), cwd=paths.ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


def message(number, *, raw=None, id_=None):
    """Return an event as the stream sends it."""
    position = {"topic": ID.format("eqiad"), "partition": 0, "timestamp": START + 1000 * number + 1}
    id_ = json.dumps([position]) if id_ is None else id_
    return b"event: message\nid: " + id_.encode() + b"\ndata: " + (raw or event(number)) + b"\n\n"


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n:ok\n\n"
END = b"event: end\ndata: over\n\n"


def status(code, *headers, body=b""):
    """Return a whole answer that is no stream."""
    lines = [f"HTTP/1.1 {code} Status", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Script(BackgroundServer):
    """A server whose n-th connection is answered by the n-th part, and every later one by the last.

    A part is bytes, or a function of the connection. Before it, the request is read; afterwards the connection closes.
    """

    def __init__(self, *parts):
        self.parts, self.heads = parts, []
        super().__init__("127.0.0.1", 0, Answer)
        self.url = f"http://{self.address}/v2/stream/recentchange"


class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        script, head = self.server, b""
        with contextlib.suppress(OSError):
            while b"\r\n\r\n" not in head and (part := self.request.recv(65536)):
                head += part
            script.heads.append(head.decode())
            part = script.parts[min(len(script.heads), len(script.parts)) - 1]
            if callable(part):
                part(script, self.request)
            else:
                self.request.sendall(part)


def silence(*parts):
    """Send something, then nothing, and keep the connection."""

    def answer(script, client):
        client.sendall(b"".join(parts))
        script.closed.wait(30)

    return answer
