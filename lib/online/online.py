"""Stage 4: the stream goes into Kafka, Spark looks at it, every edit gets its verdict, and the blacklist grows.

:class:`Stage` holds what lives longer than one run (the broker, Spark, the books); :meth:`Stage.sieve` is one run. What
is killed at whatever moment goes on with ``resume=True``: the books say where.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import SparkSession

from lib import artifacts, paths
from lib.blacklist import bloom
from lib.blacklist.ledger import Ledger
from lib.infra import InfraError, broker, kafka, spark
from lib.model import user_features
from lib.model.classifier import BotClassifier
from lib.online import (
    books,
    dead_letters,
    judging,
    metrics,
    parcel,
    publisher,
    query,
    sieve,
    topics,
    verdicts,
)
from lib.online.books import Books
from lib.online.latency import Latency

MADE_BY = "notebooks/03_eda_train.ipynb"
PARTITIONS = 2
RESTARTS = 5  # of the query or of the producer, one after the other, without an epoch in between
#: Members that the executors' filter may lack (or as many as it knows, if that is more) before a query begins anew with
#: one that knows them all. Until then the judge drops their edits, and only what the executors see in them is in vain.
NEWS = 20_000
MINE = ("verdicts", "seen", "kafka", dead_letters.NAME, "blacklist.bloom", "metrics.json", books.NAME)


class OnlineError(RuntimeError):
    """Stage 4 cannot go on; the message says why and what to do."""


class Sender(Protocol):
    """Whoever fills the topic."""

    def check(self) -> None:
        """Raise what went wrong, if anything did and cannot be mended."""

    @property
    def done(self) -> bool:
        """Whether everything is in the topic."""

    @property
    def duplicates(self) -> int:
        """How many events the stream gave again, which are in the topic once."""


class Run(NamedTuple):
    """What one run did."""

    number: int
    counts: dict[str, int]
    members_start: int
    members_end: int
    seconds: float


class Stage:
    """The broker, Spark and the books of stage 4, for the length of a ``with`` block.

    Parameters
    ----------
    out_dir : Path
        Where everything is written. Without `resume` an earlier run's files are removed, and nothing else.
    model_dir : Path
        From stage 3.
    kafka : str, default ""
        Bootstrap servers; empty: a broker of its own.
    properties : mapping
        Kafka client properties, for both clients.
    spark_master : str, default "local[*]"
    resume : bool, default False
        Go on with the ledger, the offsets, the verdicts and the topics in `out_dir`; begin anew if there are none.
    partitions : int, default 2
        Of new topics.
    most : int
        Events of one epoch at most.
    shadow_share : float, default 0.02
        Share of the dropped edits that are scored all the same.
    session : SparkSession, optional
        One that runs already, made with ``kafka=True``; it is left running.
    say : callable
        Told in one sentence what happens that is out of the ordinary.

    Raises
    ------
    MissingInput
        When stage 3 has not run.
    OnlineError
        When another run uses the folder, or its topics are gone.
    """

    def __init__(
        self,
        out_dir: Path,
        model_dir: Path,
        *,
        kafka: str = "",
        properties: Mapping[str, str] | None = None,
        spark_master: str = "local[*]",
        resume: bool = False,
        partitions: int = PARTITIONS,
        most: int = query.MOST,
        shadow_share: float = sieve.SHADOW_SHARE,
        session: SparkSession | None = None,
        say: Callable[[str], None] = print,
    ):
        self.out_dir = out_dir
        self.model_dir = model_dir
        self.resume = resume
        self.properties = dict(properties or {})
        self.shadow_share = shadow_share
        self.most = most
        self.say = say
        self._kafka = kafka
        self._master = spark_master
        self._session = session
        self._partitions = partitions
        self._open = contextlib.ExitStack()
        self.broker: broker.Broker | None = None
        self.committed: dict[int, int] = {}
        self.filter: bloom.BlacklistFilter
        self._latency = Latency()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def _start(self) -> None:
        artifacts.require(self.model_dir / "model.skops", MADE_BY)
        artifacts.require(self.model_dir / books.NAME, MADE_BY)
        self.model = BotClassifier.load(self.model_dir / "model.skops")
        self._open.enter_context(artifacts.lock_folder(self.out_dir, OnlineError))
        # Arrow's own pool keeps what it once had; the system's gives it back when it is told to, and numpy's with it.
        pa.set_memory_pool(pa.system_memory_pool())
        going_on = self.resume and (self.out_dir / books.NAME).exists()
        if not going_on:
            prepare(self.out_dir, self.model_dir, self.model, self._partitions)
        with ThreadPoolExecutor(1) as beside:
            started = beside.submit(self._start_broker)
            try:
                self.spark = self._session or self._open.enter_context(
                    spark.spark_session("04_online", self._master, kafka=True, long_running=True)
                )
            finally:
                self.bootstrap = started.result()
        for name, value in SPARK.items():
            self.spark.conf.set(name, value)
        self._eyes = self.spark.sparkContext.broadcast(query.Eyes(self.model.weights))
        self._blacklist: Broadcast[bytes] | None = None
        self._books: Books | None = None
        self._open.callback(self._close_books)
        self._open_books()
        self._check_model()
        names = self.books.note("topics")
        self.events_topic, self.verdicts_topic = names["events"], names["verdicts"]
        self.partitions = self._read_partitions = self.books.note("partitions")
        self._make_topics()
        self._publisher = self._open.enter_context(
            publisher.Publisher(self.bootstrap, self.verdicts_topic, self.partitions, self.properties)
        )
        self._beside = self._open.enter_context(ThreadPoolExecutor(1, thread_name_prefix="publisher"))
        self._warm()

    # --- one run ---

    def sieve(self, sender: Sender) -> Run:
        """Judge everything that a sender puts into the topic, until it is done.

        Parameters
        ----------
        sender : Sender
            Fills :attr:`events_topic`.

        Returns
        -------
        Run
        """
        with _room(self.out_dir):
            return self._sieve(sender)

    def _sieve(self, sender: Sender) -> Run:
        with self.books.transaction():
            self.number = self.books.note("run", 0) + 1
            self.books.write_note("run", self.number)
        members = len(self.books.ledger)
        self._seconds, failures, before = 0.0, 0, self.committed
        self._mark = time.monotonic()
        while True:
            try:
                if self._sieve_once(sender):
                    break
            except (OnlineError, InfraError, KeyboardInterrupt):
                raise
            except Exception as error:
                if _is_full(error):
                    raise
                if spark.is_stopped(self.spark):
                    raise OnlineError(
                        f"Spark must live as long as the run. Its JVM has ended ({_first_line(error)}). "
                        "What was judged is kept; go on with RESUME=True. "
                        f"If {paths.show(spark.log_file('04_online'))} says OutOfMemoryError, events are very large: "
                        "give max.poll.records=100 in KAFKA_PROPERTIES, too."
                    ) from error
                failures = 1 if self.committed != before else failures + 1
                before = self.committed
                if failures > RESTARTS:
                    raise
                self.say(
                    f"The query ended ({_first_line(error)}). It goes on from the last epoch in the books."
                )
                self._open_books()
        run = Run(self.number, self.books.totals(self.number), members, len(self.books.ledger), self._seconds)
        with self.books.transaction():
            self.books.write_note(
                "stream_duplicates", self.books.note("stream_duplicates", 0) + sender.duplicates
            )
            grown = {"members_start": members, "members_end": run.members_end}
            self.books.write_note("runs", {**self.books.note("runs", {}), str(self.number): grown})
        self.export()
        return run

    def _sieve_once(self, sender: Sender) -> bool:
        """Judge with one query; tell whether everything is judged, or a query with a newer filter is due."""
        self._keep_broker()
        running = query.Query(
            self.spark,
            self.bootstrap,
            self.events_topic,
            len(self._ends()),
            offsets=self.committed,
            look=self._look(),
            judge=self._sit,
            properties=self.properties,
            most=self.most,
        )
        over, ends = False, None
        try:
            while not over:
                running.check()
                self._keep_broker()
                _check(sender)
                if self.judge.unknown_to_filter >= max(NEWS, self._known_to_filter):
                    break
                if ends is None and sender.done:
                    ends = self._ends()
                time.sleep(0.05)
                over = ends is not None and (not self._is_behind(ends) or running.has_passed(ends))
        finally:
            running.stop()
        running.check_judge()
        return over or (ends is not None and not self._is_behind(ends))

    def _is_behind(self, ends: dict[int, int]) -> bool:
        return any(self.committed.get(partition, 0) < end for partition, end in ends.items())

    def _look(self) -> Callable[[Iterator[pa.RecordBatch]], Iterator[bytes]]:
        """Make the executors' function, with a filter that knows every member of today."""
        old, self._blacklist = self._blacklist, self.spark.sparkContext.broadcast(self.filter.to_bytes())
        self._known_to_filter = len(self.filter)
        self.judge.filter_sent()
        if old is not None:
            old.unpersist()
        return query.examine(self._eyes, self._blacklist, self.shadow_share)

    def _sit(self, packed: list[pa.Buffer]) -> None:
        """Judge one epoch and keep all of it: Parquet and topic side by side, and when both are there, the books."""
        outcome = self.judge.judge(sieve.unpack(packed))
        epoch = self.books.epoch + 1
        with self._publishing(outcome.verdicts) as published:
            verdicts.write(self.out_dir, epoch, outcome.verdicts)
            with self.books.transaction():
                self.judge.write(outcome)
                self.books.seen.remember(epoch, outcome.ids)
                self.books.write_epoch(
                    epoch, self.number, outcome.verdicts.num_rows, outcome.counts, outcome.offsets
                )
                published.result()
                latency, seconds = self._time(outcome.kafka_ms)
        self._latency = latency
        self._seconds += seconds
        self._mark += seconds
        if outcome.invalid.num_rows:
            rows = outcome.invalid.to_pylist()
            dead_letters.append(self.out_dir, ((row["raw"], row["reason"]) for row in rows))
        self._update_filter([entry.user for entry in outcome.entries])
        self.committed = outcome.offsets
        if epoch % verdicts.MANY == 0:
            verdicts.merge(self.out_dir)
        pa.default_memory_pool().release_unused()

    def _time(self, kafka_ms: np.ndarray) -> tuple[Latency, float]:
        """Write how long the verdicts took, and the run so far; give both."""
        latency = self._latency.and_(time.time() - kafka_ms / 1000)
        seconds = time.monotonic() - self._mark
        self.books.write_note("latency", latency.counts())
        self.books.write_note("seconds", self.books.note("seconds", 0.0) + seconds)
        return latency, seconds

    @contextlib.contextmanager
    def _publishing(self, table: pa.Table) -> Iterator[Future[None]]:
        """Publish verdicts while something else is done; the end waits for it, however it comes."""
        published = self._beside.submit(self._publish, table)
        try:
            yield published
        finally:
            wait([published])

    def _publish(self, table: pa.Table) -> None:
        if table.num_rows:
            self._publisher.send(table.column("meta_id").combine_chunks(), verdicts.as_json(table))

    def _update_filter(self, added: list[str]) -> None:
        """Add to the filter who is new on the list; the executors get it with the next query."""
        if added:
            self.filter = bloom.update_filter(self.filter, self.books.ledger, added)

    # --- files ---

    def export(self) -> None:
        """Write what is derived from the books: the filter, the dead letters and the metrics."""
        self.filter.save(self.out_dir / "blacklist.bloom")
        dead_letters.write(self.out_dir, self.books.dead_letters())
        artifacts.write_json(self.out_dir / "metrics.json", self.metrics())

    def metrics(self) -> dict[str, Any]:
        """Give the contract's metrics of everything in `out_dir`, and what lies behind them."""
        totals = self.books.totals()
        seconds = self.books.note("seconds", 0.0)
        read = totals.get("read", 0)
        counted = metrics.compute(self.out_dir)
        named = ("events", "edits", "invalid", "duplicates", *judging.VERDICTS)
        return {
            **{name: totals.get(name, 0) for name in named},
            "duplicates": totals.get("duplicates", 0) + self.books.note("stream_duplicates", 0),
            **{name: value for name, value in counted.items() if name not in named},
            "blacklist_members_start": self.books.note("members_start"),
            "blacklist_members_end": len(self.books.ledger),
            "hash_collisions": self.books.collisions(),
            "events_per_second": read / seconds if seconds else 0.0,
            "seconds": seconds,
            "latency_seconds": {"p50": self._latency.quantile(0.5), "p99": self._latency.quantile(0.99)},
            "canaries": totals.get("canaries", 0),
            "without_user": totals.get("without_user", 0),
            "shadow_scored": totals.get("shadow_scored", 0),
            "runs": [self._run_metrics(number) for number in range(1, self.books.note("run", 0) + 1)],
            "model": self.model.version,
            "threshold": self.model.threshold,
            "topics": {"events": self.events_topic, "verdicts": self.verdicts_topic},
        }

    def _run_metrics(self, number: int) -> dict[str, int]:
        totals = self.books.totals(number)
        named = ("events", "edits", "invalid", "duplicates", *judging.VERDICTS)
        grown = self.books.note("runs", {}).get(str(number), {})  # nothing of a run that was killed
        return {"run": number, **{name: totals.get(name, 0) for name in named}, **grown}

    # --- what lives longer than a run ---

    @property
    def books(self) -> Books:
        """The books; opened anew after a failure."""
        assert self._books is not None
        return self._books

    def _open_books(self) -> None:
        """Read everything from the file: what was only in memory may be ahead of it."""
        self._close_books()
        self._books = Books(self.out_dir)
        verdicts.tidy(self.out_dir, self.books.parts())
        dead_letters.write(self.out_dir, self.books.dead_letters())
        self.judge = judging.Judge(self.model, self.books, self.shadow_share)
        here = self.out_dir / "blacklist.bloom"
        self.filter, _ = bloom.load_or_rebuild(
            here if here.exists() else self.model_dir / here.name, self.books.ledger
        )
        self._latency = Latency(self.books.note("latency", self._latency.counts()))
        self.committed = self.books.offsets()

    def _close_books(self) -> None:
        if self._books is not None:
            self._books.close()
            self._books = None

    def _check_model(self) -> None:
        """Evidence of another model cannot be added up with this one's: summaries begin anew, the ledger stays."""
        with self.books.transaction():
            if self.books.note("model") != self.model.version:
                self.say(f"The model is another one ({self.model.version}): users' summaries begin anew.")
                self.books.forget_silent(np.iinfo(np.int64).max)
                self.books.write_note("model", self.model.version)
            newest = self.books.newest()
            if newest is not None:
                self.books.forget_silent(newest - judging.FORGET * user_features.SILENCE_DAYS * 86_400_000)

    def _start_broker(self) -> str:
        if self._kafka:
            return broker.external(self._kafka, self.properties)
        self.broker = self._open.enter_context(broker.Broker(self.out_dir / "kafka"))
        return self.broker.bootstrap

    def _keep_broker(self) -> None:
        if self.broker is not None:
            self.broker.ensure_running()

    def _make_topics(self) -> None:
        names = [self.events_topic, self.verdicts_topic]
        if self.committed:
            with topics.consumer(self.bootstrap, self.properties) as consumer:
                if self.events_topic not in consumer.topics():
                    raise OnlineError(
                        f"RESUME goes on with the topic {self.events_topic}. Got {self.bootstrap}, which has none. "
                        "Give the same KAFKA as before, or begin anew with RESUME=False."
                    )
        kafka.make_topics(self.bootstrap, names, self.partitions, self.properties)

    def messages(self, most: int) -> Iterator[bytes]:
        """Give the raw events of the topic, at most so many of each partition, the last ones."""
        return topics.messages(self.bootstrap, self.events_topic, self.properties, most)

    def _ends(self) -> dict[int, int]:
        ends = topics.ends(self.bootstrap, self.events_topic, self.properties)
        if len(ends) > self._read_partitions:
            self.say(
                f"The topic {self.events_topic} must keep the {self.partitions} partitions that it was made with. Got "
                f"{len(ends)}. All of them are read; a user whose edits lie in two of them may be judged out of order."
            )
            self._read_partitions = len(ends)
        return ends

    def _warm(self) -> None:
        """Start the Python workers and compile, before anybody waits for a verdict."""
        look = self._look()
        tasks = self.spark.sparkContext.defaultParallelism
        columns = (
            "CAST('{}' AS BINARY) AS value",
            "0 AS partition",
            "id AS offset",
            "timestamp_millis(id) AS timestamp",
        )
        self.spark.range(tasks, numPartitions=tasks).selectExpr(*columns).mapInArrow(
            parcel.sending(look, None), parcel.SCHEMA
        ).toArrow()


