"""Fetch the jars by their coordinates, and trust none whose SHA-256 is not the lock's.

What is wanted stands in ``jars/*/jgo.toml``; ``jgo`` turned it into ``jgo.lock.toml`` (``make lock``). Here only
the lock counts, so nothing is resolved anew. The files lie in Maven's local repository: ``M2_REPO``, else
``~/.m2/repository``.
"""

import functools
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lib import artifacts, paths

FOLDER = paths.ROOT / "jars"
PURPOSES = ("connector", "broker", "default-day")
DOWNLOADS_AT_ONCE = 8


class JarError(RuntimeError):
    """A jar is missing or is not what the lock says; the message says what to do."""


@dataclass(frozen=True)
class Jar:
    """One line of a lock."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def name(self) -> str:
        """File name, as every Maven repository has it.

        Examples
        --------
        >>> Jar("org.apache.kafka", "kafka-clients", "4.3.1", "", "").name
        'kafka-clients-4.3.1.jar'
        """
        suffix = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{suffix}.jar"

    def below(self, repository: Path) -> Path:
        """Where it lies in a repository."""
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.name)


def connector() -> list[Path]:
    """Return the jars that PySpark lacks to speak to Kafka, checked."""
    return list(fetch("connector"))


def broker() -> list[Path]:
    """Return the jars of Kafka's broker, checked."""
    return list(fetch("broker"))


def default_day() -> Path:
    """Return the jar that holds the default day of edits, checked."""
    return fetch("default-day")[0]


@functools.cache
def fetch(purpose: str) -> tuple[Path, ...]:
    """Return the jars of one purpose, downloading those that are not there.

    Parameters
    ----------
    purpose : {"connector", "broker", "default-day"}
        A folder of ``jars/``.

    Returns
    -------
    tuple of Path
        The files, in the order of the lock; each has the SHA-256 that the lock names.

    Raises
    ------
    JarError
        When a file has another SHA-256, or is missing and cannot be downloaded.
    """
    wanted = lock(purpose)
    here = repository()
    missing = [jar for jar in wanted if not jar.below(here).exists()]
    if missing:
        _download(missing, here, purpose)
    for jar in wanted:
        _check(jar, jar.below(here))
    return tuple(jar.below(here) for jar in wanted)


def lock(purpose: str) -> list[Jar]:
    """Read a lock.

    Examples
    --------
    >>> [jar.name for jar in lock("default-day")]
    ['druid-processing-37.0.0-tests.jar']
    """
    content = tomllib.loads((FOLDER / purpose / "jgo.lock.toml").read_text(encoding="utf-8"))
    return [
        Jar(line["groupId"], line["artifactId"], line["version"], line.get("classifier", ""), line["sha256"])
        for line in content["dependencies"]
    ]


def repository() -> Path:
    """Return Maven's local repository: ``M2_REPO``, else ``~/.m2/repository``."""
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def _check(jar: Jar, path: Path) -> None:
    found = artifacts.sha256(path)
    if found != jar.sha256:
        raise JarError(
            f"{jar.name} must have the SHA-256 {jar.sha256[:16]}… of jars/. Got {found[:16]}…: it is damaged or is "
            f"not the published file. Delete {path} and run again."
        )


def _download(missing: Sequence[Jar], here: Path, purpose: str) -> None:
    """Download beside the repository, check, and only then move in: an interruption leaves nothing half done."""
    print(f"Downloading {len(missing)} jars ({purpose}).", file=sys.stderr, flush=True)
    try:
        here.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=".wikisieve-", dir=here)
        with beside as fresh, ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(lambda jar: _download_one(jar, Path(fresh), here), missing))
    except OSError as error:
        raise JarError(
            f"{here} must be a folder that can be written to, with 100 MB free. Got {error.strerror or error}. "
            "Make room there, or set M2_REPO to another folder."
        ) from None


def _download_one(jar: Jar, fresh: Path, here: Path) -> None:
    import requests
    from jgo.maven import MavenContext

    offline = os.environ.get("JGO_OFFLINE", "").lower() in ("1", "true", "yes")
    maven = MavenContext(repo_cache=fresh, offline=offline, timeout=60)
    component = maven.project(jar.group, jar.artifact).at_version(jar.version)
    try:
        path = component.artifact(classifier=jar.classifier, packaging="jar").resolve()
    except (requests.RequestException, RuntimeError):
        raise JarError(
            f"{jar.name} must be downloaded once, and Maven's repository did not answer. "
            "Connect to the network and run again: what is there already is kept."
        ) from None
    _check(jar, path)
    target = jar.below(here)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)


def main() -> None:
    """Fetch everything, or say in one sentence why not."""
    try:
        print(f"Jars: {sum(len(fetch(purpose)) for purpose in PURPOSES)}, each with the SHA-256 of its lock")
    except JarError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
