"""Stage 1's writer: a stream becomes a recording that is whole whatever happens to the process.

A recording is a folder of segments (`lib.stream.recording`) and ``state.json``: position, counts and keys to go on
from. Both move together by one rename. Before a segment is put in place, the state is written with two sides, the one
that holds *with* the segment and the one that holds *without* it; whether the segment is there decides which is
true. So a process that dies at any moment, by ``kill -9`` or a power cut, leaves every event either in a segment
or still to be fetched.

Run again with the same folder, a recording that was not finished goes on; one that was finished, or that came
from another source, range or choice of wikis, is made anew. Nothing is ever mixed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import msgspec

from lib import artifacts, paths
from lib.stream import client, recording, seen
from lib.stream.client import KINDS, Counts, EventStreamClient, StreamEvent
from lib.stream.source import Source

STATE = "state.json"
SEGMENT_EVENTS = 10_000
LOCK_SECONDS = 10.0  # a notebook's kernel outlives papermill by a second or two when that is killed
SAY_SECONDS = 15.0
SHORTEST_SECONDS, LONGEST_SECONDS = 2.0, 60.0


class RecorderError(RuntimeError):
    """A folder cannot be recorded into; the message says why and what to do."""


@dataclasses.dataclass
class State:
    """What is known of a recording up to a segment."""

    segments: int = 0
    dead_letters: int = 0  #: bytes of the file
    position: dict[str, Any] | None = None
    counts: dict[str, Any] = dataclasses.field(default_factory=dict)
    first: tuple[int, str] | None = None  #: time and ``meta.dt`` of the earliest event
    last: tuple[int, str] | None = None  #: of the latest
    ended: str = ""
    complete: bool = False
    warnings: list[str] = dataclasses.field(default_factory=list)


class _Dt(msgspec.Struct):
    dt: str


class _Id(msgspec.Struct):
    id: str | None = None


class _WithDt(msgspec.Struct):
    meta: _Dt


class _WithId(msgspec.Struct):
    meta: _Id


_dt = msgspec.json.Decoder(_WithDt)
_id = msgspec.json.Decoder(_WithId)


class Recorder:
    """A recording that is being made in a folder; use it as a context manager.

    Parameters
    ----------
    folder : Path
        OUT_DIR.
    source : Source
        What to record.
    segment_events : int, default 10,000
        Events after which a segment is closed, however young it is.

    Attributes
    ----------
    went_on : int
        Events that were there already; 0 for a recording from the start.

    Raises
    ------
    RecorderError
        If another process records into the folder, or it holds segments that are not ours.
    """

    def __init__(self, folder: Path, source: Source, segment_events: int = SEGMENT_EVENTS) -> None:
        self.folder, self.source, self.segment_events = folder, source, segment_events
        if source.recording is not None and source.recording.resolve() == folder.resolve():
            raise RecorderError(
                f"OUT_DIR must be another folder than RECORDING. Got {paths.show(folder)} for both. Choose another."
            )
        self._lock = artifacts.lock_folder(folder, RecorderError, LOCK_SECONDS)
        self._described = source.describe()
        self._pending: list[bytes] = []
        self._letters: list[bytes] = []
        self._earliest: tuple[int, bytes] | None = None
        self._latest: tuple[int, bytes] | None = None
        self._begun = self._committed = time.monotonic()
        self._say: Callable[[str], None] | None = None
        self._said = (0.0, 0)
        self.state = self._open()
        self.went_on = self.state.counts.get("events", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def run(
        self,
        *,
        max_events: int = 0,
        max_seconds: float = 0,
        seed: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Record until the stream ends, a limit is reached, or the user interrupts.

        Parameters
        ----------
        max_events : int, default 0
            Events of the whole recording; 0 is no limit.
        max_seconds : float, default 0
            Seconds of this run; 0 is no limit.
        seed : int, default 0
            Seed of the jitter of reconnects.
        say : callable, optional
            Called with a line of progress every 15 seconds.

        Returns
        -------
        dict
            The manifest.
        """
        self._say = say
        if not self.state.complete:
            self._record(max_events, max_seconds, seed)
        return self._write_manifest(max_events, max_seconds)

    def _record(self, max_events: int, max_seconds: float, seed: int) -> None:
        counts = Counts.from_json(self.state.counts)
        with self.source.serve() as server:
            stream = EventStreamClient(
                server.url,
                since=self.source.since,
                until=self.source.until,
                wikis=self.source.wikis,
                max_events=max_events,
                max_seconds=max_seconds,
                position=self.state.position,
                seen=self._seen(),
                counts=counts,
                yield_idle=True,
                seed=seed,
            )
            try:
                self._take(stream)
            except KeyboardInterrupt:
                self._commit(stream, ended="interrupted")
            except BaseException:
                with contextlib.suppress(RecorderError):  # what went wrong first is what counts
                    self._commit(stream)
                raise
            else:
                silent = stream.stop_reason.startswith(client.SILENCE)
                self._commit(stream, ended=stream.stop_reason, complete=not silent)

    def _take(self, stream: EventStreamClient) -> None:
        """Take every item; close a segment when it is large or old enough."""
        pending = self._pending
        self._said = time.monotonic(), stream.counts.events
        for item in stream:
            if item is None or item.event is None:
                self._take_other(item)
            else:
                pending.append(item.data if b"\n" not in item.data else item.data.replace(b"\n", b" "))
                moment = item.event.time_ms
                if self._latest is None or moment >= self._latest[0]:
                    self._latest = (moment, item.data)
                if self._earliest is None or moment < self._earliest[0]:
                    self._earliest = (moment, item.data)
            now = time.monotonic()
            if len(pending) >= self.segment_events or now >= self._next_commit():
                self._commit(stream)
            if self._say is not None and now - self._said[0] >= SAY_SECONDS:
                self._say_progress(now, stream)

    def _say_progress(self, now: float, stream: EventStreamClient) -> None:
        counts, (since, before) = stream.counts, self._said
        self._said = now, counts.events
        rate = (counts.events - before) / (now - since)
        if self._say is not None:
            self._say(
                f"{datetime.now(UTC):%H:%M:%S} UTC: {counts.events:,} events, {rate:,.0f} per second, "
                f"{counts.reconnects} reconnect(s){'; waiting: ' if stream.last_error else ''}{stream.last_error}"
            )

    def _take_other(self, item: StreamEvent | None) -> None:
        if item is not None:
            self._letters.append(artifacts.dead_letter(item.data, item.reason or "").encode())

    def _next_commit(self) -> float:
        """Moment at which the segment is old enough: soon at first, later less often, so that files stay few."""
        age = (self._committed - self._begun) / 60
        return self._committed + min(max(age, SHORTEST_SECONDS), LONGEST_SECONDS)

    def _commit(self, stream: EventStreamClient, ended: str = "", *, complete: bool = False) -> None:
        try:
            self._write(stream, ended, complete=complete)
        except OSError as error:
            raise RecorderError(
                f"OUT_DIR must have room and be writable. Got: {error.strerror or error}. What was committed before is "
                f"safe in {paths.show(self.folder)}. Make room and run again: it goes on."
            ) from error

    def _write(self, stream: EventStreamClient, ended: str, *, complete: bool) -> None:
        """Put what was received on the disk, together with where to go on."""
        after = State(
            segments=self.state.segments + bool(self._pending),
            dead_letters=self._append_letters(),
            position=stream.position,
            counts=stream.counts.to_json(),
            first=_outer(self.state.first, self._earliest, min),
            last=_outer(self.state.last, self._latest, max),
            ended=ended,
            complete=complete,
            warnings=[
                *self.state.warnings,
                *(text for text in stream.warnings if text not in self.state.warnings),
            ],
        )
        segment = recording.segment_name(after.segments) if self._pending else None
        self._write_state(segment, after)
        if segment is not None:
            recording.write_segment(self.folder / segment, self._pending)
        self.state = after
        self._pending.clear()
        self._letters.clear()
        self._earliest = self._latest = None
        self._committed = time.monotonic()

    def _append_letters(self) -> int:
        """Append unreadable events; return the file's size. What a crash leaves behind that size is cut off."""
        path = self.folder / artifacts.DEAD_LETTERS
        with open(path, "ab") as file:
            if self._letters:
                file.write(b"".join(self._letters))
                file.flush()
                os.fsync(file.fileno())
            return file.tell()

    def _write_state(self, segment: str | None, after: State) -> None:
        sides = {"with": dataclasses.asdict(after), "without": dataclasses.asdict(self.state)}
        content = {
            "source": self._described,
            "segment": segment,
            **(sides if segment else {"with": sides["with"]}),
        }
        artifacts.atomic_write(self.folder / STATE, json.dumps(content))
        artifacts.sync_folder(self.folder)

    def _open(self) -> State:
        """Find out where the folder stands, and make it agree with that."""
        kept = self._read_state()
        state = None if kept is None else _true_side(kept, self.folder)
        finished = state is not None and state.complete and (self.folder / artifacts.NAME).exists()
        if kept is None or state is None or finished or kept["source"] != self._described:
            self._refuse_foreign(kept)
            (self.folder / artifacts.NAME).unlink(missing_ok=True)
            self.state = state = State()
            self._write_state(None, state)
        self._tidy(state)
        return state

    def _read_state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / STATE).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise RecorderError(
                f"{paths.show(self.folder / STATE)} must be JSON as 01_stream writes it. It is not. "
                "Choose another OUT_DIR, or delete this one."
            ) from None

    def _refuse_foreign(self, kept: dict[str, Any] | None) -> None:
        if kept is None and recording.segments(self.folder):
            raise RecorderError(
                f"OUT_DIR must be empty or 01_stream's own. Got {paths.show(self.folder)}, whose events-*.jsonl.gz "
                "come from somewhere else. Choose another folder."
            )

    def _tidy(self, state: State) -> None:
        """Remove what a crash has left: segments that do not count, temporary files, half a dead letter."""
        for path in recording.segments(self.folder)[state.segments :]:
            path.unlink()
        for path in self.folder.glob(".*.tmp"):
            path.unlink()
        with open(self.folder / artifacts.DEAD_LETTERS, "ab") as file:
            file.truncate(state.dead_letters)

    def _seen(self) -> Iterator[str]:
        """``meta.id`` of the latest events that are there."""
        found: list[list[str]] = []
        for path in reversed(recording.segments(self.folder)):
            names = [_id.decode(line).meta.id for line in recording.file_lines(path)]
            found.append([name for name in names if name])
            if sum(map(len, found)) >= seen.SEEN:
                break
        return itertools.chain.from_iterable(reversed(found))

    def _write_manifest(self, max_events: int, max_seconds: float) -> dict[str, Any]:
        state = self.state
        counts = Counts.from_json(state.counts)
        segments = recording.segments(self.folder)
        content: dict[str, Any] = {
            **{name: getattr(counts, name) for name in (*KINDS, "received", "reconnects")},
            "first_dt": state.first[1] if state.first else None,
            "last_dt": state.last[1] if state.last else None,
            "invalid_reasons": dict(counts.reasons.most_common()),
            "ended": state.ended,
            "complete": state.complete,
            "warnings": state.warnings,
            "source": {**self._described, "max_events": max_events, "max_seconds": max_seconds},
            "files": {path.name: artifacts.sha256(path) for path in segments},
        }
        artifacts.write(self.folder, **content)
        return content


def _true_side(kept: dict[str, Any], folder: Path) -> State:
    """The side of the state that the segments prove."""
    segment = kept["segment"]
    return State(**kept["with" if segment is None or (folder / segment).exists() else "without"])


def _outer(kept: Any, found: tuple[int, bytes] | None, choose: Any) -> Any:
    """The earlier or later of two (time, ``meta.dt``)."""
    new = None if found is None else (found[0], _dt.decode(found[1]).meta.dt)
    both = [tuple(value) for value in (kept, new) if value is not None]
    return choose(both, key=lambda value: value[0]) if both else None
