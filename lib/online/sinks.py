"""Where verdicts go: one Parquet file per batch, whole or not there, and a Kafka topic."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import confluent_kafka
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lib import paths
from lib.artifacts import sync_folder
from lib.infra import kafka
from lib.online.state import OnlineError

LOGGER = logging.getLogger("librdkafka")  # what it would print otherwise
LOGGER.addHandler(logging.NullHandler())
FOLDER = "verdicts"
FLUSH_SECONDS = 60.0
SCHEMA = pa.schema(
    [
        ("meta_id", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("wiki", pa.string()),
        ("user", pa.string()),
        ("bot", pa.bool_()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
    ]
)


def part_path(folder: Path, batch: int) -> Path:
    """Return the file of a batch."""
    return folder / FOLDER / f"part-{batch:08d}.parquet"


def write_part(folder: Path, batch: int, table: pa.Table) -> None:
    """Write a batch's verdicts, whole or not at all.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.
    batch : int
        Names the file.
    table : pyarrow.Table
        :data:`SCHEMA`.
    """
    path = part_path(folder, batch)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary, compression="zstd", use_dictionary=["wiki", "user", "verdict"])
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def remove_uncommitted(folder: Path, batches: Iterable[int]) -> None:
    """Remove the files of batches that are not committed.

    Raises
    ------
    OnlineError
        When the file of a committed batch is missing.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    committed = {part_path(folder, batch) for batch in batches}
    if missing := sorted(path for path in committed if not path.exists()):
        raise OnlineError(
            f"RESUME=True needs all files of verdicts that {paths.show(folder)} once had. Got {len(missing)} fewer "
            f"(the first: {missing[0].name}). Put them back, or start again with RESUME=False."
        )
    for path in [*part_files(folder), *(folder / FOLDER).glob(".part-*.tmp")]:
        if path not in committed:
            path.unlink()


def part_files(folder: Path) -> list[Path]:
    """Return the files of verdicts in OUT_DIR, in the order of their batches."""
    return sorted((folder / FOLDER).glob("part-*.parquet"))


def read_verdicts(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Return all verdicts of OUT_DIR, or some of their columns, in the order in which they were decided."""
    parts = part_files(folder)
    if not parts:
        return SCHEMA.empty_table().select(columns or SCHEMA.names)
    return ds.dataset(parts, schema=SCHEMA, format="parquet").to_table(columns=columns)


def to_json(table: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield the key (``meta_id``) and the JSON text of each verdict: the columns, the time in ISO 8601.

    Examples
    --------
    >>> import json
    >>> row = {"meta_id": "a", "timestamp": 0, "user": 'say "hi"', "bot": True, "verdict": "kept"}
    >>> key, text = next(to_json(pa.Table.from_pylist([row], SCHEMA)))
    >>> json.loads(text)["timestamp"]
    '1970-01-01T00:00:00.000Z'
    """
    times = pc.replace_substring(table["timestamp"].cast(pa.string()), " ", "T", max_replacements=1)
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", times)
    encode = msgspec.json.Encoder().encode
    for row in zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True):
        yield row[0], encode(dict(zip(SCHEMA.names, row, strict=True)))


class VerdictTopic:
    """The topic of verdicts, written with librdkafka.

    Parameters
    ----------
    bootstrap, topic : str
    properties : mapping
        Kafka client properties.
    """

    def __init__(self, bootstrap: str, topic: str, properties: Mapping[str, str]):
        self.topic = topic
        self._errors: list[confluent_kafka.KafkaError] = []
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.num.messages": 20_000,
                "queue.buffering.max.messages": 2_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._note_error,
                **kafka.for_librdkafka(properties),
            },
            logger=LOGGER,
        )

    def send(self, table: pa.Table) -> None:
        """Send verdicts, and wait until all are acknowledged.

        Raises
        ------
        OnlineError
            When Kafka does not take one of them.
        """
        for key, value in to_json(table):
            self._producer.produce(self.topic, value, key)
        left = self._producer.flush(FLUSH_SECONDS)
        if left or self._errors:
            reason = self._errors[0].str() if self._errors else f"no answer for {FLUSH_SECONDS:g} s"
            raise OnlineError(
                f"Kafka must take the verdicts of the topic {self.topic}. Got: {reason}. "
                "Check the broker, and go on with RESUME=True."
            )

    def _note_error(self, error: confluent_kafka.KafkaError | None, message: object) -> None:
        if error is not None:
            self._errors.append(error)
