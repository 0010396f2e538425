"""Records in child processes that die where an order says; a program of its own, see test_recorder.py.

Each line of standard input is an order: a folder, a stream's address, and where to die: at the n-th call of one of the
functions that change what is on the disk, or after a time. Each is answered by a line: how the child ended.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lib.stream import recorder, source
from lib.stream.client import EventStreamClient


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function, calls):
    """The function, dying at its n-th call: before it does anything."""
    left = iter(range(calls - 1))

    def wrapped(*args, **kwargs):
        if next(left, None) is None:
            die()
        return function(*args, **kwargs)

    return wrapped


def record(order):
    """Record as 01_stream does, into small segments."""
    if "at" in order:
        name, calls = order["at"]
        setattr(os, name, dying(getattr(os, name), calls))
    recorder.SEGMENT_EVENTS, recorder.SEGMENT_SECONDS = order["segment"], order.get("every", 10.0)
    read = source.Source(order["url"], None, order["since"], None, frozenset())
    client = EventStreamClient(order["url"], since=order["since"], max_seconds=60, yield_idle=True)
    with recorder.Recorder(Path(order["folder"]), client, read) as making:
        for event in client:
            making.write(event)
    return {name: making.manifest[name] for name in ("events", "complete", "ended")}


def run(order):
    """Record in a child; kill it after `seconds` if the order has them."""
    result, put = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(put, json.dumps(record(order)).encode())
        os._exit(0)
    os.close(put)
    if "seconds" in order:
        time.sleep(order["seconds"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(result) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return {"killed": os.WIFSIGNALED(status), **(json.loads(text) if text else {})}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
