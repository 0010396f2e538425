"""The same verdicts on a Spark cluster with several brokers as on one machine."""

import cluster
import pytest
import soak
import world

from lib.infra.spark import spark_session

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_cluster_gives_the_same_verdicts(tmp_path):
    model_dir, recording, _ = soak.prepare(tmp_path)
    with (
        cluster.KafkaCluster(tmp_path / "kafka") as kafka,
        cluster.SparkCluster(tmp_path / "spark") as workers,
        spark_session("there", workers.master) as session,
    ):
        there = {"bootstrap": kafka.bootstrap, "session": session, "partitions": 4, "max_offsets": 300}
        world.judge(tmp_path / "there", model_dir, recording, (400, 0), **there)
    assert world.rows(tmp_path / "there") == world.rows(tmp_path / "whole")
    assert world.letters(tmp_path / "there") == world.letters(tmp_path / "whole")