#: Settings of Spark that suit short epochs.
SPARK: dict[str, int] = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": 2_000,
    "spark.sql.streaming.minBatchesToRetain": 2,
}


def prepare(out_dir: Path, model_dir: Path, model: BotClassifier, partitions: int) -> None:
    """Begin anew: remove what an earlier run left, and open books that begin with the ledger of stage 3.

    The books appear at the end and whole: a run that is killed in here has left nothing to go on with.
    """
    for name in MINE:
        path = out_dir / name
        if path.is_dir():
            shutil.rmtree(path)
        for file in (path, *(path.with_name(name + ending) for ending in ("-wal", "-shm"))):
            file.unlink(missing_ok=True)
    beside = out_dir / ".beginning"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    with Ledger.open(model_dir / books.NAME, read_only=True) as ledger:
        ledger.copy_to(beside / books.NAME)
    run = secrets.token_hex(4)
    with Books(beside) as new:
        with new.transaction():
            new.write_note("topics", {kind: f"wikisieve-{run}-{kind}" for kind in ("events", "verdicts")})
            new.write_note("partitions", partitions)
            new.write_note("members_start", len(new.ledger))
            new.write_note("model", model.version)
        new.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.replace(beside / books.NAME, out_dir / books.NAME)
    shutil.rmtree(beside)


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say it in one sentence when the disk is full."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise OnlineError(
            f"OUT_DIR must have room and be writable. Got {paths.show(folder)} ({_first_line(error)}). "
            "What was judged is kept; make room and go on with RESUME=True."
        ) from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
    return isinstance(error, sqlite3.Error) and bool(re.search("full|readonly", str(error)))


def _check(sender: Sender) -> None:
    """See how the sender is; what it cannot mend, another query cannot mend either."""
    try:
        sender.check()
    except Exception as error:
        raise OnlineError(str(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
