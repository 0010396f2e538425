"""Run a program that must not outlive the one that started it, however that one ends.

``python guard.py PIDFILE PROGRAM ARGUMENTS…``: standard input is a pipe from the parent. When it closes (the parent
closed it, ended, or was killed) the program gets SIGTERM, and SIGKILL ten seconds later. The file holds the program's
process id and is locked as long as it runs. Standard library only.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 10  # seconds from SIGTERM to SIGKILL
PR_SET_PDEATHSIG = 1


def main(pidfile: str, *command: str) -> int:
    """Run the command until it ends or the parent does; return its exit code."""
    with open(pidfile, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # No thread runs yet, so code between fork and exec is safe.
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: PLW1509
        print(program.pid, file=file, flush=True)
        threading.Thread(target=_end_with_parent, args=(program,), daemon=True).start()
        code = program.wait()
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


def _end_with_parent(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    program.terminate()
    try:
        program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()


def _die_with_parent() -> None:
    """Should this guard itself be killed, Linux ends the program (elsewhere it would stay)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
