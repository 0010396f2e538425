"""The record: what an event of the recentchange stream is, and what makes it an edit that can be judged.

Every stage decodes with :func:`decode`, so an event that one stage calls invalid is invalid in all of them.
The shape is that of Wikimedia's schema ``/mediawiki/recentchange/1.0.x``: only ``$schema``, ``meta.dt`` and
``meta.stream`` are certain to be there, and any other field can be null or missing. wikisieve asks for a readable
``meta.dt`` and, where a field is there, for its right type.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa

FIRST_YEAR, LAST_YEAR = 1, 9999
EDIT_TYPES = frozenset({"edit", "new"})
CANARY = "canary"

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]  # the difference of two of them is an Int64

#: Columns of the CSV of stage 2, in order; ``timestamp`` is event time in milliseconds inside the program.
COLUMNS = (
    "meta_id",
    "timestamp",
    "wiki",
    "namespace",
    "type",
    "title",
    "user",
    "bot",
    "minor",
    "delta",
    "comment",
)

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

SPARK_SCHEMA = (
    "meta_id string, timestamp bigint, wiki string, namespace bigint, type string, title string, "
    "user string, bot boolean, minor boolean, delta bigint, comment string"
)


class InvalidEvent(ValueError):
    """What was received is not a recentchange event; the message is the reason."""


class Meta(msgspec.Struct, gc=False):
    """The envelope that EventStreams puts around every event."""

    dt: datetime
    id: str | None = None
    domain: str | None = None
    stream: str | None = None
    topic: str | None = None
    partition: Int64 | None = None
    offset: Int64 | None = None


class Length(msgspec.Struct, gc=False):
    """Size of the page in bytes before and after an edit."""

    old: Size | None = None
    new: Size | None = None


class Event(msgspec.Struct, gc=False):
    """One event of the stream, with the fields that wikisieve looks at."""

    meta: Meta
    schema: str | None = msgspec.field(name="$schema", default=None)
    type: str | None = None
    namespace: Int64 | None = None
    title: str | None = None
    comment: str | None = None
    timestamp: Int64 | None = None
    user: str | None = None
    bot: bool | None = None
    minor: bool | None = None
    length: Length | None = None
    delta: Int64 | None = None
    wiki: str | None = None

    @property
    def is_canary(self) -> bool:
        """A test event of the operators, to be dropped before anything else is looked at."""
        return self.meta.domain == CANARY

    @property
    def is_edit(self) -> bool:
        """A change of a page's text (``edit``) or a new page (``new``)."""
        return self.type in EDIT_TYPES

    @property
    def time_ms(self) -> int:
        """Event time: ``meta.dt`` in milliseconds since the epoch; without a zone it is UTC."""
        return _milliseconds(self.meta.dt)


class _Envelope(msgspec.Struct):
    """Just enough of an event to tell a canary, whatever else is in it."""

    meta: dict[str, Any]


_event_decoder = msgspec.json.Decoder(Event)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, ValueError)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def decode(raw: bytes | str) -> Event:
    """Read one event.

    Parameters
    ----------
    raw : bytes or str
        The JSON text of one event, as received.

    Returns
    -------
    Event
        The event. A canary is recognised whatever its other fields look like.

    Raises
    ------
    InvalidEvent
        When the text is not UTF-8, not a JSON object, has no readable ``meta.dt``, or a field has a wrong type.

    Examples
    --------
    >>> event = decode('{"meta": {"dt": "2015-09-12T00:46:58.771Z"}, "type": "edit", "user": "Ada"}')
    >>> event.is_edit, event.time_ms, event.user
    (True, 1442018818771, 'Ada')
    >>> decode('{"meta": {"dt": "2015-09-12T00:46:58Z"}, "namespace": "0"}')
    Traceback (most recent call last):
    lib.edits.InvalidEvent: Expected `int | null`, got `str` - at `$.namespace`
    """
    try:
        event = _event_decoder.decode(raw)
        if not FIRST_YEAR < event.meta.dt.year < LAST_YEAR:
            _check_time(event)
        return event
    except _UNREADABLE as error:
        canary = _canary(raw)
        if canary is None:
            raise InvalidEvent(str(error) or type(error).__name__) from None
        return canary


