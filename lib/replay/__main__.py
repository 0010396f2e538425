"""``python -m lib.replay RECORDING``: serve a recording as EventStreams would."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading

from lib import paths
from lib.replay import faults
from lib.replay.server import Server
from lib.stream import recording


def main(arguments: list[str] | None = None) -> None:
    """Serve a recording until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.replay", description="Serve a recording as Wikimedia's EventStreams would."
    )
    add = parser.add_argument
    add("recording", type=paths.resolve, help="a file of JSON lines or a folder of events-*.jsonl.gz")
    add("--port", type=int, default=0, help="port to listen on (default: a free one)")
    add("--speed", type=float, default=0.0, help="times real time (default: as fast as the client)")
    add("--faults", type=paths.resolve, help="a fault plan in YAML (see lib/replay/faults.py)")
    options = parser.parse_args(arguments)
    try:
        plan = faults.load(options.faults.read_text() if options.faults else "")
        server = Server(recording.lines(options.recording), plan, options.port, speed=options.speed)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
