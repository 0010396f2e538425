"""A sample of users: Spark reads the relay's socket, keeps all edits of PERCENT % of the users, and CSV is written.

Whether a user is in the sample hangs on nothing but the name: ``pmod(xxhash64(user), 100) < PERCENT``, computed by
Spark. So it is the same users in every run and on every machine, and all edits of each. A null user hashes to 42 by
Spark's rule: edits without a user are in a sample of 43 % or more and not in a smaller one; they are counted apart.

Spark's socket source hides a lost connection and cannot go on from its checkpoint. So a valve watches the connection,
and the relay says in-band that it is alive and when it is over, and sends every client everything from the start. When
it is lost before its end, the reading begins again with a clean output: no row is lost and none is there twice.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.streaming.query import StreamingQuery

from lib import artifacts, events, paths
from lib.sample.tally import CANARY, CONTROL, EDIT, INVALID, OTHER, Tally
from lib.sample.valve import RelayLost, Valve
from lib.stream import recording, relay

BUCKETS = 100
PATIENCE = 15.0  # seconds of silence; an idle relay says every second that it is alive
ATTEMPTS = 5
STAGING = ".incoming"
_POLL = 0.2  # seconds

_PARTITIONS = 1 << 20  # more than there ever are
_ROWS = pa.schema(
    [
        ("place", pa.int64()),
        ("kind", pa.string()),
        ("count", pa.int64()),
        ("raw", pa.string()),
        ("reason", pa.string()),
        *events.ARROW_SCHEMA,
    ]
)
_FOR_THE_COUNTS = ("place", "kind", "count", "raw", "reason", "timestamp", "user", "bot")


@dataclass(frozen=True)
class Sample:
    """What was read and what was kept.

    Attributes
    ----------
    counts : dict of int
        In the manifest's words.
    relay_sent : int or None
        Events that the relay says it sent; None when it was interrupted.
    users : pyarrow.Table
        ``user, bucket, minute, edits, bot_edits``: edits of *all* users that were read, by minute of event time
        (since the epoch), for the audit.
    files : list of Path
        The CSV files.
    complete : bool
        False when the reading was interrupted: the sample is of what had been read.
    troubles : tuple of str
        Why earlier attempts failed; empty as a rule.
    """

    counts: dict[str, int]
    relay_sent: int | None
    users: pa.Table
    files: list[Path]
    complete: bool
    troubles: tuple[str, ...]

    def balance(self) -> dict[str, int]:
        """Return both sides of the books: what the relay sent, and what became of it.

        The first number is the sum of those after it, or something was lost.
        """
        names = ("edits_kept", "edits_left_out", "not_edits", "canaries", "invalid")
        sent = self.counts["events_read"] if self.relay_sent is None else self.relay_sent
        return {"relay_sent": sent, **{name: self.counts[name] for name in names}}

    def books(self) -> str:
        """Say in a sentence whether they balance."""
        sent, *parts = self.balance().values()
        return (
            f"The relay sent {sent:,} events, Spark read {self.counts['events_read']:,}, and "
            f"{' + '.join(f'{part:,}' for part in parts)} = {sum(parts):,}: "
            f"the books {'balance' if self.balances() else 'DO NOT BALANCE'}."
        )

    def balances(self) -> bool:
        """Tell whether relay out = Spark in = kept + left out + not edits + canaries + invalid."""
        sent, *rest = self.balance().values()
        return sent == self.counts["events_read"] == sum(rest)


def inputs(in_dir: Path) -> dict[str, str]:
    """Name the files of a recording with their SHA-256, and make sure that they can be read.

    Parameters
    ----------
    in_dir : Path
        The folder of stage 1.

    Returns
    -------
    dict of str
        File name to hash.

    Raises
    ------
    MissingInput
        When there is no recording; the message names the notebook that makes it.
    RecordingError
        When a file is damaged.
    """
    files = recording.segments(in_dir) if in_dir.is_dir() else []
    if not files:
        raise artifacts.MissingInput(
            f"IN_DIR must hold events-*.jsonl.gz. Got {paths.show(in_dir)} without any. "
            "Run notebooks/01_stream.ipynb first: it makes them."
        )
    for path in files:
        for _ in recording.file_lines(path):  # a relay cannot tell its clients that a file is damaged
            pass
    return {path.name: artifacts.sha256(path) for path in files}


@contextmanager
def source(in_dir: Path, socket: str = "") -> Iterator[str]:
    """Give the address of a relay: the one that there is, or one over a folder for the length of the ``with`` block.

    Parameters
    ----------
    in_dir : Path
        The folder of stage 1.
    socket : str, default ""
        ``host:port`` of a relay that runs already; empty: one is started.

    Yields
    ------
    str
        ``host:port``.
    """
    if socket:
        yield socket
        return
    with relay.Relay(in_dir) as server:
        yield server.address


# What Spark does


def select(lines: DataFrame, percent: int) -> DataFrame:
    """Parse the relay's lines and mark the edits to keep; works on streams and on tables.

    Parameters
    ----------
    lines : DataFrame
        One column ``value``: the lines as they came.
    percent : int
        Share of the users to keep, from 1 to 100.

    Returns
    -------
    DataFrame
        A row per edit, unreadable line and control line; other events and canaries as one row with their ``count``.
        ``place`` is the order of arrival. Of an edit that is left out only ``user``, ``bot`` and ``timestamp`` stay,
        for the counts.

    Raises
    ------
    ValueError
        When ``percent`` is not from 1 to 100.
    """
    if not 1 <= percent <= BUCKETS:
        raise ValueError(
            f"PERCENT must be from 1 to {BUCKETS}. Got {percent}. Choose 20 for a fifth of the users."
        )
    parsed = lines.mapInArrow(_parse, from_arrow_schema(_ROWS))
    hashed = parsed.withColumn("bucket", F.expr(f"pmod(xxhash64(user), {BUCKETS})"))
    kept = (F.col("kind") == EDIT) & (F.col("bucket") < percent)
    rest = [F.when(kept, F.col(name)).alias(name) for name in events.COLUMNS if name not in _FOR_THE_COUNTS]
    return hashed.select(*_FOR_THE_COUNTS, *rest, "bucket", kept.alias("kept"))


def _parse(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn lines into rows; runs in Spark's workers."""
    task = TaskContext.get()
    partition = task.partitionId() if task else 0
    before = 0
    for batch in batches:
        lines = batch.column("value").cast(pa.binary()).to_pylist()
        # The socket source deals its lines out to the partitions in turn, so this number restores their order.
        places = [(before + row) * _PARTITIONS + partition for row in range(len(lines))]
        yield from rows(lines, places).to_batches()
        before += len(lines)


