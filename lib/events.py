"""What an event of the recentchange stream is, and what makes it an edit that can be judged.

Every stage decodes with :func:`decode`, so an event that one stage calls invalid is invalid in all of them.
The shape is that of Wikimedia's schema ``/mediawiki/recentchange/1.0.x``: only ``$schema``, ``meta.dt`` and
``meta.stream`` are certain to be there, and any other field can be null or missing. wikisieve asks for a readable
``meta.dt`` and, where a field is there, for its right type and a length that MediaWiki's limits allow by far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

EDIT_TYPES = frozenset({"edit", "new"})
CANARY = "canary"
SCHEMA = "mediawiki/recentchange"  # in the name of every version of the schema
OTHER_SCHEMA = f"The $schema must be /{SCHEMA}/"

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
# MediaWiki's limits are 255 bytes for names and titles, and 500 characters for comments.
Name = Annotated[str, msgspec.Meta(max_length=1_000)]
Text = Annotated[str, msgspec.Meta(max_length=1_000_000)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # the difference of two of them is an Int64

#: Columns of the CSV of stage 2, in order; ``timestamp`` is event time in milliseconds inside the program.
ARROW_SCHEMA = pa.schema(
    [
        ("meta_id", pa.string()),
        ("timestamp", pa.int64()),
        ("wiki", pa.string()),
        ("namespace", pa.int64()),
        ("type", pa.string()),
        ("title", pa.string()),
        ("user", pa.string()),
        ("bot", pa.bool_()),
        ("minor", pa.bool_()),
        ("delta", pa.int64()),
        ("comment", pa.string()),
    ]
)
COLUMNS = tuple(ARROW_SCHEMA.names)


class InvalidEvent(ValueError):
    """What was received is not a recentchange event; the message is the reason."""


class Meta(msgspec.Struct, gc=False):
    """The envelope that EventStreams puts around every event."""

    dt: datetime
    id: Name | None = None
    domain: Name | None = None
    stream: Name | None = None
    topic: Name | None = None
    partition: Int64 | None = None
    offset: Int64 | None = None


class Length(msgspec.Struct, gc=False):
    """Size of the page in bytes before and after an edit."""

    old: Size | None = None
    new: Size | None = None


class Event(msgspec.Struct, gc=False):
    """One event of the stream, with the fields that wikisieve uses."""

    meta: Meta
    schema: Name | None = msgspec.field(name="$schema", default=None)
    type: Name | None = None
    namespace: Int64 | None = None
    title: Name | None = None
    comment: Text | None = None
    timestamp: Int64 | None = None
    user: Name | None = None
    bot: bool | None = None
    minor: bool | None = None
    length: Length | None = None
    delta: Int64 | None = None
    wiki: Name | None = None

    @property
    def is_canary(self) -> bool:
        """Whether it is a test event of the operators, to be dropped before any other field is read."""
        return self.meta.domain == CANARY

    @property
    def is_edit(self) -> bool:
        """Whether it is a change of a page's text (``edit``) or a new page (``new``)."""
        return self.type in EDIT_TYPES

    @property
    def time_ms(self) -> int:
        """Event time: ``meta.dt`` in milliseconds since the epoch; without a zone it is UTC."""
        return (_aware(self.meta.dt) - _EPOCH) // _MILLISECOND


class _Envelope(msgspec.Struct):
    """Just enough of an event to recognise a canary, whatever else is in it."""

    meta: dict[str, Any]