def _check_time(event: Event) -> None:
    """Refuse a time that its zone puts outside the calendar: it could not be written as ISO 8601 in UTC."""
    try:
        _aware(event.meta.dt).astimezone(UTC)
    except OverflowError:
        raise ValueError(
            f"meta.dt must lie in the years 1 to 9999 (UTC). Got {event.meta.dt.isoformat()}."
        ) from None


def _canary(raw: bytes | str) -> Event | None:
    """Recognise a canary that does not fit the schema."""
    try:
        meta = _envelope_decoder.decode(raw).meta
    except _UNREADABLE:
        return None
    return Event(meta=Meta(dt=_EPOCH, domain=CANARY)) if meta.get("domain") == CANARY else None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _milliseconds(moment: datetime) -> int:
    return (_aware(moment) - _EPOCH) // _MILLISECOND


def iso(time_ms: int) -> str:
    """Write event time as the CSV does: ISO 8601, UTC, milliseconds.

    Examples
    --------
    >>> iso(1442018818771)
    '2015-09-12T00:46:58.771Z'
    """
    moment = _EPOCH + time_ms * _MILLISECOND
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")


def identity(raw: bytes | str, event: Event | None) -> str:
    """Name an event so that a repetition can be told.

    Parameters
    ----------
    raw : bytes or str
        The JSON text as received.
    event : Event or None
        The decoded event; None when it could not be read.

    Returns
    -------
    str
        ``meta.id`` where there is one, else a SHA-1 of the text (two equal texts are then one event).
    """
    if event is not None and event.meta.id is not None:
        return event.meta.id
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    return f"sha1:{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"


def delta(event: Event) -> int | None:
    """Change of the page's size in bytes; None when the event does not tell it.

    ``length.new - length.old``; a new page begins at 0. Recordings that know only the difference carry it in the
    extra property ``delta``.

    Examples
    --------
    >>> delta(decode('{"meta": {"dt": "2015-09-12T00:46:58Z"}, "type": "new", "length": {"new": 7}}'))
    7
    """
    length = event.length
    if length is None or length.new is None:
        return event.delta
    if length.old is None:
        return length.new if event.type == "new" else event.delta
    return length.new - length.old


def edit_row(event: Event) -> tuple:
    """Put an edit's fields in the order of :data:`COLUMNS`."""
    return (
        event.meta.id,
        event.time_ms,
        event.wiki,
        event.namespace,
        event.type,
        event.title,
        event.user,
        event.bot,
        event.minor,
        delta(event),
        event.comment,
    )


class Parsed(NamedTuple):
    """What came of a batch of raw events; ``len(edits) + len(invalid) + canaries + others`` is what went in."""

    edits: pa.Table  #: valid edits, in order, :data:`ARROW_SCHEMA`
    rows: list[int]  #: place of each edit in the batch
    invalid: list[tuple[int, bytes, str]]  #: place, raw text and reason
    canaries: int  #: test events
    others: int  #: valid events that are no edits


def parse(raws: Iterable[bytes]) -> Parsed:
    """Decode a batch of raw events and sort them into edits, others, canaries and invalid ones.

    Parameters
    ----------
    raws : iterable of bytes
        JSON texts, one event each.

    Returns
    -------
    Parsed
        Nothing is lost: every input is an edit, an invalid one, a canary or another event.

    Examples
    --------
    >>> parsed = parse([b'{"meta": {"dt": "2015-09-12T00:46:58Z"}, "type": "edit"}', b"not JSON"])
    >>> parsed.edits.num_rows, parsed.invalid
    (1, [(1, b'not JSON', 'JSON is malformed: invalid character (byte 4)')])
    """
    values: list[tuple] = []
    rows: list[int] = []
    invalid: list[tuple[int, bytes, str]] = []
    canaries = others = 0
    for place, raw in enumerate(raws):
        try:
            event = decode(raw)
        except InvalidEvent as error:
            invalid.append((place, raw, str(error)))
            continue
        if event.is_canary:
            canaries += 1
        elif event.is_edit:
            values.append(edit_row(event))
            rows.append(place)
        else:
            others += 1
    return Parsed(table(values), rows, invalid, canaries, others)


def table(rows: Sequence[tuple]) -> pa.Table:
    """Turn edit rows into Arrow columns of :data:`ARROW_SCHEMA`."""
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ARROW_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ARROW_SCHEMA)
