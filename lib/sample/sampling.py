"""A sample of users: from the relay's lines to rows, from marked rows to CSV files, counts and a manifest.

The rule stands in notebooks/02_sample.ipynb: a column ``kept``, computed by Spark from the user's name alone. So it is
the same users in every run and on every machine, and all edits of each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from pyarrow import compute as pc
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame
from pyspark.sql.streaming import StreamingQuery

from lib import artifacts, events
from lib.sample import csv_files
from lib.stream import recording
from lib.stream.recording import StreamError

if TYPE_CHECKING:  # each Spark worker imports this module to decode; pandas would cost it two seconds
    import pandas as pd

STAGING = ".incoming"
MINUTE_MS = 60_000

SHOWN = ("edits", "kept", "wikis")
EVENT, CANARY, INVALID = "event", "canary", "invalid"
ROWS = """kind string, raw binary, error string, meta_id string, timestamp bigint, wiki string, namespace bigint,
    type string, title string, user string, bot boolean, minor boolean, delta bigint, comment string"""
_SCHEMA = pa.schema(
    [("kind", pa.string()), ("raw", pa.binary()), ("error", pa.string()), *events.ARROW_SCHEMA]
)
_NO_EVENT = events.Event(meta=events.Meta(dt=datetime(1970, 1, 1, tzinfo=UTC)))
_EDITS = pa.schema(
    {"user": pa.string(), "minute": pa.int64(), "bot": pa.int64(), "kept": pa.int64()}  # flags are 0 or 1
)


def inputs(in_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a recording; all of them can be read.

    Parameters
    ----------
    in_dir : Path
        The recording of stage 1.

    Returns
    -------
    dict of str
        File name to hash.

    Raises
    ------
    RecordingError
        When there is no recording, or a file is damaged.
    """
    for _ in recording.lines(in_dir):  # a relay has no way to report that a file is damaged
        pass
    return {path.name: artifacts.sha256(path) for path in recording.files(in_dir)}


def parse(lines: DataFrame) -> DataFrame:
    """Decode the relay's lines; works on streams and on tables.

    Parameters
    ----------
    lines : DataFrame
        One column ``value`` (binary): JSON texts.

    Returns
    -------
    DataFrame
        A row per line. ``kind`` is ``event``, ``canary`` or ``invalid``; an event has the columns
        :data:`lib.events.COLUMNS`, an invalid line ``raw`` and ``error``. Events keep their order.
    """
    return lines.mapInArrow(_parse, ROWS)


