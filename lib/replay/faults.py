"""Fault plans: what goes wrong on a stream, in a small YAML file; the same each time.

There are two kinds of faults. Those of the *content* (canaries, malformed events, duplicates, a switch of
data centre) are part of the stream: a client that reads a stretch twice gets them twice, with the same ids. Those of
the *transport* (cuts, gaps, stalls) happen once: a client that reconnects gets past them.

::

    # the content; places count the recording's events from 0
    canary_seconds: 3600                        # event time between two test events of a data centre
    malformed:  {every: 100}                    # extra events: a real one, damaged
    duplicates: {at: [3, 900]}                  # the event is sent twice
    switch:     {at: [2000], to: codfw}         # the events from there on belong to the other data centre
    # the transport
    cuts:       {every: 700, where: middle}     # close the connection: `after` the event, or in the `middle` of it
    gaps:       {at: [1500], events: 40}        # close, and 40 events pass before anybody can be back
    stalls:     {at: [100], seconds: 2}         # silence
    refuse:                                     # by the number of the connection, from 1
      - {connections: [2, 3], status: 429, retry_after: 1}
      - {connections: [4], status: 503}
    empty:      [5]                             # connections that get 200, no event, and are closed
    gzip: true                                  # for a client that accepts it

Where it happens is set by ``at`` (a list), ``every`` (N, 2N …), or both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from lib import events

STREAM = "mediawiki.recentchange"
TOPICS = (f"eqiad.{STREAM}", f"codfw.{STREAM}")  # one per data centre
TRANSPORT = frozenset({"cuts", "gaps", "stalls"})


class Fault(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where something happens, in numbers of the recording's events, and how."""

    at: list[int] = []
    every: int = 0
    where: Literal["after", "middle"] = "after"  #: of cuts
    events: int = 1  #: of gaps
    seconds: float = 1.0  #: of stalls
    to: Literal["eqiad", "codfw"] = "codfw"  #: of the switch

    def happens(self, number: int) -> bool:
        """Return whether it happens at an event.

        Examples
        --------
        >>> [number for number in range(10) if Fault(at=[1], every=4).happens(number)]
        [1, 4, 8]
        """
        return number in self.at or (self.every > 0 and number > 0 and number % self.every == 0)


class Refusal(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Connections that get an error status."""

    connections: list[int]
    status: int = 429
    retry_after: float | None = None


class Plan(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole fault plan; the empty one is a server without faults."""

    canary_seconds: int = 0
    malformed: Fault = Fault()
    duplicates: Fault = Fault()
    switch: Fault = Fault()
    cuts: Fault = Fault()
    gaps: Fault = Fault()
    stalls: Fault = Fault()
    refuse: list[Refusal] = []
    empty: list[int] = []
    gzip: bool = False


def load(source: str | dict[str, Any]) -> Plan:
    """Return a fault plan.

    Parameters
    ----------
    source : str or dict
        YAML text, or its content.

    Raises
    ------
    ValueError
        For YAML that cannot be read, an unknown name or a wrong type.

    Examples
    --------
    >>> load("cuts: {every: 100, where: middle}").cuts.where
    'middle'
    >>> load("cut: 3")
    Traceback (most recent call last):
    ValueError: A plan must follow lib/replay/faults.py. Got: Object contains unknown field `cut`.
    """
    try:
        content = yaml.safe_load(source) if isinstance(source, str) else source
        return msgspec.convert(content or {}, Plan)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"A plan must follow lib/replay/faults.py. Got: {error}.") from None


NO_FAULTS = Plan()


class Record(NamedTuple):
    """One message of the stream, before it gets an id."""

    raw: bytes
    time: int  #: Kafka's timestamp, milliseconds since the epoch
    topic: str
    faults: frozenset[str] = frozenset()  #: of the transport


def records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield every line of a recording with its time and topic.

    What cannot be decoded, and a canary, is served as it is, with the time and the topic of the line before it, or, at
    the beginning, of the first event.
    """
    waiting: list[bytes] = []
    last: tuple[int, str] | None = None
    for raw in lines:
        waiting.append(raw)
        last = _time_and_topic(raw) or last
        if last is not None:
            yield from (Record(text, *last) for text in waiting)
            waiting.clear()
    yield from (Record(text, 0, TOPICS[0]) for text in waiting)


def _time_and_topic(raw: bytes) -> tuple[int, str] | None:
    event, _ = events.try_decode(raw)
    return None if event is None or event.is_canary else (event.time_ms, event.meta.topic or TOPICS[0])


def stream(lines: Iterable[bytes], plan: Plan = NO_FAULTS) -> Iterator[Record]:
    """Yield what a stream sends: a recording's lines in order, with the content's faults of a plan in between."""
    placed = [
        (name, fault) for name in Plan.__struct_fields__ if isinstance(fault := getattr(plan, name), Fault)
    ]
    is_switched, last_period = False, None
    for number, record in enumerate(records(lines)):
        here = frozenset(name for name, fault in placed if fault.happens(number))
        is_switched = is_switched or "switch" in here
        if is_switched:
            record = switch_datacenter(record, plan.switch.to)
        if plan.canary_seconds:
            period = record.time // (1000 * plan.canary_seconds)
            if last_period is not None and period > last_period:
                yield from (canary(topic, period * 1000 * plan.canary_seconds) for topic in TOPICS)
            last_period = max(period, last_period or period)
        yield record._replace(faults=here & TRANSPORT)
        if "duplicates" in here:
            yield record
        if "malformed" in here:
            yield record._replace(raw=corrupt(record.raw, number))


def switch_datacenter(record: Record, center: str) -> Record:
    """Return the record as another data centre would have sent it: its topic begins with that centre's name."""
    topic = f"{center}.{record.topic.partition('.')[2]}"
    raw = record.raw.replace(b'"%b"' % record.topic.encode(), b'"%b"' % topic.encode(), 1)
    return record._replace(raw=raw, topic=topic)


def canary(topic: str, time: int) -> Record:
    """Return a test event; that of the second data centre has no more than the schema's required fields."""
    meta = {"dt": events.iso(time), "stream": STREAM, "domain": "canary"}
    if topic == TOPICS[0]:
        meta |= {"id": f"canary {time}", "topic": topic}
    raw = json.dumps({"$schema": "/mediawiki/recentchange/1.0.0", "meta": meta}).encode()
    return Record(raw, time, topic)


def corrupt(raw: bytes, number: int) -> bytes:
    """Return an event that cannot be decoded, in a way that depends on its number, and without a line end."""
    ways = (
        raw[: len(raw) // 2],
        b"[" + raw + b"]",
        b'{"meta": {"dt": "%d"}}' % number,
        b'{"broken": "\xff\xfe %d"' % number,
        b"%d" % number,
    )
    return ways[number % len(ways)]
