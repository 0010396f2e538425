"""A Spark session from nothing: the right Java and Python, quiet, in UTC, whatever the environment contains."""

import os
import re
import subprocess
import sys
import zipfile

import pytest

from lib.infra import spark

WHOLE_LIFE = """
import os
from pyspark import TaskContext
from lib.infra import spark

def dies_once(batches):
    if TaskContext.get().attemptNumber() == 0:
        os._exit(7)
    yield from batches

with spark.spark_session("test: whole life", "local[2]", **{"spark.driver.memory": "600m"}) as session:
    settings = ("spark.driver.memory", "spark.sql.shuffle.partitions")
    print(session.version, session.sparkContext.master, *map(session.conf.get, settings))
    print(session.sql("SELECT cast(timestamp_millis(0) AS string), current_timezone()").first())
    print(session.range(0, 3, 1, 1).mapInArrow(dies_once, "id long").toPandas()["id"].tolist())
    topic = {"kafka.bootstrap.servers": "nowhere:1", "subscribe": "t"}
    print(session.readStream.format("kafka").options(**topic).load().columns)
    print(spark.spark_session("again") is session, os.listdir())
with spark.spark_session("test: the next in the same process", "local[1]") as session:
    print(session.version)
"""


@pytest.mark.slow
def test_a_sessions_whole_life(tmp_path):
    misleading = {
        "SPARK_HOME": "/nowhere",
        "PYSPARK_PYTHON": "python2",
        "SPARK_REMOTE": "sc://nowhere",
        "TZ": "Asia/Tokyo",
        "TMPDIR": str(tmp_path / "tmp"),
    }
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    program = [sys.executable, "-c", WHOLE_LIFE]
    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        cwd=tmp_path / "here",
        env=os.environ | misleading,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "4.2.0 local[2,4] 600m 2",
        "Row(CAST(timestamp_millis(0) AS STRING)='1970-01-01 00:00:00', current_timezone()='UTC')",
        "[0, 1, 2]",
        "['key', 'value', 'topic', 'partition', 'offset', 'timestamp', 'timestampType']",
        "True []",
        "4.2.0",
    ], done.stderr
    assert done.stderr == "", "neither the JVM nor Spark prints anything"
    assert "WARN" in spark.log_file("test: whole life").read_text()


@pytest.mark.parametrize(
    ("master", "sentence"),
    [
        ("spark://127.0.0.1:1", "must be a running master. Got spark://127.0.0.1:1 .*use local"),
        (
            "nonsense",
            "must start with the master 'nonsense'. Got: .*Master must either be yarn or start with",
        ),
    ],
)
def test_a_wrong_master_is_one_sentence(master, sentence):
    program = (
        "from lib.infra import InfraError, spark\n"
        f"try: spark.spark_session('wrong', {master!r})\nexcept InfraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    assert re.search(sentence, done.stdout)


def test_what_a_worker_needs_is_in_the_package_that_is_sent():
    names = zipfile.ZipFile(spark.package_archive()).namelist()
    assert {"lib/__init__.py", "lib/events.py"} <= set(names)
    assert all(name.startswith("lib/") for name in names)