def rows(lines: list[bytes], places: list[int]) -> pa.Table:
    """Sort lines into edits, invalid ones, control lines, canaries and others.

    Parameters
    ----------
    lines : list of bytes
        JSON texts and the relay's control lines.
    places : list of int
        The order of arrival.

    Returns
    -------
    pyarrow.Table
        Place, kind, count, raw text and reason, then the columns of an edit.

    Examples
    --------
    >>> lines = [b'{"meta": {"dt": "2015-09-12T00:46:58Z"}, "type": "log"}', b"?", relay.end_line(2)]
    >>> rows(lines, [0, 1, 2]).select(["place", "kind", "count"]).to_pylist()[:2]
    [{'place': 1, 'kind': 'invalid', 'count': 1}, {'place': 2, 'kind': 'control', 'count': 1}]
    """
    words = [row for row, line in enumerate(lines) if line.startswith(relay.CONTROL)]
    messages = [row for row, line in enumerate(lines) if not line.startswith(relay.CONTROL)]
    parsed = events.parse(lines[row] for row in messages)
    invalid = [messages[row] for row, _, _ in parsed.invalid]
    reasons = [reason for _, _, reason in parsed.invalid]
    return pa.concat_tables(
        [
            _kind(EDIT, [places[messages[row]] for row in parsed.rows], parsed.edits),
            _kind(
                INVALID, [places[row] for row in invalid], raw=[lines[row] for row in invalid], reason=reasons
            ),
            _kind(CONTROL, [places[row] for row in words], raw=[lines[row] for row in words]),
            _kind(CANARY, places[:1], count=parsed.canaries),
            _kind(OTHER, places[:1], count=parsed.others),
        ]
    )


def _kind(
    kind: str, places: list[int], table: pa.Table | None = None, *, count: int = 1, **texts: list
) -> pa.Table:
    """Put rows of one kind into the common columns, null where they have nothing."""
    size = len(places)
    values = {"place": places, "kind": [kind] * size, "count": [count] * size, **texts}
    columns = {name: pa.array(column, _ROWS.field(name).type) for name, column in values.items()}
    if table is not None:
        columns |= dict(zip(table.column_names, table.columns, strict=True))
    arrays = [columns.get(field.name, pa.nulls(size, field.type)) for field in _ROWS]
    return pa.Table.from_arrays(arrays, schema=_ROWS)


# Reading the relay to its end


