"""A cluster without Docker: Spark's standalone master and workers, and several brokers, on loopback.

``python -m lib.infra.cluster master …`` and ``… worker spark://HOST:PORT`` start one of Spark's own programs with
this project's Java, Spark and Python, as the containers of docker-compose.yml do.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

import pyspark

from lib.infra import broker, guard, java

MAINS = {"master": "org.apache.spark.deploy.master.Master", "worker": "org.apache.spark.deploy.worker.Worker"}
WORKERS = 2  # of one core each
BROKERS = 3  # a majority must be in sync for a write to be acknowledged
START_SECONDS = 90
STOP_SECONDS = 20


class ClusterError(RuntimeError):
    """The cluster did not start; the message says where to look."""


def command(role: str, *arguments: str) -> list[str]:
    """Return what starts a master or a worker.

    Parameters
    ----------
    role : {"master", "worker"}
        Which of the two.
    *arguments : str
        Handed on to it.

    Examples
    --------
    >>> command("master", "--port", "7077")[1:]
    ['org.apache.spark.deploy.master.Master', '--port', '7077']
    """
    return [str(_home() / "bin" / "spark-class"), MAINS[role], *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which Spark's own programs find this project's Java, Spark and Python."""
    quick = " ".join(java.QUICK)
    ours = {"SPARK_HOME": str(_home()), "PYSPARK_PYTHON": sys.executable}
    return java.find().environment() | ours | {"SPARK_LAUNCHER_OPTS": quick, "SPARK_DAEMON_JAVA_OPTS": quick}


class Spark:
    """A standalone master and its workers, each a process of its own, for the length of a ``with`` block.

    Parameters
    ----------
    folder : Path
        Where the workers work and everybody logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = self.pages = 0
        self._guards: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def master(self) -> str:
        """What ``SPARK_MASTER`` must be."""
        return f"spark://{broker.LOOPBACK}:{self.port}"

    def pid(self, name: str) -> int:
        """Return the process id of ``"master"``, ``"worker-1"`` and so on."""
        return int((self.folder / f"{name}.pid").read_text(encoding="ascii"))

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port, self.pages = broker.free_port(), broker.free_port()
        try:
            self._launch(
                "master", "--host", broker.LOOPBACK, "--port", str(self.port), "--webui-port", str(self.pages)
            )
            self._wait(0)
            for number in range(1, WORKERS + 1):
                self._launch(f"worker-{number}", *self._worker(number))
            self._wait(WORKERS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop workers and master; a second call does nothing."""
        for name in list(self._guards)[::-1]:
            guard.stop(self._guards.pop(name), STOP_SECONDS)

    def _worker(self, number: int) -> list[str]:
        work = self.folder / f"work-{number}"
        size = ["--cores", "1", "--memory", "1g"]
        return ["--host", broker.LOOPBACK, *size, "--webui-port", "0", "--work-dir", str(work), self.master]

    def _launch(self, name: str, *arguments: str) -> None:
        program = command(name.partition("-")[0], *arguments)
        env = environment() | {"SPARK_LOCAL_IP": broker.LOOPBACK, "SPARK_DAEMON_MEMORY": "256m"}
        files = self.folder / f"{name}.pid", self.folder / f"{name}.log"
        self._guards[name] = guard.start(*files, *program, env=env)

    def _wait(self, workers: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._guards.values()):
                break
            if self._alive() >= workers:
                return
            time.sleep(0.1)
        raise ClusterError(
            f"A master and {workers} workers must answer. Got none. Look into the logs in {self.folder}."
        )

    def _alive(self) -> int:
        """Ask the master how many workers it has; -1 while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{broker.LOOPBACK}:{self.pages}/json/", timeout=5) as answer:
                return int(json.load(answer)["aliveworkers"])
        except (OSError, ValueError):
            return -1


class Brokers:
    """Three brokers that keep a copy of every topic each, for the length of a ``with`` block.

    Parameters
    ----------
    folder : Path
        One folder below it for each.
    """

    def __init__(self, folder: Path) -> None:
        controllers = tuple(broker.free_port() for _ in range(BROKERS))
        self.nodes = [
            broker.Broker(folder / f"kafka-{node}", heap="384m", place=broker.Place(node, controllers))
            for node in range(1, BROKERS + 1)
        ]

    @property
    def bootstrap(self) -> str:
        """All of them, with commas."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:  # none answers before a majority is there
                node.launch()
            for node in self.nodes:
                node.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop them all; their topics stay in the folder."""
        for node in self.nodes:
            node.stop()


def _home() -> Path:
    return Path(pyspark.__file__).parent


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in MAINS:
        sys.exit(f"The first argument must be master or worker. Got {sys.argv[1:]}. Try master.")
    program = command(sys.argv[1], *sys.argv[2:])
    os.execve(program[0], program, environment())
