"""The producer: from the event stream into a Kafka topic, each event once, whatever is killed.

``python -m lib.online.producer`` runs in a process of its own, so that reading and judging do not wait for each other;
:class:`Sender` starts it, starts it again when it fails, and ends it with its parent.

Every event goes into the topic as it came, unreadable ones too. The key is the user, so one partition has all of a
user's edits, in order; what has no user goes where its bytes say. Each message carries in its headers a position of the
stream before which everything is in the topic. A producer that starts reads the ends of the partitions, goes back to
the latest such position, and leaves out what it finds behind it: nothing is skipped and nothing is repeated.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterable
from typing import IO, Any, NamedTuple, Self

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from lib import paths
from lib.online import excerpt
from lib.runtime import clients, guard
from lib.stream import eventstreams, sse
from lib.stream.cursor import Cursor
from lib.stream.eventstreams import Item, Stream

POSITION = "position"  # header: the stream's position before which everything is in the topic
SOURCE = "source"  # header: which stream that is a position of
KEY = "key"  # header: identity of an event without meta.id
STEP = 2_000  # events after which the position is moved on
STEP_SECONDS = 0.5
TAIL = 4_096  # messages of a partition that are read back at first
RESTARTS = 5
REFUSED = 3  # exit code: starting again is no use
_AROUND = 4_096  # bytes of a message beside text and key, with some to spare
USERS = 100_000  # users whose partition is remembered


class Order(msgspec.Struct, frozen=True):
    """What a producer is to do; plain values, to be handed to another process."""

    bootstrap: str
    topic: str
    partitions: int
    url: str
    #: Names the stream: positions in the topic are used only if they are of this one. A recording's address changes.
    source: str
    since: int | None = None
    until: int | None = None
    wikis: tuple[str, ...] = ()
    max_events: int = 0
    max_seconds: float = 0
    properties: dict[str, str] = {}
    seed: int = 0
    #: Where the last producer ended (of its `Report`); what the topic tells is up to `STEP` events older.
    position: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Leave out the properties: they may hold a password."""
        return f"Order({self.url!r} into {self.topic!r} at {self.bootstrap!r})"


class Report(msgspec.Struct, frozen=True):
    """What a producer did."""

    sent: int  #: messages
    duplicates: int  #: events that the stream gave more than once
    canaries: int
    reconnects: int
    ended: str  #: why the stream ended
    resumed: bool  #: whether the topic said where to go on
    position: dict[str, Any] = {}  #: where it ended
    warnings: list[str] = []  #: what a reader of the verdicts should know of the stream


class ProducerError(RuntimeError):
    """The stream cannot be brought into Kafka; the message says why."""


# --- where to go on ---------------------------------------------------------------------------------------------------


class Tail(NamedTuple):
    """What the ends of the partitions tell."""

    position: dict[str, Any] | None  #: the latest position; None: the topic has none of this stream
    keys: list[str]  #: identities of the events that may come again from there


def read_tail(order: Order, first: int = TAIL) -> Tail:
    """Find out where a topic's producer stood when it ended.

    Parameters
    ----------
    order : Order
    first : int
        Messages of each partition to look at first; more are read as long as the stream may give them again.

    Returns
    -------
    Tail
    """
    consumer = KafkaConsumer(
        bootstrap_servers=order.bootstrap, enable_auto_commit=False, **clients.for_python(order.properties)
    )
    try:
        places = [TopicPartition(order.topic, number) for number in range(order.partitions)]
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        newest = [_newest(consumer, place, begins[place], ends[place]) for place in places]
        kept = [found.position for found in newest if found is not None and found.source == order.source]
        if not kept:
            return Tail(None, [])
        latest = max(kept, key=_progress)
        keys: list[str] = []
        for place in places:
            wanted = first
            while True:
                start = max(begins[place], ends[place] - wanted)
                tail = _messages(consumer, place, start, ends[place])
                mine = [message for message in tail if message.source == order.source]
                if start == begins[place] or _reaches_behind(mine, latest):
                    break
                wanted *= 4
            keys += [message.key for message in tail if message.key]
        return Tail(latest, keys)
    finally:
        consumer.close()


