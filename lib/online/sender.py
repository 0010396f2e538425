"""The producer in a process of its own, so that reading the stream and judging it do not wait for each other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from typing import IO, Self

import msgspec

from lib import paths
from lib.infra import broker
from lib.online.producer import REFUSED, Order, Report

RESTARTS = 5


class ProducerError(RuntimeError):
    """The stream cannot be brought into Kafka; the message says why."""


class Sender:
    """A producer in a process of its own, started again when it fails, ended with its parent.

    Parameters
    ----------
    order : Order

    Attributes
    ----------
    reports : list of Report
        What the producers did that came to their end.
    """

    def __init__(self, order: Order):
        self.order = order
        self.reports: list[Report] = []
        self.failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Files and no pipes: a report can be longer than a pipe holds, and nobody reads before the end.
        self._answer: IO[bytes] | None = None
        self._said: IO[bytes] | None = None
        self._begun = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._end()

    @property
    def pid(self) -> int | None:
        """Process id of the producer."""
        return None if self._process is None else self._process.pid

    @property
    def done(self) -> bool:
        """Whether the stream has ended and everything is in the topic."""
        return bool(self.reports)

    @property
    def duplicates(self) -> int:
        """Events that the stream gave more than once; each is in the topic once."""
        return sum(report.duplicates for report in self.reports)

    @property
    def report(self) -> Report:
        """What was done; only when it is done."""
        return self.reports[-1]

    def check(self) -> None:
        """See whether the producer goes on, and start another when it failed.

        Raises
        ------
        ProducerError
            When starting another is no use, or has been of none.
        """
        if self.done:
            return
        if self._process is None:
            raise ProducerError("The producer is not running. Use it in a with block.")
        code = self._process.poll()
        if code is None:
            return
        answer, complaint = self._read_out()
        if code == 0:
            self.reports.append(msgspec.json.decode(answer, type=Report))
            return
        self.failures += 1
        if code == REFUSED or self.failures > RESTARTS:
            raise ProducerError(complaint or f"The producer ended with code {code}.")
        self._start()

    def _start(self) -> None:
        order = self.order
        if order.max_seconds:
            left = max(0.001, order.max_seconds - (time.monotonic() - self._begun))
            order = msgspec.structs.replace(order, max_seconds=left)
        self._answer, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  (closed in _end)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lib.online.producer"],
            cwd=paths.ROOT,
            stdin=subprocess.PIPE,
            stdout=self._answer,
            stderr=self._said,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            self._process.stdin.flush()

    def _read_out(self) -> tuple[bytes, str]:
        assert self._answer is not None and self._said is not None
        self._answer.seek(0)
        answer = self._answer.read()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self._end()
        return answer, lines[-1] if lines else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        broker.stop_child(process, 10)
        for file in (self._answer, self._said):
            if file is not None:
                file.close()
