"""A Spark session that needs no set-up by hand: the right Java, this Python, quiet, on loopback, in UTC."""

import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import zipfile
from pathlib import Path
from subprocess import TimeoutExpired

import pyspark
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from lib import paths
from lib.infra import jars, java

LOOPBACK = "127.0.0.1"
TRIES = 4  # a Python worker that dies takes its task with it; on a cluster Spark tries four times, and so do we here
LOGS = paths.DATA / "logs"
SCRATCH = "wikisieve-spark-"

# Logs go to a file: what the JVM prints would end up in the notebooks' outputs.
LOG4J = """status = error
appender.file.type = File
appender.file.name = file
appender.file.fileName = {log}
appender.file.append = false
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %c{{1}}: %m%n%ex
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
"""


class SparkError(RuntimeError):
    """Spark did not start; the message says what to do."""


def spark_session(
    name: str,
    master: str = "local[*]",
    kafka: bool = False,
    *,
    long_running: bool = False,
    **conf: str | int | bool,
) -> SparkSession:
    """Return the running Spark session, or a new one; it ends with :func:`stop`, or at the end of a ``with`` block.

    Parameters
    ----------
    name : str
        Shown in Spark's own pages and logs.
    master : str, default "local[*]"
        Spark's master. ``local`` ones retry a failed task; any other gets this package sent to its workers.
    kafka : bool, default False
        Whether the session reads or writes Kafka topics (adds the connector's jars).
    long_running : bool, default False
        Whether the session lives for long: the JVM then compiles a second time what runs very often
        (:data:`lib.infra.java.LONG`). That pays after about a million events; the start costs three CPU seconds more.
    **conf
        More of Spark's settings, a dot in a name written as two underscores
        (``spark__sql__shuffle__partitions=4``) or through ``**{"spark.sql.shuffle.partitions": 4}``.

    Returns
    -------
    SparkSession
        The one that runs in this process, whatever its settings are; else a new one in a JVM of its own.

    Raises
    ------
    SparkError
        When the JVM does not start or the master does not answer.
    JavaError, JarError
        When Java or a jar is missing.
    """
    if (running := SparkSession.getActiveSession()) is not None:
        return running
    _reach(master)
    _end_jvm()
    remove_stale_dirs(Path(tempfile.gettempdir()))
    scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
    settings = _settings(name, master, kafka, long_running, scratch) | {
        _dotted(key): _text(value) for key, value in conf.items()
    }
    _environment(master)
    context = _start(SparkConf().setAll(list(settings.items())), scratch, master)
    if not is_local(master):
        context.addPyFile(str(_package(scratch)))
    return SparkSession(context)


def stop(spark: SparkSession) -> None:
    """Stop a session, its JVM, and what it left in temporary files; a second call does nothing."""
    scratch = _scratch
    with contextlib.suppress(Exception):
        for query in spark.streams.active:
            query.stop()
    # Stopping must not hide the error that led here.
    with contextlib.suppress(Exception):
        spark.stop()
    _end_jvm()
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


def is_stopped(spark: SparkSession) -> bool:
    """Tell whether a session is over, also if its JVM was killed or had no memory left."""
    try:
        return bool(spark.sparkContext._jsc.sc().isStopped())
    except Exception:  # noqa: BLE001  (nobody answers, in one of py4j's many ways)
        return True


def with_task_retries(master: str) -> str:
    """Let a local master retry a failed task, as a cluster does.

    Examples
    --------
    >>> [with_task_retries(master) for master in ("local[*]", "local[2]", "local", "local[2,1]")]
    ['local[*,4]', 'local[2,4]', 'local[1,4]', 'local[2,1]']
    >>> with_task_retries("spark://127.0.0.1:7077")
    'spark://127.0.0.1:7077'
    """
    if master == "local":
        return f"local[1,{TRIES}]"
    return re.sub(r"^local\[(\*|\d+)\]$", rf"local[\1,{TRIES}]", master)


def cores(master: str) -> int:
    """Return how many tasks a local master runs at once (of another master: what one machine like this one would).

    Examples
    --------
    >>> cores("local[3]"), cores("local[2,4]"), cores("local")
    (3, 2, 1)
    """
    if master == "local":
        return 1
    match = re.match(r"local\[(\d+)", master)
    return int(match[1]) if match else _usable_cores()


def log_file(name: str) -> Path:
    """Return where a session of this name logs; the next one of the same name begins it anew.

    Examples
    --------
    >>> log_file("02_sample: users").relative_to(LOGS).name
    'spark-02_sample-users.log'
    """
    slug = re.sub(r"[^\w.]+", "-", name)
    return LOGS / f"spark-{slug}.log"


_scratch: Path | None = None


