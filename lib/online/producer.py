"""What goes into Kafka: the events of the stream, each at least once, and the verdicts.

Every event goes into the topic as it came, invalid ones too. The key is the user, so one partition has all of a user's
edits, in order. Now and then everything is flushed, and the client's position is saved: a producer that is killed
repeats what it sent after that, and the repeats have the same ids, so each event is judged once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import confluent_kafka
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from kafka import KafkaProducer

from lib.infra import kafka
from lib.online.scoring import ID_HEADER
from lib.online.state import SCHEMA, OnlineError, StateStore
from lib.stream.client import EventStreamClient, StreamEvent

FLUSH_EVENTS = 2_000  # events after which the position is saved; also when the stream is idle
FLUSH_SECONDS = 60.0  # in which Kafka must acknowledge the verdicts of a batch


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

    Attributes
    ----------
    stop : threading.Event
        Set it to end a run before its time.
    """

    def __init__(self, client: EventStreamClient, producer: KafkaProducer, topic: str, state: StateStore):
        self.client = client
        self.producer = producer
        self.topic = topic
        self.state = state
        self.stop = threading.Event()
        self._events: Iterator[StreamEvent | None] = iter(client)
        self._errors: list[BaseException] = []
        self._unsaved = 0  # events since the position was saved
        self._duplicates = (
            state.get_meta("stream_duplicates", 0) - client.counts.duplicates
        )  # of earlier clients

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
        is_named = event.event is not None and event.event.meta.id
        headers = [] if is_named else [(ID_HEADER, event.id.encode())]
        sent = self.producer.send(self.topic, event.data, key=key, headers=headers)
        sent.add_errback(self._errors.append)
        self._unsaved += 1

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
        with self.state.transaction():
            self.state.set_meta("position", self.client.position)
            self.state.set_meta("stream_duplicates", self._duplicates + self.client.counts.duplicates)
        self._unsaved = 0


def to_json(table: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield the key (``meta_id``) and the JSON text of each verdict: the columns, the time in ISO 8601.

    Examples
    --------
    >>> import json
    >>> row = {"meta_id": "a", "timestamp": 0, "user": 'say "hi"', "bot": True, "verdict": "kept"}
    >>> key, text = next(to_json(pa.Table.from_pylist([row], SCHEMA)))
    >>> json.loads(text)["timestamp"]
    '1970-01-01T00:00:00.000Z'
    """
    times = pc.replace_substring(table["timestamp"].cast(pa.string()), " ", "T", max_replacements=1)
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", times)
    encode = msgspec.json.Encoder().encode
    for row in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True):
        yield row[0], encode(dict(zip(SCHEMA.names, row, strict=True)))


class VerdictTopic:
    """The topic of verdicts, written with librdkafka.

    Parameters
    ----------
    bootstrap, topic : str
    properties : mapping
        Kafka client properties.
    """

    def __init__(self, bootstrap: str, topic: str, properties: Mapping[str, str]):
        self.topic = topic
        self._errors: list[confluent_kafka.KafkaError] = []
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 2_000_000,
                "message.max.bytes": kafka.MAX_MESSAGE_BYTES,
                "delivery.report.only.error": True,
                "on_delivery": lambda error, _: self._errors.append(error),
                "log_level": 0,  # else it writes every failed connection to the terminal
                **kafka.for_librdkafka(properties),
            }
        )

    def send(self, table: pa.Table) -> None:
        """Send verdicts, and wait until all are acknowledged.

        Raises
        ------
        OnlineError
            When Kafka does not take one of them.
        """
        for key, value in to_json(table):
            self._producer.produce(self.topic, value, key)
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._errors:
            reason = self._errors[0].str() if self._errors else f"no answer for {FLUSH_SECONDS:g} s"
            raise OnlineError(
                f"Kafka must take the verdicts of the topic {self.topic}. Got: {reason}. "
                "Check the broker, and go on with RESUME=True."
            )
