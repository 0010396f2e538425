"""The same code on a real cluster: a Spark master with two workers, three brokers; one of each may die."""

import os
import signal
import subprocess
import sys

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from lib import cluster, spark

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

JOB = """
import sys
from lib import spark

def where(batches):
    import os
    import lib.edits
    for batch in batches:
        yield batch.assign(pid=os.getpid(), file=lib.edits.__file__)[["pid", "file"]]

with spark.running("cluster", sys.argv[1], kafka=True) as session:
    found = session.range(0, 4, 1, 4).mapInPandas(where, "pid long, file string").collect()
    print(len({row.pid for row in found}), "Python workers")
    print(all("lib.zip" in row.file for row in found))
    lines = session.read.format("kafka").option("kafka.bootstrap.servers", sys.argv[2]).option("subscribe", "t")
    print(lines.load().count(), "messages")
"""


def test_a_job_on_a_cluster_reads_from_three_brokers_of_which_one_died(tmp_path):
    with cluster.Brokers(tmp_path / "kafka") as kafka, cluster.Spark(tmp_path / "spark") as workers:
        admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        admin.create_topics([NewTopic("t", num_partitions=2, replication_factor=3)])
        producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all")
        for number in range(100):
            producer.send("t", b"%d" % number)
        producer.flush()
        os.kill(kafka.nodes[0].pid, signal.SIGKILL)
        for number in range(100):
            producer.send("t", b"%d" % number)
        producer.flush()  # two of three are in sync: writes go on
        producer.close()
        admin.close()
        job = [sys.executable, "-c", JOB, workers.master, kafka.bootstrap]
        done = subprocess.run(job, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.stdout.splitlines() == ["2 Python workers", "True", "200 messages"], done.stderr
        assert kafka.nodes[0].ensure()


def test_a_local_master_is_not_sent_the_package():
    assert spark._local("local[*,4]")
    assert not spark._local("spark://127.0.0.1:7077")
