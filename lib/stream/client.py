"""The client for Wikimedia's EventStreams: nothing lost, nothing twice.

`EventStreamClient` reads a stream of recentchange events through sseclient, driven safely, and gives each event once:

- It keeps a position per topic (`lib.stream.cursor`); after a break it goes back a few seconds and drops, by
  ``meta.id``, what it has. The memory of ids is bounded: the last 200,000 at least.
- Canaries are dropped before anything else is looked at; what cannot be read is handed on with the reason.
- It survives the 15-minute cut, cuts in the middle of an event, silence, empty answers, refused connections, 429
  and 5xx (waiting as long as Retry-After says, else ever longer, up to ten seconds, with jitter). It gives up on
  400, 403, 404 and the like, and says what to change.

**What ends a run.** ``until``: events from then on are left out, and the run ends when every topic that has sent
anything is past it, with a minute's slack for events that are late; or when for ten seconds nothing from before
it came (the other topics fell silent). ``max_events`` events were given. ``max_seconds`` have passed. The server
says ``event: end`` or 204. Or *silence*: a source whose newest event was more than 15 minutes old when it came is
not live but a history, and a history that gives nothing new for 60 seconds, in spite of reconnects, is over. A
live source is waited for, unless ``until`` has passed. `EventStreamClient.stop_reason` says which it was.
"""

from __future__ import annotations

import hashlib
import queue
import random
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import msgspec

from lib import events
from lib.events import Event
from lib.stream import connection, cursor, sse
from lib.stream.connection import CONNECT_SECONDS, Answer, Connection, SafeClient, StreamError
from lib.stream.cursor import Cursor
from lib.stream.seen import REMEMBERED, Repeats, Seen

READ_TIMEOUT_SECONDS = 10.0
IDLE_TIMEOUT_SECONDS = 60.0
LIVE_LAG_MS = 15 * 60_000
SLACK_MS = 60_000
SLACK_SECONDS = 10.0
LONGEST_WAIT = 10.0
AWAY_SECONDS = 5.0
REASONS = 50
WARN_MS = 60_000
TRY_AGAIN = frozenset({408, 425, 429})
#: What a message that was received can be.
KINDS = ("events", "duplicates", "repeated", "canaries", "invalid", "other_wikis", "outside")
PAST_UNTIL = "the stream is past UNTIL"
SILENCE = "nothing new came"


class StreamEvent(NamedTuple):
    """One event as it came."""

    data: bytes  #: the JSON text
    event: Event | None  #: the event; None if the text cannot be read
    reason: str | None  #: why it cannot be read
    truncated: bool = False  #: it was too long: `data` is its beginning
    id: str = ""  #: ``meta.id``, or of an event without one the hash of its text and its place in the stream


