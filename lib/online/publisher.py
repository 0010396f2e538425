"""Many small messages into a Kafka topic at once: record batches made by a compiled loop instead of one by one.

kafka-python spends some 30 microseconds on a message, and a Spark job a tenth of a second on a handful of them. A
verdict is 200 bytes, and there are many. So an epoch's keys and values are Arrow columns, the record batches (format
v2, https://kafka.apache.org/documentation/#recordbatch) are written from their buffers, and kafka-python only carries
them, over whatever TLS and SASL it is told to use. Each message is written at least once and acknowledged by all
replicas in sync; who reads tells a repeat by its key, and equal keys lie in one partition.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from kafka.codec import lz4_encode
from kafka.errors import KafkaError, KafkaTimeoutError, for_code
from kafka.net.compat import KafkaNetClient
from kafka.protocol.producer import ProduceRequest
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from lib.infra import kafka
from lib.model import kernels
from lib.model.kernels import njit_cached

MESSAGES = 4_000  # of one record batch
BYTES = 1_000_000  # of one record batch before it is packed: what any broker takes
PATIENCE = 60.0  # seconds to try again for
ANSWER_MS = 10_000  # until a broker must have answered
LZ4 = 3
_VARINT = 10  # bytes of the longest number
_OVERHEAD = 3 * _VARINT + 8  # bytes of a record beside key and value
_HEAD = struct.Struct(">iBI")
_BODY = struct.Struct(">hiqqqhii")


@njit_cached
def _put(out: np.ndarray, place: int, value: int) -> int:
    """Write a number as Kafka does: zigzag, seven bits to a byte."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest >= np.uint64(128):
        out[place] = np.uint8((rest & np.uint64(127)) | np.uint64(128))
        rest >>= np.uint64(7)
        place += 1
    out[place] = np.uint8(rest)
    return place + 1


@njit_cached
def _width(value: int) -> int:
    width, rest = 1, (value << 1) ^ (value >> 63)
    while rest >= 128:
        rest >>= 7
        width += 1
    return width


@njit_cached
def _records(
    rows: np.ndarray,
    key: np.ndarray,
    key_data: np.ndarray,
    value: np.ndarray,
    value_data: np.ndarray,
    out: np.ndarray,
) -> int:
    """Write records one behind the other; give the length."""
    place = 0
    for number in range(len(rows)):
        row = rows[number]
        keys, values = key[row + 1] - key[row], value[row + 1] - value[row]
        length = 3 + _width(number) + _width(keys) + keys + _width(values) + values
        place = _put(out, place, length)
        out[place] = out[place + 1] = 0  # attributes, and the time: that of the batch
        place = _put(out, place + 2, number)
        place = _put(out, place, keys)
        for i in range(key[row], key[row + 1]):
            out[place] = key_data[i]
            place += 1
        place = _put(out, place, values)
        for i in range(value[row], value[row + 1]):
            out[place] = value_data[i]
            place += 1
        out[place] = 0  # no headers
        place += 1
    return place


@njit_cached
def _murmur2(data: np.ndarray, start: int, stop: int) -> int:
    """Hash a key as Kafka's clients do to choose its partition."""
    mask = np.uint64(0xFFFFFFFF)
    m = np.uint64(0x5BD1E995)
    length = stop - start
    h = (np.uint64(0x9747B28C) ^ np.uint64(length)) & mask
    for i in range(start, stop - 3, 4):
        k = np.uint64(data[i]) | np.uint64(data[i + 1]) << np.uint64(8)
        k |= np.uint64(data[i + 2]) << np.uint64(16) | np.uint64(data[i + 3]) << np.uint64(24)
        k = (k * m) & mask
        k ^= k >> np.uint64(24)
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    rest = stop - length % 4
    if length % 4 >= 3:
        h ^= np.uint64(data[rest + 2]) << np.uint64(16)
    if length % 4 >= 2:
        h ^= np.uint64(data[rest + 1]) << np.uint64(8)
    if length % 4 >= 1:
        h ^= np.uint64(data[rest])
        h = (h * m) & mask
    h ^= h >> np.uint64(13)
    h = (h * m) & mask
    h ^= h >> np.uint64(15)
    return int(h & np.uint64(0x7FFFFFFF))


@njit_cached
def _hashes(offsets: np.ndarray, data: np.ndarray) -> np.ndarray:
    out = np.empty(len(offsets) - 1, np.int64)
    for row in range(len(out)):
        out[row] = _murmur2(data, offsets[row], offsets[row + 1])
    return out


def partitions_of(keys: pa.Array, partitions: int) -> np.ndarray:
    """Choose the partition of each key by Kafka's own rule.

    Examples
    --------
    >>> from lib.online.producer import partition_of
    >>> keys = ["", "a", "ab", "abc", "abcd", "id-12345", "é"]
    >>> partitions_of(pa.array(keys), 7).tolist() == [partition_of(key.encode(), b"", 7) for key in keys]
    True
    """
    return _hashes(*kernels.buffers(keys)) % partitions


