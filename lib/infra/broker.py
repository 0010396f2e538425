"""A real Kafka broker without Docker: KRaft, one process, on loopback, from the jars, gone when its parent is.

``Broker`` starts one in a folder of its own; ``external`` checks one that runs already.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lib import artifacts, paths
from lib.infra import guard, jars, java, kafka

LOOPBACK = "127.0.0.1"
CLUSTER = "d2lraXNpZXZlLWxvY2FsMQ"  # any 16 bytes in base64url: "wikisieve-local1"
MIN_FREE_BYTES = 500 * 2**20  # bytes that must be free
DEFAULT = f"{LOOPBACK}:9092"  # where docker-compose.yml has its broker
START_SECONDS = 60
STOP_SECONDS = 20

PROPERTIES = """process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
num.partitions=2
default.replication.factor={copies}
min.insync.replicas={in_sync}
num.network.threads=2
num.io.threads=2
message.max.bytes=8388608
log.retention.ms=-1
log.cleaner.enable=true
offsets.topic.num.partitions=4
offsets.topic.replication.factor={copies}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
controlled.shutdown.max.retries=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

LOG4J = """status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


class BrokerError(RuntimeError):
    """There is no Kafka broker to speak to; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """A broker's place among others.

    Attributes
    ----------
    node : int
        Its number, from 1.
    controllers : tuple of int
        The ports of all controllers, its own among them. Topics get as many copies, and a majority must be in sync.
    """

    node: int
    controllers: tuple[int, ...]


