"""The same code on a real cluster: a Spark master with two workers, three brokers; one of each may die."""

import subprocess
import sys

import cluster
import pytest
import world
from kafka.admin import KafkaAdminClient

from lib.infra.spark import spark_session
from lib.online.run import OnlineJob
from lib.replay import server as replay

pytestmark = pytest.mark.cluster

JOB = """
import sys
from lib.infra import spark

def where(batches):
    import os
    import lib.events
    for batch in batches:
        yield batch.assign(pid=os.getpid(), file=lib.events.__file__)[["pid", "file"]]

with spark.spark_session("cluster", sys.argv[1]) as session:
    found = session.range(0, 4, 1, 4).mapInPandas(where, "pid long, file string").collect()
    print(len({row.pid for row in found}), "Python workers")
    print(all("lib.zip" in row.file for row in found))
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    with cluster.SparkCluster(tmp_path_factory.mktemp("spark")) as running:
        yield running


@pytest.fixture(scope="module")
def brokers(tmp_path_factory):
    with cluster.KafkaCluster(tmp_path_factory.mktemp("brokers")) as running:
        yield running


def test_the_modules_reach_the_workers_by_themselves(workers, tmp_path):
    job = [sys.executable, "-c", JOB, workers.master]
    done = subprocess.run(job, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.splitlines() == ["2 Python workers", "True"], done.stderr


def test_the_verdicts_of_a_cluster_are_those_of_one_machine(workers, brokers, tmp_path):
    """Also when a broker and a worker are killed before the first event comes."""
    model_dir = world.train(tmp_path / "model")
    recording = world.record(tmp_path / "day.jsonl", world.make_events())
    alone, many = tmp_path / "alone", tmp_path / "many"
    world.judge_at_once(alone, model_dir, recording.read_bytes().splitlines())
    with (
        replay.serve(recording) as server,
        OnlineJob(many, model_dir, bootstrap=brokers.bootstrap) as job,
        spark_session("many", workers.master) as session,
    ):
        admin = KafkaAdminClient(bootstrap_servers=brokers.bootstrap)
        (topic,) = admin.describe_topics([job.topics["events"]])
        assert {len(partition["replica_nodes"]) for partition in topic["partitions"]} == {3}
        admin.close()
        cluster.kill(brokers.nodes[0].process)
        cluster.kill(workers.processes["worker-1"])
        world.run(job, session, world.client(job, server.url))
    assert world.rows(many) == world.rows(alone)
    assert world.letters(many) == world.letters(alone)
