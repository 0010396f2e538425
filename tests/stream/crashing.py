"""What child processes run that record and die at a chosen call; see test_recorder.py."""

import os
import signal
from pathlib import Path

from lib.stream import recorder, source
from lib.stream.client import EventStreamClient


def dying(function, calls):
    """Return the function; at its n-th call the process dies before it does anything."""
    left = iter(range(calls - 1))

    def wrapped(*args, **kwargs):
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


def record(folder, url, since, *, dies_at=None, segment_seconds=10.0):
    """Record as 01_stream does, into small segments; `dies_at`: a function of `os`, and which call."""
    if dies_at is not None:
        name, calls = dies_at
        setattr(os, name, dying(getattr(os, name), calls))
    recorder.SEGMENT_EVENTS, recorder.SEGMENT_SECONDS = 40, segment_seconds
    read = source.Source(url, None, since, None, frozenset())
    client = EventStreamClient(url, since=since, max_seconds=60, yield_idle=True)
    with recorder.Recorder(Path(folder), client, read) as recording:
        for event in client:
            recording.write(event)
