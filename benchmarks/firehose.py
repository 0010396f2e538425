"""The load: a real slice of the firehose, laid end to end; users, ids and two of five comments are new in each tile.

The slice is not in this repository. Where it is not, the default day is laid end to end instead: its events are shorter
(700 bytes for 1,240), so the figures of one load do not compare with those of the other.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka

from lib import events, paths
from lib.model import classifier
from lib.model.dataset import EditDataset
from lib.stream import sample_day

FOLDER = Path(os.environ.get("WIKISIEVE_BENCH_DATA", paths.ROOT.parent / "shared" / "data"))
FILE = FOLDER / "firehose-2021-10-08.jsonl.gz"
DISTINCT = 0.4  # share of the comments that are made distinct in each tile
_MARK = "\u0001"  # stands where a tile's number goes


def there() -> bool:
    """Whether the slice is on this machine."""
    return FILE.exists()


def described() -> str:
    """Return a description of the load."""
    if there():
        return f"a slice of the firehose, {FILE.name}"
    return f"the default day, as {FILE.name} is not in {FOLDER} (WIKISIEVE_BENCH_DATA names another folder)"


def raw_events() -> list[bytes]:
    """What is laid end to end."""
    with gzip.open(FILE if there() else sample_day.ensure(), "rb") as file:
        return [line.rstrip(b"\n") for line in file]


def tiles(n: int) -> Iterator[tuple[bytes | None, bytes]]:
    """Yield `n` events, each with its key: the slice again and again, each time by other users."""
    moulds = [_mould(number, raw) for number, raw in enumerate(raw_events())]
    made = tile = 0
    while made < n:
        number = b"%d" % tile
        for user, raw in moulds[: n - made]:
            yield (None if user is None else user.replace(b"\x01", number)), raw.replace(b"\\u0001", number)
        made += len(moulds)
        tile += 1


def _mould(number: int, raw: bytes) -> tuple[bytes | None, bytes]:
    event = json.loads(raw)
    event["meta"]["id"] = f"{event['meta']['id']}-{_MARK}"
    user = event.get("user")
    if user is not None:
        event["user"] = user = f"{user} {_MARK}"
    if (number * 2654435761 % 2**32) / 2**32 < DISTINCT and event.get("comment"):
        event["comment"] += f" {_MARK}"
    return (None if user is None else user.encode()), json.dumps(event).encode()


def fill(bootstrap: str, topic: str, n: int) -> None:
    """Put `n` events into a topic, keyed by user, with the partitions of Kafka's Java client."""
    options = {"linger.ms": 20, "compression.type": "lz4", "partitioner": "murmur2_random"}
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap, **options})
    for key, raw in tiles(n):
        while True:
            try:
                producer.produce(topic, raw, key)
                break
            except BufferError:  # the queue is full
                producer.poll(0.1)
    producer.flush()


def train() -> classifier.BotClassifier:
    """A model of the slice's own users: as good as any to measure what judging costs."""
    edits = events.table([event for event in map(events.decode, raw_events()) if event.is_edit])
    cross = classifier.CrossFit(EditDataset(edits))
    threshold = classifier.choose_threshold(classifier.threshold_curve(cross), 0.05, 0.05)
    return classifier.BotClassifier.fit(cross, threshold)