def _parse(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = [_row(line) for line in batch.column("value").to_pylist()]
        edits = events.table([event for *_, event in rows])
        kinds = [[row[place] for row in rows] for place in range(3)]
        yield from pa.table([*kinds, *edits.columns], schema=_SCHEMA).to_batches()


def _row(line: bytes) -> tuple[str, bytes | None, str | None, events.Event]:
    """Return kind, raw, error and the event, which is empty unless the kind is EVENT."""
    event, error = events.try_decode(line)
    if event is None:
        return INVALID, line, error, _NO_EVENT
    return (CANARY, None, None, _NO_EVENT) if event.is_canary else (EVENT, None, None, event)


class SampleWriter:
    """Writes the rows that are kept and counts all; its folder's only writer for the length of a ``with`` block.

    Parameters
    ----------
    out_dir : Path
        Gets ``edits-*.csv``, ``dead_letters.jsonl`` and ``manifest.json`` when :meth:`finish` is called; until then
        an older sample stays there as it is.

    Attributes
    ----------
    counts : Counter
        Lines read, by kind; ``edits`` and ``kept`` among the events; ``wikis``.

    Raises
    ------
    StreamError
        When another run writes to the folder.
    """

    def __init__(self, out_dir: Path) -> None:
        self.out_dir = out_dir
        self.counts: Counter[str] = Counter()
        self._staging = out_dir / STAGING
        self._edits: list[pa.Table] = [_EDITS.empty_table()]
        self._wikis: set[str | None] = set()

    def __enter__(self) -> Self:
        self._lock = artifacts.lock_folder(self.out_dir, StreamError)
        shutil.rmtree(self._staging, ignore_errors=True)  # of a run that was killed
        self._staging.mkdir()
        self._csv = open(self._staging / "edits-00000.csv", "wb")
        self._csv.write(csv_files.HEADER)
        self._letters = open(self._staging / artifacts.DEAD_LETTERS, "wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._csv.close()
        self._letters.close()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._lock.close()

    def write_batch(self, batch: DataFrame, batch_id: int) -> None:
        """Write a micro-batch, for ``foreachBatch``: rows of :func:`parse`, with columns ``is_edit`` and ``kept``."""
        rows = batch.toArrow()
        edits = rows.filter(rows["is_edit"])
        kept = edits.filter(edits["kept"])
        invalid = rows.filter(pc.equal(rows["kind"], INVALID)).select(["raw", "error"]).to_pylist()
        self._letters.writelines(artifacts.dead_letter(row["raw"], row["error"]).encode() for row in invalid)
        csv_files.write_rows(kept.select(events.COLUMNS), self._csv)
        minutes = pc.divide(edits["timestamp"], MINUTE_MS)
        flags = [pc.fill_null(edits[name], False).cast(pa.int64()) for name in ("bot", "kept")]
        self._edits.append(pa.table([edits["user"], minutes, *flags], schema=_EDITS))
        self.counts.update(rows["kind"].to_pylist())
        self.counts.update(edits=edits.num_rows, kept=kept.num_rows)
        self._wikis.update(edits["wiki"].unique().to_pylist())
        self.counts["wikis"] = len(self._wikis)

    @property
    def lines(self) -> int:
        """Lines read."""
        return sum(self.counts[kind] for kind in (EVENT, CANARY, INVALID))

    @property
    def users(self) -> pd.DataFrame:
        """All users that were read, by minute of event time since the epoch.

        Columns ``user, minute, edits, bot_edits, kept_edits``.
        """
        by_minute = pa.concat_tables(self._edits).group_by(["user", "minute"])
        counts = by_minute.aggregate([([], "count_all"), ("bot", "sum"), ("kept", "sum")])
        named = counts.rename_columns(["user", "minute", "edits", "bot_edits", "kept_edits"])
        return named.sort_by([("user", "ascending"), ("minute", "ascending")]).to_pandas()

    def finish(self, **about: Any) -> dict[str, Any]:
        """Put the files in the place of an older sample's; the manifest goes first and comes last.

        Parameters
        ----------
        **about
            More for the manifest, such as the rule, the seed and the hashes of the inputs.

        Returns
        -------
        dict
            The manifest.
        """
        for file in (self._csv, self._letters):
            file.flush()
            os.fsync(file.fileno())
        for old in [self.out_dir / artifacts.NAME, *self.out_dir.glob("edits-*.csv")]:
            old.unlink(missing_ok=True)
        files = [path.replace(self.out_dir / path.name) for path in sorted(self._staging.iterdir())]
        hashes = {path.name: artifacts.sha256(path) for path in files}
        users = self.users
        manifest = {
            **about,
            "events_read": self.lines,
            "edits_read": self.counts["edits"],
            "edits_kept": self.counts["kept"],
            "edits_skipped": self.counts["edits"] - self.counts["kept"],
            "not_edits": self.counts[EVENT] - self.counts["edits"],
            "canaries": self.counts[CANARY],
            "invalid": self.counts[INVALID],
            "users_read": users["user"].nunique(),
            "users_kept": users["user"][users["kept_edits"] > 0].nunique(),
            "files": hashes,
        }
        artifacts.write(self.out_dir, **manifest)
        return manifest


def await_end(query: StreamingQuery, writer: SampleWriter) -> bool:
    """Wait until the relay is over, show how far it is (:class:`lib.plots.Panel`), and stop the query.

    Parameters
    ----------
    query : StreamingQuery
        Reads a relay (:mod:`lib.sample.tcp_source`) into the writer.
    writer : SampleWriter
        Its sink.

    Returns
    -------
    bool
        Whether the relay was read to its end; False after an interrupt (Ctrl-C, the notebook's stop button).

    Raises
    ------
    Interrupted
        When that came before the first event.
    StreamError
        When the relay was lost before its end.
    StreamingQueryException
        When the query ended with another error.
    """
    from lib.infra.spark import Interrupted, after_interrupt  # here: Spark's workers have no use for them
    from lib.plots import Panel

    try:
        with Panel(
            lambda: {"events": writer.lines, **{name: writer.counts[name] for name in SHOWN}}
        ) as panel:
            while not end_offset(query)["end"] and not query.awaitTermination(1):
                panel.update()
    except KeyboardInterrupt:
        if not writer.lines:
            raise Interrupted("Interrupted before the first event: an older sample stays.") from None
        print(f"Interrupted after {writer.lines:,} lines: the sample is of these.")
        return False
    except StreamingQueryException as error:
        lost = re.search(r"The relay at .+", str(error))
        raise (StreamError(lost[0]) if lost else error) from None
    finally:
        after_interrupt(query.stop)
    return end_offset(query)["end"]


def end_offset(query: StreamingQuery) -> dict[str, Any]:
    """Return the offset after the newest batch, as :mod:`lib.sample.tcp_source` defines it."""
    progress = query.lastProgress
    return json.loads(progress["sources"][0]["endOffset"]) if progress else {"line": 0, "end": False}
