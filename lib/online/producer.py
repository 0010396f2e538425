"""The producer: a thread that brings the stream into Kafka, each event at least once.

Every event goes into the topic as it came, invalid ones too. The key is the user, so one partition has all of a user's
edits, in order. Now and then everything is flushed, and the client's position is saved: a producer that is killed
repeats what it sent after that, and the repeats have the same ids, so each event is judged once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from kafka import KafkaProducer

from lib.online.scoring import ID_HEADER, REASON_HEADER
from lib.online.state import OnlineError, StateStore
from lib.stream.client import EventStreamClient, StreamEvent

FLUSH_EVENTS = 2_000  # events after which the position is saved; also when the stream is idle
MAX_DEAD_LETTER_BYTES = 1 << 16  # of an event that is too long for Kafka: its beginning
_OVERHEAD_BYTES = 4_096  # of a message beside text and key, with some to spare


class Publisher:
    """Send the events of a client to a topic.

    Parameters
    ----------
    client : EventStreamClient
        Made with ``yield_idle=True``.
    producer : KafkaProducer
    topic : str
    state : StateStore
        Where the client's position is saved.
    max_message_bytes : int
        What the topic takes. A longer event is sent as its beginning, with the reason, and becomes a dead letter.

    Attributes
    ----------
    stop : threading.Event
        Set it to end a run before its time.
    """

    def __init__(
        self,
        client: EventStreamClient,
        producer: KafkaProducer,
        topic: str,
        state: StateStore,
        max_message_bytes: int,
    ):
        self.client = client
        self.producer = producer
        self.topic = topic
        self.state = state
        self.max_message_bytes = max_message_bytes
        self.stop = threading.Event()
        self._events: Iterator[StreamEvent | None] = iter(client)
        self._errors: list[BaseException] = []
        self._unsaved = 0  # events since the position was saved
        self._duplicates = client.counts.duplicates

    def run(self, max_events: int = 0) -> None:
        """Send events until the stream ends, or so many valid ones are sent; everything is in the topic then.

        Raises
        ------
        OnlineError
            When Kafka does not take an event.
        StreamError
            See :mod:`lib.stream.client`.
        """
        valid = 0
        for event in self._events:
            if event is not None:
                self._send(event)
                valid += event.event is not None
            if self._unsaved >= FLUSH_EVENTS or event is None:
                self._save()
            if (max_events and valid >= max_events) or self.stop.is_set():
                break
        self._save()

    def _send(self, event: StreamEvent) -> None:
        user = event.event.user if event.event is not None else None
        key = None if user is None else user.encode()
        value, headers = event.data, []
        if event.event is None or not event.event.meta.id:
            headers.append((ID_HEADER, event.id.encode()))
        if reason := self._too_long(event, key):
            key, value = None, value[:MAX_DEAD_LETTER_BYTES]
            headers = [(ID_HEADER, event.id.encode()), (REASON_HEADER, reason.encode())]
        sent = self.producer.send(self.topic, value, key=key, headers=headers)
        sent.add_errback(self._errors.append)
        self._unsaved += 1

    def _too_long(self, event: StreamEvent, key: bytes | None) -> str | None:
        size = len(event.data) + len(key or b"") + _OVERHEAD_BYTES
        if size + size // 200 <= self.max_message_bytes:  # even if compression finds nothing
            return None
        return f"{len(event.data)} bytes are too many for Kafka, which takes {self.max_message_bytes}; the beginning"

    def _save(self) -> None:
        """Wait until everything is in the topic, and save the client's position."""
        if not self._unsaved:
            return
        self.producer.flush()
        if self._errors:
            error = self._errors[0]
            raise OnlineError(
                f"Kafka must take the events of the topic {self.topic}. Got {type(error).__name__}: {error}. "
                "Check the broker, and go on with RESUME=True."
            )
        duplicates = self.client.counts.duplicates
        with self.state.transaction():
            self.state.set_meta("position", self.client.position)
            self.state.set_meta(
                "stream_duplicates",
                self.state.get_meta("stream_duplicates", 0) + duplicates - self._duplicates,
            )
        self._unsaved, self._duplicates = 0, duplicates