@dataclass
class Counts:
    """What was received. ``received`` is the sum of the seven below it."""

    received: int = 0
    events: int = 0  #: given to the caller
    duplicates: int = 0  #: sent more than once by the server
    repeated: int = 0  #: came again because we went back after a break
    canaries: int = 0  #: test events of the operators
    invalid: int = 0  #: cannot be read; given to the caller with the reason
    other_wikis: int = 0  #: of a wiki that is not asked for
    outside: int = 0  #: before `since`, or at or after `until`
    connections: int = 0  #: answered with 200
    reconnects: int = 0  #: of them, after the first
    reasons: Counter[str] = field(default_factory=Counter)  #: of the invalid ones

    def to_json(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {**vars(self), "reasons": dict(self.reasons)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Self:
        """The counts from what `to_json` gave; from an empty dict: all 0."""
        return cls(**{**kept, "reasons": Counter(kept.get("reasons", {}))})

    def note_reason(self, reason: str) -> None:
        """Count an unreadable event under its reason, without the place in the text."""
        general = re.sub(r"\d+", "N", reason)[:200]
        known = general in self.reasons or len(self.reasons) < REASONS
        self.reasons[general if known else "other reasons"] += 1


class EventStreamClient:
    """A stream of recentchange events, from one server, over as many connections as it takes.

    Parameters
    ----------
    url : str
        Address of the stream.
    since, until : int, optional
        Milliseconds since the epoch: events before and from then on are left out. Without `since` the server decides
        where to begin: Wikimedia's begins now.
    wikis : iterable of str, optional
        Only events of these wikis are given; empty: all.
    max_events : int, default 0
        End after so many events; 0 is no limit.
    max_seconds : float, default 0
        End after so many seconds; 0 is no limit.
    position : dict, optional
        Where to go on: what `position` gave.
    seen : iterable of str, optional
        ``meta.id`` of the events that the caller has already, the latest 200,000 at least.
    yield_idle : bool, default False
        Whether to give None about once a second while nothing comes, so that the caller can do something else.
    idle_timeout : float, default 60
        Seconds without anything new after which a history counts as over.
    read_timeout : float, default 10
        Seconds without a byte after which a connection counts as dead.
    counts : Counts, optional
        Counts to go on with.
    seed : int, default 0
        Seed of the jitter.

    Attributes
    ----------
    counts : Counts
        What was received.
    stop_reason : str
        Why the run ended; empty while it goes on.
    warnings : list of str
        What a reader of the recording should know.
    last_error : str
        Why there is no connection; empty while there is one.

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
    ('the server said that the stream is over', 1, 1)
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
        position: dict[str, Any] | None = None,
        seen: Iterable[str] = (),
        yield_idle: bool = False,
        idle_timeout: float = IDLE_TIMEOUT_SECONDS,
        read_timeout: float = READ_TIMEOUT_SECONDS,
        counts: Counts | None = None,
        seed: int = 0,
    ) -> None:
        self.url, self.since, self.until = url, since, until
        self.wikis = frozenset(wikis)
        self.max_events, self.max_seconds = max_events, max_seconds
        self.yield_idle, self.idle_timeout, self.read_timeout = yield_idle, idle_timeout, read_timeout
        self.counts = counts or Counts()
        self.stop_reason = ""
        self.warnings: list[str] = []
        self.last_error = ""
        self._chance = random.Random(seed)
        self._seen = Seen()
        given = position or {}
        self._cursor = Cursor.from_json(given["cursor"]) if given else Cursor(base=since)
        self._remembered: deque[str] = deque(given.get("remembered", ()), REMEMBERED)
        for key in (*seen, *self._remembered):
            self._seen.add(key)
        self._resumed = position is not None
        self._last_id = b""  # of the last message, on whichever connection
        self._before = b""  # the id before this message, on this connection
        self._last_time = self._cursor.time
        self._last_topic: str | None = None
        self._place: cursor.Place | None = None  # of the last message without ``meta.id``
        self._topics: set[str | None] = set(given.get("topics", ()))
        self._past: set[str | None] = set()
        self._held = 0.0  # since an event was past `until`: when one from before it came last
        self._answered = False  # whether a connection was ever accepted
        self._repeats = Repeats(given.get("times", {}))
        self._failures = 0  # connections without anything new, in a row
        self._retry_after: float | None = None
        self._retry_ms: int | None = None
        self._progress = False  # whether this chunk brought anything new
        self._rejoining = False  # whether a server that was asked to go back has to show that it did
        self._lag_ms: float | None = None
        self._fresh = 0.0  # when something new came last
        self._begun = 0.0
        self._looked = 0.0  # when the limits were looked at last

    @property
    def duplicates(self) -> int:
        """Events that the server sent more than once."""
        return self.counts.duplicates

    @property
    def position(self) -> dict[str, Any]:
        """Where the caller stands after the last item: plain values, to go on from in another process."""
        self._note_position()
        return {
            "cursor": self._cursor.to_json(),
            "remembered": [*self._remembered],
            "times": dict(self._repeats.times),
            "topics": [*self._topics],
        }

    def _note_position(self) -> None:
        self._cursor.note(self._last_id)
        self._cursor.time = self._last_time

    def __iter__(self) -> Iterator[Any]:
        """Give every `StreamEvent` (and, with `yield_idle`, None now and then) until the run ends.

        Raises
        ------
        StreamError
            If the server will not serve this request.
        StreamError
            If it cannot be reached and nothing was ever received.
        """
        self._begun = self._fresh = self._looked = time.monotonic()
        agent = connection.user_agent(self.url)
        self._check_limits()
        while not self.stop_reason:
            current = Connection(self._opener(agent))
            try:
                yield from self._read(current)
            finally:
                current.close()
            if not self.stop_reason:
                yield from self._pause()

    def _opener(self, agent: str) -> Callable[[], SafeClient]:
        """The next request, from where we stand."""
        self._note_position()
        headers = {"User-Agent": agent}
        since, last_id = self._cursor.since(), self._cursor.last_event_id()
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        self._before = last_id.encode() if last_id else b""
        self._rejoining = self._resumed or self.counts.received > 0
        self._repeats.connect(went_back=self._rejoining)
        url = self.url if since is None else connection.with_since(self.url, since)
        return lambda: SafeClient(url, headers, (CONNECT_SECONDS, self.read_timeout + CONNECT_SECONDS))

    def _read(self, current: Connection) -> Iterator[StreamEvent | None]:
        """Items of one connection; returns when it is over."""
        decoder = sse.Decoder()
        heard = time.monotonic()
        self._failures += 1
        while not self.stop_reason:
            try:
                what = current.get(self._next_look(heard))
            except queue.Empty:
                if time.monotonic() - heard >= self.read_timeout:
                    self.last_error = f"no byte for {self.read_timeout:g} seconds"
                    return
                yield from self._tick()
                continue
            heard = time.monotonic()
            if isinstance(what, bytes):
                yield from self._items(decoder, what)
            elif not self._is_open(what):
                return
            self._check_limits()

    def _tick(self) -> Iterator[None]:
        self._check_limits()
        if self.yield_idle and not self.stop_reason:
            yield None

    def _items(self, decoder: sse.Decoder, chunk: bytes) -> Iterator[StreamEvent]:
        for message in decoder.feed(chunk):
            item = self._item(message)
            if item is not None:
                yield item
            if self.stop_reason:
                return
        self._retry_ms = decoder.retry
        if self._progress:
            self._note_progress()

    def _note_progress(self) -> None:
        self._progress = False
        self._failures = 0
        self._fresh = time.monotonic()
        if self._last_time is not None:  # how old the newest event was when it came
            self._lag_ms = time.time() * 1000 - self._last_time

    def _item(self, message: sse.Message) -> StreamEvent | None:
        """Count a message; return what the caller gets of it, if anything."""
        if message.event != b"message":
            self._note_special(message)
            return None
        raw, event, reason = message.data, None, None
        self.counts.received += 1
        try:
            event = events.decode(raw)
        except events.InvalidEvent as error:
            reason = f"longer than {sse.LONGEST} bytes" if message.cut else str(error)
        key, topic, moment = self._identify(message, event)
        self._last_topic = topic
        self._last_id = self._before = message.id
        new = self._seen.add(key)
        if self._rejoining and topic in self._topics:
            self._note_rejoined(event, moment, new)
        if new:
            self._progress = True
            self._repeats.caught_up(topic)
            if event is not None and not event.is_canary and moment is not None:
                self._note_time(moment, topic)
        if moment is not None and self._is_outside(moment):
            self.counts.outside += 1
            return None
        if not new:
            repeated = self._repeats.note(key, topic)
            self.counts.repeated += repeated
            self.counts.duplicates += not repeated
            return None
        if event is not None and self._is_wanted(event):
            self._note_given(key, event)
            return StreamEvent(raw, event, None, id=key)
        self._remembered.append(key)
        if reason is None:
            return None
        self._count_invalid(reason)
        return StreamEvent(raw, None, reason, message.cut, key)

    def _identify(self, message: sse.Message, event: Event | None) -> tuple[str, str | None, int | None]:
        """Key, topic and time of a message; what does not say them itself has them from its place in the stream."""
        meta = event.meta if event is not None else None
        moment = None if event is None else event.time_ms
        if meta is not None and meta.id:
            return meta.id, meta.topic or self._last_topic, moment
        place = cursor.place_of(self._before, message.id, self._last_topic)
        topic = place.topic if place else (meta.topic if meta else None) or self._last_topic
        if event is None or event.is_canary:
            moment = place.time_ms if place else None
        self._place = place
        return self._name(message), topic, moment

    def _is_outside(self, moment: int) -> bool:
        return (self.until is not None and moment >= self.until) or (
            self.since is not None and moment < self.since
        )

    def _note_time(self, moment: int, topic: str | None) -> None:
        """Learn from the time of a new event how late events are and whether the run is over."""
        self._last_time = moment
        self._cursor.note_time(moment)
        if self.until is not None and moment >= self.until:
            self._note_past(topic, moment - self.until)
        elif not self._is_outside(moment):
            if self._cursor.base is None or not self._topics:
                self._note_first(moment)
            self._topics.add(topic)
            if self._held:
                self._held = time.monotonic()

    def _note_given(self, key: str, event: Event) -> None:
        self.counts.events += 1
        if self.counts.events == self.max_events:
            self.stop_reason = f"{self.max_events:,} events were received (MAX_EVENTS)"
        if key != event.meta.id:
            self._remembered.append(key)  # the caller cannot tell us this one again

    def _count_invalid(self, reason: str) -> None:
        self.counts.invalid += 1
        self.counts.note_reason(reason)

    def _is_wanted(self, event: Event) -> bool:
        """Whether a new event is for the caller; if not, it is counted as what it is."""
        if event.is_canary:
            self.counts.canaries += 1
            return False
        if self.wikis and event.wiki not in self.wikis:
            self.counts.other_wikis += 1
            return False
        return True

    def _note_first(self, moment: int) -> None:
        self._cursor.start(moment)
        if self.since is not None and not self._resumed and moment - self.since > WARN_MS:
            self.warnings.append(
                f"Events were asked for from {events.iso(self.since)}; the server's first is of {events.iso(moment)}. "
                "It keeps no older ones."
            )

    def _note_rejoined(self, event: Event | None, moment: int | None, new: bool) -> None:
        """See where a topic goes on after a break: it was asked for its last event again."""
        if new and (event is None or event.is_canary):
            return  # does not tell
        self._rejoining, last = False, self._last_time
        if not new or moment is None or last is None or moment <= last or len(self.warnings) >= REASONS:
            return
        self.warnings.append(
            f"After a break at {events.iso(last)} the server went on at {events.iso(moment)}, although it was asked to "
            "go back. What it had in between is missing."
        )

    def _note_past(self, topic: str | None, by: int) -> None:
        """Look whether the run is over, now that an event is past `until` by so many milliseconds.

        Events of one topic come almost in the order of their times, so a topic counts as past only when it is past by
        more than events have been late so far, and by a minute.
        """
        now = time.monotonic()
        self._held = self._held or now
        if by >= SLACK_MS + self._cursor.late:
            self._past.add(topic)
        if (self._past and self._past >= self._topics) or now - self._held >= SLACK_SECONDS:
            self.stop_reason = PAST_UNTIL

    def _name(self, message: sse.Message) -> str:
        """Identity of an event without ``meta.id``: its text and its place in its topic, or its text and its id."""
        place = self._place
        where = f"{place.topic} {place.position}" if place else message.id.decode(errors="replace")
        return f"sha1:{hashlib.sha1(message.data, usedforsecurity=False).hexdigest()} {where}"

    def _note_special(self, message: sse.Message) -> None:
        if message.event == b"end":
            self.stop_reason = "the server said that the stream is over"
            if warning := _warning(message.data):
                self.warnings.append(warning)
        elif message.event == b"error":
            self.last_error = f"the server sent an error: {message.data[:200].decode(errors='replace')}"

    def _check_limits(self) -> None:
        """End the run where a limit of time is reached."""
        now = time.monotonic()
        self._leave_out_absence(now)
        if self.max_events and self.counts.events >= self.max_events:
            self.stop_reason = f"{self.max_events:,} events were received (MAX_EVENTS)"
        elif self.max_seconds and now - self._begun >= self.max_seconds:
            self.stop_reason = f"{self.max_seconds:g} seconds have passed (MAX_SECONDS)"
        elif self._held and now - max(self._fresh, self._held) >= self.idle_timeout / 3:
            self.stop_reason = PAST_UNTIL
        elif now - self._fresh >= self.idle_timeout and not self._is_live():
            self._give_up()

    def _leave_out_absence(self, now: float) -> None:
        """Count no time as silence in which nobody listened: the process was stopped, or the caller was busy."""
        away, self._looked = now - self._looked, now
        if away > AWAY_SECONDS:
            self._fresh += away
            self._held += away if self._held else 0.0

    def _is_live(self) -> bool:
        if self._lag_ms is None or self._lag_ms > LIVE_LAG_MS:
            return False
        return self.until is None or time.time() * 1000 < self.until + self.idle_timeout * 1000

    def _give_up(self) -> None:
        nothing = self.counts.received == 0 and not self._resumed
        if nothing or not self._answered:
            raise StreamError(
                f"{self.url} must give events. For {self.idle_timeout:g} seconds there was none"
                f"{': ' + self.last_error if self.last_error else ''}. "
                "Check the address and the network, and start again."
            )
        self.stop_reason = f"{SILENCE} for {self.idle_timeout:g} seconds"

    def _is_served(self, answer: Answer) -> bool:
        """Look at the head of an answer: True to read on, False to try again; raises if trying again is no use."""
        status, self._retry_after = answer.status, answer.retry_after
        self.last_error = f"status {status} {answer.detail[:200]}".strip()
        if status == 204:
            self.stop_reason = "the server said that there is no more (204)"
        elif status == 200 and not answer.kind.startswith("text/html"):
            self.counts.reconnects += self.counts.connections > 0
            self.counts.connections += 1
            self._answered, self.last_error = True, ""
            return True
        elif status < 500 and status not in TRY_AGAIN:
            raise StreamError(connection.refusal(self.url, answer))
        return False

    def _pause(self) -> Iterator[None]:
        """Wait before the next connection: as long as the server asks, else ever longer, with jitter."""
        asked = 0.0 if self._retry_after is None else self._retry_after
        self._retry_after = None
        usual = min((self._retry_ms or 0) / 1000, LONGEST_WAIT)
        growing = min(LONGEST_WAIT, 0.25 * 2 ** min(self._failures, 10)) if self._failures else 0.1
        wait = max(asked, usual, growing * self._chance.uniform(0.5, 1.0))
        self._fresh += asked
        end = time.monotonic() + wait
        while not self.stop_reason and (left := end - time.monotonic()) > 0:
            if self.max_seconds:
                left = min(left, max(0.01, self._begun + self.max_seconds - time.monotonic()))
            time.sleep(min(left, 1.0))
            yield from self._tick()

    def _is_open(self, what: Answer | Exception | None) -> bool:
        """Look at what is no chunk: whether the connection goes on."""
        if isinstance(what, Answer):
            return self._is_served(what)
        self.last_error = "the server closed the connection" if what is None else connection.in_words(what)
        return False

    def _next_look(self, heard: float) -> float:
        """Seconds until something must be looked at even if nothing comes."""
        now = time.monotonic()
        moments = [now + 1.0, heard + self.read_timeout]
        if self.max_seconds:
            moments.append(self._begun + self.max_seconds)
        return max(0.01, min(moments) - now)


class _End(msgspec.Struct):
    warning: str | None = None


def _warning(data: bytes) -> str | None:
    """What the local replay says of its recording with its last message."""
    try:
        return msgspec.json.decode(data, type=_End).warning
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
