"""Fault plans: what goes wrong on a stream, written down in a small YAML file and repeatable by its seed.

Two kinds of faults are told apart. Those of the *content* (canaries, malformed events, duplicates, a switch of
data centre) become part of the stream, so who reads a stretch twice finds them twice, with the same ids. Those of
the *transport* (cuts, gaps, stalls, errors) happen once, so who reconnects gets past them.

::

    seed: 7
    # the content; places count the recording's events from 0
    canaries:   {every: 500}                    # extra test events
    malformed:  {share: 0.01}                   # extra events: a real one, damaged
    duplicates: {at: [3, 900]}                  # the event is sent twice
    switch:     {at: [2000], to: codfw}         # the events from there on belong to the other data centre
    # the transport
    cuts:       {every: 700, where: middle}     # hang up: `after` the event, or in the `middle` of it
    gaps:       {at: [1500], events: 40}        # hang up, and 40 events pass before anybody can be back
    stalls:     {at: [100], seconds: 2}         # silence
    errors:     {at: [1200]}                    # `event: error`, then hang up
    comments:   {every: 50}                     # a comment line
    refuse:                                     # by the number of the connection, from 1
      - {connections: [2, 3], status: 429, retry_after: 1}
      - {connections: [4], status: 503}
    empty:      [5]                             # connections that get 200, no event, and are closed
    hang_up:    [6]                             # connections that are closed without an answer
    # the form
    gzip: true
    chunk: [1, 1000]                            # bytes per HTTP chunk, drawn anew each time; or one number
    line_end: crlf                              # lf, crlf, cr
    id_unit: seconds                            # milliseconds, seconds
    id_order: shuffled                          # fixed, reversed, shuffled
    multiline: true                             # the JSON is spread over several `data:` lines
    retry: 100                                  # a `retry:` field, milliseconds

Places are given by ``at`` (a list), ``every`` (N, 2N …), ``share`` (of the events, drawn), or several of these.
"""

from __future__ import annotations

import itertools
import json
import random
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import yaml

from lib import events

STREAM = "mediawiki.recentchange"
#: The others that EventStreams has; a recording's events of these are served under their names.
OTHER_STREAMS = tuple(
    f"mediawiki.{name}"
    for name in ("page-create", "page-delete", "page-move", "page-undelete", "revision-create", "test")
)
CONTENT = ("canaries", "malformed", "duplicates", "switch")
TRANSPORT = ("cuts", "gaps", "stalls", "errors", "comments")


class PlanError(ValueError):
    """A fault plan breaks a rule; the message names it and what was received."""


