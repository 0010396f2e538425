"""What Spark's executors do with Kafka's messages: decode them, ask the filter, compute the edits' features.

Works on one Arrow batch at a time and needs no memory of what came before. Every message becomes one row of
:data:`SCORED`, in the order of its partition; the driver turns the rows into verdicts (:mod:`lib.online.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib import events
from lib.blacklist.bloom import BlacklistFilter
from lib.model import edit_features, kernels
from lib.model.edit_features import Weights

if TYPE_CHECKING:  # scikit-learn takes the executors four seconds to import, and they do without
    from lib.model.classifier import BotClassifier

#: One row per Kafka message: where it is, its kind (``edit``, ``event``, ``canary`` or ``invalid``), and the hash of
#: its id, null if it has none. Edits have the columns of ``events.ARROW_SCHEMA``, whether the filter takes their
#: user for a member, whether they are in the shadow sample, and their features (float64, as bytes), null where nobody
#: needs them. Invalid messages have their text and the reason.
SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("kafka_ms", pa.int64()),
        ("kind", pa.string()),
        ("id", pa.int64()),
        *events.ARROW_SCHEMA,
        ("filter_hit", pa.bool_()),
        ("sampled", pa.bool_()),
        ("features", pa.binary()),
        ("raw", pa.binary()),
        ("reason", pa.string()),
    ]
)
_SPARK_TYPES = {"int32": "int", "int64": "bigint", "bool": "boolean"}
#: The same, as ``DataFrame.mapInArrow`` wants it.
SCORED = ", ".join(f"{field.name} {_SPARK_TYPES.get(str(field.type), field.type)}" for field in SCHEMA)
MAX_TEXT_CHARACTERS = 2_000  # of a title or comment; MediaWiki takes 500
ID_HEADER = "id"  # see lib.online.topics
#: What ``selectExpr`` takes from Spark's Kafka source. The lists of headers stay behind: for every row that Spark gives
#: to Python it goes through all lists of the batch, which would be most of the stage's work.
MESSAGE = (
    *("value", "partition", "offset", "timestamp"),
    f"try_element_at(filter(headers, pair -> pair.key = '{ID_HEADER}' AND length(pair.value) > 0), -1).value AS id",
)
SHADOW_SHARE = 0.02  # of the edits of blacklisted users: scored although they are dropped


_SHIFT = np.uint64(32)
_SEED = np.uint64(0x2545F4914F6CDD1D)
_FACTOR = np.uint64(0x9FB21C651E98DF25)
_BYTE = np.uint64(8)


@kernels.njit_cached
def _hash64(offsets: np.ndarray, data: np.ndarray, out: np.ndarray) -> None:
    for row in range(len(out)):
        start, stop = offsets[row], offsets[row + 1]
        value = _SEED ^ np.uint64(stop - start)
        place = start
        while place < stop:
            word = np.uint64(0)
            for byte in range(place, min(place + 8, stop)):
                word = (word << _BYTE) | np.uint64(data[byte])
            value = (value ^ word) * _FACTOR
            value ^= value >> _SHIFT
            place += 8
        out[row] = kernels.mix64(value)


def hash64(texts: pa.Array) -> np.ndarray:
    """Return a hash of 64 bits of each text.

    Parameters
    ----------
    texts : pyarrow.Array of string
        A null counts as an empty text.

    Returns
    -------
    ndarray of uint64, shape (n,)

    Examples
    --------
    >>> one, other, again = hash64(pa.array(["a", "b", "a"]))
    >>> one == again, one == other
    (np.True_, np.False_)
    """
    offsets, data = kernels.buffers(texts)
    out = np.empty(len(texts), np.uint64)
    _hash64(offsets, data, out)
    return out


def hash_sample(hashes: np.ndarray, share: float) -> np.ndarray:
    """Return which hashes (uint64, shape (n,)) are in a sample of a share from 0 to 1: always the same ones."""
    return (hashes >> _SHIFT) < np.uint64(round(share * 2**32))


def score_batch(
    model: BotClassifier, bloom: BlacklistFilter
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function for ``DataFrame.mapInArrow``: Kafka's messages in, rows of :data:`SCORED` out.

    Parameters
    ----------
    model : BotClassifier
        Its weights for the texts travel to the executors.
    bloom : BlacklistFilter
        Of the users on the blacklist. An edit whose user it takes for a member needs no features: the driver asks the
        ledger, and computes them if it was a collision.
    """
    weights, members = model.weights, bloom.to_bytes()

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        bloom = BlacklistFilter.from_bytes(members)
        for batch in batches:
            yield score(batch, weights, bloom)

    return run


