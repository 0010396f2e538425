"""How fast stage 4 is, beside the same query that only parses; how long a verdict takes; what more costs."""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pandas as pd
import psutil
from kafka import KafkaProducer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks import firehose
from lib.blacklist.ledger import Entry
from lib.infra import broker, kafka
from lib.infra.spark import spark_session
from lib.model import build_blacklist
from lib.online import run, scoring
from lib.online.run import OnlineJob

#: What a usual query takes from an event.
FIELDS = (
    "meta struct<id: string, dt: string, domain: string>, id bigint, type string, namespace int, title string, "
    "comment string, timestamp bigint, user string, bot boolean, minor boolean, "
    "length struct<old: bigint, new: bigint>, wiki string, server_name string"
)


START_SECONDS = 5.0  # in which a query starts: its backlog is no latency
PARSE = "parse only (from_json)"


class Filled:
    """A publisher of a topic that has everything already."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def run(self, max_events: int) -> None:
        """Send nothing."""


@contextmanager
def topic(n: int, partitions: int) -> Iterator[tuple[str, str, Path]]:
    """Start a broker with a topic of `n` events; yield it, the topic and a folder that holds a model."""
    with tempfile.TemporaryDirectory(prefix="wikisieve-bench-") as name:
        folder = Path(name)
        model = firehose.train()
        model.save(folder / "model" / "model.skops")
        build_blacklist.write_blacklist(folder / "model", [])
        with broker.Broker(folder / "kafka") as embedded:
            events = f"firehose-{n}"
            kafka.make_topics(embedded.bootstrap, [events], partitions, {})
            firehose.fill(embedded.bootstrap, events, n)
            yield embedded.bootstrap, events, folder


def session(cores: int, **settings: str) -> SparkSession:
    """Start Spark as stage 4 does, with more memory."""
    conf = {"spark.driver.memory": "4g", **settings}
    return spark_session("benchmark", f"local[{cores}]", **conf)


def parse_only(bootstrap: str, topic: str, session: SparkSession, **options: str) -> float:
    """Read the topic, parse it with from_json, and throw it away; return the events per second."""
    stream = (
        session.readStream.format("kafka")
        .options(**options)
        .option("kafka.bootstrap.servers", bootstrap)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", run.MAX_OFFSETS_PER_TRIGGER)
        .load()
        .select(F.from_json(F.col("value").cast("string"), FIELDS).alias("event"))
        .select("event.*")
    )
    with tempfile.TemporaryDirectory() as checkpoint:
        start = time.perf_counter()
        sink = stream.writeStream.format("noop").option("checkpointLocation", checkpoint)
        query = sink.trigger(availableNow=True).start()
        query.awaitTermination()
        seconds = time.perf_counter() - start
        return sum(progress.numInputRows for progress in query.recentProgress) / seconds


def judge(job: OnlineJob, session: SparkSession, publisher: Any) -> None:
    """Judge what is in the topic and what the publisher adds, as the cells of notebook 04 do."""
    with job.watch(session):
        job.publish(publisher)
        events = session.readStream.format("kafka").options(**job.source_options).load()
        messages = events.selectExpr(*scoring.MESSAGE)
        scored = messages.mapInArrow(scoring.score_batch(job.model, job.bloom), scoring.SCORED)
        job.finish(scored.writeStream.foreachBatch(job.commit_batch).start())


def judged(bootstrap: str, topic: str, session: SparkSession, folder: Path) -> dict[str, Any]:
    """Judge the topic; return what was measured from the query's start until the last verdict is committed."""
    with (
        tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out,
        OnlineJob(Path(out), folder / "model", bootstrap=bootstrap) as job,
    ):
        job.events.name = topic
        with job.state.transaction():
            job.state.set_meta("topic_id", kafka.topic_id(bootstrap, topic, {}))
        with Watch() as watch:
            judge(job, session, Filled())
        metrics = job.metrics()
        return {
            "events": metrics["events"],
            "events per second": metrics["events_per_second"],
            "driver (MB)": watch.driver,
            "workers (MB)": watch.workers,
        }


def throughput(n: int = 1_500_000, partitions: int = 2, cores: int = 2, rounds: int = 2) -> pd.DataFrame:
    """Compare the same events only parsed and judged, in one session; the ratio is to whichever parsing is faster."""
    rows = []
    with topic(n, partitions) as (bootstrap, events, folder), session(cores) as running:
        for _ in range(rounds):
            rows.append((f"{PARSE}, Spark's own consumer", parse_only(bootstrap, events, running)))
            parsed = parse_only(bootstrap, events, running, **run.CONSUMER_OPTIONS)
            rows.append((f"{PARSE}, set as in stage 4", parsed))
            took = judged(bootstrap, events, running, folder)
            rows.append(("stage 4, all writes", took["events per second"]))
    best = pd.DataFrame(rows, columns=["query", "events per second"]).groupby("query", sort=False).max()
    fastest = best[best.index.str.startswith(PARSE)].max().iloc[0]
    return best.assign(ratio=best["events per second"] / fastest).reset_index()


def cores(n: int = 1_000_000) -> pd.DataFrame:
    """Compare two partitions and two cores with one of each; the broker and the judge have no other core either."""
    rows = []
    for number in (1, 2):
        with (
            only(number),
            topic(n, number) as (bootstrap, events, folder),
            session(number) as running,
        ):
            judged(bootstrap, events, running, folder)
            rows.append((number, judged(bootstrap, events, running, folder)["events per second"]))
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
                listed = [Entry(f"Synthetic bot {number}", "benchmark", 0) for number in range(known)]
                build_blacklist.write_blacklist(folder / "model", listed)
                rows.append({"known users": known} | judged(bootstrap, events, running, folder))
    table = pd.DataFrame(rows[1:])
    return table.assign(**{"µs per event": 1e6 / table["events per second"]})


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
    """Return a process's memory without the pages of files that lie in it; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def latency(rate: int = 500, seconds: int = 30) -> pd.DataFrame:
    """Send so many events a second and measure when each verdict can be read."""
    with topic(20_000, 2) as (bootstrap, events, folder), session(2) as running:
        judged(bootstrap, events, running, folder)  # everything is warm
        with (
            tempfile.TemporaryDirectory(prefix="out-", dir=folder) as out,
            OnlineJob(Path(out), folder / "model", bootstrap=bootstrap) as job,
        ):
            judge(job, running, Paced(bootstrap, job.topics["events"], rate, seconds))
            found = job.metrics()["latency_seconds"]
    return pd.DataFrame([{"events per second": rate, "p50 (s)": found["p50"], "p99 (s)": found["p99"]}])


class Paced(Filled):
    """A publisher of so many events a second, sent evenly."""

    def __init__(self, bootstrap: str, topic: str, rate: int, seconds: int):
        super().__init__()
        self.bootstrap, self.topic, self.rate, self.seconds = bootstrap, topic, rate, seconds

    def run(self, max_events: int) -> None:
        """Send the events."""
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, compression_type="lz4", linger_ms=5, acks="all"
        )
        time.sleep(START_SECONDS)
        start = time.perf_counter()
        for number, (key, raw) in enumerate(firehose.tiles(self.rate * self.seconds)):
            early = start + number / self.rate - time.perf_counter()
            if early > 0.002:
                time.sleep(early)
            producer.send(self.topic, raw, key=key)
        producer.close()