class Places(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Where something happens, in numbers of the recording's events."""

    at: list[int] = []
    every: int = 0
    share: float = 0.0

    def marks(self, seed: str) -> Iterator[bool]:
        """Whether it happens at event 0, 1, 2 … without end; the same for the same seed.

        Examples
        --------
        >>> from itertools import islice
        >>> [place for place, here in enumerate(islice(Places(at=[1], every=4).marks("any"), 10)) if here]
        [1, 4, 8]
        """
        chance, at = random.Random(seed), frozenset(self.at)
        for place in itertools.count():
            here = place in at or (self.every > 0 and place > 0 and place % self.every == 0)
            drawn = self.share > 0 and chance.random() < self.share
            yield here or drawn

    def __bool__(self) -> bool:
        return bool(self.at or self.every or self.share)


class Cuts(Places, frozen=True, kw_only=True):
    """Where the server hangs up."""

    where: Literal["after", "middle"] = "after"


class Gaps(Places, frozen=True, kw_only=True):
    """Where the server hangs up and the world moves on."""

    events: int = 1


class Stalls(Places, frozen=True, kw_only=True):
    """Where nothing comes for a while."""

    seconds: float = 1.0


class Switch(Places, frozen=True, kw_only=True):
    """Where another data centre takes over."""

    to: Literal["eqiad", "codfw"] = "codfw"


class Refusal(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Connections that get an error status."""

    connections: list[int]
    status: int = 429
    retry_after: float | None = None


class Plan(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A whole fault plan; the empty one is a well-behaved server."""

    seed: int = 0
    canaries: Places = Places()
    malformed: Places = Places()
    duplicates: Places = Places()
    switch: Switch = Switch()
    cuts: Cuts = Cuts()
    gaps: Gaps = Gaps()
    stalls: Stalls = Stalls()
    errors: Places = Places()
    comments: Places = Places()
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

    def marks(self, names: Iterable[str]) -> Iterator[frozenset[str]]:
        """Which of the faults called `names` happen at event 0, 1, 2 … without end."""
        chosen = [name for name in names if getattr(self, name)]
        if not chosen:
            return itertools.repeat(frozenset())
        columns = [getattr(self, name).marks(f"{self.seed}:{name}") for name in chosen]
        return (frozenset(itertools.compress(chosen, row)) for row in zip(*columns, strict=True))

    def refusal(self, connection: int) -> Refusal | None:
        """The error that a connection gets, if any."""
        return next((refusal for refusal in self.refuse if connection in refusal.connections), None)


def load(source: Path | str | dict[str, Any]) -> Plan:
    """Read a fault plan.

    Parameters
    ----------
    source : Path, str or dict
        A YAML file, YAML text, or what it stands for.

    Raises
    ------
    PlanError
        For YAML that cannot be read, an unknown name or a wrong type.

    Examples
    --------
    >>> load("cuts: {every: 100, where: middle}").cuts.where
    'middle'
    >>> load("cut: 3")
    Traceback (most recent call last):
    lib.replay.faults.PlanError: A plan must follow lib/replay/faults.py. Got: Object contains unknown field `cut`.
    """
    try:
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        content = yaml.safe_load(text) if isinstance(text, str) else text
        return msgspec.convert(content or {}, Plan)
    except (yaml.YAMLError, msgspec.ValidationError, OSError, UnicodeDecodeError) as error:
        raise PlanError(f"A plan must follow lib/replay/faults.py. Got: {error}.") from None


class Record(NamedTuple):
    """One message of the stream, before it gets an id."""

    raw: bytes
    time: int  #: Kafka's timestamp, milliseconds since the epoch
    topic: str
    stream: str
    ordinal: int  #: number of the recording's event that it is or stems from


class _Envelope(msgspec.Struct):
    meta: events.Meta


_envelope = msgspec.json.Decoder(_Envelope)


def records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Give every line of a recording its time, topic and stream.

    What cannot be read is served as it is, with the time and the topic of the line before it, or, at the beginning,
    of the first that can be read.
    """
    unplaced: list[Record] = []
    last: Record | None = None
    for ordinal, raw in enumerate(lines):
        meta = _meta(raw)
        if meta is not None:
            stream = stream_of(meta)
            moment = events.Event(meta=meta).time_ms
            last = Record(raw, moment, meta.topic or f"eqiad.{stream}", stream, ordinal)
            yield from (last._replace(raw=early.raw, ordinal=early.ordinal) for early in unplaced)
            unplaced.clear()
            yield last
        elif last is not None:
            yield last._replace(raw=raw, ordinal=ordinal)
        else:
            unplaced.append(Record(raw, 0, f"eqiad.{STREAM}", STREAM, ordinal))
    yield from unplaced


def stream_of(meta: events.Meta) -> str:
    """Tell which stream an event belongs to: what does not name another one is a recent change.

    Examples
    --------
    >>> from datetime import datetime
    >>> dt = datetime(2015, 9, 12)
    >>> stream_of(events.Meta(dt=dt, stream="page-create")), stream_of(events.Meta(dt=dt, stream="recentchange"))
    ('mediawiki.page-create', 'mediawiki.recentchange')
    """
    named = f"mediawiki.{(meta.stream or '').removeprefix('mediawiki.')}"
    return named if named in OTHER_STREAMS else STREAM


def _meta(raw: bytes) -> events.Meta | None:
    try:
        meta = _envelope.decode(raw).meta
        events.Event(meta=meta).time_ms  # noqa: B018 - a time that cannot be told in milliseconds is none
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        return None
    return meta


def with_content_faults(plan: Plan, given: Iterable[Record]) -> Iterator[Record]:
    """Put the plan's canaries, malformed events, duplicates and switches into a stream.

    Parameters
    ----------
    plan : Plan
        The fault plan.
    given : iterable of Record
        The recording.

    Yields
    ------
    Record
        Every record of the recording, in order, and those that the plan adds behind it.
    """
    chance = random.Random(f"{plan.seed}:damage")
    switched = False
    for record, here in zip(given, plan.marks(CONTENT), strict=False):  # the marks have no end
        switched = switched or "switch" in here
        if switched:
            record = moved(record, plan.switch.to)
        yield record
        if "duplicates" in here:
            yield record
        if "canaries" in here:
            yield canary(record)
        if "malformed" in here:
            yield record._replace(raw=damage(record.raw, chance))


def moved(record: Record, centre: str) -> Record:
    """The record as another data centre would have sent it: its topic's first part is that centre's name."""
    topic = f"{centre}.{record.topic.partition('.')[2]}"
    raw = record.raw.replace(b'"%b"' % record.topic.encode(), b'"%b"' % topic.encode(), 1)
    return record._replace(raw=raw, topic=topic)


def canary(record: Record) -> Record:
    """A test event beside a record; every second one has no more than the schema's required fields."""
    meta = {"dt": events.iso(record.time), "stream": record.stream, "domain": "canary"}
    if record.ordinal % 2 == 0:
        name = f"canary {record.topic} {record.ordinal}"
        meta |= {"id": str(uuid.uuid5(uuid.NAMESPACE_OID, name)), "topic": record.topic}
    raw = json.dumps({"$schema": "/mediawiki/recentchange/1.0.0", "meta": meta}).encode()
    return record._replace(raw=raw)


def damage(raw: bytes, chance: random.Random) -> bytes:
    """One of the ways in which an event can be unreadable; never a line end, for that would end the event."""
    ways = (
        lambda: raw[: chance.randrange(1, max(2, len(raw)))],
        lambda: b"[" + raw + b"]",
        lambda: b'{"meta": {"dt": "' + str(chance.random()).encode() + b'"}}',
        lambda: b'{"broken": "\xff\xfe ' + str(chance.random()).encode() + b'"',
        lambda: str(chance.random()).encode(),
    )
    return chance.choice(ways)()
