"""How fast stage 4 is, beside the same query that only parses; how long a verdict takes; what more costs."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import pandas as pd
import psutil
import pyarrow as pa
from kafka import KafkaProducer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks import firehose
from lib import paths
from lib.blacklist.ledger import Entry
from lib.infra import broker, spark
from lib.model import build_blacklist
from lib.online import online, query, sieve
from lib.online.producer import partition_of

#: What a usual query takes from an event.
FIELDS = (
    "meta struct<id: string, dt: string, domain: string>, id bigint, type string, namespace int, title string, "
    "comment string, timestamp bigint, user string, bot boolean, minor boolean, "
    "length struct<old: bigint, new: bigint>, wiki string, server_name string"
)


PARSE = "parse only (from_json)"


class Filled:
    """A sender that has nothing more to send."""

    done = True
    duplicates = 0

    def check(self) -> None:
        """Nothing can go wrong."""


@contextmanager
def topic(n: int, partitions: int) -> Iterator[tuple[str, str, Path]]:
    """Start a broker with a topic of `n` events; give it, the topic and a folder that holds a model."""
    with tempfile.TemporaryDirectory(prefix="wikisieve-bench-") as name:
        folder = Path(name)
        judge = firehose.train()
        judge.save(folder / "model" / "model.skops")
        build_blacklist.write_blacklist(folder / "model", [])
        with broker.Broker(folder / "kafka", heap="1g") as kafka:
            events = f"firehose-{n}"
            kafka.make_topics(kafka.bootstrap, [events], partitions, {})
            firehose.fill(kafka.bootstrap, events, n, partitions)
            yield kafka.bootstrap, events, folder


def session(cores: int, **settings: str) -> AbstractContextManager[SparkSession]:
    """Start Spark as stage 4 does, with more memory."""
    memory = {"spark.driver.memory": "4g"}
    return spark.spark_session(
        "benchmark", f"local[{cores}]", kafka=True, long_running=True, **memory, **settings
    )


@contextmanager
def world(n: int, partitions: int, cores: int) -> Iterator[tuple[str, str, SparkSession, Path]]:
    """Start a broker with a topic of `n` events, and Spark."""
    with topic(n, partitions) as (bootstrap, events, folder), session(cores) as running:
        yield bootstrap, events, running, folder


def parse_only(bootstrap: str, topic: str, session: SparkSession, **options: str) -> float:
    """Read the topic, parse it with from_json, and throw it away; give the events per second."""
    stream = (
        session.readStream.format("kafka")
        .options(**options)
        .option("kafka.bootstrap.servers", bootstrap)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", query.MOST)
        .load()
        .select(F.from_json(F.col("value").cast("string"), FIELDS).alias("event"))
        .select("event.*")
    )
    with tempfile.TemporaryDirectory() as checkpoint:
        begin = time.perf_counter()
        running = (
            stream.writeStream.format("noop")
            .option("checkpointLocation", checkpoint)
            .trigger(availableNow=True)
            .start()
        )
        running.awaitTermination()
        seconds = time.perf_counter() - begin
        read = sum(progress.numInputRows for progress in running.recentProgress)
    return read / seconds


def judged(
    bootstrap: str, topic: str, session: SparkSession, folder: Path, partitions: int
) -> dict[str, Any]:
    """Judge the topic; give what was measured from the query's start until the last verdict is in the books."""
    with tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out:
        options: dict[str, Any] = {
            "kafka": bootstrap,
            "session": session,
            "partitions": partitions,
        }
        with online.Stage(Path(out), folder / "model", say=lambda text: None, **options) as stage:
            stage.events_topic = topic
            gc.collect()
            with Watch() as watch:
                run = stage.sieve(Filled())
            return {
                "events": run.counts["read"],
                "events per second": run.counts["read"] / run.seconds,
                "members": run.members_end,
                "driver (MB)": watch.driver,
                "workers (MB)": watch.workers,
                "latency": stage.metrics()["latency_seconds"],
            }


def throughput(n: int = 1_500_000, partitions: int = 2, number: int = 2, rounds: int = 2) -> pd.DataFrame:
    """Compare the same events only parsed and judged; the ratio is to whichever way of parsing is faster.

    "As it comes" is Spark with its own settings for the consumer and Java's for the compiler and the garbage.
    """
    rows = []
    with topic(n, partitions) as (bootstrap, events, folder):
        with session(number, **{"spark.driver.extraJavaOptions": ""}) as plain:
            for _ in range(rounds):
                rows.append((f"{PARSE}, Spark as it comes", parse_only(bootstrap, events, plain)))
        with session(number) as ours:
            for _ in range(rounds):
                rows.append(
                    (f"{PARSE}, set as in stage 4", parse_only(bootstrap, events, ours, **query.FETCH))
                )
                took = judged(bootstrap, events, ours, folder, partitions)
                rows.append(("stage 4, all writes", took["events per second"]))
    best = pd.DataFrame(rows, columns=["query", "events per second"]).groupby("query", sort=False).max()
    parsed = best[best.index.str.startswith(PARSE)].max().iloc[0]
    return best.assign(ratio=best["events per second"] / parsed).reset_index()


