"""What is done to raw events before anyone is judged: read them, ask the filter, look at the edits.

Runs in Spark's executors, on one Arrow batch of one Kafka partition at a time, and needs no memory of what came before.
What it finds travels to the driver as one value of bytes, so that Spark moves one row per batch and not one per event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib import events
from lib.blacklist.bloom import BlacklistFilter
from lib.online import excerpt, seen

LONGEST = 2_000  # characters of a title or comment; MediaWiki takes 500
SHADOW_SHARE = 0.02  # of the edits of blacklisted users: looked at although they are dropped

_PLACE = [("partition", pa.int32()), ("offset", pa.int64())]
_EVENTS = pa.schema([*_PLACE, ("kafka_ms", pa.int64()), ("id", pa.uint64()), ("named", pa.bool_())])
_INVALID = pa.schema([*_PLACE, ("raw", pa.binary()), ("reason", pa.string())])
_ENDS = pa.schema(
    [
        ("partition", pa.int32()),
        ("first", pa.int64()),
        ("last", pa.int64()),
        ("read", pa.int64()),
        ("canaries", pa.int64()),
    ]
)
_TEXT = pa.dictionary(pa.int32(), pa.string())
_REPEATED = ("wiki", "type", "user")  # columns whose texts travel once per batch


class Looks(Protocol):
    """The part of a model that works on single edits."""

    def edit_features(self, table: pa.Table) -> np.ndarray:
        """Give the evidence of each edit, shape (n, E); a row depends on its own edit alone."""


class Findings(NamedTuple):
    """What is in some raw events, in the order of their Kafka partitions and offsets."""

    #: Valid events: ``partition``, ``offset``, ``kafka_ms``, ``id`` (the hash of the event's identity) and ``named``
    #: (has a ``meta.id``: only then can it be a duplicate).
    events: pa.Table
    #: The edits among them: columns of ``events.ARROW_SCHEMA`` (``meta_id`` is never null: see ``events.event_key``),
    #: ``event`` (row of `events`), ``maybe_listed`` (the filter said yes), ``looked_at`` (has a row of `evidence`).
    edits: pa.Table
    #: One row per edit that was looked at.
    evidence: np.ndarray
    #: The others: ``partition``, ``offset``, ``raw`` and ``reason``.
    invalid: pa.Table
    #: Per batch: ``partition``, ``first`` and ``last`` offset, how many were ``read`` and how many were ``canaries``.
    ends: pa.Table


def examine(
    values: pa.Array,
    partition: int,
    offsets: np.ndarray,
    kafka_ms: np.ndarray,
    model: Looks,
    blacklist: BlacklistFilter,
    shadow_share: float = SHADOW_SHARE,
) -> Findings:
    """Read a batch of raw events and look at its edits.

    Parameters
    ----------
    values : pyarrow.Array of binary
        One event each, as received. A null (a Kafka message without a value) is as invalid as an empty text.
    partition : int
        The Kafka partition that all of them come from.
    offsets, kafka_ms : ndarray of int64, shape (n,)
        Kafka's offset and timestamp (milliseconds) of each.
    model : Looks
        Looks at the edits of everyone who is not on the blacklist, and at a share of the others'.
    blacklist : BlacklistFilter
        Who may be listed. A yes can be a collision; the driver asks the ledger and looks at the edit itself then.
    shadow_share : float
        Share of the edits of listed users that are looked at all the same, chosen by the hash of their identity.

    Returns
    -------
    Findings

    Examples
    --------
    >>> class Blind:
    ...     def edit_features(self, table):
    ...         return np.zeros((table.num_rows, 1))
    >>> raws = [b'{"meta": {"dt": "2015-09-12T00:46:58Z", "id": "1"}, "type": "edit", "user": "AnyBot"}', b"not JSON"]
    >>> bloom = BlacklistFilter.build(["AnyBot"])
    >>> found = examine(
    ...     pa.array(raws), 0, np.arange(2), np.zeros(2, int), Blind(), bloom, shadow_share=0
    ... )
    >>> found.edits.column("maybe_listed").to_pylist(), found.evidence.shape, found.invalid.num_rows
    ([True], (0, 1), 1)
    """
    raws = _views(values)
    read = _read(raws, _is_utf8(values))
    event = np.array([row for row, event in enumerate(read.events) if event.is_edit], np.int64)
    table = _shortened(events.table([read.events[row] for row in event]))
    named = [bool(event.meta.id) for event in read.events]
    identities = pa.array(
        [events.event_key(raws[place], event) for place, event in zip(read.places, read.events, strict=True)],
        pa.string(),
    )
    ids = seen.hashes(identities)
    found = pa.table(
        [np.full(len(ids), partition, np.int32), offsets[read.places], kafka_ms[read.places], ids, named],
        schema=_EVENTS,
    )
    table = table.set_column(0, "meta_id", identities.take(pa.array(event)))
    table = table.append_column("event", pa.array(event))
    users = table.column("user")
    maybe = blacklist.contains(users.combine_chunks())
    look = pc.is_valid(users).to_numpy() & (~maybe | seen.chosen(ids[event], shadow_share))
    evidence = model.edit_features(table.filter(pa.array(look)))
    table = table.append_column("maybe_listed", pa.array(maybe)).append_column("looked_at", pa.array(look))
    return Findings(
        found,
        _compact(table),
        evidence,
        _dead(read.invalid, partition, offsets),
        pa.table([[partition], offsets[:1], offsets[-1:], [len(offsets)], [read.canaries]], schema=_ENDS),
    )


def _views(values: pa.Array) -> list[memoryview]:
    """Give each value without copying it; a null is empty."""
    if values.null_count:
        values = pc.fill_null(values, b"")
    _, places, data = values.buffers()
    ends = np.frombuffer(places, np.int32, len(values) + 1, 4 * values.offset).tolist()
    view = memoryview(data if data is not None else b"")
    return [view[start:stop] for start, stop in pairwise(ends)]


class _Read(NamedTuple):
    places: list[int]  # of the valid events, in the batch
    events: list[events.Event]
    invalid: list[tuple[int, bytes, str]]
    canaries: int


def _shortened(table: pa.Table) -> pa.Table:
    """Cut titles and comments that no wiki would take: all of an epoch's go through one process."""
    for name in ("title", "comment"):
        column = table.column(name)
        if (pc.max(pc.binary_length(column)).as_py() or 0) > LONGEST:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pc.utf8_slice_codeunits(column, 0, LONGEST))
    return table


