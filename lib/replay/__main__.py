"""``python -m lib.replay RECORDING``: serve a recording as EventStreams would."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lib import paths
from lib.replay import faults
from lib.replay.server import CANARY_SECONDS, Server
from lib.stream import recording


def main(arguments: list[str] | None = None) -> int:
    """Serve a recording until interrupted."""
    options = _parser().parse_args(arguments)
    warnings: list[str] = []
    try:
        plan = faults.load(options.faults or {})
        lines = _readable_lines(options.recording, warnings)
        server = Server(lines, plan, options.port, speed=options.speed, canary_seconds=options.canaries)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if others := server.timeline.other_streams():
        names = ", ".join(f"{stream}: {n:,}" for stream, n in sorted(others.items()))
        warnings.append(
            f"A recording must be of recent changes. Got {others.total():,} events of other streams ({names}), which "
            "were skipped. Their meta.stream shows it."
        )
    server.warning = " ".join(warnings)
    print(server.warning, end="", file=sys.stderr, flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        print(server.url, flush=True)
        if options.while_stdin:
            sys.stdin.read()
        else:
            threading.Event().wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lib.replay", description="Serve a recording as Wikimedia's EventStreams would."
    )
    add = parser.add_argument
    add(
        "recording",
        type=paths.resolve,
        help="JSON lines (.jsonl, .jsonl.gz) or a folder of events-*.jsonl.gz",
    )
    add("--port", type=int, default=8888, help="port to listen on, 0 for a free one (default: 8888)")
    add("--speed", type=float, default=0.0, help="times real time (default: as fast as the client)")
    add("--faults", type=paths.resolve, help="a fault plan in YAML (see lib/replay/faults.py)")
    add("--canaries", type=int, default=CANARY_SECONDS, help="seconds between canaries; 0: none")
    add("--while-stdin", action="store_true", help="stop when standard input closes")
    return parser


def _readable_lines(path: Path, warnings: list[str]) -> Iterator[bytes]:
    """Yield the lines of a recording; of a damaged one those that can be read, with a warning."""
    number = 0
    try:
        for number, line in enumerate(recording.lines(path), 1):
            yield line
    except recording.RecordingError as error:
        if not number:
            raise
        warnings.append(str(error))


if __name__ == "__main__":
    sys.exit(main())
