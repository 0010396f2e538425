"""A real Kafka broker without Docker: KRaft, one process, on loopback, which ends with the process that started it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from lib import artifacts, paths
from lib.infra import InfraError, jars, java, kafka

LOOPBACK = "127.0.0.1"
CLUSTER_ID = "d2lraXNpZXZlLWxvY2FsMQ"  # any 16 bytes in base64url: "wikisieve-local1"
FORMAT = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", "server.properties")
SETTINGS = Path(__file__).with_name("kafka-server.properties")
HEAP = "512m"
START_SECONDS = 60
STOP_SECONDS = 20
LOCK_SECONDS = 15  # for a broker to end whose parent was just killed

# Standard input is a pipe from the parent: it closes when the parent closes it or ends, however it ends.
SUPERVISOR = """
exec 3<&0
"$@" 3<&- </dev/null & program=$!
(cat <&3; kill $program; sleep 10; kill -9 $program) >/dev/null 2>&1 & watcher=$!
wait $program; code=$?
kill $watcher
exit $code
"""


class Broker:
    """A Kafka broker that lives as long as a ``with`` block, and its topics as long as its folder.

    Parameters
    ----------
    folder : Path
        Where topics, settings and the log (``broker.log``) are; made if it is not there.
    settings : mapping, optional
        More of Kafka's broker settings, which win over those of ``kafka-server.properties``.

    Examples
    --------
    >>> with Broker(Path("data/04_online/kafka")) as kafka:  # doctest: +SKIP
    ...     print(kafka.bootstrap)
    127.0.0.1:36071
    """

    def __init__(self, folder: Path, settings: Mapping[str, object] = {}) -> None:
        self.folder = paths.resolve(folder)
        self.log = self.folder / "broker.log"
        self.port = free_port()
        self.bootstrap = f"{LOOPBACK}:{self.port}"  # what clients call bootstrap.servers
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Self:
        """Start the broker and wait until it answers.

        Raises
        ------
        InfraError
            When Java or a jar is missing, another broker uses the folder, or it does not answer.
        """
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start the process without waiting for its answer."""
        with artifacts.lock_folder(self.folder, InfraError, LOCK_SECONDS, self.log.name) as log:
            log.truncate(0)
            self._write_settings()
            options: dict[str, Any] = {"cwd": self.folder, "env": os.environ | java.LOCALE}
            if not (self.folder / "data" / "meta.properties").exists():
                # If this fails, the broker's start does, too, and the log names the first reason.
                subprocess.run(self._java(*FORMAT), stdout=log, stderr=log, check=False, **options)
            # The broker inherits the file, and with it the lock.
            self.process = start_child(self._java("kafka.Kafka", "server.properties"), log, **options)

    def wait_until_ready(self) -> None:
        """Wait until the broker answers; stop it if it does not in time.

        Raises
        ------
        InfraError
            When it ends, or does not answer.
        """
        deadline = time.monotonic() + START_SECONDS
        while self.running and time.monotonic() < deadline:
            if kafka.ping(self.bootstrap, {}, 1.0):
                return
        self.stop()
        raise InfraError(
            f"The Kafka broker must answer within {START_SECONDS} s. Got: {java.error_line(self.log)}. "
            f"More is in {paths.show(self.log)}. {java.influences()}"
        )

    def ensure_running(self) -> None:
        """Raise InfraError if the broker has ended: its topics are kept, and ``RESUME=True`` continues with them."""
        if not self.running:
            raise InfraError(
                f"The Kafka broker must live as long as the run. Got: it has ended ({java.error_line(self.log)}). "
                "What was judged is kept: continue with RESUME=True."
            )

    def stop(self) -> None:
        """Stop the broker; its topics stay in the folder. A second call does nothing."""
        if self.process is not None:
            stop_child(self.process)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_settings(self) -> None:
        controller = free_port()
        addresses = {
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
        }
        lines = [f"{name}={value}\n" for name, value in {**addresses, **self.settings}.items()]
        text = SETTINGS.read_text(encoding="utf-8") + "".join(lines)
        artifacts.atomic_write(self.folder / "server.properties", text)

    def _java(self, main: str, *arguments: str) -> list[str]:
        classpath = os.pathsep.join(map(str, jars.fetch("broker")))
        logging = f"-Dlog4j2.configurationFile={java.LOG4J.as_uri()}"
        flags = [f"-Xmx{HEAP}", *java.JVM_FLAGS, "-Duser.language=en", "-Djava.io.tmpdir=.", logging]
        return [str(java.find().home / "bin" / "java"), *flags, "-cp", classpath, main, *arguments]


def start_child(command: Sequence[str], log: IO[bytes], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a program that ends with this process, however this one ends; what it prints goes into a file.

    Its session is its own: the Ctrl-C that interrupts a notebook does not reach it.
    """
    supervised = ["/bin/sh", "-c", SUPERVISOR, "sh", *command]
    return subprocess.Popen(
        supervised, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, **options
    )


def stop_child(process: "subprocess.Popen[bytes]", seconds: float = STOP_SECONDS) -> None:
    """End a program that :func:`start_child` started; after so many seconds kill it."""
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def external(bootstrap: str, properties: Mapping[str, str] = {}, seconds: float = 5.0) -> str:
    """Return the address of a broker that somebody else started, once it has answered.

    Parameters
    ----------
    bootstrap : str
        ``host:port``, or several with commas.
    properties : mapping
        Kafka client properties.
    seconds : float, default 5.0
        How long to wait for an answer.

    Raises
    ------
    InfraError
        When none answers.
    KafkaAuthError, ParameterError
        See :func:`lib.infra.kafka.ping`.
    """
    if not kafka.ping(bootstrap, properties, seconds):
        hint = "" if properties else "set KAFKA_PROPERTIES if it needs TLS or a password, "
        raise InfraError(
            f"KAFKA must be the address of a running broker. Got {bootstrap}, where none answers. "
            f"Start it (docker compose up -d), {hint}or leave KAFKA empty for the embedded one."
        )
    return bootstrap


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no program listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]