class Keeping(online.Stage):
    """A stage that keeps what the executors found and judges it when it is asked to."""

    def __enter__(self) -> Self:
        self.kept: list[list[pa.Buffer]] = []
        return super().__enter__()

    def _sit(self, packed: list[pa.Buffer]) -> None:
        self.kept.append(packed)
        self.committed = sieve.next_offsets(sieve.unpack(packed).ends, self.committed)

    def sit(self) -> None:
        """Judge it."""
        self._open_books()
        for packed in self.kept:
            super()._sit(packed)


def writer(n: int = 1_000_000, rounds: int = 2) -> pd.DataFrame:
    """Time the one process that judges and writes, all writes included, with nobody else at work."""
    rows = []
    with world(n, 2, 2) as (bootstrap, events, running, folder):
        for _ in range(rounds):
            with (
                tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out,
                Keeping(
                    Path(out), folder / "model", kafka=bootstrap, session=running, say=lambda text: None
                ) as stage,
            ):
                stage.events_topic = events
                stage.sieve(Filled())
                begin = time.perf_counter()
                stage.sit()
                rows.append(n / (time.perf_counter() - begin))
    return pd.DataFrame([{"events": n, "events per second": max(rows)}])


def cores(n: int = 1_000_000) -> pd.DataFrame:
    """Compare two partitions and two cores with one of each; the broker and the judge have no other core either.

    One core is never idle; two are at the start and the end of a run, which must not be most of it.
    """
    rows = []
    for number in (1, 2):
        with only(number), world(n, number, number) as (bootstrap, events, running, folder):
            judged(bootstrap, events, running, folder, number)
            rows.append((number, judged(bootstrap, events, running, folder, number)["events per second"]))
    table = pd.DataFrame(rows, columns=["partitions and cores", "events per second"])
    return table.assign(ratio=table["events per second"] / table["events per second"].iloc[0])


@contextmanager
def only(number: int) -> Iterator[None]:
    """Keep this process and all that it starts to so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def flatness(
    sizes: tuple[tuple[int, int], ...] = (
        (100_000, 1_000),
        (100_000, 1_000_000),
        (1_000_000, 1_000),
        (5_000_000, 1_000),
    ),
) -> pd.DataFrame:
    """Compare the cost of an event among few and among many events, and with few and many users on the list."""
    rows = []
    with session(2) as running:
        for n, known in ((1_000_000, 1_000), *sizes):  # the first is to warm up: Java compiles what is hot
            with topic(n, 2) as (bootstrap, events, folder):
                build_blacklist.write_blacklist(folder / "model", _made_up(known))
                rows.append({"known users": known} | judged(bootstrap, events, running, folder, 2))
    table = pd.DataFrame(rows[1:]).drop(columns=["latency", "members"])
    return table.assign(**{"µs per event": 1e6 / table["events per second"]})


def _made_up(n: int) -> list[Entry]:
    return [Entry(f"Made-up bot {number}", "benchmark", 0) for number in range(n)]


class Watch:
    """Watch the most memory, in megabytes, that the driver and all Python workers hold while something is done."""

    def __enter__(self) -> Self:
        self.driver = self.workers = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.2):
            workers = filter(_is_worker, me.children(recursive=True))
            self.driver = max(self.driver, _anonymous(me))
            self.workers = max(self.workers, sum(map(_anonymous, workers)))


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "pyspark.daemon" in process.cmdline()
    except psutil.NoSuchProcess:  # or one that has just ended
        return False


def _anonymous(process: psutil.Process) -> float:
    """Give a process's memory without the pages of files that lie in it; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def latency(rate: int = 500, seconds: int = 30) -> pd.DataFrame:
    """Send so many events a second and look when each verdict can be read."""
    with world(20_000, 2, 2) as (bootstrap, topic, session, folder):
        judged(bootstrap, topic, session, folder, 2)  # everything is warm
        with tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out:
            options: dict[str, Any] = {"kafka": bootstrap, "session": session, "partitions": 2}
            with online.Stage(Path(out), folder / "model", say=lambda text: None, **options) as stage:
                with Paced(bootstrap, stage.events_topic, rate, seconds) as sender:
                    stage.sieve(sender)
                found = stage.metrics()["latency_seconds"]
    return pd.DataFrame([{"events per second": rate, "p50 (s)": found["p50"], "p99 (s)": found["p99"]}])


class Paced:
    """A sender of so many events a second, in a process of its own."""

    duplicates = 0

    def __init__(self, bootstrap: str, topic: str, rate: int, seconds: int):
        self.arguments = [bootstrap, topic, str(rate), str(seconds)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sieving", *self.arguments], cwd=paths.ROOT
        )
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def done(self) -> bool:
        """Whether everything was sent."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raise when the process failed."""
        if self._process.poll():
            raise RuntimeError("The paced sender failed.")


def pace(bootstrap: str, topic: str, rate: int, seconds: int) -> None:
    """Send events evenly."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=5, acks="all")
    begin = time.perf_counter()
    for number, (key, raw) in enumerate(firehose.tiles(rate * seconds)):
        early = begin + number / rate - time.perf_counter()
        if early > 0.002:
            time.sleep(early)
        producer.send(topic, raw, key=key, partition=partition_of(key, raw, 2))
    producer.flush()
    producer.close()


if __name__ == "__main__":
    pace(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
