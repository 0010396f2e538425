"""What is in a topic: its ends, and its last messages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from kafka import KafkaConsumer, TopicPartition

from lib.infra import kafka


@contextlib.contextmanager
def consumer(bootstrap: str, properties: Mapping[str, str]) -> Iterator[KafkaConsumer]:
    """Give a consumer that belongs to no group, and close it."""
    opened = KafkaConsumer(bootstrap_servers=bootstrap, **kafka.for_python(properties))
    try:
        yield opened
    finally:
        opened.close()


def ends(bootstrap: str, topic: str, properties: Mapping[str, str]) -> dict[int, int]:
    """Give the offset after the last message of each partition, also of one that somebody has added."""
    with consumer(bootstrap, properties) as reader:
        found = reader.end_offsets(_places(reader, topic))
    return {place.partition: end for place, end in found.items()}


def messages(bootstrap: str, topic: str, properties: Mapping[str, str], most: int) -> Iterator[bytes]:
    """Give the values in a topic, at most so many of each partition, the last ones."""
    with consumer(bootstrap, properties) as reader:
        places = _places(reader, topic)
        reader.assign(places)
        first, last = reader.beginning_offsets(places), reader.end_offsets(places)
        for place in places:
            reader.seek(place, max(first[place], last[place] - most))
        while any(reader.position(place) < last[place] for place in places):
            for records in reader.poll(timeout_ms=1000, max_records=5000).values():
                yield from (record.value or b"" for record in records)


def _places(reader: KafkaConsumer, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in sorted(reader.partitions_for_topic(topic) or ())]
