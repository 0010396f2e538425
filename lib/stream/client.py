"""A client for Wikimedia's EventStreams that loses no event and repeats none.

`EventStreamClient` iterates over a stream of recentchange events:

- It keeps a position per topic (`lib.stream.cursor`); after a break it rewinds a few seconds and drops, by
  ``meta.id``, what it has already. The memory of ids is bounded: the last 200,000 at least, and in a position to resume
  from the last 20,000 of each topic.
- Canaries are dropped before anything else is read; what cannot be decoded is yielded with the reason.
- It survives the 15-minute cut, cuts in the middle of an event, silence, empty responses, refused connections, 429
  and 5xx (waiting as long as Retry-After requires, else ever longer, up to ten seconds, with jitter). On
  400, 403, 404 and the like it ends with an error.

**What ends a run.** ``until``: events from then on are skipped, and the run ends when every topic that has sent
anything is past it, with a minute's slack for events that are late; or 20 seconds after the last event from before
it (the other topics fell silent). ``max_events`` or ``max_seconds``. The server
sends ``event: end`` or 204. Or *silence*: a source whose newest event was more than 15 minutes old when it came is
not live but a history, and a history that sends nothing new for 60 seconds, in spite of reconnects, is over. A
live source is waited for, unless ``until`` has passed. `EventStreamClient.stop_reason` holds which it was.
"""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from lib import events
from lib.events import Event
from lib.stream.cursor import Cursor, Deduplicator, place_of
from lib.stream.recording import StreamError
from lib.stream.sse import HINTS, Connection, Decoder, Message, ResponseHead, printable, set_since, user_agent

READ_TIMEOUT_SECONDS = 10.0
IDLE_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.2
UNTIL_SECONDS = 20.0
UNTIL_SLACK_MS = 60_000
LIVE_LAG_MS = 15 * 60_000
SINCE_SLACK_MS = 60_000
MAX_WAIT_SECONDS = 10.0
RETRY_STATUS = frozenset({408, 425, 429})
PAST_UNTIL = "the stream is past UNTIL"
SILENCE = "nothing new came"
#: What a message that was received can be; `Counts.received` is their sum.
KINDS = ("events", "duplicates", "repeated", "canaries", "invalid", "other_wikis", "outside")


class StreamEvent(NamedTuple):
    """One event as it came."""

    data: bytes  #: the JSON text
    event: Event | None  #: the decoded event; None if the text cannot be decoded
    reason: str | None  #: why it cannot
    id: str  #: ``meta.id``; without one, a hash of the text and its position in the stream
    last_event_id: bytes  #: the SSE id: the stream's positions
    type: bytes  #: the SSE event type: ``message``


class Counts(msgspec.Struct):
    """Numbers of messages and connections; msgspec converts them to plain values and back."""

    received: int = 0  #: the sum of the seven below
    events: int = 0  #: yielded
    duplicates: int = 0  #: sent more than once by the server
    repeated: int = 0  #: came again because of a rewind
    canaries: int = 0  #: test events of the operators
    invalid: int = 0  #: cannot be decoded; yielded with the reason
    other_wikis: int = 0  #: of a wiki that is not wanted
    outside: int = 0  #: before `since`, or at or after `until`
    reconnects: int = 0  #: connections with status 200 after the first


