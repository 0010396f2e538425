"""What could not be judged, as a file that people read: one line of JSON per invalid event, with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lib import artifacts

NAME = "dead_letters.jsonl"


def append(folder: Path, letters: Iterable[tuple[bytes, str]]) -> None:
    """Append raw texts, each with its reason."""
    with open(folder / NAME, "a", encoding="utf-8") as file:
        file.writelines(_line(raw, reason) for raw, reason in letters)


def write(folder: Path, letters: Iterable[tuple[bytes, str]]) -> None:
    """Write the file anew: what a killed run appended may be more or less than what is in the books."""
    artifacts.atomic_write(folder / NAME, (_line(raw, reason) for raw, reason in letters))


def _line(raw: bytes, reason: str) -> str:
    """Write an invalid event; bytes that are not UTF-8 are shown as ``\\xff``, and it is said."""
    try:
        letter: dict[str, str | bool] = {"raw": raw.decode(), "reason": reason}
    except UnicodeDecodeError:
        letter = {"raw": raw.decode(errors="backslashreplace"), "reason": reason, "not_utf8": True}
    return json.dumps(letter, ensure_ascii=False) + "\n"
