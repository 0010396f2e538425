"""A Spark session that needs no set-up by hand: the right Java, this Python, quiet, on loopback, in UTC."""

import logging
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyspark
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from lib import artifacts, paths
from lib.infra import InfraError, jars, java

LOOPBACK = "127.0.0.1"
TASK_TRIES = 4  # a Python worker that dies takes its task with it; a local master would try once
LOGS = paths.DATA / "logs"


class Interrupted(KeyboardInterrupt):
    """Somebody interrupted before there was anything to go on with."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in the place of a traceback."""
        return [str(self)]


def spark_session(name: str, master: str = "local[*]", **conf: str) -> SparkSession:
    """Return the running Spark session, or else a new one; ``spark.stop()`` or the end of a ``with`` block ends it.

    Parameters
    ----------
    name : str
        Shown in Spark's own pages and logs.
    master : str, default "local[*]"
        Spark's master. ``local`` ones retry a failed task; any other gets this package sent to its workers.
    **conf
        More of Spark's settings: ``**{"spark.driver.memory": "2g"}``.

    Returns
    -------
    SparkSession
        The settings are those of its start. Its JVM ends with this Python process.

    Raises
    ------
    InfraError
        When Java or a jar is missing, the JVM does not start, or the master does not answer.
    Interrupted
        After Ctrl-C, or the notebook's stop button.
    """
    if (running := SparkSession.getActiveSession()) is not None:
        return running
    # Without a handler the first warning of py4j's sets one up, which writes all loggers' warnings into the cell.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        # In a thread: an interrupt in the middle of it would leave a JVM with half a context.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_start_context, name, master, conf).result()
        spark = SparkSession.builder.getOrCreate()
    except KeyboardInterrupt:
        raise Interrupted("Interrupted while Spark was starting. Run this again to go on.") from None
    except InfraError:
        raise
    except Exception as error:  # py4j raises kinds of its own for whatever happens in the JVM
        raise InfraError(
            f"Spark must start with the master {master!r}. Got: {java.error_line(log_file(name))} "
            f"({java.find().description}). More is in {paths.show(log_file(name))}. {java.influences()}"
        ) from error
    spark.conf.set("spark.sql.shuffle.partitions", spark.sparkContext.defaultParallelism)
    if not is_local(master):
        spark.sparkContext.addPyFile(package_archive())
    return spark


def _start_context(name: str, master: str, conf: dict[str, str]) -> None:
    """Start the JVM; what it prints goes to a file."""
    version = jars.read_lock("connector")[0]["version"]
    if pyspark.__version__ != version:  # as where PYTHONPATH has another one
        found = f"{pyspark.__version__} of {Path(pyspark.__file__).parent}"
        raise InfraError(f"pyspark must be {version}. Got {found}. {java.influences()}")
    _check_master(master)
    _set_environment(master)
    LOGS.mkdir(parents=True, exist_ok=True)
    with _output_to(log_file(name)):
        SparkContext.getOrCreate(SparkConf().setAll(list((_settings(name, master) | conf).items())))


def after_interrupt(call: Callable[[], Any]) -> Any:
    """Return what a call of Spark returns; the first one fails where an interrupt has just cost py4j its connection."""
    try:
        return call()
    except Py4JError:
        return call()


def log_file(name: str) -> Path:
    """Return the log of a session; the next one of the same name starts it again.

    Examples
    --------
    >>> log_file("02_sample: users").relative_to(LOGS).name
    'spark-02_sample-users.log'
    """
    slug = re.sub(r"[^\w.]+", "-", name)
    return LOGS / f"spark-{slug}.log"


def is_local(master: str) -> bool:
    """Return whether executors run on the driver's machine, and read its files.

    Examples
    --------
    >>> is_local("local[*,4]"), is_local("spark://127.0.0.1:7077")
    (True, False)
    """
    return master.startswith("local")


def package_archive() -> str:
    """Return a new zip of this package, for workers that have not installed it."""
    return shutil.make_archive(str(LOGS / "lib"), "zip", paths.ROOT, "lib")


def _check_master(master: str) -> None:
    """Connect to a standalone master: Spark itself would try one that is not there for a minute."""
    reason = None
    for host, port in re.findall(r"([\w.-]+):(\d+)", master.partition("spark://")[2]):
        try:
            return socket.create_connection((host, int(port)), 5).close()
        except OSError as error:
            reason = error
    if reason:
        raise InfraError(
            f"SPARK_MASTER must be a running master. Got {master} ({reason}). Start it, or use local[*]."
        )


def _settings(name: str, master: str) -> dict[str, str]:
    # Spark names a folder in the home, which a user without a name has not; nothing is written there.
    flags = f"-Dlog4j2.configurationFile={java.LOG4J.as_uri()} -Duser.timezone=UTC -Duser.home=/tmp -Duser.language=en"
    folder = shlex.quote(f"-Djava.io.tmpdir={artifacts.scratch()}")
    settings: dict[str, str] = {
        "spark.app.name": name,
        "spark.jars": ",".join(path.as_uri() for path in jars.fetch("connector")),
        "spark.master": re.sub(r"^local\[(\*|\d+)\]$", rf"local[\1,{TASK_TRIES}]", master),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": " ".join([flags, folder, *java.JVM_FLAGS]),
        # No other user of this machine may talk to a local driver.
        "spark.authenticate": str(is_local(master)).lower(),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Between the JVM and Python: less of the system's time than TCP, and no port.
        "spark.python.unix.domain.socket.enabled": "true",
        # An epoch here is seconds long: the state of a stopped query must not keep the JVM waiting.
        "spark.sql.streaming.stopTimeout": "60s",
    }
    if is_local(master) or LOOPBACK in master:
        settings |= {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK}
    return settings


def _set_environment(master: str) -> None:
    """Set what PySpark reads from the environment; another Spark's settings on this machine must not leak in."""
    os.environ |= {"JAVA_HOME": str(java.find().home), **java.LOCALE}
    os.environ["SPARK_LAUNCHER_OPTS"] = " ".join(java.JVM_FLAGS)
    os.environ["SPARK_HOME"] = str(Path(pyspark.__file__).parent)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    for name in ("SPARK_CONF_DIR", "SPARK_REMOTE", "PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS"):
        os.environ.pop(name, None)
    if is_local(master):
        os.environ["SPARK_LOCAL_IP"] = LOOPBACK


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what programs print that are started meanwhile to a file: else it would be in a notebook's outputs."""
    with open(path, "wb") as log:
        saved = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in saved:
                os.dup2(log.fileno(), number)
            yield
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
