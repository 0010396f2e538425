"""Edits as CSV that three readers read alike: UTF-8, a header, RFC 4180 quoting, text unchanged to the byte.

Every text is quoted, so ``""`` is an empty text and an empty field is null. Line ends inside a text stay what they
were; a row ends with a line feed. Nothing is done against spreadsheets: a cell that begins with ``=`` is what the
editor wrote.

How to read the files without changing a character:

- Python: ``csv.reader(open(path, encoding="utf-8", newline=""))``; a text above 131,072 characters needs
  ``csv.field_size_limit``; null and ``""`` look alike.
- pandas: ``pandas.read_csv(path, **PANDAS)``; null and ``""`` look alike (its C engine cuts a text at NUL)
- Spark: ``spark.read.options(**SPARK).csv(path)``; tells null from ``""``.
- Arrow: ``lib.model.dataset.read_csv``, as stage 3 does; tells null from ``""``.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession

from lib import artifacts, events

#: Rows of one file: the same recording then gives the same files, however Spark cut its batches.
ROWS_PER_FILE = 100_000

#: Options of ``pandas.read_csv``: every cell as the text that is in the file.
PANDAS: dict[str, Any] = {"dtype": str, "keep_default_na": False, "engine": "python"}

#: Options of Spark's CSV reader. An empty field is null because it is read as ``nullValue``, which no text may equal.
SPARK: dict[str, Any] = {
    "header": True,
    "multiLine": True,
    "encoding": "UTF-8",
    "quote": '"',
    "escape": '"',
    "emptyValue": "",
    "nullValue": "\ufdd0null\ufdd0",
    "mode": "FAILFAST",
}

_HEADER = (",".join(events.COLUMNS) + "\n").encode()
_FILE_SCHEMA = events.ARROW_SCHEMA.set(events.COLUMNS.index("timestamp"), pa.field("timestamp", pa.string()))
_ROWS_AT_ONCE = 10_000


def write(table: pa.Table, path: Path) -> Path:
    """Write edits to one CSV file, which appears under its name only when it is whole.

    Parameters
    ----------
    table : pyarrow.Table
        Edits in the schema :data:`lib.events.ARROW_SCHEMA`; ``timestamp`` in milliseconds since the epoch.
    path : Path
        The file.

    Returns
    -------
    Path
        The file.
    """
    batches = table.to_batches(max_chunksize=_ROWS_AT_ONCE)
    rows = (_lines(pa.Table.from_batches([batch])) for batch in batches)
    return artifacts.atomic_write(path, itertools.chain([_HEADER], rows))


def _lines(table: pa.Table) -> bytes:
    # Not pyarrow's own writer: for an empty batch, version 26.0.1 writes what its buffer held before.
    cells = zip(*_table_cells(table), strict=True)
    return "".join(",".join(row) + "\n" for row in cells).encode()


def _table_cells(table: pa.Table) -> Iterator[list[str]]:
    for field, column in zip(_FILE_SCHEMA, _as_text(table), strict=True):
        quote = _quoted if field.type == pa.string() else str
        yield ["" if text is None else quote(text) for text in column]


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _as_text(table: pa.Table) -> Iterator[list[str | None]]:
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == "timestamp":
            yield [None if ms is None else events.iso(ms) for ms in column.to_pylist()]
        else:
            yield column.cast(pa.string()).to_pylist()


class Writer:
    """Collects edits and writes them as ``edits-00000.csv``, ``edits-00001.csv``, … of equal length.

    Parameters
    ----------
    folder : Path
        Where the files go; must exist.
    rows_per_file : int, default ROWS_PER_FILE
        Rows of every file but the last.
    """

    def __init__(self, folder: Path, rows_per_file: int = ROWS_PER_FILE) -> None:
        self.folder = folder
        self.rows_per_file = rows_per_file
        self.files: list[Path] = []
        self._waiting: pa.Table = events.ARROW_SCHEMA.empty_table()

    def add(self, table: pa.Table) -> None:
        """Take edits; full files are written."""
        self._waiting = pa.concat_tables([self._waiting, table])
        while self._waiting.num_rows >= self.rows_per_file:
            self._write(self._waiting.slice(0, self.rows_per_file))
            self._waiting = self._waiting.slice(self.rows_per_file)

    def close(self) -> list[Path]:
        """Write what waits and return all files; there is at least one, be it only a header."""
        if self._waiting.num_rows or not self.files:
            self._write(self._waiting)
            self._waiting = events.ARROW_SCHEMA.empty_table()
        return self.files

    def _write(self, table: pa.Table) -> None:
        self.files.append(write(table, self.folder / f"edits-{len(self.files):05d}.csv"))


Rows = Sequence[tuple[str | None, ...]]


def rows_by_python(path: Path) -> Rows:
    """Read a file with Python's csv module, header left out, every cell as text."""
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def rows_by_pandas(path: Path) -> Rows:
    """Read a file with pandas, every cell as text."""
    return list(pd.read_csv(path, **PANDAS).itertuples(index=False, name=None))


