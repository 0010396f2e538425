"""The Spark query of stage 4: Kafka in, one value of bytes per batch out, and nothing that Spark must remember.

Kafka's offsets are kept in the books, in the transaction that keeps everything else, and not in Spark's checkpoint: a
query that is started again begins where the books end. So Spark may run ahead of the judge by an epoch, may fail, and
may be killed, and all that is lost is work.
"""

from __future__ import annotations

import gc
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from lib.blacklist.bloom import BlacklistFilter
from lib.infra import spark as sessions
from lib.infra.kafka import for_spark
from lib.model import edit_features
from lib.online import parcel, sieve

MOST = 250_000  # events of one epoch: what an epoch costs by itself is then little beside them
#: After every poll Spark's consumer asks the broker twice where the topic ends. With Kafka's 500 records to a poll that
#: costs more than the fetching.
FETCH = {"kafka.max.poll.records": "2000", "kafka.max.partition.fetch.bytes": str(4 << 20)}
#: Spark writes its own log of offsets beside the work and not before and after it, which took 90 ms of every epoch:
#: where a query begins is in the books, not in that log. Spark does so for Kafka's sink and must be told that it may.
BESIDE = {
    "asyncProgressTrackingEnabled": "true",
    "_asyncProgressTrackingOverrideSinkSupportCheck": "true",
}
#: What another program wrote in a transaction and took back was never there.
COMMITTED = {"kafka.isolation.level": "read_committed"}


class Eyes:
    """The part of the model that the executors need: small enough to send to each of them."""

    def __init__(self, weights: edit_features.Weights):
        self.weights = weights

    def edit_features(self, table: pa.Table) -> np.ndarray:
        """Say what each edit shows by itself."""
        return edit_features.compute(table, self.weights)


def examine(
    eyes: Broadcast[Any], blacklist: Broadcast[bytes], shadow_share: float
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[bytes]]:
    """Make the function that the executors run on Kafka's messages; it gives packed findings.

    Parameters
    ----------
    eyes : Broadcast
        Of :class:`Eyes`.
    blacklist : Broadcast
        Of the filter's bytes.
    shadow_share : float
        See :func:`lib.online.sieve.examine`.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            found = sieve.examine(
                batch.column("value"),
                batch.column("partition")[0].as_py(),
                batch.column("offset").to_numpy(),
                _milliseconds(batch.column("timestamp")),
                eyes.value,
                _filter(blacklist.value),
                shadow_share,
            )
            _settle()
            yield sieve.pack(found)

    return run


@lru_cache(maxsize=1)
def _settle() -> None:
    """Leave all modules out of every later search for cycles, which took a tenth of a worker's time: they stay."""
    gc.collect()
    gc.freeze()


def _milliseconds(times: pa.Array) -> np.ndarray:
    return times.cast(pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()


@lru_cache(maxsize=2)
def _filter(data: bytes) -> BlacklistFilter:
    return BlacklistFilter.from_bytes(data)


def starting_offsets(topic: str, partitions: int, offsets: Mapping[int, int]) -> str:
    """Say where a query begins, as Spark wants it; a partition that was never read begins at its first message.

    Examples
    --------
    >>> starting_offsets("events", 2, {0: 7})
    '{"events": {"0": 7, "1": -2}}'
    """
    return json.dumps(
        {topic: {str(partition): offsets.get(partition, -2) for partition in range(partitions)}}
    )


class Query:
    """A running query that hands every epoch to one thread, which judges it while Spark works on the next.

    Parameters
    ----------
    spark : SparkSession
    bootstrap, topic : str
        Where the events are.
    partitions : int
        Of the topic.
    offsets : mapping
        Where to begin.
    look : callable
        The executors' function (:func:`examine`).
    judge : callable
        Called in the judge's thread with a list of packed findings.
    properties : mapping
        Kafka client properties.
    most : int
        Events of one epoch at most.
    """

    def __init__(
        self,
        spark: SparkSession,
        bootstrap: str,
        topic: str,
        partitions: int,
        offsets: Mapping[int, int],
        look: Callable[[Iterator[pa.RecordBatch]], Iterator[bytes]],
        judge: Callable[[list[pa.Buffer]], None],
        properties: Mapping[str, str] = {},
        most: int = MOST,
    ):
        self._judge = judge
        self._topic = topic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="judge")
        self._sitting: Future[None] | None = None
        self._lock = threading.Lock()
        self._scratch = Path(tempfile.mkdtemp(prefix="query-", dir=spark.conf.get("spark.local.dir")))
        shared = self._scratch if sessions.is_local(str(spark.sparkContext.master)) else None
        source = (
            spark.readStream.format("kafka")
            .options(**FETCH | COMMITTED | for_spark(properties))
            .option("kafka.bootstrap.servers", bootstrap)
            .option("subscribe", topic)  # also to a partition that is added while the query runs
            .option("startingOffsets", starting_offsets(topic, partitions, offsets))
            .option("maxOffsetsPerTrigger", most)
            .option("failOnDataLoss", "true")
            .load()
            .select("value", "partition", "offset", "timestamp")
        )
        try:
            self._query: StreamingQuery = (
                source.mapInArrow(parcel.sending(look, shared), parcel.SCHEMA)
                .writeStream.foreachBatch(self._epoch)
                .option("checkpointLocation", (self._scratch / "checkpoint").as_uri())
                .options(**BESIDE)
                .start()
            )
        except BaseException:
            self._clean()
            raise

    def _epoch(self, batch: DataFrame, epoch: int) -> None:
        packed = parcel.received(batch.toArrow())
        if not any(part.size for part in packed):
            return
        with self._lock:
            before = self._sitting
        if before is not None:
            before.result()
        with self._lock:
            self._sitting = self._thread.submit(self._judge, packed)

    def check_judge(self) -> None:
        """Raise what went wrong in the judge's thread with the last epoch that is over, if anything did."""
        with self._lock:
            sitting = self._sitting
        if sitting is not None and sitting.done():
            sitting.result()

    def has_passed(self, ends: Mapping[int, int]) -> bool:
        """Tell whether everything before these offsets is judged, though no message stands right before them.

        The marks that end a transaction have offsets, and so has what was taken back.
        """
        progress = self._query.lastProgress if self._is_idle() else None
        if progress is None:
            return False
        read = json.loads(progress.sources[0].endOffset or "{}").get(self._topic, {})
        return self._is_idle() and all(read.get(str(partition), 0) >= end for partition, end in ends.items())

    def _is_idle(self) -> bool:
        """Tell whether the judge has nothing under way."""
        with self._lock:
            return self._sitting is None or self._sitting.done()

    def check(self) -> None:
        """Raise what went wrong in the query or in the judge's thread, if anything did."""
        self.check_judge()
        if not self._query.isActive:
            error = self._query.exception()
            raise (
                error
                if error is not None
                else RuntimeError("The query ended although nobody had stopped it.")
            )

    def stop(self) -> None:
        """Stop the query; an epoch that is being judged is judged to its end."""
        try:
            self._query.stop()
        finally:
            self._clean()

    def _clean(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self._scratch, ignore_errors=True)
