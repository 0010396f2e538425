"""A Spark data source that reads a relay (:mod:`lib.stream.relay`): ``spark.readStream.format("relay")``.

Spark's own socket source hides a lost connection and reads without a bound. This one ends the query with an error when
the relay is lost, reads a batch only when Spark asks for it, and has an offset that shows when the relay is over::

    spark.dataSource.register(RelayDataSource)
    lines = spark.readStream.format("relay").option("address", "127.0.0.1:9999").load()
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from pyspark.sql.datasource import DataSource, SimpleDataSourceStreamReader

from lib.stream.relay import CONTROL, RelayBroken

MAX_BATCH_LINES = 5_000
MAX_BATCH_BYTES = 16 << 20
MAX_LINE_BYTES = 8 << 20
TIMEOUT_SECONDS = 15.0  # without a byte; an idle relay sends a heartbeat every second


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
        RelayBroken
            When the relay is lost before its end line.
        """
        if start["end"]:
            return iter([]), start
        if self._lines is None:
            self._lines = _lines_after(self.address, start["line"])
        rows: list[tuple[bytes]] = []
        size = 0
        end = True
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


def read_lines(address: str) -> Iterator[bytes | None]:
    """Yield a relay's lines until its end line.

    Parameters
    ----------
    address : str
        ``host:port``.

    Yields
    ------
    bytes or None
        A line without its line end, the first 8 MiB of a longer one; None for a heartbeat.

    Raises
    ------
    RelayBroken
        When nobody answers, the connection closes before the end line, nothing comes for 15 seconds, or the end line
        has another number of lines.
    """
    host, _, port = address.rpartition(":")
    count = 0
    try:
        with (
            socket.create_connection((host, int(port)), TIMEOUT_SECONDS) as client,
            client.makefile("rb") as file,
        ):
            for line in _whole_lines(file):
                if not line.startswith(CONTROL):
                    count += 1
                    yield line
                    continue
                control = json.loads(line)["$relay"]
                if "end" not in control:
                    yield None
                elif control["events"] == count:
                    return
                else:
                    raise ConnectionError(f"the end line has {control['events']:,}")
        reason = "the connection closed"
    except OSError as error:
        reason = error.strerror or str(error)
    raise RelayBroken(
        f"The relay at {address} must send all lines and its end line. Got {count:,} lines: {reason}. "
        "Start the relay (notebooks/01_stream.ipynb) and run this again, or leave SOCKET empty to read IN_DIR."
    )


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines without their line ends, at most MAX_LINE_BYTES of each; not a last one without a line end."""
    while line := file.readline(MAX_LINE_BYTES):
        end = line
        while end and not end.endswith(b"\n"):
            end = file.readline(MAX_LINE_BYTES)
        if end:
            yield line.rstrip(b"\n")