class _Message(NamedTuple):
    position: dict[str, Any]
    source: str  #: empty for a message of another program
    key: str


class _Named(msgspec.Struct):
    meta: dict[str, Any]


class _Position(msgspec.Struct):
    sent: int
    time: int
    cursor: dict[str, Any]


_meta_decoder = msgspec.json.Decoder(_Named)
_position_decoder = msgspec.json.Decoder(_Position)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def _newest(consumer: KafkaConsumer, place: TopicPartition, begin: int, end: int) -> _Message | None:
    """Find the last message of a partition that a producer of ours wrote; others may write into the topic, too."""
    step = 1
    while begin < end:
        start = max(begin, end - step)
        ours = [message for message in _messages(consumer, place, start, end) if message.source]
        if ours:
            return ours[-1]
        end, step = start, min(4 * step, TAIL)
    return None


def _messages(consumer: KafkaConsumer, place: TopicPartition, start: int, end: int) -> list[_Message]:
    """Read the messages of a partition between two offsets."""
    found: list[_Message] = []
    if start >= end:
        return found
    consumer.assign([place])
    consumer.seek(place, start)
    while consumer.position(place) < end:
        for record in consumer.poll(timeout_ms=1000, max_records=5000).get(place, []):
            if record.offset < end:
                found.append(_message(record))
    return found


def _message(record: Any) -> _Message:
    headers = {name: value or b"" for name, value in record.headers}
    key = headers[KEY].decode(errors="replace") if KEY in headers else _meta_id(record.value)
    try:
        position = msgspec.structs.asdict(_position_decoder.decode(headers.get(POSITION, b"")))
        return _Message(position, headers.get(SOURCE, b"").decode(), key)
    except _UNREADABLE:
        return _Message({}, "", key)


def _meta_id(raw: bytes | None) -> str:
    try:
        return str(_meta_decoder.decode(raw or b"").meta.get("id") or "")
    except _UNREADABLE:
        return ""


def _progress(position: dict[str, Any]) -> tuple[int, int]:
    return position["sent"], position["time"]


def _reaches_behind(tail: list[_Message], latest: dict[str, Any]) -> bool:
    """Tell whether the messages before a tail cannot come again from a position.

    Everything that stands before a message is in the topic up to that message's position. So once a message's position
    lies before all that comes again, only messages with the same position, and later ones, may come again.
    """
    again = json.loads(Cursor.from_json(latest["cursor"]).last_event_id() or "[]")
    behind = [message for message in tail if _lies_before(message.position, again, latest)]
    return bool(behind) and tail[0].position != behind[-1].position


def _lies_before(position: dict[str, Any], again: list[dict[str, Any]], latest: dict[str, Any]) -> bool:
    if not again:
        moment, newest = position["cursor"]["time"], latest["cursor"]["time"]
        return (
            moment is not None
            and newest is not None
            and moment < newest - Cursor.from_json(latest["cursor"]).rewind_ms
        )
    entries = {entry["topic"]: entry for entry in position["cursor"]["topics"]}
    for wanted in again:
        for unit in ("timestamp", "offset"):
            mine = entries.get(wanted["topic"], {}).get(unit)
            if mine is not None and mine >= 0 and not mine < wanted.get(unit, mine):
                return False
    return True


# --- sending ----------------------------------------------------------------------------------------------------------


def partition_of(key: bytes | None, raw: bytes, partitions: int) -> int:
    """Choose a message's partition: by Kafka's own rule for keys, by the text's checksum where there is none.

    Examples
    --------
    >>> partition_of(b"AnyBot", b"", 2), partition_of(None, b"not JSON", 2)
    (0, 0)
    """
    return (zlib.crc32(raw) if key is None else murmur2(key) & 0x7FFFFFFF) % partitions


class _Known(eventstreams.Seen):
    """Keys that are in the topic; each may come once more because we went back, which is no duplicate."""

    def __init__(self, keys: Iterable[str]):
        super().__init__()
        self._expected = {hash(key) for key in keys}
        self.again = 0

    def add(self, key: str) -> bool:
        number = hash(key)
        if number not in self._expected:
            return super().add(key)
        self._expected.remove(number)
        super().add(key)
        self.again += 1
        return False


