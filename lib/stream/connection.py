"""One HTTP connection to an event stream, read in a thread."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
import time
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests
from sseclient import SSEClient

from lib.stream.recording import StreamError

LIVE_URL = "https://stream.wikimedia.org/v2/stream/recentchange"
CONTACT = "WIKISIEVE_CONTACT"
CONNECT_TIMEOUT_SECONDS = 10.0
CHUNK_BYTES = 1 << 16
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


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
        Seconds after which the thread ends if no byte comes.

    Attributes
    ----------
    queue : Queue
        First a `ResponseHead`, then the body's bytes, unpacked, as soon as they come; at the end, a str: why it ended.
    """

    def __init__(self, url: str, headers: dict[str, str], read_timeout: float) -> None:
        self.queue: queue.Queue[ResponseHead | bytes | str] = queue.Queue(maxsize=32)
        self._closed = threading.Event()
        self._response: requests.Response | None = None
        timeout = (CONNECT_TIMEOUT_SECONDS, read_timeout + CONNECT_TIMEOUT_SECONDS)
        threading.Thread(
            target=self._run, args=(url, headers, timeout), name="eventstreams", daemon=True
        ).start()

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        if self._response is not None:
            with contextlib.suppress(Exception):
                self._response.raw.shutdown()  # wakes the thread if it waits for bytes

    def _run(self, url: str, headers: dict[str, str], timeout: tuple[float, float]) -> None:
        try:
            with requests.Session() as session:
                session.trust_env = urlsplit(url).hostname not in LOOPBACK  # no proxy to this machine
                with _send(session, url, headers, timeout) as response:
                    self._response = response
                    self._put(_head(response))
                    while not self._closed.is_set():
                        chunk = response.raw.read1(CHUNK_BYTES, decode_content=True)
                        self._put(chunk or "the server closed the connection")
                        if not chunk:
                            break
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
    return ResponseHead(
        status,
        headers.get("Content-Type", ""),
        parse_retry_after(headers.get("Retry-After", "0")),
        detail.decode(errors="replace").strip(),
    )


def _root_cause(error: BaseException) -> str:
    """Return the innermost cause: requests wraps it three times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{error}"[:200] or type(error).__name__


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


def parse_retry_after(text: str) -> float:
    """Return the seconds that a server asks us to wait, from a number or an HTTP date.

    Examples
    --------
    >>> parse_retry_after("2"), parse_retry_after("soon"), parse_retry_after("inf")
    (2.0, 0.0, 0.0)
    """
    try:
        seconds = float(text) if text[:1].isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, seconds)


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


def explain_status(url: str, head: ResponseHead) -> str:
    """Return what is wrong with a request and what to change."""
    advice = {
        200: f"STREAM_URL must be the address of an event stream, such as {LIVE_URL}. Got a web page.",
        400: "It does not understand SINCE or the saved position. Check SINCE, or choose another OUT_DIR.",
        401: "It requires a login. Choose another STREAM_URL.",
        403: f"It refuses our User-Agent or address. Set {CONTACT} to your contact; wait if you were blocked.",
        404: "There is no such stream. Check the last part of STREAM_URL; recentchange is one.",
    }
    detail = f" Its answer: {head.detail[:300]}" if head.detail and head.status != 200 else ""
    hint = advice.get(head.status, "Check STREAM_URL.")
    return f"{url} must serve the stream. Got status {head.status}. {hint}{detail}"