def take(
    spark: SparkSession,
    socket: str,
    percent: int,
    out_dir: Path,
    *,
    attempts: int = ATTEMPTS,
    say: Callable[[str], None] = print,
    **about: Any,
) -> Sample:
    """Read a relay to its end and leave the sample of its users in a folder.

    Parameters
    ----------
    spark : SparkSession
        The session that reads.
    socket : str
        Where the relay is, ``host:port``.
    percent : int
        Share of the users to keep, from 1 to 100.
    out_dir : Path
        Gets ``edits-*.csv``, ``dead_letters.jsonl`` and, last, ``manifest.json``. They take the place of an older
        sample at the very end: a run that fails leaves it as it was.
    attempts : int, default 5
        How often to begin, at most.
    say : callable, default print
        Told when the relay is lost, or the reading interrupted.
    **about
        More for the manifest, such as the seed and the hashes of the inputs.

    Returns
    -------
    Sample
        The counts, the table of users and the files. After an interrupt (Ctrl-C, the notebook's stop button) those of
        what had been read until then, with ``complete`` false.

    Raises
    ------
    RelayLost
        When the last attempt failed too.
    ValueError
        When ``percent`` is not from 1 to 100.
    """
    troubles: list[str] = []
    try:
        while True:
            tally = Tally(_fresh(out_dir / STAGING), percent)
            try:
                _read(spark, socket, tally, out_dir / STAGING)
            except KeyboardInterrupt:
                say(f"Interrupted after {tally.events:,} events: the sample is of these.")
            except RelayLost as error:
                troubles.append(str(error))
                _give_up_or_wait(socket, troubles, attempts, say)
                continue
            return _publish(tally, out_dir, troubles, about)
    finally:
        shutil.rmtree(out_dir / STAGING, ignore_errors=True)


def _fresh(folder: Path) -> Path:
    """Empty the folder in which a sample grows; what a killed run left goes away."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _read(spark: SparkSession, address: str, tally: Tally, folder: Path) -> None:
    host, _, port = address.rpartition(":")
    with Valve(host, int(port), PATIENCE) as valve:
        lines = spark.readStream.format("socket").options(host=valve.host, port=valve.port).load()
        listener = _Listener(tally, valve)
        writer = select(lines, tally.percent).writeStream.foreachBatch(listener)
        query = writer.option("checkpointLocation", (folder / "checkpoint").as_uri()).start()
        try:
            listener.wait(query)
        finally:
            listener.close()
            query.stop()
            listener.join()


class _Listener:
    """Hands Spark's batches to the tally, one after the other, until the relay is over or something breaks."""

    def __init__(self, tally: Tally, valve: Valve) -> None:
        self.tally = tally
        self.valve = valve
        self.error: Exception | None = None
        self._done = threading.Event()
        self._closed = threading.Event()
        self._busy = threading.Lock()

    def __call__(self, batch: DataFrame, epoch: int) -> None:
        with self._busy:
            if self._closed.is_set():
                return
            try:
                self.tally.add(batch.toArrow())
            except Exception as error:
                self.error = error
                self._done.set()
                raise
            self.valve.done(self.tally.lines)
            if self.tally.over:
                self._done.set()

    def wait(self, query: StreamingQuery) -> None:
        """Return when the relay is over; raise RelayLost when it is lost."""
        while not self._done.wait(_POLL):
            if self.valve.lost is not None:
                raise RelayLost(self.valve.lost)
            if not query.isActive:
                raise RelayLost(_why(query))
        if self.error is not None:
            raise self.error
        sent, read = self.tally.relay_sent, self.tally.events
        if sent is not None and sent != read:
            raise RelayLost(f"it sent {sent:,} events and {read:,} arrived")

    def close(self) -> None:
        """Take no more batches."""
        self._closed.set()

    def join(self) -> None:
        """Wait for the batch at work."""
        with self._busy:
            pass


def _why(query: StreamingQuery) -> str:
    error = query.exception()
    return f"Spark's query ended ({str(error).splitlines()[0] if error else 'without an error'})"


def _give_up_or_wait(socket: str, troubles: list[str], attempts: int, say: Callable[[str], None]) -> None:
    failed = len(troubles)
    if failed >= attempts:
        raise RelayLost(
            f"The relay at {socket} must be read until its end line. Got, after {failed} attempts: {troubles[-1]}. "
            "Start the relay (notebooks/01_stream.ipynb), or leave SOCKET empty to read the files of IN_DIR."
        ) from None
    say(
        f"Reading the relay at {socket} broke off: {troubles[-1]}. Attempt {failed + 1} of {attempts} begins anew."
    )
    time.sleep(2 ** (failed - 1))


def _publish(tally: Tally, out_dir: Path, troubles: list[str], about: Mapping[str, Any]) -> Sample:
    """Put the finished files in the place of older ones; the manifest goes first and comes last, so it never lies."""
    grown = tally.close()
    for old in [out_dir / artifacts.NAME, *out_dir.glob("edits-*.csv")]:
        old.unlink(missing_ok=True)
    files = [path.replace(out_dir / path.name) for path in grown]
    sample = Sample(tally.counts(), tally.relay_sent, tally.users, files[:-1], tally.over, tuple(troubles))
    content: dict[str, Any] = {
        "percent": tally.percent,
        "rule": f"pmod(xxhash64(user), {BUCKETS}) < {tally.percent}",
        **sample.counts,
        "relay_sent": sample.relay_sent,
        "balances": sample.balances(),
        "complete": sample.complete,
        "troubles": troubles,
        "files": {path.name: artifacts.sha256(path) for path in files},
        **about,
    }
    artifacts.write(out_dir, **content)
    return sample