class Broker:
    """A Kafka broker that lives as long as a ``with`` block, and its topics as long as its folder.

    Parameters
    ----------
    folder : Path
        Where topics, settings and the log (``broker.log``) are; made if it is not there.
    port : int, default 0
        Where it listens on 127.0.0.1; 0 takes a free port, which is kept over :meth:`ensure_running`.
    heap : str, default "512m"
        Memory of its JVM.
    place : Place, optional
        Where it stands among others; without it, it is alone.

    Examples
    --------
    >>> with Broker(Path("data/04_online/kafka")) as kafka:  # doctest: +SKIP
    ...     print(kafka.bootstrap)
    127.0.0.1:36071
    """

    def __init__(self, folder: Path, port: int = 0, heap: str = "512m", place: Place | None = None) -> None:
        self.folder = paths.resolve(folder)
        self.port = port
        self.heap = heap
        self.place = place
        self.takeover = guard.PATIENCE + 5.0  # seconds
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """What clients call ``bootstrap.servers``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id of the JVM; None when it is not running."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            if self.running:
                return int(self._pidfile.read_text(encoding="ascii"))
        return None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def log(self) -> Path:
        """What the broker wrote while it ran."""
        return self.folder / "broker.log"

    @property
    def _pidfile(self) -> Path:
        return self.folder / "broker.pid"

    def start(self) -> Self:
        """Start the broker and wait until it answers.

        Returns
        -------
        Broker
            This one.

        Raises
        ------
        BrokerError
            When the port is taken, the disk is full, the folder is another broker's, or it does not answer.
        JavaError, JarError
            When Java or a jar is missing.
        """
        if self.running:
            return self
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Start the process without waiting for its answer."""
        _make_room(self.folder)
        self._outwait()
        self.port = _claim(self.port)
        settings = self._configure()
        self._format(settings)
        self._guard = guard.start(self._pidfile, self.log, *self._java("kafka.Kafka", str(settings)))

    def ensure_running(self) -> bool:
        """Start the broker again, on the same port, if it is gone.

        Returns
        -------
        bool
            Whether it had to be started.
        """
        if self.running:
            return False
        self.stop()
        self.start()
        return True

    def stop(self) -> None:
        """Stop the broker; its topics stay in the folder. A second call does nothing."""
        process, self._guard = self._guard, None
        if process is not None:
            guard.stop(process, STOP_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _outwait(self) -> None:
        """Let a broker end whose parent was just killed; a folder that stays taken is another's."""
        deadline = time.monotonic() + self.takeover
        while guard.busy(self._pidfile):
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"Kafka's folder must be its own. Got {paths.show(self.folder)}, where another broker runs. "
                    "Stop the run that it belongs to, or choose another folder."
                )
            time.sleep(0.1)

    def _configure(self) -> Path:
        place = self.place or Place(1, (free_port(),))
        text = PROPERTIES.format(
            host=LOOPBACK,
            port=self.port,
            data=java.as_property(self.folder / "data"),
            node=place.node,
            controller=place.controllers[place.node - 1],
            voters=",".join(f"{node}@{LOOPBACK}:{port}" for node, port in enumerate(place.controllers, 1)),
            copies=len(place.controllers),
            in_sync=len(place.controllers) // 2 + 1,
        )
        artifacts.atomic_write(self.folder / "log4j2.properties", LOG4J)
        return artifacts.atomic_write(self.folder / "server.properties", text)

    def _format(self, settings: Path) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        command = self._java(
            "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(settings), "--ignore-formatted"
        )
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise BrokerError(
                f"Kafka must be able to format {paths.show(self.folder)}. "
                f"Got: {_complaint(done.stdout + done.stderr)}. Delete the folder, or choose another."
            )

    def _java(self, main: str, *arguments: str) -> list[str]:
        classpath = os.pathsep.join(map(str, jars.broker()))
        logs = f"-Dlog4j2.configurationFile=file:{self.folder / 'log4j2.properties'}"
        flags = [f"-Xmx{self.heap}", *java.QUICK, logs, "-cp", classpath]
        return [str(java.find().program), *flags, main, *arguments]

    def wait(self) -> None:
        """Wait until the process answers as a broker does.

        Raises
        ------
        BrokerError
            When it ends, or does not answer in time; it is stopped then.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.running:
                break
            if is_ready(self.bootstrap, 1.0):
                return
            time.sleep(0.1)
        gone = not self.running
        self.stop()
        if gone:
            complaint = _complaint(self.log.read_text(errors="replace"))
            raise BrokerError(
                f"The Kafka broker must start. Got: {complaint}. More stands in {paths.show(self.log)}."
            )
        raise BrokerError(
            f"The Kafka broker must answer within {START_SECONDS} s. Got no answer. Look into {paths.show(self.log)}."
        )


def external(bootstrap: str, properties: Mapping[str, str] = {}, seconds: float = 5.0) -> str:
    """Check that somebody else's broker answers.

    Parameters
    ----------
    bootstrap : str
        ``host:port``, or several with commas.
    properties : mapping
        Kafka client properties.
    seconds : float, default 5.0
        How long to wait for an answer.

    Returns
    -------
    str
        The same.

    Raises
    ------
    BrokerError
        When it is not ``host:port`` or nobody answers.
    KafkaAuthError, PropertiesError
        See :func:`lib.infra.kafka.ping`.

    Examples
    --------
    >>> external("localhost")
    Traceback (most recent call last):
    lib.infra.broker.BrokerError: KAFKA must be host:port, several with commas. Got 'localhost'. Try 127.0.0.1:9092.
    """
    ports = [int(port) for port in re.findall(r":(\d+)", bootstrap)]
    if not re.fullmatch(r"[^\s:,]+:\d+(,[^\s:,]+:\d+)*", bootstrap) or max(ports) > 65535:
        raise BrokerError(f"KAFKA must be host:port, several with commas. Got {bootstrap!r}. Try {DEFAULT}.")
    if not is_ready(bootstrap, seconds, properties):
        hint = "" if properties else "give KAFKA_PROPERTIES if it wants TLS or a password, "
        raise BrokerError(
            f"KAFKA must be the address of a running broker. Got {bootstrap}, where none answers. "
            f"Start it (docker compose up -d), {hint}or leave KAFKA empty for the embedded one."
        )
    return bootstrap


def is_ready(bootstrap: str, seconds: float, properties: Mapping[str, str] = {}) -> bool:
    """Return whether a Kafka broker answers within so many seconds; see :func:`lib.infra.kafka.ping`."""
    if not any(_connects(server, seconds) for server in bootstrap.split(",")):
        return False
    return kafka.ping(bootstrap, properties, seconds)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _claim(port: int) -> int:
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        # Ports of connections that were just closed may be listened on again; those in use may not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise BrokerError(
                f"Kafka's port must be free. Got {port}, which cannot be used ({error.strerror}). "
                "Stop the program that listens there, or take port 0: a free one is chosen."
            ) from None
    return port


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BrokerError(
            f"Kafka needs a folder that can be written to. Got {paths.show(folder)} ({error.strerror}). Choose another."
        ) from None
    if free < MIN_FREE_BYTES:
        raise BrokerError(
            f"Kafka needs {MIN_FREE_BYTES >> 20} MB of free disk. Got {free >> 20} MB at {paths.show(folder)}. "
            "Make room there."
        )


def _connects(server: str, seconds: float) -> bool:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), seconds).close()
    except OSError:
        return False
    return True


def _complaint(text: str) -> str:
    """Find the line that says what is wrong: the last that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.search("Exception|Error|ERROR|FATAL", line)]
    return (named or lines or ["it ended without a word"])[-1]