def _is_utf8(values: pa.Array) -> bool:
    """Tell whether all values are UTF-8: together that takes a fraction of what it takes one by one."""
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _read(raws: Sequence[memoryview], utf8: bool) -> _Read:
    places: list[int] = []
    valid: list[events.Event] = []
    invalid = []
    for place, event in enumerate(events.decode_all(raws)):
        if isinstance(event, events.InvalidEvent):
            invalid.append((place, *excerpt.unpack(bytes(raws[place]), str(event))))
        elif not event.is_canary:
            places.append(place)
            valid.append(event)
    return _Read(places, valid, invalid, len(raws) - len(invalid) - len(valid))


def _compact(table: pa.Table) -> pa.Table:
    for name in _REPEATED:
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, table.column(name).cast(_TEXT))
    return table


def _dead(invalid: list[tuple[int, bytes, str]], partition: int, offsets: np.ndarray) -> pa.Table:
    return pa.table(
        [
            pa.array([partition] * len(invalid), pa.int32()),
            pa.array([int(offsets[place]) for place, _, _ in invalid], pa.int64()),
            pa.array([raw for _, raw, _ in invalid], pa.binary()),
            pa.array([reason for _, _, reason in invalid], pa.string()),
        ],
        schema=_INVALID,
    )


def pack(findings: Findings) -> bytes:
    """Write findings as bytes: five Arrow streams, one behind the other."""
    sink = pa.BufferOutputStream()
    width = findings.evidence.shape[1]
    flat = pa.array(np.ascontiguousarray(findings.evidence, np.float64).ravel())
    evidence = pa.table({"evidence": pa.FixedSizeListArray.from_arrays(flat, width)})
    for table in (findings.events, findings.edits, evidence, findings.invalid, findings.ends):
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return sink.getvalue().to_pybytes()


def unpack(packed: Iterable[bytes | pa.Buffer]) -> Findings:
    """Read what several batches found, and put it in the order of their partitions and offsets.

    Parameters
    ----------
    packed : iterable of bytes or pyarrow.Buffer
        From :func:`pack`, one behind the other; at least one.

    Returns
    -------
    Findings
        As if all had been examined at once.
    """
    parts = sorted(chain.from_iterable(map(_parts, packed)), key=_first_place)
    starts = np.cumsum([0, *(part.events.num_rows for part in parts)])
    tables = []
    for start, part in zip(starts, parts, strict=False):
        place = part.edits.schema.get_field_index("event")
        moved = pc.add(part.edits.column("event"), pa.scalar(int(start), pa.int64()))
        tables.append(part.edits.set_column(place, "event", moved))
    return Findings(
        pa.concat_tables([part.events for part in parts]).combine_chunks(),
        pa.concat_tables(tables).unify_dictionaries().combine_chunks(),
        np.concatenate([part.evidence for part in parts]),
        pa.concat_tables([part.invalid for part in parts]).combine_chunks(),
        pa.concat_tables([part.ends for part in parts]).combine_chunks(),
    )


def next_offsets(ends: pa.Table, before: Mapping[int, int]) -> dict[int, int]:
    """Say where each partition is to be read on.

    Parameters
    ----------
    ends : pyarrow.Table
        Of :class:`Findings`.
    before : mapping
        Where it was to be read on before these batches.

    Returns
    -------
    dict of int to int

    Raises
    ------
    ValueError
        When the batches go back behind that or overlap: an event would be judged twice.
    """
    offsets = dict(before)
    for end in ends.to_pylist():
        expected = offsets.get(end["partition"], 0)
        if end["first"] < expected:
            raise ValueError(
                f"Partition {end['partition']} must be read from offset {expected} on. Got {end['first']}."
            )
        offsets[end["partition"]] = end["last"] + 1
    return offsets


def _parts(data: bytes | pa.Buffer) -> Iterator[Findings]:
    source = pa.BufferReader(data)
    while source.tell() < source.size():
        yield _part(source)


def _part(source: pa.BufferReader) -> Findings:
    events, table, evidence, invalid, ends = (pa.ipc.open_stream(source).read_all() for _ in Findings._fields)
    column = evidence.column(0)
    flat = [chunk.values.to_numpy() for chunk in column.chunks]
    whole = np.concatenate(flat) if flat else np.empty(0)
    return Findings(events, table, whole.reshape(-1, column.type.list_size), invalid, ends)


def _first_place(part: Findings) -> tuple[int, int]:
    return part.ends.column("partition")[0].as_py(), part.ends.column("first")[0].as_py()
