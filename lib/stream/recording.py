"""Recordings: events as they came, one JSON text per line, in files that are whole or not there.

A recording is a file of JSON lines (``.jsonl`` or ``.jsonl.gz``) or a folder of segments
``events-00001.jsonl.gz``, ``events-00002.jsonl.gz`` … Lines are bytes from the wire: nothing here decodes them,
so nothing can change them.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from lib import artifacts

SEGMENT = re.compile(r"events-(\d+)\.jsonl\.gz")
GZIP_MAGIC = b"\x1f\x8b"
COMPRESSION_LEVEL = 1
MAX_EVENT_BYTES = 4_000_000  # twice as many, text and key, are a message that our Kafka topics take
KEPT_BYTES = 1 << 16  # of a text that is longer: its beginning, which is no event


class StreamError(ConnectionError):
    """A stream cannot be read."""


class RecordingError(ValueError):
    """A recording cannot be read or written."""


def segment_name(number: int) -> str:
    """Return the name of a segment.

    Examples
    --------
    >>> segment_name(7)
    'events-00007.jsonl.gz'
    """
    return f"events-{number:05d}.jsonl.gz"


def segments(folder: Path) -> list[Path]:
    """Return the segments of a folder in their order; other files are ignored."""
    found = ((SEGMENT.fullmatch(path.name), path) for path in folder.iterdir())
    return [path for _, path in sorted((int(match[1]), path) for match, path in found if match)]


def files(path: Path) -> list[Path]:
    """Return the files of a recording, in order.

    Parameters
    ----------
    path : Path
        A file of JSON lines, or a folder of segments.

    Raises
    ------
    RecordingError
        If there is no such file, or neither a segment nor a manifest in the folder.
    """
    if path.is_file():
        return [path]
    found = segments(path) if path.is_dir() else []
    if not found and not (path / artifacts.NAME).exists():
        raise RecordingError(
            f"A recording must be a file of JSON lines (.jsonl, .jsonl.gz) or a folder of events-*.jsonl.gz. "
            f"Got {path}, which is neither. Check the path, or run notebooks/01_stream.ipynb."
        )
    return found


def lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a recording, without their line ends; empty ones are skipped.

    Parameters
    ----------
    path : Path
        A file of JSON lines, or a folder of segments.

    Yields
    ------
    bytes
        One line, whatever is in it.

    Raises
    ------
    RecordingError
        If the recording does not exist, or is damaged.
    """
    for file in files(path):
        yield from file_lines(file)


def file_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of one file of a recording; gzip is recognised by its first bytes. See `lines`."""
    number = 0
    with open(path, "rb") as raw:
        is_gzip = raw.peek(2).startswith(GZIP_MAGIC)
        file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        try:
            for number, line in enumerate(file, 1):
                if line := line.rstrip(b"\r\n"):
                    yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RecordingError(
                f"A recording must be a whole gzip file. Got {path.name}, which breaks off after {number:,} lines "
                f"({error}). Fetch or record it again, or save what `gzip -dc` can read of it as .jsonl."
            ) from None


def write_segment(path: Path, texts: Iterable[bytes]) -> None:
    """Write one segment so that it is whole or not there, and on the disk when this returns.

    Parameters
    ----------
    path : Path
        The file.
    texts : iterable of bytes
        JSON texts without line ends.
    """
    artifacts.atomic_write(path, gzip.compress(b"\n".join([*texts, b""]), COMPRESSION_LEVEL, mtime=0))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a recording: of the file, or of the list of a folder's segments and theirs."""
    if path.is_file():
        return artifacts.sha256(path)
    listed = "".join(f"{artifacts.sha256(file)}  {file.name}\n" for file in files(path))
    return hashlib.sha256(listed.encode()).hexdigest()