class KeyedStream(Stream):
    """A stream that tells the identity of the last item, also of one without ``meta.id``."""

    name = ""

    def know(self, keys: Iterable[str]) -> None:
        """Leave out what is in the topic already, and what was left out before."""
        self._seen = self._known = _Known([*keys, *self._remembered])

    def duplicates(self, exact: bool) -> int:
        """Count what the server sent more than once; without an exact position, not what may be coming again."""
        counts = self.counts
        sure = counts.duplicates + counts.repeated - self._known.again
        return counts.duplicates if exact else min(counts.duplicates, sure)

    def _name(self, message: sse.Message) -> str:
        self.name = super()._name(message)
        return self.name


class Producer:
    """Send a stream's events into a topic.

    Parameters
    ----------
    order : Order
    """

    def __init__(self, order: Order):
        self.order = order
        self.sent = 0
        self._failure: BaseException | None = None
        self._partition: dict[str, int] = {}
        self._largest = clients.LARGEST

    def run(self) -> Report:
        """Send until the stream ends, and everything is in the topic.

        Returns
        -------
        Report

        Raises
        ------
        KafkaError
            When Kafka does not take a message.
        StreamRefused, StreamUnavailable
            See :mod:`lib.stream.eventstreams`.
        """
        order = self.order
        tail = read_tail(order)
        start = max(filter(None, (tail.position, order.position)), key=_progress, default=None)
        stream = KeyedStream(
            order.url,
            since=order.since,
            until=order.until,
            wikis=order.wikis,
            max_events=order.max_events,
            max_seconds=order.max_seconds,
            position=start
            and {name: start.get(name, ()) for name in ("cursor", "times", "remembered", "topics")},
            ticks=True,
            seed=order.seed,
        )
        stream.know(tail.keys)
        before = start["sent"] if start else 0
        self._largest = clients.largest(order.bootstrap, order.topic, order.properties)
        producer = KafkaProducer(
            bootstrap_servers=order.bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=5,
            batch_size=1 << 18,
            max_request_size=2 * clients.LARGEST,
            **clients.for_python(order.properties),
        )
        try:
            self._send_all(stream, producer, before)
        finally:
            producer.close(timeout=None if self._failure is None else 0)
        counts = stream.counts
        return Report(
            self.sent,
            stream.duplicates(exact=start is order.position),
            counts.canaries,
            counts.reconnects,
            stream.ended,
            start is not None,
            self._position(stream, before),
            stream.warnings,
        )

    def _send_all(self, stream: KeyedStream, producer: KafkaProducer, before: int) -> None:
        order = self.order
        source = order.source.encode()
        headers = [(POSITION, self._header(stream, before)), (SOURCE, source)]
        moved, since = STEP - 1, time.monotonic()  # a first position as soon as there is an event
        for item in stream:
            if item is not None:
                key, partition = self._place(item)
                value, identity = self._value(item, key, stream.name)
                named = headers if identity is None else [*headers, (KEY, identity)]
                key = key if value is item.raw else None  # an excerpt is nobody's edit
                producer.send(order.topic, value, key=key, partition=partition, headers=named).add_errback(
                    self._fail
                )
                self.sent += 1
            moved += item is not None
            if moved >= STEP or (moved and time.monotonic() - since >= STEP_SECONDS):
                position = self._header(stream, before)
                producer.flush()
                headers = [(POSITION, position), (SOURCE, source)]
                moved, since = 0, time.monotonic()
            if self._failure is not None:
                raise self._failure
        producer.flush()
        if self._failure is not None:
            raise self._failure

    def _position(self, stream: Stream, before: int) -> dict[str, Any]:
        return {"sent": before + self.sent, "time": int(time.time() * 1000), **stream.position()}

    def _header(self, stream: Stream, before: int) -> bytes:
        """A position that is small enough to travel with messages."""
        whole = self._position(stream, before)
        return msgspec.json.encode({name: whole[name] for name in ("sent", "time", "cursor")})

    def _value(self, item: Item, key: bytes | None, name: str) -> tuple[bytes, bytes | None]:
        """Give a message's value, and the event's identity where the value does not tell it."""
        own = item.event.meta.id if item.event is not None else None
        size = len(item.raw) + len(key or b"") + _AROUND
        if item.cut:
            return excerpt.pack(item.raw, f"{item.reason}; its beginning is shown"), name.encode()
        if size + size // 200 > self._largest:  # even if compression finds nothing
            reason = (
                f"{len(item.raw)} bytes are too many for Kafka, which takes {self._largest}; the beginning"
            )
            return excerpt.pack(item.raw, reason), (own or name).encode()[: excerpt.LONGEST]
        return item.raw, None if own else name.encode()

    def _place(self, item: Item) -> tuple[bytes | None, int]:
        """Give a message's key and partition."""
        user = item.event.user if item.event is not None else None
        if user is None:
            return None, partition_of(None, item.raw, self.order.partitions)
        key, partition = user.encode(), self._partition.get(user)
        if partition is None:
            if len(self._partition) >= USERS:
                self._partition.clear()
            partition = self._partition[user] = partition_of(key, item.raw, self.order.partitions)
        return key, partition

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error


