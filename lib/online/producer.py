"""The producer: from the event stream into a Kafka topic, each event once, whatever is killed.

``python -m lib.online.producer`` is a program of its own; :class:`lib.online.sender.Sender` starts it, starts it again
when it fails, and ends it with its parent.

Every event goes into the topic as it came, unreadable ones too. The key is the user, so one partition has all of a
user's edits, in order; what has no user goes where its bytes say. A producer that starts goes back to where the last
one stood (:mod:`lib.online.tail`) and leaves out what it finds behind that: nothing is skipped, nothing is repeated.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from lib import params
from lib.infra import kafka
from lib.online import excerpt, tail
from lib.online.tail import KEY, POSITION, SOURCE
from lib.stream import client, sse
from lib.stream.client import EventStreamClient, StreamEvent

STEP = 2_000  # events after which the position is moved on
STEP_SECONDS = 0.5
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


def partition_of(key: bytes | None, raw: bytes, partitions: int) -> int:
    """Choose a message's partition: by Kafka's own rule for keys, by the text's checksum where there is none.

    Examples
    --------
    >>> partition_of(b"AnyBot", b"", 2), partition_of(None, b"not JSON", 2)
    (0, 0)
    """
    return (zlib.crc32(raw) if key is None else murmur2(key) & 0x7FFFFFFF) % partitions


class _Known(client.Seen):
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


class KeyedStream(EventStreamClient):
    """A stream that tells the identity of the last item, also of one without ``meta.id``."""

    name = ""

    def know(self, keys: Iterable[str]) -> None:
        """Leave out what is in the topic already, and what was left out before."""
        self._seen = self._known = _Known([*keys, *self._remembered])

    def count_duplicates(self, exact: bool) -> int:
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
        self._largest = kafka.MAX_MESSAGE_BYTES

    def run(self) -> Report:
        """Send until the stream ends, and everything is in the topic.

        Returns
        -------
        Report

        Raises
        ------
        KafkaError
            When Kafka does not take a message.
        StreamError
            See :mod:`lib.stream.client`.
        """
        order = self.order
        found = tail.read(order.bootstrap, order.topic, order.partitions, order.properties, order.source)
        start = max(filter(None, (found.position, order.position)), key=tail.progress, default=None)
        stream = KeyedStream(
            order.url,
            since=order.since,
            until=order.until,
            wikis=order.wikis,
            max_events=order.max_events,
            max_seconds=order.max_seconds,
            position=start
            and {name: start.get(name, ()) for name in ("cursor", "times", "remembered", "topics")},
            yield_idle=True,
            seed=order.seed,
        )
        stream.know(found.keys)
        before = start["sent"] if start else 0
        self._largest = kafka.max_message_bytes(order.bootstrap, order.topic, order.properties)
        producer = KafkaProducer(
            bootstrap_servers=order.bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=5,
            batch_size=1 << 18,
            max_request_size=2 * kafka.MAX_MESSAGE_BYTES,
            **kafka.for_python(order.properties),
        )
        try:
            self._send_all(stream, producer, before)
        finally:
            producer.close(timeout=None if self._failure is None else 0)
        counts = stream.counts
        return Report(
            self.sent,
            stream.count_duplicates(exact=start is order.position),
            counts.canaries,
            counts.reconnects,
            stream.stop_reason,
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
                key = key if value is item.data else None  # an excerpt is nobody's edit
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

    def _position(self, stream: EventStreamClient, before: int) -> dict[str, Any]:
        return {"sent": before + self.sent, "time": int(time.time() * 1000), **stream.position}

    def _header(self, stream: EventStreamClient, before: int) -> bytes:
        """A position that is small enough to travel with messages."""
        whole = self._position(stream, before)
        return msgspec.json.encode({name: whole[name] for name in ("sent", "time", "cursor")})

    def _value(self, item: StreamEvent, key: bytes | None, name: str) -> tuple[bytes, bytes | None]:
        """Give a message's value, and the event's identity where the value does not tell it."""
        own = item.event.meta.id if item.event is not None else None
        size = len(item.data) + len(key or b"") + _AROUND
        if item.truncated:
            return excerpt.pack(item.data, f"{item.reason}; its beginning is shown"), name.encode()
        if size + size // 200 > self._largest:  # even if compression finds nothing
            reason = (
                f"{len(item.data)} bytes are too many for Kafka, which takes {self._largest}; the beginning"
            )
            return excerpt.pack(item.data, reason), (own or name).encode()[: excerpt.LONGEST]
        return item.data, None if own else name.encode()

    def _place(self, item: StreamEvent) -> tuple[bytes | None, int]:
        """Give a message's key and partition."""
        user = item.event.user if item.event is not None else None
        if user is None:
            return None, partition_of(None, item.data, self.order.partitions)
        key, partition = user.encode(), self._partition.get(user)
        if partition is None:
            if len(self._partition) >= USERS:
                self._partition.clear()
            partition = self._partition[user] = partition_of(key, item.data, self.order.partitions)
        return key, partition

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error


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
    except (client.StreamError, params.ParameterError) as error:
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