class Records(NamedTuple):
    """Messages as the compiled loop wants them: text ``i`` is ``data[offsets[i]:offsets[i + 1]]``."""

    key: np.ndarray  #: offsets
    key_data: np.ndarray
    value: np.ndarray  #: offsets
    value_data: np.ndarray
    sizes: np.ndarray  #: bytes of each record at most

    @classmethod
    def of(cls, keys: pa.Array, values: pa.Array) -> Records:
        """Open the buffers of columns of keys and values."""
        (key, key_data), (value, value_data) = kernels.buffers(keys), kernels.buffers(values)
        return cls(key, key_data, value, value_data, np.diff(key) + np.diff(value) + _OVERHEAD)


def record_batch(records: Records, rows: np.ndarray, time_ms: int) -> bytes:
    """Make one record batch.

    Parameters
    ----------
    records : Records
    rows : ndarray of int64
        Which of them, in order.
    time_ms : int
        Their timestamp.

    Returns
    -------
    bytes
        Compressed with lz4.
    """
    key, key_data, value, value_data, sizes = records
    out = np.empty(int(sizes[rows].sum()), np.uint8)
    length = _records(rows, key, key_data, value, value_data, out)
    packed = lz4_encode(out[:length].tobytes())
    body = _BODY.pack(LZ4, len(rows) - 1, time_ms, time_ms, -1, -1, -1, len(rows)) + packed
    head = _HEAD.pack(-1, 2, calc_crc32c(memoryview(body)))
    return struct.pack(">qi", 0, len(head) + len(body)) + head + body


def _pieces(rows: np.ndarray, sizes: np.ndarray, messages: int) -> Iterator[np.ndarray]:
    """Cut rows into record batches of so many messages and :data:`BYTES` at most; a larger one goes by itself.

    Examples
    --------
    >>> sizes = np.array([1, 1, 1, BYTES, 1, BYTES + 1, 1])
    >>> [piece.tolist() for piece in _pieces(np.arange(7), sizes, 2)]
    [[0, 1], [2], [3], [4], [5], [6]]
    """
    ends = np.cumsum(sizes[rows])
    start = 0
    while start < len(rows):
        room = BYTES + (ends[start - 1] if start else 0)
        stop = max(start + 1, min(start + messages, int(np.searchsorted(ends, room, "right"))))
        yield rows[start:stop]
        start = stop


class Publisher:
    """Publishes columns of keys and values to one topic.

    Parameters
    ----------
    bootstrap, topic : str
    partitions : int
        Of the topic.
    properties : mapping
        Kafka client properties.
    messages : int
        Of one record batch at most.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        partitions: int,
        properties: Mapping[str, str] = {},
        messages: int = MESSAGES,
    ):
        self._bootstrap, self._topic, self._partitions = bootstrap, topic, partitions
        self._messages = messages
        self._options = kafka.for_python(properties)
        self._client: KafkaNetClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def send(self, keys: pa.Array, values: pa.Array) -> None:
        """Write messages and wait until all replicas in sync have them.

        Parameters
        ----------
        keys, values : pyarrow.Array of string, no nulls

        Raises
        ------
        KafkaError
            When Kafka does not take them within a minute.
        """
        now = int(time.time() * 1000)
        to = partitions_of(keys, self._partitions)
        records = Records.of(keys, values)
        for partition in range(self._partitions):
            mine = np.flatnonzero(to == partition)
            for rows in _pieces(mine, records.sizes, self._messages):
                self._deliver(partition, record_batch(records, rows, now))

    def _deliver(self, partition: int, batch: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self._try(partition, batch)
                return
            except (KafkaError, OSError):
                self.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def _try(self, partition: int, batch: bytes) -> None:
        client = self._connected()
        leader = client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        if leader is None or leader < 0:
            raise KafkaTimeoutError(f"{self._topic} has no leader for partition {partition}")
        topic = ProduceRequest.TopicProduceData
        piece = topic.PartitionProduceData(index=partition, records=batch)
        request = ProduceRequest(
            transactional_id=None,
            acks=-1,
            timeout_ms=30_000,
            topic_data=[topic(name=self._topic, partition_data=[piece])],
            min_version=3,
            max_version=9,
        )
        answer: Any = client.send_and_receive(leader, request)
        code = answer.responses[0].partition_responses[0].error_code
        if code:
            raise for_code(code)(f"{self._topic}, partition {partition}")

    def _connected(self) -> KafkaNetClient:
        if self._client is None:
            client = KafkaNetClient(bootstrap_servers=self._bootstrap, **self._options)
            try:
                client.check_version(timeout_ms=ANSWER_MS)
                client.cluster.set_topics([self._topic])
                client.poll(timeout_ms=ANSWER_MS, future=client.cluster.request_update())
            except BaseException:
                client.close()
                raise
            self._client = client
        return self._client
