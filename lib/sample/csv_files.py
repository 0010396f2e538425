"""Edits as CSV: UTF-8, a header, RFC 4180 quoting, the text unchanged to the byte.

Every text is quoted, so ``""`` is an empty text and an empty field is null. Line ends inside a text stay what they
were; a row ends with a line feed. A cell that begins with ``=`` is what the editor wrote: nothing is escaped for
spreadsheets.

How to read the files without changing a character:

- pandas: ``pandas.read_csv(path, **PANDAS)``; null and ``""`` look alike (its C engine cuts a text at NUL)
- Arrow: ``pyarrow.csv.read_csv(path, **ARROW)``
- Spark: ``spark.read.schema(SCHEMA).options(**SPARK).csv(spark_path(path))``
- Python: ``csv.reader(open(path, encoding="utf-8", newline=""))``; null and ``""`` look alike, and a text above
  131,072 characters needs ``csv.field_size_limit``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import compute as pc
from pyarrow import csv

from lib import events

HEADER = (",".join(events.COLUMNS) + "\n").encode()

#: Options of ``pandas.read_csv``: every cell as the text that is in the file.
PANDAS: dict[str, Any] = {"dtype": str, "keep_default_na": False, "engine": "python"}

#: Options of ``pyarrow.csv.read_csv``: every cell as the text that is in the file, an empty field as null.
ARROW: dict[str, Any] = {
    "parse_options": csv.ParseOptions(newlines_in_values=True),
    "convert_options": csv.ConvertOptions(
        column_types=dict.fromkeys(events.COLUMNS, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    ),
}

#: Options of Spark's CSV reader. An empty field is null because it is read as ``nullValue``, which no text may equal.
SPARK: dict[str, Any] = {
    "header": True,
    "multiLine": True,
    "escape": '"',
    "emptyValue": "",
    "nullValue": "\ufdd0null\ufdd0",
    "mode": "FAILFAST",
}

#: Columns for Spark's reader. To find them itself, it would take a file's name for a pattern.
SCHEMA = ", ".join(f"{column} string" for column in events.COLUMNS)


def spark_path(path: Path) -> str:
    """Return a local file's path as Spark's readers take it: no other file system, and nothing in it a pattern.

    Examples
    --------
    >>> spark_path(Path("/data/try[1]/edits-00000.csv"))
    'file:/data/try\\\\[1\\\\]/edits-00000.csv'
    """
    return "file:" + re.sub(r"([\\\[\]{}*?])", r"\\\1", str(path))


def write_rows(table: pa.Table, file: IO[bytes]) -> None:
    """Write edits below the :data:`HEADER` of a file.

    Parameters
    ----------
    table : pyarrow.Table
        Edits in the schema :data:`lib.events.ARROW_SCHEMA`; ``timestamp`` in milliseconds since the epoch.
    file : binary file
        Open for writing.
    """
    times = table["timestamp"].cast(pa.timestamp("ms"))
    place = table.column_names.index("timestamp")
    text = table.set_column(place, "timestamp", pc.strftime(times, "%Y-%m-%dT%H:%M:%SZ", "C"))
    if text.num_rows:  # of no rows pyarrow 26.0.1 writes what its buffer held before
        csv.write_csv(text.combine_chunks(), file, csv.WriteOptions(include_header=False))
