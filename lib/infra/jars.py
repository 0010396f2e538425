"""Fetch the jars by their Maven coordinates; each must have the SHA-256 of its lock.

What is wanted stands in ``jars/*/jgo.toml``; ``jgo`` resolves it into ``jgo.lock.toml`` (``make lock``). Only the lock
is read here. The files lie in Maven's local repository: ``M2_REPO``, else ``~/.m2/repository``.
"""

import functools
import os
import shutil
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lib import artifacts, paths
from lib.infra import InfraError

FOLDER = paths.ROOT / "jars"
PURPOSES = ("connector", "broker", "default-day")


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
        The files, in the order of the lock.

    Raises
    ------
    InfraError
        When a file has another SHA-256 than its lock, or is missing and cannot be downloaded.

    Examples
    --------
    >>> [path.name for path in fetch("default-day")]
    ['druid-processing-37.0.0-tests.jar']
    """
    here = repository()
    jars = {here / path_in_repository(jar): jar for jar in read_lock(purpose)}
    if missing := [path for path in jars if not path.exists()]:
        print(f"Downloading {len(missing)} jars ({purpose}).", file=sys.stderr, flush=True)
        try:
            here.mkdir(parents=True, exist_ok=True)
            # Files are moved in when they are whole: an interrupted download leaves no half of a jar.
            with TemporaryDirectory(prefix=".wikisieve-", dir=here) as folder, ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda path: _download(jars[path], Path(folder), path), missing))
        except OSError as error:
            raise InfraError(
                f"{here} must be a folder that can be written to, with 100 MB free. Got {error.strerror or error}. "
                "Make room there, or set M2_REPO to another folder."
            ) from None
    for path, jar in jars.items():
        if (found := artifacts.sha256(path)) != jar["sha256"]:
            raise InfraError(
                f"{path.name} must have the SHA-256 {jar['sha256'][:16]}… of jars/. Got {found[:16]}…: it is damaged "
                f"or is not the published file. Delete {path} and run again."
            )
    return tuple(jars)


def read_lock(purpose: str) -> list[dict[str, Any]]:
    """Return the jars that a lock names: group, artifact, version, classifier and SHA-256 of each."""
    return tomllib.loads((FOLDER / purpose / "jgo.lock.toml").read_text(encoding="utf-8"))["dependencies"]


def path_in_repository(jar: dict[str, Any]) -> Path:
    """Return where every Maven repository has a jar.

    Examples
    --------
    >>> str(path_in_repository({"groupId": "org.example", "artifactId": "thing", "version": "1.0"}))
    'org/example/thing/1.0/thing-1.0.jar'
    """
    artifact, version = jar["artifactId"], jar["version"]
    classifier = f"-{jar['classifier']}" if "classifier" in jar else ""
    return Path(*jar["groupId"].split("."), artifact, version, f"{artifact}-{version}{classifier}.jar")


def repository() -> Path:
    """Return Maven's local repository."""
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def _download(jar: dict[str, Any], folder: Path, target: Path) -> None:
    import requests
    from jgo.maven import MavenContext  # takes a second to import, and is needed once

    project = MavenContext(repo_cache=folder, timeout=60).project(jar["groupId"], jar["artifactId"])
    artifact = project.at_version(jar["version"]).artifact(classifier=jar.get("classifier", ""))
    try:
        path = artifact.resolve()
    except (requests.RequestException, RuntimeError):
        raise InfraError(
            f"{target.name} must be downloaded once, and Maven's repository did not answer. "
            "Connect to the network and run again: what is there already is kept."
        ) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)


if __name__ == "__main__":
    try:
        print(f"Jars: {sum(len(fetch(purpose)) for purpose in PURPOSES)}, each with the SHA-256 of its lock")
    except InfraError as error:
        sys.exit(str(error))
