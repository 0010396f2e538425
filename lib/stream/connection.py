"""One HTTP connection to an event stream: asked for politely, read safely, and given up for a reason."""

from __future__ import annotations

import contextlib
import email.utils
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests
import sseclient

LIVE_URL = "https://stream.wikimedia.org/v2/stream/recentchange"
CONTACT = "WIKISIEVE_CONTACT"
CONNECT_SECONDS = 10.0
CHUNK_BYTES = 1 << 16


class StreamError(ConnectionError):
    """A stream cannot be read, or not any longer."""


def user_agent(url: str) -> str:
    """Name us to the server, with the contact that Wikimedia asks for.

    Parameters
    ----------
    url : str
        The stream's address.

    Raises
    ------
    StreamError
        If the stream is Wikimedia's and WIKISIEVE_CONTACT is not set.
    """
    contact = os.environ.get(CONTACT, "").strip()
    host = urlsplit(url).hostname or ""
    if not contact and host.endswith((".wikimedia.org", ".wikipedia.org")):
        raise StreamError(
            f"Wikimedia asks every client for a contact. {CONTACT} is not set. Set that environment variable to an "
            "e-mail address, a user page or a URL, and start again."
        )
    contact = re.sub(r"[^\x20-\x7e]", "?", contact) or "contact not set"
    return f"wikisieve/{version('wikisieve')} ({contact})"


class Answer(NamedTuple):
    """The head of a server's answer."""

    status: int
    kind: str  #: Content-Type
    retry_after: float | None
    detail: str  #: beginning of the body, unless it is a stream


class SafeClient(sseclient.SSEClient):
    """sseclient, driven safely: one connection, decoded bytes, our own reading of lines.

    sseclient 0.0.27 reads below chunked and gzip encoding, gives out events that were cut, splits lines at U+2028 and
    reconnects without asking. So its reading, its parser and its reconnect are replaced; its request is kept.
    """

    def __init__(self, url: str, headers: dict[str, str], timeout: tuple[float, float]) -> None:
        session = requests.Session()
        if _is_loopback(url):
            session.trust_env = False  # no proxy stands between us and this machine
        super().__init__(url, session=session, chunk_size=CHUNK_BYTES, headers=dict(headers), timeout=timeout)

    def _connect(self) -> None:
        self.resp = self.session.get(self.url, stream=True, **self.requests_kwargs)
        self.resp_iterator = self.iter_content()

    def iter_content(self) -> Iterator[bytes]:
        """Bytes of the body as soon as they are there, without chunk marks and unpacked."""
        while chunk := self.resp.raw.read1(self.chunk_size, decode_content=True):
            yield chunk

    def answer(self) -> Answer:
        """Status and headers; of an error also the beginning of what the server says."""
        status, headers = self.resp.status_code, self.resp.headers
        detail = (
            "" if status == 200 else self.resp.raw.read(500, decode_content=True).decode(errors="replace")
        )
        return Answer(
            status, headers.get("Content-Type", ""), _retry_after(headers.get("Retry-After")), detail.strip()
        )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _retry_after(text: str | None) -> float | None:
    """Seconds that a server asks us to wait: a number or an HTTP date.

    Examples
    --------
    >>> _retry_after("2"), _retry_after("soon"), _retry_after("inf")
    (2.0, None, None)
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Connection:
    """One connection, read in a thread of its own, so that silence never holds up the reader.

    Parameters
    ----------
    open_client : callable
        Connects and returns the client; called in the thread.
    """

    def __init__(self, open_client: Callable[[], SafeClient]) -> None:
        self._open = open_client
        self._queue: queue.Queue[Answer | bytes | Exception | None] = queue.Queue(maxsize=32)
        self._stop = threading.Event()
        self._client: SafeClient | None = None
        self._thread = threading.Thread(target=self._run, name="eventstreams", daemon=True)
        self._thread.start()

    def get(self, seconds: float) -> Answer | bytes | Exception | None:
        """Next thing that happened: the answer, then chunks, then None or what went wrong.

        Raises
        ------
        queue.Empty
            If nothing happens for that long.
        """
        return self._queue.get(timeout=seconds)

    def close(self) -> None:
        """Hang up."""
        self._stop.set()
        if self._client is not None:
            with contextlib.suppress(Exception):
                self._client.resp.raw.shutdown()  # wakes the thread if it waits for bytes

    def _run(self) -> None:
        try:
            client = self._client = self._open()
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader decides
            self._put(error)
            return
        try:
            going = self._put(client.answer())
            while going and (chunk := next(client.resp_iterator, None)) is not None:
                going = self._put(chunk)
            self._put(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader decides
            self._put(error)
        finally:
            client.resp.close()
            client.session.close()

    def _put(self, what: Answer | bytes | Exception | None) -> bool:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._queue.put(what, timeout=0.2)
                return True
        return False


def in_words(error: BaseException) -> str:
    """What went wrong on a connection: the innermost cause, for requests wraps it three times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{error}"[:200] or type(error).__name__


def with_since(url: str, since: int) -> str:
    """The address with another ``since``; the rest of the query stays.

    Examples
    --------
    >>> with_since("http://localhost/v2/stream/recentchange?since=0&x=1", 5)
    'http://localhost/v2/stream/recentchange?x=1&since=5'
    """
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if name != "since"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("since", since)])))


def refusal(url: str, answer: Answer) -> str:
    """What is wrong and what to change."""
    advice = {
        200: "STREAM_URL must be the address of an event stream, such as " + LIVE_URL + ". Got a web page.",
        400: "It does not understand SINCE or the position that was kept. Check SINCE, or choose another OUT_DIR.",
        401: "It wants a login. Choose another STREAM_URL.",
        403: f"It refuses our User-Agent or address. Set {CONTACT} to your contact; wait if you were blocked.",
        404: "There is no such stream. Check the last part of STREAM_URL; recentchange is one.",
    }
    detail = f" It says: {answer.detail[:300]}" if answer.detail and answer.status != 200 else ""
    hint = advice.get(answer.status, "Check STREAM_URL.")
    return f"{url} must serve the stream. Got status {answer.status}. {hint}{detail}"
