"""Run a program that must not outlive the one that started it, however that one ends.

``python guard.py PIDFILE PROGRAM ARGUMENTS…``: standard input is a pipe from the parent. When it closes (the parent
closed it, ended, or was killed) the program gets SIGTERM, and SIGKILL ten seconds later. The file holds the program's
process id and is locked as long as it runs. :func:`start` and :func:`stop` are for the parent. Standard library only.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

PATIENCE = 10  # seconds from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1


def command(pidfile: Path, *program: str) -> list[str]:
    """Return what runs a program under guard."""
    return [sys.executable, "-I", __file__, str(pidfile), *program]


def start(
    pidfile: Path, log: Path, *program: str, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a program under guard; what it writes goes into a file, which is begun anew."""
    with open(log, "wb") as file:
        # A session of its own: the Ctrl-C that interrupts a notebook is not for the program.
        return subprocess.Popen(
            command(pidfile, *program),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=env,
            start_new_session=True,
        )


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Close a guard's pipe, which ends its program, and wait for it; after so many seconds kill it."""
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(pidfile: str, *program: str) -> int:
    """Run the program until it ends or the parent does; return its exit code."""
    with open(pidfile, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # No thread runs yet, so code between fork and exec is safe.
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: PLW1509
        print(process.pid, file=file, flush=True)
        threading.Thread(target=_end_with_parent, args=(process,), daemon=True).start()
        code = process.wait()
    return code if code >= 0 else 128 - code


def busy(pidfile: Path) -> bool:
    """Return whether a guard holds this file."""
    try:
        with open(pidfile, "r+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _end_with_parent(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()


def _die_with_parent() -> None:
    """Should this guard itself be killed, Linux ends the program (elsewhere it would stay)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