# --- a process of its own ---------------------------------------------------------------------------------------------


class Sender:
    """A producer in a process of its own, started again when it fails, ended with its parent.

    Parameters
    ----------
    order : Order

    Attributes
    ----------
    reports : list of Report
        What the producers did that came to their end.
    """

    def __init__(self, order: Order):
        self.order = order
        self.reports: list[Report] = []
        self.failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Files and no pipes: a report can be longer than a pipe holds, and nobody reads before the end.
        self._answer: IO[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._begun = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._end()

    @property
    def pid(self) -> int | None:
        """Process id of the producer."""
        return None if self._process is None else self._process.pid

    @property
    def done(self) -> bool:
        """Whether the stream has ended and everything is in the topic."""
        return bool(self.reports)

    @property
    def duplicates(self) -> int:
        """Events that the stream gave more than once; each is in the topic once."""
        return sum(report.duplicates for report in self.reports)

    @property
    def report(self) -> Report:
        """What was done; only when it is done."""
        return self.reports[-1]

    def check(self) -> None:
        """See whether the producer goes on, and start another when it failed.

        Raises
        ------
        ProducerError
            When starting another is no use, or has been of none.
        """
        if self.done:
            return
        if self._process is None:
            raise ProducerError("The producer is not running. Use it in a with block.")
        code = self._process.poll()
        if code is None:
            return
        answer, complaint = self._read_out()
        if code == 0:
            self.reports.append(msgspec.json.decode(answer, type=Report))
            return
        self.failures += 1
        if code == REFUSED or self.failures > RESTARTS:
            raise ProducerError(complaint or f"The producer ended with code {code}.")
        self._start()

    def _start(self) -> None:
        order = self.order
        if order.max_seconds:
            left = max(0.001, order.max_seconds - (time.monotonic() - self._begun))
            order = msgspec.structs.replace(order, max_seconds=left)
        self._answer, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  (closed in _end)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lib.online.producer"],
            cwd=paths.ROOT,
            stdin=subprocess.PIPE,
            stdout=self._answer,
            stderr=self._said,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def _read_out(self) -> tuple[bytes, str]:
        assert self._answer is not None and self._said is not None
        self._answer.seek(0)
        answer = self._answer.read()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._end()
        return answer, lines[-1] if lines else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        guard.stop(process, 10)
        for file in (self._answer, self._said):
            if file is not None:
                file.close()


def _end_with_parent() -> None:
    """End when standard input closes: the parent has closed it, has ended, or was killed."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main() -> int:
    """Read an order from standard input, carry it out, and write the report to standard output."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        report = Producer(order).run()
    except (eventstreams.StreamRefused, eventstreams.StreamUnavailable, clients.PropertiesError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KafkaError as error:
        print(
            f"Kafka at {order.bootstrap} must take the events. Got {type(error).__name__}: {error}.",
            file=sys.stderr,
        )
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