class StopRule:
    """Decides when a stream is over, from what came and when it came.

    Parameters
    ----------
    until, max_events, max_seconds, idle_timeout
        See `EventStreamClient`.

    Attributes
    ----------
    newest : dict of str to int
        By topic, the greatest time of an event.
    progress_at : float
        When something new came last, on the monotonic clock.
    """

    def __init__(self, until: int | None, max_events: int, max_seconds: float, idle_timeout: float) -> None:
        self.until, self.max_events, self.max_seconds = until, max_events, max_seconds
        self.idle_timeout = idle_timeout
        self.newest: dict[str, int] = {}
        self.started_at = self.progress_at = time.monotonic()
        self._until_reached_at = 0.0  # since then no event from before `until` came; 0: not reached
        self._lag_ms = float("inf")

    def note_progress(self, newest_ms: int | None) -> None:
        """Take note that something new came, and how old it is."""
        self.progress_at = time.monotonic()
        if newest_ms is not None:
            self._lag_ms = time.time() * 1000 - newest_ms

    def note_event(self, topic: str, moment: int) -> None:
        """Take note of a new event's time."""
        self.newest[topic] = max(moment, self.newest.get(topic, moment))
        if self.until is not None and moment >= self.until:
            self._until_reached_at = self._until_reached_at or time.monotonic()
        elif self._until_reached_at:
            self._until_reached_at = time.monotonic()

    @property
    def is_past_until(self) -> bool:
        """Whether every topic is past `until` by a minute: its events come almost in the order of their times."""
        if self.until is None or not self.newest:
            return False
        return min(self.newest.values()) >= self.until + UNTIL_SLACK_MS

    def check(self, events: int) -> str:
        """Return why the stream is over after so many events; empty if it is not."""
        now = time.monotonic()
        if self.max_events and events >= self.max_events:
            return f"{self.max_events:,} events were received (MAX_EVENTS)"
        if self.max_seconds and now - self.started_at >= self.max_seconds:
            return f"{self.max_seconds:g} seconds have passed (MAX_SECONDS)"
        if self.is_past_until or (self._until_reached_at and now - self._until_reached_at >= UNTIL_SECONDS):
            return PAST_UNTIL
        live_until = float("inf") if self.until is None else self.until / 1000 + self.idle_timeout
        is_live = self._lag_ms <= LIVE_LAG_MS and time.time() < live_until
        is_silent = not is_live and now - self.progress_at >= self.idle_timeout
        return f"{SILENCE} for {self.idle_timeout:g} seconds" if is_silent else ""


