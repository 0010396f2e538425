"""Fault plans: what goes wrong on a stream, in a small YAML file, repeatable by its seed.

There are two kinds of faults. Those of the *content* (canaries, malformed events, duplicates, a switch of
data centre) are part of the stream: a client that reads a stretch twice gets them twice, with the same ids. Those of
the *transport* (cuts, gaps, stalls, errors) happen once: a client that reconnects gets past them.

::

    seed: 7
    # the content; places count the recording's events from 0
    canaries:   {every: 500}                    # extra test events
    malformed:  {share: 0.01}                   # extra events: a real one, damaged
    duplicates: {at: [3, 900]}                  # the event is sent twice
    switch:     {at: [2000], to: codfw}         # the events from there on belong to the other data centre
    # the transport
    cuts:       {every: 700, where: middle}     # close the connection: `after` the event, or in the `middle` of it
    gaps:       {at: [1500], events: 40}        # close, and 40 events pass before anybody can be back
    stalls:     {at: [100], seconds: 2}         # silence
    errors:     {at: [1200]}                    # `event: error`, then close
    comments:   {every: 50}                     # a comment line
    refuse:                                     # by the number of the connection, from 1
      - {connections: [2, 3], status: 429, retry_after: 1}
      - {connections: [4], status: 503}
    empty:      [5]                             # connections that get 200, no event, and are closed
    hang_up:    [6]                             # connections that are closed without an answer
    # the form
    gzip: true
    chunk: [1, 1000]                            # bytes per HTTP chunk, drawn each time; or one number
    line_end: crlf                              # lf, crlf, cr
    id_unit: seconds                            # milliseconds, seconds
    id_order: shuffled                          # fixed, reversed, shuffled
    multiline: true                             # the JSON is spread over several `data:` lines
    retry: 100                                  # a `retry:` field, milliseconds

Where it happens is set by ``at`` (a list), ``every`` (N, 2N …), ``share`` (of the events, drawn), or several of these.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from lib import events

STREAM = "mediawiki.recentchange"
TOPICS = (f"eqiad.{STREAM}", f"codfw.{STREAM}")  # one per data centre
TRANSPORT = frozenset({"cuts", "gaps", "stalls", "errors", "comments"})
SCHEDULED = ("canaries", "malformed", "duplicates", "switch", *sorted(TRANSPORT))


class Fault(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where something happens, in numbers of the recording's events, and how."""

    at: list[int] = []
    every: int = 0
    share: float = 0.0
    where: Literal["after", "middle"] = "after"  #: of cuts
    events: int = 1  #: of gaps
    seconds: float = 1.0  #: of stalls
    to: Literal["eqiad", "codfw"] = "codfw"  #: of the switch

    def happens(self, number: int, chance: random.Random) -> bool:
        """Return whether it happens at an event.

        Examples
        --------
        >>> [number for number in range(10) if Fault(at=[1], every=4).happens(number, random.Random())]
        [1, 4, 8]
        """
        is_drawn = self.share > 0 and chance.random() < self.share
        return is_drawn or number in self.at or (self.every > 0 and number > 0 and number % self.every == 0)


class Refusal(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Connections that get an error status."""

    connections: list[int]
    status: int = 429
    retry_after: float | None = None


class Plan(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole fault plan; the empty one is a server without faults."""

    seed: int = 0
    canaries: Fault = Fault()
    malformed: Fault = Fault()
    duplicates: Fault = Fault()
    switch: Fault = Fault()
    cuts: Fault = Fault()
    gaps: Fault = Fault()
    stalls: Fault = Fault()
    errors: Fault = Fault()
    comments: Fault = Fault()
    refuse: list[Refusal] = []
    empty: list[int] = []
    hang_up: list[int] = []
    gzip: bool = False
    chunk: int | tuple[int, int] = 0
    line_end: Literal["lf", "crlf", "cr"] = "lf"
    id_unit: Literal["milliseconds", "seconds"] = "milliseconds"
    id_order: Literal["fixed", "reversed", "shuffled"] = "fixed"
    multiline: bool = False
    retry: int | None = None

    def schedule(self) -> Iterator[frozenset[str]]:
        """Yield the names of the faults that happen at event 0, 1, 2 … without end; the same for the same seed."""
        planned = {name: fault for name in SCHEDULED if (fault := getattr(self, name)) != Fault()}
        chances = {name: random.Random(f"{self.seed}:{name}") for name in planned}
        for number in itertools.count():
            yield frozenset(name for name, it in planned.items() if it.happens(number, chances[name]))


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
    ordinal: int  #: number of the recording's event that it is or stems from
    faults: frozenset[str] = frozenset()  #: of the transport


def records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield every line of a recording with its time and topic.

    What cannot be decoded, and a canary, is served as it is, with the time and the topic of the line before it, or, at
    the beginning, of the first event.
    """
    waiting: list[tuple[int, bytes]] = []
    last: tuple[int, str] | None = None
    for ordinal, raw in enumerate(lines):
        waiting.append((ordinal, raw))
        last = _time_and_topic(raw) or last
        if last is not None:
            yield from (Record(text, *last, number) for number, text in waiting)
            waiting.clear()
    yield from (Record(text, 0, TOPICS[0], number) for number, text in waiting)


def _time_and_topic(raw: bytes) -> tuple[int, str] | None:
    try:
        event = events.decode(raw)
    except events.InvalidEvent:
        return None
    return None if event.is_canary else (event.time_ms, event.meta.topic or TOPICS[0])


def with_faults(plan: Plan, recording: Iterable[Record]) -> Iterator[Record]:
    """Yield a recording's records, in order, each followed by the plan's canary, malformed event or duplicate."""
    chance = random.Random(f"{plan.seed}:damage")
    switched = False
    for record, here in zip(recording, plan.schedule(), strict=False):  # the schedule has no end
        switched = switched or "switch" in here
        if switched:
            record = switch_datacenter(record, plan.switch.to)
        yield record._replace(faults=here & TRANSPORT)
        if "duplicates" in here:
            yield record
        if "canaries" in here:
            yield canary(record)
        if "malformed" in here:
            yield record._replace(raw=corrupt(record.raw, chance))


def switch_datacenter(record: Record, center: str) -> Record:
    """Return the record as another data centre would have sent it: its topic begins with that centre's name."""
    topic = f"{center}.{record.topic.partition('.')[2]}"
    raw = record.raw.replace(b'"%b"' % record.topic.encode(), b'"%b"' % topic.encode(), 1)
    return record._replace(raw=raw, topic=topic)


def canary(record: Record) -> Record:
    """Return a test event beside a record; every second one has no more than the schema's required fields."""
    meta = {"dt": events.iso(record.time), "stream": STREAM, "domain": "canary"}
    if record.ordinal % 2 == 0:
        name = f"canary {record.topic} {record.ordinal}"
        meta |= {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)), "topic": record.topic}
    raw = json.dumps({"$schema": "/mediawiki/recentchange/1.0.0", "meta": meta}).encode()
    return record._replace(raw=raw, faults=frozenset())


def corrupt(raw: bytes, chance: random.Random) -> bytes:
    """Return an event that cannot be decoded, in one of several ways; never with a line end, which would end it."""
    number = str(chance.random()).encode()
    ways = (
        raw[: chance.randrange(1, max(2, len(raw)))],
        b"[" + raw + b"]",
        b'{"meta": {"dt": "' + number + b'"}}',
        b'{"broken": "\xff\xfe ' + number + b'"',
        number,
    )
    return chance.choice(ways)
