"""Where a topic's producer stood: read from the ends of the partitions, so that the next one goes on from there.

Each message carries in its headers a position of the stream before which everything is in the topic. The latest of them
is where to go on; what stands behind it in the topic may come again and must be known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from kafka import KafkaConsumer, TopicPartition

from lib.online import topics
from lib.stream.cursor import Cursor

POSITION = "position"  # header: the stream's position before which everything is in the topic
SOURCE = "source"  # header: which stream that is a position of
KEY = "key"  # header: identity of an event without meta.id
LENGTH = 4_096  # messages of a partition that are read back at first; more as long as the stream may give them again


class Tail(NamedTuple):
    """What the ends of the partitions tell."""

    position: dict[str, Any] | None  #: the latest position; None: the topic has none of this stream
    keys: list[str]  #: identities of the events that may come again from there


def read(bootstrap: str, topic: str, partitions: int, properties: Mapping[str, str], source: str) -> Tail:
    """Find out where a topic's producer stood when it ended.

    Parameters
    ----------
    bootstrap, topic, partitions, properties
        Where the topic is.
    source : str
        The stream whose positions count.

    Returns
    -------
    Tail
    """
    with topics.consumer(bootstrap, properties) as consumer:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
        newest = [_newest(consumer, place, begins[place], ends[place]) for place in places]
        kept = [found.position for found in newest if found is not None and found.source == source]
        if not kept:
            return Tail(None, [])
        latest = max(kept, key=progress)
        keys: list[str] = []
        for place in places:
            wanted = LENGTH
            while True:
                start = max(begins[place], ends[place] - wanted)
                tail = _messages(consumer, place, start, ends[place])
                mine = [message for message in tail if message.source == source]
                if start == begins[place] or _reaches_behind(mine, latest):
                    break
                wanted *= 4
            keys += [message.key for message in tail if message.key]
        return Tail(latest, keys)


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
        end, step = start, min(4 * step, LENGTH)
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


def progress(position: dict[str, Any]) -> tuple[int, int]:
    """What tells which of two positions is the later one."""
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
