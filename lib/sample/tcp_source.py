"""A Spark data source that reads a relay (:mod:`lib.stream.relay`): ``spark.readStream.format("relay")``.

Spark's own socket source hides a lost connection and reads without a bound. This one ends the query with an error when
the relay is lost, reads a batch only when Spark asks for it, and has an offset that shows when the relay is over::

    spark.dataSource.register(RelayDataSource)
    lines = spark.readStream.format("relay").option("address", "127.0.0.1:9999").load()
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pyspark.sql.datasource import DataSource, SimpleDataSourceStreamReader

from lib.stream.relay import read_lines

MAX_BATCH_LINES = 5_000
MAX_BATCH_BYTES = 16 << 20


class RelayDataSource(DataSource):
    """The format ``relay``: one column ``value`` (binary), a row per line; option ``address``: ``host:port``."""

    @classmethod
    def name(cls) -> str:
        """Return the format's name."""
        return "relay"

    def schema(self) -> str:
        """Return the columns: bytes, for a line is not always UTF-8."""
        return "value binary"

    def simpleStreamReader(self, schema: object) -> RelayStreamReader:
        """Return a reader of the relay at ``address``."""
        return RelayStreamReader(self.options["address"])


class RelayStreamReader(SimpleDataSourceStreamReader):
    """Reads batches of lines from one connection.

    The offset is ``{"line": 20294, "end": true}``: lines read so far, and whether the relay's end line was read.

    Parameters
    ----------
    address : str
        ``host:port`` of the relay.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._lines: Iterator[bytes | None] | None = None

    def initialOffset(self) -> dict:
        """Return the offset of the first line."""
        return {"line": 0, "end": False}

    def read(self, start: dict) -> tuple[Iterator[tuple[bytes]], dict]:
        """Return the next lines and the offset after them; a heartbeat ends a batch.

        Raises
        ------
        StreamError
            When the relay is lost before its end line.
        """
        if start["end"]:
            return iter([]), start
        if self._lines is None:
            self._lines = _lines_after(self.address, start["line"])
        rows: list[tuple[bytes]] = []
        size, end = 0, True
        for line in self._lines:
            if line is not None:
                rows.append((line,))
                size += len(line)
            if line is None or len(rows) == MAX_BATCH_LINES or size >= MAX_BATCH_BYTES:
                end = False
                break
        return iter(rows), {"line": start["line"] + len(rows), "end": end}

    def readBetweenOffsets(self, start: dict, end: dict) -> Iterator[tuple[bytes]]:
        """Yield the lines of a batch again, over a new connection."""
        lines = ((line,) for line in _lines_after(self.address, start["line"]) if line is not None)
        return islice(lines, end["line"] - start["line"])


def _lines_after(address: str, count: int) -> Iterator[bytes | None]:
    """Yield a relay's lines after so many; None for a heartbeat."""
    for line in read_lines(address):
        if line is not None and count:
            count -= 1
        else:
            yield line
