"""A session is right and quiet whatever the machine's settings, and leaves nothing behind."""

import os
import re
import subprocess
import sys
import zipfile

import pytest

from lib.infra import spark

# Sessions are tried in a process of their own: there can be only one in each, and the JVM's words must be seen.
WHOLE_LIFE = """
import os
import re
from lib.infra import spark

def identity(batches):
    for batch in batches:
        yield batch

def dies_once(batches):
    from pyspark import TaskContext
    if TaskContext.get().attemptNumber() == 0:
        os._exit(7)
    yield from batches

with spark.spark_session("test: whole life", "local[2]", kafka=True, **{"spark.sql.shuffle.partitions": 3}) as session:
    process = session.sparkContext._gateway.proc
    scratch = spark._scratch
    print(session.version, session.sparkContext.master, session.conf.get("spark.sql.shuffle.partitions"))
    print(session.sql("SELECT cast(timestamp_millis(0) AS string), current_timezone()").first())
    print(session.range(3).mapInPandas(identity, "id long").toPandas()["id"].tolist())
    print(session.range(3).mapInArrow(dies_once, "id long").count())
    topic = {"kafka.bootstrap.servers": "nowhere:1", "subscribe": "t"}
    print(session.readStream.format("kafka").options(**topic).load().columns)
    print(spark.spark_session("again") is session)
spark.stop(session)
print(process.poll() is not None, scratch.exists(), os.listdir())
with spark.spark_session("test: a second one in the same process", "local[1]") as session:
    print(session.range(5).count())
"""


@pytest.mark.slow
def test_a_sessions_whole_life(tmp_path):
    misleading = {
        "SPARK_HOME": "/nowhere",
        "PYSPARK_PYTHON": "python2",
        "SPARK_REMOTE": "sc://nowhere",
        "TZ": "Asia/Tokyo",
    }
    program = [sys.executable, "-c", WHOLE_LIFE]
    done = subprocess.run(
        program, capture_output=True, text=True, cwd=tmp_path, env=os.environ | misleading, check=False
    )
    assert done.stdout.splitlines() == [
        "4.2.0 local[2,4] 3",
        "Row(CAST(timestamp_millis(0) AS STRING)='1970-01-01 00:00:00', current_timezone()='UTC')",
        "[0, 1, 2]",
        "3",
        "['key', 'value', 'topic', 'partition', 'offset', 'timestamp', 'timestampType']",
        "True",
        "True False []",
        "5",
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
    attempt = f"try: spark.spark_session('x', {master!r})\nexcept spark.SparkError as e: print(e)"
    program = f"from lib.infra import spark\n{attempt}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    assert re.search(sentence, done.stdout)


def test_what_a_worker_needs_is_in_the_package_that_is_sent(tmp_path):
    names = zipfile.ZipFile(spark._package(tmp_path)).namelist()
    assert "lib/__init__.py" in names
    assert "lib/events.py" in names
    assert all(name.endswith(".py") for name in names)


def test_the_scratch_of_a_process_that_was_killed_is_swept_away(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in (ended.pid, os.getpid(), "x"):
        (tmp_path / f"{spark.SCRATCH}{name}-abc").mkdir()
    spark._sweep(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{spark.SCRATCH}{os.getpid()}-abc", f"{spark.SCRATCH}x-abc"]