def rows_by_spark(spark: SparkSession, path: Path) -> Rows:
    """Read a file with Spark, every cell as text or None."""
    schema = ", ".join(f"{column} string" for column in events.COLUMNS)
    return [tuple(row) for row in spark.read.schema(schema).options(**SPARK).csv(str(path)).toLocalIterator()]


def rows(table: pa.Table) -> Iterator[tuple[str | None, ...]]:
    """Give edits as the cells that their CSV must have, null as None.

    Examples
    --------
    >>> event = events.decode('{"meta": {"dt": "2015-09-12T00:46:58Z"}, "type": "new", "user": "", "bot": false}')
    >>> next(rows(events.table([event])))
    (None, '2015-09-12T00:46:58.000Z', None, None, 'new', None, '', 'false', None, None, None)
    """
    return zip(*_as_text(table), strict=True)


def compare(spark: SparkSession, files: Sequence[Path]) -> pd.DataFrame:
    """Read files with all three readers and compare every cell.

    Parameters
    ----------
    spark : SparkSession
        For Spark's reader.
    files : sequence of Path
        Files of one sample.

    Returns
    -------
    DataFrame
        A row per reader: ``rows``, and ``sha256`` of all cells (null as an empty text, for two of them cannot tell).
    """
    readers: dict[str, Callable[[Path], Rows]] = {
        "Spark": lambda path: rows_by_spark(spark, path),
        "pandas": rows_by_pandas,
        "Python csv": rows_by_python,
    }
    found = {name: [row for path in files for row in read(path)] for name, read in readers.items()}
    table = {name: {"rows": len(cells), "sha256": _digest(cells)} for name, cells in found.items()}
    return pd.DataFrame.from_dict(table, orient="index")


def _digest(cells: Rows) -> str:
    digest = hashlib.sha256()
    for row in cells:
        digest.update(json.dumps([cell or "" for cell in row]).encode())
    return digest.hexdigest()


def hazards(files: Sequence[Path]) -> pd.DataFrame:
    """Count the texts that a careless reader or writer of CSV would spoil.

    Parameters
    ----------
    files : sequence of Path
        Files of one sample.

    Returns
    -------
    DataFrame
        ``texts``: how many titles, user names and comments hold what the row says.
    """
    places = [events.COLUMNS.index(name) for name in ("title", "user", "comment")]
    texts = pd.Series(
        [row[place] for path in files for row in rows_by_python(path) for place in places], dtype="string"
    )
    kinds = {
        "a comma": texts.str.contains(","),
        "a quotation mark": texts.str.contains('"'),
        "a line break": texts.str.contains(r"[\r\n]"),
        "a character outside ASCII": ~texts.map(str.isascii).astype("boolean"),
        "a blank at an end": texts != texts.str.strip(),
        "a first character that a spreadsheet takes for a formula (= + - @)": texts.str.contains(r"^[=+\-@]"),
    }
    return pd.DataFrame({"texts": {name: int(found.sum()) for name, found in kinds.items()}})