_event_decoder = msgspec.json.Decoder(Event)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, OverflowError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def decode(raw: bytes | memoryview) -> Event:
    """Return one event.

    Parameters
    ----------
    raw : bytes or memoryview
        The JSON text of one event, as received.

    Returns
    -------
    Event
        A canary is recognised whatever its other fields look like.

    Raises
    ------
    InvalidEvent
        When the text is not UTF-8, not a JSON object, of another schema, has no readable ``meta.dt``, or a field has a
        wrong type, is too long, or is an integer of more than 64 bits.

    Examples
    --------
    >>> event = decode(b'{"meta": {"dt": "2015-09-12T00:46:58.771Z"}, "type": "edit", "user": "Ada"}')
    >>> event.is_edit, event.time_ms, event.user
    (True, 1442018818771, 'Ada')
    >>> decode(b'{"meta": {"dt": "2015-09-12T00:46:58Z"}, "namespace": "0"}')
    Traceback (most recent call last):
    lib.events.InvalidEvent: Expected `int | null`, got `str` - at `$.namespace`
    """
    try:
        str(raw, "utf-8")  # the decoder does not read all fields
        event = _event_decoder.decode(raw)
        if event.meta.dt.tzinfo is not UTC:
            _aware(event.meta.dt).astimezone(UTC)  # fails where the zone puts it outside the calendar
        if event.schema is not None and SCHEMA not in event.schema:
            raise InvalidEvent(f"{OTHER_SCHEMA}…. Got {event.schema[:100]!r}.")
        return event
    except _UNREADABLE as error:
        if _is_canary(raw):
            return Event(meta=Meta(dt=_EPOCH, domain=CANARY))
        raise InvalidEvent(str(error) or type(error).__name__) from None


def try_decode(raw: bytes | memoryview) -> tuple[Event | None, str | None]:
    """Return the event of a text and None, or None and why it is none: see :func:`decode`."""
    try:
        return decode(raw), None
    except InvalidEvent as error:
        return None, str(error)


def decode_valid(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Event]]:
    """Return the text and the event of every line that is one, one after the other."""
    return ((raw, event) for raw in lines if (event := try_decode(raw)[0]) is not None)


def _is_canary(raw: bytes | memoryview) -> bool:
    try:
        return _envelope_decoder.decode(raw).meta.get("domain") == CANARY
    except _UNREADABLE:
        return False


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def iso(time_ms: int) -> str:
    """Return event time as the CSV has it: ISO 8601, UTC, milliseconds.

    Examples
    --------
    >>> iso(1442018818771)
    '2015-09-12T00:46:58.771Z'
    """
    moment = _EPOCH + time_ms * _MILLISECOND
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")


def event_key(raw: bytes | memoryview, event: Event | None) -> str:
    """Return a key that two deliveries of one event share.

    Parameters
    ----------
    raw : bytes or memoryview
        The JSON text as received.
    event : Event or None
        The decoded event; None when it could not be read.

    Returns
    -------
    str
        ``meta.id`` where there is one that is not empty, else a SHA-1 of the text, which equal texts share.
    """
    if event is not None and event.meta.id:
        return event.meta.id
    return f"sha1:{hashlib.sha1(raw, usedforsecurity=False).hexdigest()}"


def delta(event: Event) -> int | None:
    """Return the change of the page's size in bytes; None when the event does not contain it.

    ``length.new - length.old``; a new page starts at 0. Recordings that know only the difference have it in the
    extra property ``delta``.

    Examples
    --------
    >>> delta(decode(b'{"meta": {"dt": "2015-09-12T00:46:58Z"}, "type": "new", "length": {"new": 7}}'))
    7
    """
    length = event.length
    if length is None or length.new is None:
        return event.delta
    if length.old is None:
        return length.new if event.type == "new" else event.delta
    return length.new - length.old


def table(events: Sequence[Event]) -> pa.Table:
    """Return edits as Arrow columns of :data:`ARROW_SCHEMA`.

    Parameters
    ----------
    events : sequence of Event
        Edits only.
    """
    microseconds = pa.array([event.meta.dt for event in events], pa.timestamp("us", tz="UTC"))
    computed = {
        "meta_id": [event.meta.id for event in events],
        "timestamp": np.floor_divide(microseconds.cast(pa.int64()).to_numpy(), 1000),
        "delta": [delta(event) for event in events],
    }
    plain = {name: list(map(attrgetter(name), events)) for name in COLUMNS if name not in computed}
    return pa.table(computed | plain, schema=ARROW_SCHEMA)
