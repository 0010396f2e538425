"""The verdicts on disk: one Parquet file per epoch, whole or not there.

A long run would leave thousands of small files, so now and then those of an uninterrupted row of epochs become one.
Files that are listed in one folder cannot be exchanged for another file in one step; folders can. So the new folder is
made beside the old one, with links to what stays, and the two change places: whoever lists the folder, at whatever
moment, sees every verdict exactly once, and who opens a file that was merged since is told that it is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lib.artifacts import sync_folder
from lib.online.judging import SCHEMA

FOLDER = "verdicts"
MANY = 256  # epochs after which small files are merged
SMALL = 1 << 20  # bytes below which a file is small
_NEW, _OLD = ".verdicts.new", ".verdicts.old"
_GROUP = 1 << 16  # rows of a merged file that are kept together
_EXCHANGE, _HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux
_SPECIAL = r'["\\\x00-\x1f]'  # what JSON does not take as it is


def part(folder: Path, epoch: int) -> Path:
    """Give the file of an epoch."""
    return folder / FOLDER / f"part-{epoch:08d}.parquet"


def write(folder: Path, epoch: int, table: pa.Table) -> None:
    """Write an epoch's verdicts; a file that a killed run left for the same epoch is replaced.

    Parameters
    ----------
    folder : Path
        The stage's folder.
    epoch : int
        Names the file.
    table : pyarrow.Table
        :data:`lib.online.judging.SCHEMA`; without rows nothing is written.
    """
    path = part(folder, epoch)
    if table.num_rows == 0:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    _put(temporary, [table])
    os.replace(temporary, path)
    sync_folder(path.parent)


def tidy(folder: Path, epochs: Iterable[int]) -> None:
    """Make the folder hold the files of these epochs only: a killed run may have left one that is not in the books."""
    here = folder / FOLDER
    if not here.exists() and (folder / _NEW).exists():  # killed between the two steps of an exchange
        os.rename(folder / _NEW, here)
    here.mkdir(parents=True, exist_ok=True)
    for left in (_NEW, _OLD):
        shutil.rmtree(folder / left, ignore_errors=True)
    known = set(epochs)
    for path in here.iterdir():
        if path.suffix == ".tmp" or (path.suffix == ".parquet" and not known.issuperset(_ends(path))):
            path.unlink()


def merge(folder: Path) -> int:
    """Make one file of the small files of consecutive epochs, in their order; not while another thread writes.

    Parameters
    ----------
    folder : Path
        The stage's folder; all that lies there must be in the books.

    Returns
    -------
    int
        How many files there are fewer.
    """
    here, beside = folder / FOLDER, folder / _NEW
    rows = list(_rows_of_small(files(folder)))
    if not rows:
        return 0
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    merged = {path for row in rows for path in row}
    for row in rows:
        _put(beside / f"part-{_ends(row[0])[0]:08d}-{_ends(row[-1])[-1]:08d}.parquet", _grouped(row))
    for path in here.iterdir():
        if path not in merged:
            os.link(path, beside / path.name)
    sync_folder(beside)
    _exchange(here, beside)
    sync_folder(folder)
    for left in (_NEW, _OLD):
        shutil.rmtree(folder / left, ignore_errors=True)
    return len(merged) - len(rows)


def files(folder: Path) -> list[Path]:
    """Give the files of a stage's folder, in the order of their epochs."""
    return sorted((folder / FOLDER).glob("part-*.parquet"))


def _ends(path: Path) -> list[int]:
    """Read the first and the last epoch of a file from its name: one number where it is one epoch."""
    return (
        [int(number) for number in re.findall(r"\d+", path.stem)] if path.stem.startswith("part-") else [-1]
    )


def _rows_of_small(parts: list[Path]) -> Iterator[list[Path]]:
    row: list[Path] = []
    for path in parts:
        if path.stat().st_size < SMALL:
            row.append(path)
            continue
        if len(row) > 1:
            yield row
        row = []
    if len(row) > 1:
        yield row


