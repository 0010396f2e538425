"""Stage 1's writer: a stream becomes a recording that is whole whatever happens to the process.

A recording is a folder of segments (`lib.stream.recording`) and ``state.json``: position and counts to resume from.
A segment is written first, then the state that counts it, each by one rename; a segment that the state does not count
is removed when the recording is resumed. So a process that dies at any moment, by ``kill -9`` or a power cut, leaves
every event either in a segment or still to be fetched.

Run again with the same folder, a recording that was not finished is resumed; one that was finished, or that came
from another source, range or choice of wikis, is replaced. Nothing is ever mixed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec

from lib import artifacts, events, paths, plots
from lib.stream import client as stream
from lib.stream import recording
from lib.stream.client import EventStreamClient, StreamEvent
from lib.stream.recording import RecordingError
from lib.stream.source import Source

STATE = "state.json"
SEGMENT_EVENTS = 10_000
LOCK_SECONDS = 10.0  # a notebook's kernel outlives papermill by a second or two when that is killed
SEGMENT_SECONDS = 10.0


class State(msgspec.Struct):
    """``state.json``: what is known of a recording up to a segment."""

    source: dict[str, Any]
    segments: int = 0
    dead_letter_bytes: int = 0
    position: dict[str, Any] | None = None
    first_ms: int | None = None
    last_ms: int | None = None
    ended: str = ""
    complete: bool = False
    warnings: list[str] = []


class Recorder:
    """A recording that is being made in a folder; a context manager.

    A block that is interrupted ends its recording like one that reaches its end: what was received is written, and the
    manifest. (The signal ends the client after an event: one between the client and :meth:`write` would be lost.) After
    any other error what was received is written, so that the next run resumes there.

    Parameters
    ----------
    folder : Path
        OUT_DIR.
    client : EventStreamClient
        The client whose events are written; it is set to where the recording stands.
    source : Source
        What the client reads.

    Attributes
    ----------
    state : State
        What is known of the recording.
    manifest : dict
        The manifest, after the block.

    Raises
    ------
    RecordingError
        If another process records into the folder, it holds segments without our state, or the disk is full.
    """

    def __init__(self, folder: Path, client: EventStreamClient, source: Source) -> None:
        self.folder, self.client = folder, client
        self.manifest: dict[str, Any] = {}
        self.state = State(source.describe())
        self._pending: list[bytes] = []
        self._dead_letters: list[str] = []
        self._committed_at = time.monotonic()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            opened.enter_context(artifacts.lock_folder(self.folder, RecordingError, LOCK_SECONDS))
            self.state = state = self._recover()
            with contextlib.suppress(ValueError):  # no other thread than the main one has signals
                opened.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, self._interrupt))
            self._opened = opened.pop_all()
        if state.position is not None:
            self.client.resume(state.position)
        self.client.stop_reason = state.ended if state.complete else ""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        is_raised = isinstance(error, KeyboardInterrupt)
        ended = "interrupted" if is_raised else self.client.stop_reason
        with self._opened:
            if error is not None and not is_raised:
                with contextlib.suppress(RecordingError):  # the first error counts
                    self._commit()
                return False
            if not self.state.complete:
                self._commit(ended, complete=not ended.startswith(("interrupted", stream.SILENCE)))
            self._write_manifest()
        return is_raised

    def _interrupt(self, *_: object) -> None:
        self.client.stop_reason = "interrupted"

    def write(self, event: StreamEvent | None) -> None:
        """Take an event; close a segment when it is large or old enough, also when nothing comes (None)."""
        if event is not None and event.event is not None:
            state, moment = self.state, event.event.time_ms
            self._pending.append(event.data.replace(b"\n", b" "))
            state.first_ms = moment if state.first_ms is None else min(moment, state.first_ms)
            state.last_ms = moment if state.last_ms is None else max(moment, state.last_ms)
        elif event is not None:
            self._dead_letters.append(artifacts.dead_letter(event.data, event.reason or ""))
        is_old = time.monotonic() - self._committed_at >= SEGMENT_SECONDS
        if is_old or len(self._pending) >= SEGMENT_EVENTS:
            self._commit()

    def _commit(self, ended: str = "", *, complete: bool = False) -> None:
        """Write what was received, together with where to resume."""
        try:
            after = msgspec.structs.replace(
                self.state,
                segments=self.state.segments + bool(self._pending),
                dead_letter_bytes=self._append_dead_letters(),
                position=self.client.position,
                ended=ended,
                complete=complete,
                warnings=[*dict.fromkeys([*self.state.warnings, *self.client.warnings])],
            )
            if self._pending:
                recording.write_segment(self.folder / recording.segment_name(after.segments), self._pending)
            artifacts.atomic_write(self.folder / STATE, msgspec.json.encode(after))
        except OSError as error:
            raise RecordingError(
                f"OUT_DIR must have room and be writable. Got: {error.strerror or error}. What was written before is "
                f"safe in {paths.show(self.folder)}. Make room and run again: it is resumed."
            ) from error
        self.state, self._pending, self._dead_letters = after, [], []
        self._committed_at = time.monotonic()

    def _append_dead_letters(self) -> int:
        """Append invalid events after those that the state counts; return the file's size."""
        with open(self.folder / artifacts.DEAD_LETTERS, "ab") as file:
            file.seek(file.truncate(self.state.dead_letter_bytes))
            file.write("".join(self._dead_letters).encode())
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def _recover(self) -> State:
        """Return the state of the folder, after removing what does not belong to it."""
        manifest, state = self.folder / artifacts.NAME, None
        with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            state = msgspec.json.decode((self.folder / STATE).read_bytes(), type=State)
        if state is None and recording.segments(self.folder):
            raise RecordingError(
                f"OUT_DIR must be empty or 01_stream's own. Got {paths.show(self.folder)}, which has "
                f"events-*.jsonl.gz without a readable {STATE}. Choose another folder."
            )
        is_finished = state is not None and state.complete and manifest.exists()
        if state is None or state.source != self.state.source or is_finished:
            state = self.state
        manifest.unlink(missing_ok=True)
        artifacts.atomic_write(self.folder / STATE, msgspec.json.encode(state))
        for path in [*recording.segments(self.folder)[state.segments :], *self.folder.glob(".*.tmp")]:
            path.unlink()
        return state

    def _write_manifest(self) -> None:
        state, counts = self.state, self.client.counts
        limits = {"max_events": self.client.rule.max_events, "max_seconds": self.client.rule.max_seconds}
        self.manifest = {
            **{name: getattr(counts, name) for name in (*stream.KINDS, "received", "reconnects")},
            "first_dt": None if state.first_ms is None else events.iso(state.first_ms),
            "last_dt": None if state.last_ms is None else events.iso(state.last_ms),
            "ended": state.ended,
            "complete": state.complete,
            "warnings": state.warnings,
            "source": {**state.source, **limits},
            "files": {path.name: artifacts.sha256(path) for path in recording.segments(self.folder)},
        }
        artifacts.write(self.folder, **self.manifest)


def progress(client: EventStreamClient) -> Iterator[StreamEvent | None]:
    """Yield what a client yields, and show how far it is (:class:`lib.plots.Panel`)."""
    edits, wikis, counts = 0, set[str | None](), client.counts

    def values() -> dict[str, Any]:
        waiting = {"waiting": client.last_error} if client.last_error else {}
        count = {"events": counts.events, "edits": edits, "wikis": len(wikis)}
        return {**count, "reconnects": counts.reconnects, **waiting}

    with plots.Panel(values) as panel:
        for event in client:
            yield event
            if event is not None and event.event is not None:
                edits += event.event.is_edit
                wikis.add(event.event.wiki)
            panel.update()
