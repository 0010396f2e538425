"""Stage 4: what lives as long as its runs, and what commits a batch.

:class:`OnlineJob` holds the broker, the SQLite state and the blacklist. What is killed at whatever moment continues
with ``resume=True``: a batch that is not in SQLite did not happen, and is scored again from the offsets there.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from kafka import KafkaProducer
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from lib import artifacts, events, paths, plots
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import MADE_BY, BlacklistError
from lib.infra import InfraError, broker, kafka, spark
from lib.model.classifier import BotClassifier
from lib.online import metrics, state
from lib.online.judge import OnlineClassifier
from lib.online.state import OnlineError, StateStore
from lib.online.topics import EventTopic, Publisher, VerdictTopic
from lib.stream import recording
from lib.stream.client import EventStreamClient
from lib.stream.source import Source

MAX_OFFSETS_PER_TRIGGER = 250_000
#: Spark's consumer asks the broker twice after every poll where the topic ends: with the default of 500 records that
#: costs more than the records. The answer waits behind the next fetch, which a broker holds until something comes, by
#: default half a second. What another program wrote in a transaction and aborted was never there.
CONSUMER_OPTIONS = {
    "kafka.max.poll.records": "2000",
    "kafka.max.partition.fetch.bytes": str(4 << 20),
    "kafka.fetch.max.wait.ms": "10",
    "kafka.isolation.level": "read_committed",
}
RUNS = 5  # a recording is judged in so many runs
CHECK_SECONDS = 15.0  # between two pings of Kafka
SECOND_LOOK = "second look: its shadow edits are not a bot's"
PING_SECONDS = 5.0
KAFKA_SECONDS = 120  # that a run waits for a Kafka that does not answer
_DISK_ERRORS = re.compile("No space|full|quota|too large|[Rr]ead-?only")
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception): \S.*", re.MULTILINE)  # the end of a traceback

_open_jobs: dict[Path, OnlineJob] = {}  # of this process, by OUT_DIR


class OnlineJob(contextlib.AbstractContextManager["OnlineJob"]):
    """The broker, the state and the blacklist of stage 4; close it, or use it in a ``with`` block.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR. Without `resume` an earlier run's files in it are removed, and nothing else.
    model_dir : Path
        From stage 3.
    bootstrap : str, default ""
        Kafka's bootstrap servers; empty: a broker of its own.
    properties : mapping
        Kafka client properties, for all clients.
    resume : bool, default False
        Continue with the ledger, the offsets, the verdicts and the topics of `out_dir`, if there are any.
    partitions : int, default 2
        Of new topics.

    Raises
    ------
    ParameterError
        When stage 3 has not run.
    OnlineError
        When another run uses the folder, or a part of an earlier one is missing.
    """

    def __init__(
        self,
        out_dir: Path,
        model_dir: Path,
        *,
        bootstrap: str = "",
        properties: Mapping[str, str] | None = None,
        resume: bool = False,
        partitions: int = 2,
    ):
        artifacts.require(model_dir / state.NAME, MADE_BY)
        self.model = BotClassifier.load(artifacts.require(model_dir / "model.skops", MADE_BY))
        self.out_dir = out_dir
        self.properties = dict(properties or {})
        self._lock = threading.Lock()
        if earlier := _open_jobs.pop(out_dir, None):  # the notebook's cell is run again
            earlier.close()
        with contextlib.ExitStack() as opened:
            opened.enter_context(artifacts.lock_folder(out_dir, OnlineError))
            if not (resume and (out_dir / state.NAME).exists()):
                state.prepare(out_dir, model_dir, model=self.model.version, partitions=partitions)
            self.state = opened.enter_context(StateStore(out_dir))
            self._check_state()
            self._broker = None if bootstrap else opened.enter_context(broker.Broker(out_dir / "kafka"))
            own = self._broker and self._broker.bootstrap
            self.bootstrap = own or broker.external(bootstrap, self.properties)
            self.topics: dict[str, str] = self.state.get_meta("topics")
            self.events = EventTopic(self.bootstrap, self.properties, self.state)
            self._verdicts = VerdictTopic(self.bootstrap, self.topics["verdicts"], self.properties)
            self._threads = opened.enter_context(ThreadPoolExecutor(3))
            self._resources = opened.pop_all()
        self.classifier = OnlineClassifier(self.model, self.state)
        self._committed: Future[Any] = self._threads.submit(int)  # no batch yet
        self._published: Future[Any] = self._committed
        self._progress = metrics.Progress(self.state)
        _open_jobs[out_dir] = self

    def close(self) -> None:
        """Close the state and stop the broker, if it is our own."""
        _open_jobs.pop(self.out_dir, None)
        with self._lock:
            self._resources.close()

    def __exit__(self, *failure: object) -> None:
        self.close()

    # --- a run: publish, then a query that calls commit_batch, then finish ---

    def position(self, source: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return where the client of a stream continues, its argument ``position``; None: at the beginning.

        Parameters
        ----------
        source : mapping
            Of ``Source.describe``: the position in another stream, or another recording, is of no use.
        """
        name = source["stream_url"] or source["sha256"]
        position = self.state.get_meta("position") if self.state.get_meta("source") == name else None
        with self.state.transaction():
            self.state.set_meta("source", name)
            self.state.set_meta("position", position)
        return position

    @contextlib.contextmanager
    def watch(self, session: SparkSession) -> Iterator[None]:
        """Show how far the runs of a ``with`` block are; an interrupt ends them, and what has been judged is kept."""
        with plots.Panel(self._progress.values) as self._progress.panel:
            try:
                yield
            except KeyboardInterrupt:
                print("Interrupted: the runs end with what has been judged.")
                self._end_run(spark.after_interrupt(lambda: session.streams.active))

    def publisher(self, client: EventStreamClient, producer: KafkaProducer) -> Publisher:
        """Return what sends the events of a client to the topic."""
        self._publisher = Publisher(client, producer, self.topics["events"], self.state)
        self._resources.callback(self._publisher.stop.set)  # before its thread is waited for
        return self._publisher

    def publish(self, publisher: Publisher, max_events: int = 0) -> None:
        """Start a run: let a thread send events to the topic, so many or until the stream ends.

        Raises
        ------
        OnlineError
            When events in the topic were lost before they were judged. ``metrics.json`` counts them.
        """
        if loss := self.events.find_loss():
            self.export()
            raise OnlineError(loss)
        with self.state.transaction():
            self.state.set_meta("runs", [*self.state.get_meta("runs", []), len(self.state.ledger)])
        self._run, self._mark = len(self.state.get_meta("runs")), time.monotonic()
        self._publisher, self._committed = publisher, self._threads.submit(int)
        self._published = self._threads.submit(publisher.run, max_events)

    @property
    def source_options(self) -> dict[str, str]:
        """Return the options of Spark's Kafka source, from the offsets in SQLite on."""
        starting, made = self.events.next_offsets(), self.state.get_meta("partitions")
        if len(starting) > made:
            print(
                f"The topic {self.events.name} must keep the {made} partitions that it was made with. Got "
                f"{len(starting)}. All of them are read; edits of a user that lie in two may be judged out of order."
            )
        return {
            "kafka.bootstrap.servers": self.bootstrap,
            "subscribe": self.events.name,
            "startingOffsets": json.dumps({self.events.name: starting}),
            "maxOffsetsPerTrigger": str(MAX_OFFSETS_PER_TRIGGER),
            "includeHeaders": "true",
            **CONSUMER_OPTIONS,
            **kafka.for_spark(self.properties),
        }

    @property
    def bloom(self) -> BlacklistFilter:
        """The Bloom filter of who is on the blacklist now; a query keeps the one that it was started with."""
        return BlacklistFilter.build(self.state.ledger.members())

    def commit_batch(self, batch: DataFrame, batch_id: int) -> None:
        """Turn scored messages into verdicts, and commit them: ``foreachBatch`` calls this.

        A thread does so, one batch after the other, while Spark scores the next one.

        Parameters
        ----------
        batch : DataFrame
            Of :data:`lib.online.scoring.SCORED`.
        batch_id : int
            Spark's own number, which starts at 0 with each query; SQLite has ours.
        """
        with self._lock:
            scored = batch.toArrow()
            self._committed.result()
            if scored.num_rows:
                self._committed = self._threads.submit(self._commit, scored)

    def _commit(self, scored: pa.Table) -> None:
        with self.state.transaction():  # else every look-up of a user is one
            result = self.classifier.classify(scored)
        number = max(self.state.batches(), default=0) + 1
        state.write_part(self.out_dir, number, result.verdicts)
        self._verdicts.send(result.verdicts)
        result.counts.update(metrics.count_latencies(time.time() - result.kafka_ms / 1000))
        result.counts["seconds"], self._mark = time.monotonic() - self._mark, time.monotonic()
        with self.state.transaction():
            self.state.write_batch(number, self._run, result)
        self._progress.add(result)

    def finish(self, query: StreamingQuery) -> str:
        """Wait until everything that is published is judged, end the run, and return its counts in a line.

        Parameters
        ----------
        query : StreamingQuery

        Raises
        ------
        OnlineError
            When the stream, the broker or Spark fails. What was judged is kept.
        """
        try:
            self._wait(self._published, query)
            self._wait(self._threads.submit(query.processAllAvailable), query)
            self._committed.result()
            self._end_run([query])
        except Exception as error:
            with contextlib.suppress(Exception):  # which has the same reason
                self._end_run([query])
            raise self._explain(error) from error
        counts, before = self.state.counters(self._run), self.state.get_meta("runs")[-1]
        verdicts = ", ".join(f"{counts[name]:,} {name}" for name in ("dropped", "flagged", "kept"))
        return f"{counts['edits']:,} edits, {verdicts}; blacklist {before:,} → {len(self.state.ledger):,}"

    def _end_run(self, queries: Iterable[StreamingQuery]) -> None:
        """Stop what runs, and write the files of the run."""
        self._publisher.stop.set()
        for query in queries:
            with contextlib.suppress(Exception):  # the query, or its JVM, may have ended
                spark.after_interrupt(query.stop)
        wait([self._published])
        self._publisher.stop.clear()
        with self._lock:  # a batch that Spark has given up may still be at work
            wait([self._committed])
            state.remove_uncommitted(self.out_dir, self.state.batches())
            self.export()

    def _explain(self, error: BaseException) -> OnlineError:
        """Return an error in one sentence with the way out."""
        # Spark's text of what fails in Python has every traceback, and then the whole query.
        text = str(error).partition("=== Streaming Query")[0].strip() or type(error).__name__
        got = (_RAISED.findall(text)[-1:] or text.splitlines())[0][:200].removesuffix(".")
        rule = "The run must end with its stream. Got:"
        if isinstance(error, InfraError | BlacklistError):
            return OnlineError(str(error))
        if isinstance(error, sqlite3.Error | OSError) and _DISK_ERRORS.search(got):
            rule = f"OUT_DIR must have room and be writable: make room in {paths.show(self.out_dir)}. Got:"
        elif isinstance(error, Py4JError | ConnectionRefusedError):
            rule = (
                f"Spark must live as long as the run; {paths.show(spark.log_file('04_online'))} has its reason "
                "(OutOfMemoryError: set max.poll.records=100 in KAFKA_PROPERTIES). Got: its JVM has ended."
            )
        elif not self._is_kafka_there():
            rule = f"Kafka at {self.bootstrap} must answer as long as the run. Got:"
        elif loss := self.events.find_loss():
            self.export()
            return OnlineError(loss)
        elif isinstance(error, OnlineError):
            return error
        return OnlineError(f"{rule} {got}. What was judged is kept; continue with RESUME=True.")

    def _wait(self, future: Future[Any], query: StreamingQuery) -> None:
        """Wait for what needs Kafka and the query; raise what fails in the meantime."""
        pinged = answered = time.monotonic()
        while not future.done():
            if self._broker is not None:
                self._broker.ensure_running()
            if self._committed.done():
                self._committed.result()
            if not query.isActive:
                raise query.exception() or OnlineError(
                    "The query must run until the stream ends. Got: it was stopped. Continue with RESUME=True."
                )
            wait([future], timeout=0.2)
            if self._progress.panel is not None:
                self._progress.panel.update()
            if time.monotonic() - pinged < CHECK_SECONDS:
                continue
            pinged = time.monotonic()
            if self._is_kafka_there():
                answered = pinged
                continue
            print(f"Kafka at {self.bootstrap} has not answered for {time.monotonic() - answered:.0f} s.")
            if time.monotonic() - answered > KAFKA_SECONDS:
                raise TimeoutError(f"no answer for {KAFKA_SECONDS} s")
        future.result()

    def second_look(self) -> pd.DataFrame:
        """Take users off the list whose shadow edits do not look like a bot's; the ledger keeps them as history.

        Returns
        -------
        DataFrame
            All users with shadow edits, from :func:`lib.online.metrics.shadow_report`.
        """
        users = metrics.shadow_report(self.state, self.model.threshold)
        if released := users.loc[users["release"], "user"].tolist():
            times = state.verdicts(self.out_dir).to_table(["timestamp"])["timestamp"].cast(pa.int64())
            self.state.ledger.remove(released, reason=SECOND_LOOK, at=int(times.to_numpy().max()))
            self.export()
        return users

    # --- files ---

    def export(self) -> None:
        """Write what is derived from the state: the filter, the dead letters and the metrics."""
        self.bloom.save(self.out_dir / "blacklist.bloom")
        letters = (artifacts.dead_letter(raw, reason) for raw, reason in self.state.dead_letters())
        artifacts.atomic_write(self.out_dir / artifacts.DEAD_LETTERS, letters)
        artifacts.write_json(self.out_dir / "metrics.json", self.metrics())

    def metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        return metrics.summarize(self.out_dir, self.state, self.model.threshold)

    # --- opening ---

    def _check_state(self) -> None:
        """Refuse another version's state; remove what is not committed, and users' states of another model."""
        if self.state.get_meta("format") != state.FORMAT:
            raise OnlineError("RESUME=True needs an OUT_DIR of this version. Got another. Set RESUME=False.")
        state.remove_uncommitted(self.out_dir, self.state.batches())
        with self.state.transaction():
            if self.state.get_meta("model") != self.model.version:
                print(f"The model is another one ({self.model.version}): users' states start empty.")
                self.state.connection.execute("DELETE FROM user_states")
                self.state.set_meta("model", self.model.version)

    def _is_kafka_there(self) -> bool:
        return kafka.ping(self.bootstrap, self.properties, PING_SECONDS)


def split_runs(source: Source, settings: Any) -> list[int]:
    """Return how many events each run takes, 0 for no limit.

    A recording is cut into :data:`RUNS` runs of equal size; a stream, or what is resumed, is judged in one.
    """
    if source.recording is None or settings.resume or settings.max_seconds:
        return [settings.max_events]
    n = 0
    for _, event in events.decode_valid(recording.lines(source.recording)):
        is_after = source.since is None or event.time_ms >= source.since
        is_before = source.until is None or event.time_ms < source.until
        is_asked_for = event.wiki in source.wikis if source.wikis else not event.is_canary
        n += is_after and is_before and is_asked_for
    n = min(n, settings.max_events or n)
    each = max(1, -(-n // RUNS))
    sizes = [min(each, n - start) for start in range(0, n, each)]
    return sizes if settings.max_events and n else [*sizes[:-1], 0]