def score(
    messages: pa.RecordBatch, weights: Weights, bloom: BlacklistFilter, shadow_share: float = SHADOW_SHARE
) -> pa.RecordBatch:
    """Return one row of :data:`SCORED` for each message.

    Parameters
    ----------
    messages : pyarrow.RecordBatch
        Columns of :data:`MESSAGE`. A message without a value is as invalid as an empty text.
    weights : Weights
        The text model's.
    bloom : BlacklistFilter
    shadow_share : float, default 0.02
        Share of the edits of listed users that get features all the same.
    """
    raws = [raw or b"" for raw in messages.column("value").to_pylist()]
    decoded = [events.try_decode(raw) for raw in raws]
    kinds = [_kind(event) for event, _ in decoded]
    is_edit = np.array([kind == "edit" for kind in kinds], bool)
    edits = _edits([(decoded[row][0], raws[row]) for row in np.flatnonzero(is_edit).tolist()])
    edits["filter_hit"] = pa.array(bloom.contains(edits["user"].to_pylist()))
    edits["sampled"] = pa.array(hash_sample(hash64(edits["meta_id"]), shadow_share))
    edits["features"] = _features(edits, weights)
    names = zip(messages.column("id").to_pylist(), decoded, strict=True)
    given = [name.decode(errors="replace") if name else event and event.meta.id for name, (event, _) in names]
    ids = pa.array([name or None for name in given], pa.string())
    columns = {
        "partition": messages.column("partition"),
        "offset": messages.column("offset"),
        "kafka_ms": messages.column("timestamp").cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64()),
        "kind": kinds,
        "id": pa.array(hash64(ids).view(np.int64), mask=ids.is_null().to_numpy(zero_copy_only=False)),
        **{name: _spread(column, is_edit) for name, column in edits.items()},
        "raw": [raw if reason else None for raw, (_, reason) in zip(raws, decoded, strict=True)],
        "reason": [reason for _, reason in decoded],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _spread(values: pa.Array, where: np.ndarray) -> pa.Array:
    """Return the values, in order, in the rows that are true, and nulls in the others."""
    return values.take(pa.array(np.cumsum(where) - 1, mask=~where))


def _features(edits: dict[str, pa.Array], weights: Weights) -> pa.Array:
    """Return the features of the edits whose user the filter takes for none, and of the shadow sample."""
    hit, sampled = (edits[name].to_numpy(zero_copy_only=False) for name in ("filter_hit", "sampled"))
    needed = edits["user"].is_valid().to_numpy(zero_copy_only=False) & (~hit | sampled)
    found = edit_features.compute(pa.table(edits).filter(pa.array(needed)), weights)
    return _spread(pa.array([row.tobytes() for row in found], pa.binary()), needed)


def _kind(event: events.Event | None) -> str:
    if event is None:
        return "invalid"
    if event.is_canary:
        return "canary"
    return "edit" if event.is_edit else "event"


def _edits(edits: list[tuple[Any, bytes]]) -> dict[str, pa.Array]:
    """Return the columns of edits and their texts: each edit with an id, and no text longer than any wiki takes."""
    table = events.table([event for event, _ in edits])
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    ids = [events.event_key(raw, event) for event, raw in edits]
    columns["meta_id"] = pa.array(ids, pa.string())
    for name in ("title", "comment"):
        columns[name] = pc.utf8_slice_codeunits(columns[name], 0, MAX_TEXT_CHARACTERS)
    return columns
