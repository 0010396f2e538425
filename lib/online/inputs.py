"""What stage 4 is given: how a recording is cut into runs, who was known before it, and what is in the topic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from lib import events
from lib.blacklist.ledger import Ledger
from lib.online import state
from lib.stream import recording
from lib.stream.source import Source

RUNS = 5  # a recording is judged in so many runs
MAX_MESSAGES = 200_000  # of each partition that are searched for the texts of edits


def split_runs(source: Source, settings: Any) -> list[int]:
    """Return how many events each run takes, 0 for no limit.

    A recording is cut into :data:`RUNS` runs of equal size; a stream, or what is resumed, is judged in one.
    """
    if source.recording is None or settings.resume or settings.max_seconds:
        return [settings.max_events]
    n = sum(1 for _ in wanted_events(source))
    n = min(n, settings.max_events) if settings.max_events else n
    each = -(-n // RUNS)
    last = max(n - each * (RUNS - 1), 1) if settings.max_events else 0
    return [each] * (RUNS - 1) + [last] if each else [settings.max_events]


def wanted_events(source: Source) -> Iterator[events.Event]:
    """Yield the events of a recording that are asked for."""
    for event in _decoded(source):
        is_after = source.since is None or event.time_ms >= source.since
        is_before = source.until is None or event.time_ms < source.until
        if is_after and is_before and (not source.wikis or event.wiki in source.wikis):
            yield event


def known_before(settings: Any) -> tuple[list[str], frozenset[str] | None]:
    """Return who was known to be a bot when this stage began.

    Parameters
    ----------
    settings : namespace
        What `lib.params.check` returned for 04_online.

    Returns
    -------
    listed : list of str
        The blacklist of stage 3.
    bots : frozenset of str or None
        All bots of a recording before SINCE, by the flag: what a perfect list would know; None if there is none.
    """
    with Ledger.open(settings.model_dir / state.NAME, read_only=True) as ledger:
        listed = ledger.members()
    source = Source.from_settings(settings, after_cut=True)
    if source.recording is None or source.since is None:
        return listed, None
    balance: dict[str, int] = {}
    for event in _decoded(source):
        if event.is_edit and event.user is not None and event.time_ms < source.since:
            balance[event.user] = balance.get(event.user, 0) + (1 if event.bot else -1)
    return listed, frozenset(user for user, more in balance.items() if more > 0) or None


def _decoded(source: Source) -> Iterator[events.Event]:
    assert source.recording is not None
    for raw in recording.lines(source.recording):
        with contextlib.suppress(events.InvalidEvent):
            event = events.decode(raw)
            if not event.is_canary:
                yield event


def last_messages(consumer: KafkaConsumer, topic: str) -> Iterator[bytes]:
    """Yield the values of a topic, of each partition the last :data:`MAX_MESSAGES`."""
    places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(places)
    first, last = consumer.beginning_offsets(places), consumer.end_offsets(places)
    for place in places:
        consumer.seek(place, max(first[place], last[place] - MAX_MESSAGES))
    while any(consumer.position(place) < last[place] for place in places):
        for records in consumer.poll(timeout_ms=1000, max_records=5000).values():
            yield from (record.value or b"" for record in records)


def find_texts(messages: Iterable[bytes], ids: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Return title, comment and change of size of the edits among messages that have one of the ids."""
    found: dict[str, dict[str, Any]] = {}
    for raw in messages:
        with contextlib.suppress(events.InvalidEvent):
            event = events.decode(raw)
            if (name := events.event_key(raw, event)) in ids:
                texts = {"title": event.title, "comment": event.comment}
                found[name] = texts | {"delta": events.delta(event)}
    return found
