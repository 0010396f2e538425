"""The two topics in Kafka: the events of the stream, each at least once, and the verdicts.

Every event goes into the topic as it came, invalid ones too. The key is the user, so one partition has all of a user's
edits, in order. Now and then everything is flushed, and the client's position is saved: a producer that is killed
repeats what it sent after that, and the repeats have the same ids, so each event is judged once.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import confluent_kafka
import msgspec
import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.producer.future import RecordMetadata

from lib import events
from lib.infra import kafka
from lib.online.scoring import ID_HEADER
from lib.online.state import VERDICT_SCHEMA, OnlineError, StateStore
from lib.stream.client import EventStreamClient, StreamEvent

FLUSH_EVENTS = 2_000  # events after which the position is saved; also when the stream is idle
MAX_MESSAGES = 200_000  # of each partition that are searched for the texts of edits
MAX_SILENT_POLLS = 30  # of one second, of a Kafka that does not answer
FLUSH_SECONDS = 60.0  # in which Kafka must acknowledge the verdicts of a batch


class EventTopic:
    """The topic of events. It and that of the verdicts are made if they are not there.

    Parameters
    ----------
    bootstrap : str
    properties : mapping
        Kafka client properties.
    state : StateStore
        Knows the topics' names, and what was judged.

    Raises
    ------
    OnlineError
        When events of the topic were judged, and it is not there any more.
    """

    def __init__(self, bootstrap: str, properties: Mapping[str, str], state: StateStore):
        topics = state.get_meta("topics")
        self.bootstrap, self.properties, self.state = bootstrap, properties, state
        self.name: str = topics["events"]
        if state.offsets() and not self._id():
            raise OnlineError(
                f"RESUME=True continues with the topic {self.name}. Got {bootstrap}, which has none. "
                "Set the same KAFKA as before, or start again with RESUME=False."
            )
        kafka.make_topics(bootstrap, list(topics.values()), state.get_meta("partitions"), properties)
        if not state.get_meta("topic_id"):
            with state.transaction():
                state.set_meta("topic_id", self._id())

    def next_offsets(self) -> dict[int, int]:
        """Return from which offset on each partition is to be judged."""
        return dict.fromkeys(self._ranges(), 0) | self.state.offsets()

    def find_loss(self) -> str:
        """Return what cannot be judged any more, in a sentence, and count it; empty if nothing is lost."""
        meta, read = self.state.get_meta, self.next_offsets()
        is_another = self._id() != meta("topic_id")
        is_compacted = kafka.is_compacted(self.bootstrap, self.name, self.properties)
        ranges = {} if is_another else self._ranges()
        went_back = any(read[number] > end for number, (_, end) in ranges.items())
        begin = {number: first for number, (first, _) in ranges.items()}
        if is_another or went_back:  # what was sent to the old topic and not judged is gone
            begin = {int(number): offset for number, offset in meta("ends", {}).items()}
        missing = {number: first - read.get(number, 0) for number, first in begin.items()}
        lost = {number: n for number, n in missing.items() if n > 0}
        reasons = [f"{n:,} records of partition {p} deleted before they were read" for p, n in lost.items()]
        reasons += ["that it was deleted and made again"] * is_another
        reasons += ["offsets that went back"] * went_back
        reasons += ["cleanup.policy=compact, which keeps the last event of each user"] * is_compacted
        if not reasons:
            return ""
        with self.state.transaction():
            counted = Counter({str(number): n for number, n in lost.items()})
            self.state.set_meta("records_lost", counted + Counter(meta("records_lost", {})))
            self.state.set_offsets({number: begin[number] for number in lost})
        is_over = is_another or went_back or is_compacted
        way_out = "Start again with RESUME=False." if is_over else "RESUME=True judges what is left."
        return f"The topic {self.name} must keep every event until it is judged. Got {'; '.join(reasons)}. {way_out}"

    def texts(self, ids: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Return title, comment and change of size of edits by their ids, as far as the topic still has them."""
        found = {}
        for raw, event in events.decode_valid(self._last_messages()):
            if (key := events.event_key(raw, event)) in ids:
                found[key] = {"title": event.title, "comment": event.comment, "delta": events.delta(event)}
        return found

    def _last_messages(self) -> Iterator[bytes]:
        """Yield the texts in the topic, of each partition the last :data:`MAX_MESSAGES` that were judged."""
        ends = {TopicPartition(self.name, number): end for number, end in self.state.offsets().items()}
        silent, options = 0, kafka.for_python(self.properties)
        with contextlib.closing(KafkaConsumer(bootstrap_servers=self.bootstrap, **options)) as consumer:
            consumer.assign(list(ends))
            ranges = self._ranges()
            for place, end in ends.items():
                consumer.seek(place, max(ranges[place.partition][0], end - MAX_MESSAGES))
            while silent < MAX_SILENT_POLLS and any(
                consumer.position(place) < end for place, end in ends.items()
            ):
                polled = consumer.poll(timeout_ms=1000, max_records=5000)
                silent = 0 if polled else silent + 1
                for records in polled.values():
                    yield from (record.value or b"" for record in records)

    def _ranges(self) -> dict[int, tuple[int, int]]:
        return kafka.offset_ranges(self.bootstrap, self.name, self.properties)

    def _id(self) -> str:
        return kafka.topic_id(self.bootstrap, self.name, self.properties)


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
        self._unsaved = FLUSH_EVENTS - 1  # events since the position was saved; after the first one it is
        #: The offset after the last event of each partition, and the duplicates of earlier clients.
        self._ends: dict[str, int] = state.get_meta("ends", {})
        self._duplicates = state.get_meta("stream_duplicates", 0) - client.counts.duplicates

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
        sent.add_callback(self._note_offset)
        sent.add_errback(self._errors.append)
        self._unsaved += 1

    def _note_offset(self, sent: RecordMetadata) -> None:
        self._ends[str(sent.partition)] = sent.offset + 1

    def _save(self) -> None:
        """Wait until everything is in the topic, and save the client's position; not once the run is to end."""
        if not self._unsaved:
            return
        while True:
            try:
                self.producer.flush(timeout=1)
                break
            except KafkaTimeoutError:
                if self.stop.is_set():
                    return  # what is not saved is sent again by RESUME=True
        if self._errors:
            error = self._errors[0]
            raise OnlineError(
                f"Kafka must take the events of the topic {self.topic}. Got {type(error).__name__}: {error}. "
                "Check the broker, and go on with RESUME=True."
            )
        with self.state.transaction():
            self.state.set_meta("position", self.client.position)
            self.state.set_meta("ends", self._ends)
            self.state.set_meta("stream_duplicates", self._duplicates + self.client.counts.duplicates)
        self._unsaved = 0


_Verdict = msgspec.defstruct("_Verdict", VERDICT_SCHEMA.names, gc=False)


def to_json(table: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield the key (``meta_id``) and the JSON text of each verdict: the columns, the time in ISO 8601.

    Examples
    --------
    >>> import json
    >>> row = {"meta_id": "a", "timestamp": 0, "user": 'say "hi"', "bot": True, "verdict": "kept"}
    >>> key, text = next(to_json(pa.Table.from_pylist([row], VERDICT_SCHEMA)))
    >>> json.loads(text)["timestamp"]
    '1970-01-01T00:00:00.000Z'
    """
    times = np.datetime_as_string(table["timestamp"].cast(pa.timestamp("ms")).to_numpy(), timezone="UTC")
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", pa.array(times))
    for row in zip(*(table[name].to_pylist() for name in VERDICT_SCHEMA.names), strict=True):
        yield row[0], msgspec.json.encode(_Verdict(*row))


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
