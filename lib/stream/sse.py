"""Server-Sent Events: one HTTP connection, read in a thread, and its bytes as messages, wherever they were cut.

The rules are those of the HTML standard (section 9.2.6, "Interpreting an event stream"): lines end with CR LF, LF
or CR and nothing else; a blank line ends a message; several ``data:`` lines are joined by line feeds; a line
that begins with a colon is a comment; a message that the connection's end cuts off is dropped.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests
from sseclient import SSEClient
from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from lib.stream import recording
from lib.stream.recording import StreamError

LIVE_URL = "https://stream.wikimedia.org/v2/stream/recentchange"
CONTACT = "WIKISIEVE_CONTACT"
CONNECT_TIMEOUT_SECONDS = 10.0
CHUNK_BYTES = 1 << 16
#: What to do about a response that is no stream, by its status.
HINTS = {
    200: f"It is a web page. The address of an event stream is for example {LIVE_URL}.",
    400: "Check SINCE, or choose another OUT_DIR: one without a saved position.",
    403: f"Set {CONTACT} to your contact; wait if you were blocked.",
}


class Message(NamedTuple):
    """One message of a stream."""

    data: bytes
    id: bytes  #: the stream's last id; empty if there was none
    type: bytes  #: ``message`` unless the stream names another


class Decoder:
    r"""Decodes chunks of bytes into messages; the messages are the same however a stream is cut into chunks.

    Of a message that is longer than `recording.MAX_EVENT_BYTES` only the beginning is returned, so that no server can
    fill the memory.

    Attributes
    ----------
    last_id : bytes
        The stream's last id.
    retry_ms : int or None
        Milliseconds to wait before a reconnect, if the server asked for them.

    Examples
    --------
    >>> decoder = Decoder()
    >>> decoder.feed(b":ok\n\nid: 7\r\nda"), decoder.feed(b"ta: a\r\n"), decoder.feed(b"data: b\r\n\r\n")
    ([], [], [Message(data=b'a\nb', id=b'7', type=b'message')])
    """

    def __init__(self) -> None:
        self.last_id = b""
        self.retry_ms: int | None = None
        self._rest = b""  # of the message that is incomplete
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Message]:
        """Decode the next bytes; return the messages that they complete."""
        *blocks, self._rest = (self._rest + self._with_line_feeds(chunk)).split(b"\n\n")
        if len(self._rest) > recording.MAX_EVENT_BYTES:
            is_line_over = self._rest.endswith(b"\n")
            # What follows on the same line is a comment.
            self._rest = self._rest[: recording.KEPT_BYTES] + (b"\n" if is_line_over else b"\n:")
        return [message for block in blocks if (message := self._parse(block))]

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """Return the chunk with every line end as a line feed, also where CR LF was cut in two."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        self._after_cr |= chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _parse(self, block: bytes) -> Message | None:
        lines: list[bytes] = []
        type_ = b""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                lines.append(value)
            elif name == b"event":
                type_ = value
            elif name == b"id" and b"\0" not in value:
                self.last_id = value
            elif name == b"retry" and value.isdigit() and len(value) < 10:
                self.retry_ms = int(value)
        if not lines and not type_:
            return None
        return Message(b"\n".join(lines), self.last_id, type_ or b"message")


class ResponseHead(NamedTuple):
    """The head of a response."""

    status: int
    content_type: str
    retry_after: float  #: seconds
    detail: str  #: beginning of the body, unless it is a stream


class Connection:
    """A GET request whose response is read in a thread, so that a silent server does not block the caller.

    Parameters
    ----------
    url : str
        The address.
    headers : dict
        Headers of the request.
    read_timeout : float
        Seconds after which the connection ends if no byte comes.

    Attributes
    ----------
    queue : Queue
        First a `ResponseHead`, then the body's bytes, unpacked, as soon as they come; at the end, a str: why it ended.
    """

    def __init__(self, url: str, headers: dict[str, str], read_timeout: float) -> None:
        self.queue: queue.Queue[ResponseHead | bytes | str] = queue.Queue(maxsize=32)
        self._closed = threading.Event()
        self._response: requests.Response | None = None
        timeout = (CONNECT_TIMEOUT_SECONDS, read_timeout)
        threading.Thread(target=self._run, args=(url, headers, timeout), name="stream", daemon=True).start()

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        if self._response is not None:
            with contextlib.suppress(Exception):
                self._response.raw.shutdown()  # wakes the thread if it waits for bytes

    def _run(self, url: str, headers: dict[str, str], timeout: tuple[float, float]) -> None:
        try:
            with requests.Session() as session, _send(session, url, headers, timeout) as response:
                self._response = response
                self._put(_head(response))
                while not self._closed.is_set() and (chunk := response.raw.read1(CHUNK_BYTES, True)):
                    self._put(chunk)
            self._put("the server closed the connection")
        except Exception as error:  # noqa: BLE001 - the reader decides, whatever it is
            self._put(_root_cause(error))

    def _put(self, received: ResponseHead | bytes | str) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                return self.queue.put(received, timeout=0.2)


def _send(
    session: requests.Session, url: str, headers: dict[str, str], timeout: tuple[float, float]
) -> requests.Response:
    """Return the response to sseclient's request, whatever its status.

    Only the request is sseclient's. Its iteration reads below HTTP's chunks and gzip, yields events that a break cut
    off, splits lines at U+2028 and reconnects by itself, so the body is read and decoded here (`lib.stream.sse`).
    """
    session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "::1", "localhost")  # no proxy here
    session.hooks["response"] = [_set_utf8]
    try:
        return SSEClient(url, session=session, headers=dict(headers), timeout=timeout).resp
    except requests.HTTPError as error:
        return error.response


def _set_utf8(response: requests.Response, **_: object) -> None:
    """Set the one encoding that a stream can have: sseclient would read the body to guess it."""
    response.encoding = "utf-8"


def _head(response: requests.Response) -> ResponseHead:
    status, headers = response.status_code, response.headers
    detail = b"" if status == 200 else response.raw.read(500, decode_content=True)
    retry_after = 0.0
    with contextlib.suppress(InvalidHeader):
        retry_after = Retry().parse_retry_after(headers.get("Retry-After", "0"))
    text = printable(detail.decode(errors="replace"))
    return ResponseHead(status, headers.get("Content-Type", ""), retry_after, text)


def printable(text: str) -> str:
    r"""Return a text from outside for a terminal, on one line.

    Examples
    --------
    >>> printable("no \x1b[2J stream\n")
    'no [2J stream'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause: requests wraps it three times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return printable(f"{error}")[:200] or type(error).__name__


def user_agent(url: str) -> str:
    """Return our User-Agent, with the contact that Wikimedia asks for.

    Raises
    ------
    StreamError
        If the stream is Wikimedia's and WIKISIEVE_CONTACT is not set.
    """
    contact = re.sub(r"[^\x20-\x7e]", "?", os.environ.get(CONTACT, "").strip())
    if not contact and (urlsplit(url).hostname or "").endswith((".wikimedia.org", ".wikipedia.org")):
        raise StreamError(
            f"Wikimedia asks every client for a contact. {CONTACT} is not set. Set that environment variable to an "
            "e-mail address, a user page or a URL, and start again."
        )
    return f"wikisieve/{version('wikisieve')} ({contact or 'contact not set'})"


def set_since(url: str, since: int) -> str:
    """Return the address with another ``since``; the rest of the query is kept.

    Examples
    --------
    >>> set_since("http://localhost/v2/stream/recentchange?since=0&x=1", 5)
    'http://localhost/v2/stream/recentchange?x=1&since=5'
    """
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if name != "since"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("since", since)])))