class EventStreamClient:
    """A stream of recentchange events, from one server, over as many connections as it takes.

    Parameters
    ----------
    url : str
        Address of the stream.
    since, until : int, optional
        Milliseconds since the epoch: events before `since`, and at or after `until`, are skipped. Without `since` the
        server decides where to begin: Wikimedia's begins now.
    wikis : iterable of str, optional
        Only events of these wikis are yielded; empty: all.
    max_events : int, default 0
        End after so many events; 0 is no limit.
    max_seconds : float, default 0
        End after so many seconds; 0 is no limit.
    position : dict, optional
        Where to resume: an earlier client's `position`.
    yield_idle : bool, default False
        Whether to yield None a few times a second while nothing comes, so that the caller can do something else.
    idle_timeout : float, default 60
        Seconds without anything new after which a history counts as over.
    read_timeout : float, default 10
        Seconds without a byte after which a connection counts as dead.
    seed : int, default 0
        Seed of the jitter.

    Attributes
    ----------
    counts : Counts
        What was received.
    rule : StopRule
        When the run ends.
    stop_reason : str
        Why the run ended; empty while it lasts.
    last_error : str
        Why there is no connection; empty while there is one.
    warnings : list of str
        What a reader of the events should know.

    Examples
    --------
    >>> from lib.replay import server as replay
    >>> lines = [b'{"meta": {"dt": "2015-09-12T00:46:58Z", "id": "a"}, "wiki": "enwiki"}', b"not JSON"]
    >>> with replay.Server(lines) as server:
    ...     client = EventStreamClient(server.url)
    ...     for event in client:
    ...         print(event.data, event.reason)
    b'{"meta": {"dt": "2015-09-12T00:46:58Z", "id": "a"}, "wiki": "enwiki"}' None
    b'not JSON' JSON is malformed: invalid character (byte 4)
    >>> client.stop_reason, client.counts.events, client.counts.invalid
    ('the server ended the stream', 1, 1)
    """

    def __init__(
        self,
        url: str,
        *,
        since: int | None = None,
        until: int | None = None,
        wikis: Iterable[str] = (),
        max_events: int = 0,
        max_seconds: float = 0,
        position: Mapping[str, Any] | None = None,
        yield_idle: bool = False,
        idle_timeout: float = IDLE_TIMEOUT_SECONDS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        seed: int = 0,
    ) -> None:
        self.url, self.since, self.wikis = url, since, frozenset(wikis)
        self.yield_idle, self.read_timeout = yield_idle, read_timeout
        self.counts = Counts()
        self.rule = StopRule(until, max_events, max_seconds, idle_timeout)
        self.stop_reason = self.last_error = ""
        self.warnings: list[str] = []
        self._random = random.Random(seed)
        self._failures = 0  # connections that brought nothing new, in a row
        self._wait_seconds = 0.0  # that the server asked for
        self._last_id = self._id_before = b""  # of the last message; the same, but on this connection
        self._last_topic = ""
        self._cursor, self._keys = Cursor(start=since), Deduplicator({})
        self._to_verify: set[str] = set()  # topics that were asked to rewind
        self._was_accepted = False
        if position is not None:
            self.resume(position)

    def resume(self, position: Mapping[str, Any]) -> None:
        """Start where another client stood: at its `position`."""
        self._cursor = msgspec.convert(position["cursor"], Cursor)
        self._keys = Deduplicator(position["recent"])
        self.rule.newest = dict(position["topics"])
        self.counts = msgspec.convert(position["counts"], Counts)

    @property
    def position(self) -> dict[str, Any]:
        """Where the caller stands after the last event: plain values, to resume from in another process."""
        self._cursor.update(self._last_id)
        return {
            "cursor": msgspec.to_builtins(self._cursor),
            "recent": {topic: [*keys] for topic, keys in self._keys.recent.items()},
            "topics": dict(self.rule.newest),
            "counts": msgspec.to_builtins(self.counts),
        }

    def __iter__(self) -> Iterator[Any]:
        """Yield every `StreamEvent` (and, with `yield_idle`, None now and then) until the run ends.

        Raises
        ------
        StreamError
            If the server refuses this request, or cannot be reached and nothing was ever received, or the first event
        is of another stream.
        """
        agent = user_agent(self.url)
        self.rule.started_at = self.rule.progress_at = time.monotonic()
        self._check()
        while not self.stop_reason:
            connection = self._connect(agent)
            try:
                yield from self._read(connection)
            finally:
                connection.close()
            yield from self._wait()

    def _connect(self, agent: str) -> Connection:
        """Send the next request, for what follows the last event."""
        self._cursor.update(self._last_id)
        since, last_id = self._cursor.since(), self._cursor.last_event_id()
        headers = {"User-Agent": agent}
        if last_id:
            headers["Last-Event-ID"] = last_id
        self._id_before = last_id.encode()
        self._to_verify = set(self.rule.newest)
        self._keys.rewind()
        url = self.url if since is None else set_since(self.url, since)
        return Connection(url, headers, self.read_timeout)

    def _read(self, connection: Connection) -> Iterator[StreamEvent | None]:
        """Yield the events of one connection, until it is over."""
        decoder = Decoder()
        self._failures += 1
        while not self.stop_reason:
            try:
                received = connection.queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield from self._idle()
                continue
            if isinstance(received, bytes):
                for message in decoder.feed(received):
                    if not self.stop_reason and (event := self._receive(message)) is not None:
                        yield event
                self._wait_seconds = min((decoder.retry_ms or 0) / 1000, MAX_WAIT_SECONDS)
            elif isinstance(received, str):
                self.last_error = received
                return
            elif not self._accept(received):
                return
            self._check()

    def _accept(self, head: ResponseHead) -> bool:
        """Return whether a response is a stream; raise if it never will be."""
        self._wait_seconds = head.retry_after
        self.rule.progress_at += head.retry_after
        self.last_error = f"status {head.status} {head.detail[:200]}".strip()
        if head.status == 204:
            self.stop_reason = "the server has no more (204)"
        elif head.status == 200 and not head.content_type.startswith("text/html"):
            self.counts.reconnects += self._was_accepted or self.counts.received > 0
            self._was_accepted = True
            self.last_error = ""
            return True
        elif head.status < 500 and head.status not in RETRY_STATUS:
            hint = HINTS.get(head.status, "Check STREAM_URL.")
            raise StreamError(f"{self.url} must serve the stream. Got {self.last_error}. {hint}")
        return False

    def _wait(self) -> Iterator[None]:
        """Wait before the next connection: as long as the server asks, else ever longer, with jitter."""
        growing = min(MAX_WAIT_SECONDS, 0.125 * 2 ** min(self._failures, 10)) * self._random.uniform(0.5, 1.0)
        end = time.monotonic() + max(self._wait_seconds, growing)
        self._wait_seconds = 0.0
        while not self.stop_reason and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
            yield from self._idle()

    def _idle(self) -> Iterator[None]:
        self._check()
        if self.yield_idle and not self.stop_reason:
            yield None

    def _check(self) -> None:
        """Set `stop_reason` where a limit is reached."""
        reason = self.rule.check(self.counts.events)
        if reason.startswith(SILENCE) and not (self._was_accepted and self.counts.received):
            raise StreamError(
                f"{self.url} must send events. Got none: {reason}{self.last_error and f' ({self.last_error})'}. "
                "Check the address and the network, and start again."
            )
        self.stop_reason = self.stop_reason or reason

    def _receive(self, message: Message) -> StreamEvent | None:
        """Count a message; return the event for the caller, if it is one."""
        if message.type == b"end":
            self.stop_reason = "the server ended the stream"
        elif message.type == b"error":
            text = message.data[:1000].decode(errors="replace")
            self.last_error = f"the server sent an error: {printable(text)}"
        if message.type != b"message":
            return None
        event, reason = events.try_decode(message.data)
        is_other = reason is not None and reason.startswith(events.OTHER_SCHEMA)
        if is_other and self.counts.events + self.counts.invalid == 0:
            raise StreamError(
                f"The source must be the stream recentchange or a recording of it. {reason} "
                "Check STREAM_URL or RECORDING."
            )
        key, topic = self._identify(message, event)
        self._last_topic, self._id_before = topic, message.id
        kind = self._kind(message, event, key, topic)
        self.counts.received += 1
        setattr(self.counts, kind, getattr(self.counts, kind) + 1)
        if self.counts.events == self.rule.max_events or self.rule.is_past_until:
            self._check()
        if kind not in ("events", "invalid"):
            return None
        return StreamEvent(message.data, event, reason, key, message.id, message.type)

    def _identify(self, message: Message, event: Event | None) -> tuple[str, str]:
        """Return key and topic of a message: without ``meta.id``, its text's hash and its position in the stream."""
        topic = (event and event.meta.topic) or self._last_topic
        if event is not None and event.meta.id:
            return event.meta.id, topic
        topic, timestamp = place_of(self._id_before, message.id, topic)
        return f"{events.event_key(message.data, None)} {topic} {timestamp!s}", topic

    def _kind(self, message: Message, event: Event | None, key: str, topic: str) -> str:
        """Return which of `KINDS` a message is, and take note of it."""
        is_real = event is not None and not event.is_canary
        moment = self.rule.newest.get(topic) if event is None else event.time_ms
        if self.rule.until is not None and moment is not None and moment >= self.rule.until:
            if is_real:
                self.rule.note_event(topic, moment)
            return "outside"  # the position stays before it: who resumes with a later `until` wants it
        self._last_id, kind = message.id, self._keys.add(key, topic)
        if is_real and moment is not None:
            self._note_time(moment, topic, is_new=kind == "new")
        if kind == "new":
            self._failures = 0
            self.rule.note_progress(self._cursor.time)
        if moment is not None and self.since is not None and moment < self.since:
            return "outside"
        if kind != "new":
            return kind
        if event is None:
            return "invalid"
        if event.is_canary:
            return "canaries"
        return "other_wikis" if self.wikis and event.wiki not in self.wikis else "events"

    def _note_time(self, moment: int, topic: str, *, is_new: bool) -> None:
        """Take note of an event's time; warn of events that the server was asked for and did not send."""
        last = self._cursor.time
        if topic in self._to_verify:  # its first event after a break must have come before
            self._to_verify = set()
            if is_new and last is not None and moment > last:
                self.warnings.append(
                    f"After a break at {events.iso(last)} the server resumed at {events.iso(moment)}, although it was "
                    "asked to rewind. What it had in between is missing."
                )
        if not is_new:
            return
        self._cursor.time = moment
        if self.since is not None and moment < self.since:
            return
        is_first = not self.rule.newest
        self.rule.note_event(topic, moment)
        if is_first:
            self._cursor.start = moment if self._cursor.start is None else self._cursor.start
            if self.since is not None and moment - self.since > SINCE_SLACK_MS:
                self.warnings.append(
                    f"Events were requested from {events.iso(self.since)}; the server's first is of "
                    f"{events.iso(moment)}. It keeps no older ones."
                )
