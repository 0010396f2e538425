"""Stages meet in files: each leaves a manifest of what went in, what came out, and what was dropped and why.

A stage has its folder to itself while it writes (:func:`lock_folder`), and its files are whole or not there
(:func:`atomic_write`).
"""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from lib import paths
from lib.params import ParameterError

NAME = "manifest.json"
DEAD_LETTERS = "dead_letters.jsonl"
SCRATCH = ".wikisieve-"  # of a folder of temporary files, before its number
MAX_TEMPORARY_BYTES = 40  # of TMPDIR: the name of a socket below it has at most 107
PACKAGES = ("numpy", "pandas", "pyarrow", "pyspark", "scikit-learn", "pybloom-live", "kafka-python")


def write(folder: Path, name: str = NAME, **content: Any) -> Path:
    """Write a manifest, whole or not at all.

    Parameters
    ----------
    folder : Path
        The stage's folder; made if it is not there.
    name : str, default "manifest.json"
        File name.
    **content
        What to keep. ``created`` and ``versions`` are added.

    Returns
    -------
    Path
        The file.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return write_json(folder / name, {**content, "created": created, "versions": versions()})


def write_json(path: Path, content: Any) -> Path:
    """Write indented JSON, whole or not at all, and return the path; a number that is not finite is an error."""
    return atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read(folder: Path, made_by: str, name: str = NAME) -> dict[str, Any]:
    """Return the content of a manifest.

    Parameters
    ----------
    folder : Path
        The stage's folder.
    made_by : str
        The notebook that writes it, for the error.
    name : str, default "manifest.json"
        File name.

    Returns
    -------
    dict
        What :func:`write` wrote.

    Raises
    ------
    ParameterError
        When there is no such file.
    """
    return json.loads(require(folder / name, made_by).read_text(encoding="utf-8"))


def require(path: Path, made_by: str) -> Path:
    """Return a path that must exist, or name the notebook that makes it.

    Examples
    --------
    >>> require(paths.ROOT / "no" / "such.csv", "notebooks/02_sample.ipynb")
    Traceback (most recent call last):
    lib.params.ParameterError: no/such.csv is missing. Run notebooks/02_sample.ipynb first: it makes it.
    """
    if not path.exists():
        raise ParameterError(f"{paths.show(path)} is missing. Run {made_by} first: it makes it.")
    return path


def versions() -> dict[str, str]:
    """Return the versions of Python, of wikisieve and of the packages that shape the results."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("wikisieve", *PACKAGES)}


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: Path, content: str | bytes | Iterable[str | bytes], mode: int = 0o644) -> Path:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    A temporary file in the same folder is written, forced to disk and renamed (POSIX ``rename`` is atomic); the
    folder's list of names is forced to disk, too, so that the rename survives a power cut. Content that comes in parts
    is never in memory as a whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [content] if isinstance(content, str | bytes) else content
    handle, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(part.encode() if isinstance(part, str) else part for part in parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return path


def dead_letter(raw: bytes, reason: str) -> str:
    r"""Return a line of ``dead_letters.jsonl``: the text of an invalid event, every byte of it, and the reason.

    Parameters
    ----------
    raw : bytes
        What was received. Bytes that are not UTF-8 are written as ``\xe9``, and ``not_utf8`` is true.
    reason : str
        Why it cannot be read.

    Examples
    --------
    >>> print(dead_letter("é".encode() + b" caf\xe9", "invalid continuation byte"), end="")
    {"raw": "é caf\\xe9", "reason": "invalid continuation byte", "not_utf8": true}
    """
    text = raw.decode(errors="backslashreplace")
    mark = {"not_utf8": True} if text.encode() != raw else {}
    return json.dumps({"raw": text, "reason": reason, **mark}, ensure_ascii=False) + "\n"


def lock_folder(
    folder: Path, refused: type[Exception], patience: float = 0.0, name: str = ".lock"
) -> IO[bytes]:
    """Lock a folder against other processes until the returned file is closed, or the process ends, however it does.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    refused : type of exception
        Raised when another process has the lock.
    patience : float, default 0.0
        Seconds to wait for it.
    name : str, default ".lock"
        Of the file that is locked; its content is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / name, "ab")  # noqa: SIM115  (the caller closes it)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() >= end:
                file.close()
                raise refused(
                    f"OUT_DIR must be used by one run at a time. Got {paths.show(folder)}, where another one is at "
                    "work. Wait for it, or choose another OUT_DIR."
                ) from None
        time.sleep(0.1)


@functools.cache
def scratch() -> Path:
    """Return this process's folder for temporary files and sockets, in TMPDIR or, where that is too long, in /tmp.

    It is removed when the process ends. The folders of processes that were killed are removed here: they are those
    that nobody has locked, on whatever host or in whatever container their owner was.
    """
    root = Path(tempfile.gettempdir())
    root = root if len(os.fsencode(root)) <= MAX_TEMPORARY_BYTES else Path("/tmp")
    for old in root.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            found = old.lstat()
            # Others' are not ours to open, and the owner of a new one may be about to lock it.
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > 60:
                lock_folder(old, OSError).close()
                shutil.rmtree(old)
    folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=root))
    atexit.register(lock_folder(folder, OSError).close)  # it is open until then
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