def _grouped(parts: list[Path]) -> Iterator[pa.Table]:
    """Read several files as tables of a group of rows or a little more."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(pq.read_table(part, schema=SCHEMA))
        if sum(table.num_rows for table in waiting) >= _GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _put(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write a file, and have it on the disk."""
    coded = ["wiki", "user", "verdict"]
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1, use_dictionary=coded) as out:
        for table in tables:
            out.write_table(table)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _exchange(here: Path, beside: Path) -> None:
    """Let two folders change places in one step; in two where the system cannot, and `tidy` finishes what is begun."""
    try:
        done = ctypes.CDLL(None).renameat2(_HERE, bytes(here), _HERE, bytes(beside), _EXCHANGE) == 0
    except AttributeError:
        done = False
    if not done:
        os.rename(here, here.parent / _OLD)
        os.rename(beside, here)


def as_json(table: pa.Table) -> pa.Array:
    """Write verdicts as JSON objects, for the topic.

    Parameters
    ----------
    table : pyarrow.Table
        :data:`lib.online.judging.SCHEMA`.

    Returns
    -------
    pyarrow.Array of string, shape (n,)

    Examples
    --------
    >>> row = {"meta_id": "a", "timestamp": 0, "user": 'say "hi"', "bot": True, "verdict": "kept"}
    >>> json.loads(as_json(pa.Table.from_pylist([row], SCHEMA))[0].as_py())["user"]
    'say "hi"'
    """
    score = pc.fill_null(_one(table.column("score")).cast(pa.string()), "null")
    return pc.binary_join_element_wise(
        '{"meta_id":',
        _quoted(_one(table.column("meta_id"))),
        _member("timestamp", _iso(table.column("timestamp"))),
        *(_member(name, _quoted(_one(table.column(name)).dictionary_encode())) for name in ("wiki", "user")),
        _member("bot", _one(table.column("bot")).cast(pa.string()).dictionary_encode()),
        _member("verdict", _quoted(_one(table.column("verdict")).dictionary_encode())),
        _member("score", score),
        "}",
        "",
    )


def _member(name: str, values: pa.Array) -> pa.Array:
    """Put the name of a member of an object before its values; of a dictionary before each word once."""
    if not pa.types.is_dictionary(values.type):
        return pc.binary_join_element_wise(f',"{name}":', values, "")
    words = pa.concat_arrays([_member(name, values.dictionary), pa.array([f',"{name}":null'])])
    return words.take(pc.fill_null(values.indices, len(words) - 1))


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _iso(column: pa.ChunkedArray) -> pa.Array:
    """Write times as ISO 8601, UTC, milliseconds; each different second once, as a calendar is slow."""
    seconds, rest = np.divmod(column.cast(pa.int64()).to_numpy(), 1000)
    second, codes = np.unique(seconds, return_inverse=True)
    stamps = pc.strftime(pa.array(second, pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%S")
    return pc.binary_join_element_wise('"', stamps.take(codes), _MILLISECONDS.take(rest), "")


_MILLISECONDS = pa.array([f'.{number:03d}Z"' for number in range(1000)])


def _quoted(words: pa.Array) -> pa.Array:
    """Write texts as JSON strings; of a dictionary each word once."""
    if pa.types.is_dictionary(words.type):
        return pa.DictionaryArray.from_arrays(words.indices, _quoted(words.dictionary))
    if pc.any(pc.match_substring_regex(words, _SPECIAL)).as_py():
        return pa.array([json.dumps(word, ensure_ascii=False) for word in words.to_pylist()], pa.string())
    return pc.binary_join_element_wise('"', words, '"', "")


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read all verdicts of a stage's folder.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.
    columns : list of str, optional
        Only these.

    Returns
    -------
    pyarrow.Table
        In the order in which they were given; empty when there are none.
    """
    parts = files(folder)
    wanted = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    if not parts:
        return wanted.empty_table()
    return ds.dataset(parts, schema=SCHEMA, format="parquet").to_table(columns=columns)


def groups(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Read some columns of all verdicts, a group of rows at a time.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.
    columns : list of str

    Yields
    ------
    pyarrow.Table
        In the order in which the verdicts were given.
    """
    for path in files(folder):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_GROUP, columns=columns):
                yield pa.Table.from_batches([batch])