def remove_stale_dirs(folder: Path) -> None:
    """Remove the scratch folders of processes that were killed and could not do it themselves."""
    for path in folder.glob(f"{SCRATCH}*"):
        try:
            os.kill(int(path.name.removeprefix(SCRATCH).partition("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (ValueError, PermissionError):
            continue


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_local(master: str) -> bool:
    """Tell whether executors run on the driver's machine, and see its files.

    Examples
    --------
    >>> is_local("local[*,4]"), is_local("spark://127.0.0.1:7077")
    (True, False)
    """
    return master.startswith("local")


def _dotted(key: str) -> str:
    return key.replace("__", ".")


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reach(master: str) -> None:
    """Spark itself would try a master that is not there for a minute."""
    for host, port in re.findall(r"([\w.-]+):(\d+)", master.partition("spark://")[2]):
        try:
            socket.create_connection((host, int(port)), 5).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
    if master.startswith("spark://"):
        raise SparkError(
            f"SPARK_MASTER must be a running master. Got {master} ({reason}). Start it, or use local[*]."
        )


def _settings(name: str, master: str, kafka: bool, long_running: bool, scratch: Path) -> dict[str, str]:
    logging = scratch / "log4j2.properties"
    logging.write_text(LOG4J.format(log=java.as_property(log_file(name))), encoding="utf-8")
    options = [
        f"-Dlog4j2.configurationFile=file:{logging}",
        f"-Dderby.system.home={scratch}",
        "-Duser.timezone=UTC",
    ]
    options += java.LONG if long_running else java.QUICK
    settings = {
        "spark.app.name": name,
        "spark.master": with_task_retries(master),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": " ".join(options),
        "spark.local.dir": str(scratch),
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Between the JVM and Python: less of the system's time than TCP, and no port.
        "spark.python.unix.domain.socket.enabled": "true",
        "spark.sql.shuffle.partitions": str(cores(master)),
        # An epoch here is seconds long: the state of a stopped query must not keep the JVM waiting.
        "spark.sql.streaming.stopTimeout": "60s",
        "spark.pyspark.python": sys.executable,
        "spark.pyspark.driver.python": sys.executable,
    }
    if is_local(master) or LOOPBACK in master:
        settings |= {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK}
    if kafka:
        settings["spark.jars"] = ",".join(path.as_uri() for path in jars.connector())
    return settings


def _environment(master: str) -> None:
    """Set what PySpark reads from the environment; another Spark's settings on this machine must not leak in."""
    os.environ["JAVA_HOME"] = str(java.find().home)
    os.environ["SPARK_LAUNCHER_OPTS"] = " ".join(java.QUICK)
    os.environ["SPARK_HOME"] = str(Path(pyspark.__file__).parent)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    for name in ("SPARK_CONF_DIR", "SPARK_REMOTE", "PYSPARK_GATEWAY_PORT", "PYSPARK_SUBMIT_ARGS"):
        os.environ.pop(name, None)
    if is_local(master):
        os.environ["SPARK_LOCAL_IP"] = LOOPBACK


def _start(conf: SparkConf, scratch: Path, master: str) -> SparkContext:
    global _scratch
    _scratch = scratch
    with open(scratch / "jvm.log", "wb") as log:
        try:
            gateway = launch_gateway(conf, {"stdout": log, "stderr": log})
            return SparkContext(conf=conf, gateway=gateway)
        except PySparkRuntimeError:
            reason = _complaint(scratch / "jvm.log")
        except Exception as error:  # noqa: BLE001  (py4j raises kinds of its own for whatever happens in the JVM)
            reason = _reason(error)
    _end_jvm()
    shutil.rmtree(scratch, ignore_errors=True)
    raise SparkError(f"Spark must start with the master {master!r}. Got: {reason} ({java.find()}).")


def _complaint(path: Path) -> str:
    """Find the line of the JVM's output that says what is wrong: the first that names an error, else the last."""
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if re.search("Exception|Error|error", line)]
    return (named or lines[-1:] or ["the JVM ended without a word"])[0]


def _reason(error: Exception) -> str:
    caused = getattr(error, "java_exception", None)
    return str(caused.toString() if caused is not None else error).splitlines()[0]


def _end_jvm() -> None:
    """End the JVM of a session before: its memory, class path and log file are fixed at its start."""
    gateway = SparkContext._gateway
    if gateway is None:
        return
    process = getattr(gateway, "proc", None)
    with contextlib.suppress(Exception):
        gateway.shutdown()
    if process is not None:
        process.stdin.close()  # the JVM waits for this, and then ends
        try:
            process.wait(20)
        except TimeoutExpired:
            process.kill()
            process.wait()
    SparkContext._gateway = SparkContext._jvm = None
    SparkSession._instantiatedSession = None


def _package(scratch: Path) -> Path:
    """Zip this package for workers that have not installed it."""
    archive = scratch / "lib.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in sorted((paths.ROOT / "lib").glob("**/*.py")):
            zipped.write(path, path.relative_to(paths.ROOT))
    return archive
