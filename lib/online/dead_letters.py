"""What could not be judged, as a file that people read: one line of JSON per invalid event, with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lib import artifacts

NAME = artifacts.DEAD_LETTERS


def append(folder: Path, letters: Iterable[tuple[bytes, str]]) -> None:
    """Append raw texts, each with its reason."""
    with open(folder / NAME, "a", encoding="utf-8") as file:
        file.writelines(artifacts.dead_letter(raw, reason) for raw, reason in letters)


def write(folder: Path, letters: Iterable[tuple[bytes, str]]) -> None:
    """Write the file anew: what a killed run appended may be more or less than what is in the books."""
    artifacts.atomic_write(folder / NAME, (artifacts.dead_letter(raw, reason) for raw, reason in letters))
