"""Record batches of our own making are read by another client, message for message."""

import json
import random
from datetime import UTC, datetime

import pyarrow as pa
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.errors import KafkaError

from lib.online import producer, publisher, verdicts
from lib.online.judging import SCHEMA


def test_what_is_published_is_read_by_another_client(kafka):
    kafka.make_topics(kafka.bootstrap, ["published"], 3, {})
    keys = [f"key {n} é" for n in range(9_001)] + ["", "🤖" * 3000]
    values = [f"value {n} ü" * (n % 40) for n in range(len(keys))]
    noise = random.Random(1)
    for n in range(0, 9_000, 700):  # together more than a broker takes at once, and nothing to compress
        values[n] = noise.randbytes(900_000).hex()
    with publisher.Publisher(kafka.bootstrap, "published", 3) as out:
        out.send(pa.array(keys), pa.array(values))
        out.send(pa.array([], pa.string()), pa.array([], pa.string()))
    found = world.messages(kafka.bootstrap, "published")
    assert sorted((m.key.decode(), m.value.decode()) for m in found) == sorted(zip(keys, values, strict=True))
    assert all(m.partition == producer.partition_of(m.key, b"", 3) for m in found)


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.text(), min_size=1), st.integers(1, 9))
def test_partitions_are_those_of_kafka_s_clients(keys, partitions):
    expected = [producer.partition_of(key.encode(), b"", partitions) for key in keys]
    assert publisher.partitions_of(pa.array(keys), partitions).tolist() == expected


def test_a_broker_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr(publisher, "PATIENCE", 0.0)
    monkeypatch.setattr(publisher, "ANSWER_MS", 500)
    with publisher.Publisher("127.0.0.1:1", "nowhere", 1) as out, pytest.raises((KafkaError, OSError)):
        out.send(pa.array(["a"]), pa.array(["b"]))


ROWS = st.fixed_dictionaries(
    {
        "meta_id": st.text(),
        "timestamp": st.integers(-(10**12), 10**13),
        "wiki": st.none() | st.text(),
        "user": st.none() | st.text(),
        "bot": st.none() | st.booleans(),
        "verdict": st.sampled_from(["kept", "flagged", "dropped"]),
        "score": st.none() | st.floats(0, 1),
    }
)


@settings(deadline=None)  # the first call compiles
@given(st.lists(ROWS, min_size=1, max_size=20))
def test_a_verdict_as_json_says_what_the_row_says(rows):
    read = [json.loads(line) for line in verdicts.as_json(pa.Table.from_pylist(rows, SCHEMA)).to_pylist()]
    for row in rows:
        moment = datetime.fromtimestamp(row["timestamp"] / 1000, UTC)
        row["timestamp"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert [{**row, "timestamp": None} for row in read] == [{**row, "timestamp": None} for row in rows]
    for got, row in zip(read, rows, strict=True):
        assert (
            abs(
                datetime.fromisoformat(got["timestamp"]) - datetime.fromisoformat(row["timestamp"])
            ).total_seconds()
            < 0.002
        )
