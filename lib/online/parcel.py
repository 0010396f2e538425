"""How what the executors found gets to the driver: as a file's name where both see one disk, through Spark elsewhere.

Spark copies a value again and again between a Python worker and the driver's Python: measured on two cores, stage 4
judged 94,000 events per second with it and 105,000 with a file, which is written once and mapped by the driver.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

SCHEMA = "packed binary, file string"
_SCHEMA = pa.schema([("packed", pa.binary()), ("file", pa.string())])

Step = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def sending(look: Callable[[Iterator[pa.RecordBatch]], Iterator[bytes]], folder: Path | None) -> Step:
    """Make the executors' function: what `look` gives, on its way to the driver.

    Parameters
    ----------
    look : callable
        Record batches in, findings as bytes out.
    folder : Path or None
        That executors and driver share. None: there is none.

    Returns
    -------
    callable
        For ``DataFrame.mapInArrow`` with :data:`SCHEMA`.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = look(batches)
        if folder is None:
            yield from (_row(packed=packed) for packed in found)
        else:
            yield _row(file=_file(found, folder))

    return run


def _row(**parcel: bytes | str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([parcel], _SCHEMA)


def _file(found: Iterable[bytes], folder: Path) -> str:
    """Write one file for all batches of a task: to create one costs the file system as much as to write it."""
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.writelines(found)
    return file.name


def received(table: pa.Table) -> list[pa.Buffer]:
    """Open what the executors sent; a file's bytes live as long as the buffer.

    Parameters
    ----------
    table : pyarrow.Table
        Of :data:`SCHEMA`.

    Returns
    -------
    list of pyarrow.Buffer
        Each with the findings of one batch or more, one behind the other.
    """
    return [
        packed.as_buffer() if packed.is_valid else _open(Path(file.as_py()))
        for packed, file in zip(table.column("packed"), table.column("file"), strict=True)
    ]


def _open(file: Path) -> pa.Buffer:
    """Map a file and remove its name: the system removes the rest when nobody reads it any more."""
    with open(file, "rb") as opened:
        file.unlink()
        if os.fstat(opened.fileno()).st_size == 0:  # the task had nothing to read
            return pa.py_buffer(b"")
        return pa.py_buffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
