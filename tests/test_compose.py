"""docker-compose.yml is valid by the Compose schema, stays on loopback, and fits the library's own settings."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile

import javaproperties
import jsonschema
import pytest
import yaml

from lib import paths
from lib.infra import broker, jars

TEXT = (paths.ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = yaml.safe_load(TEXT)["services"]
# The schema is not copied into the project: it is read out of the last package of Compose that was on PyPI.
SCHEMA_LOCK = """docker-compose==1.29.2 \
--hash=sha256:8d5589373b35c8d3b1c8c1182c6e4a4ff14bffa3dd0b605fcd08f73c94cef809"""
SCHEMA_FILE = "compose/config/compose_spec.json"
WHEEL = paths.ROOT / ".setup" / "docker_compose-1.29.2-py2.py3-none-any.whl"


def brokers(*profiles):
    """Return the settings and ports of the Kafka services of a profile; without one, those that plain ``up`` starts."""
    return [
        one["environment"] | {"ports": one["ports"]}
        for one in SERVICES.values()
        if "kafka" in one["image"] and one.get("profiles", []) == list(profiles)
    ]


def test_it_is_valid_by_the_schema(tmp_path):
    if not WHEEL.exists():
        (tmp_path / "lock").write_text(SCHEMA_LOCK)
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        command = [*download, "-r", tmp_path / "lock", "-d", WHEEL.parent]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"docker-compose.yml was NOT checked against the schema: {done.stderr[-200:]}")
    schema = json.loads(zipfile.ZipFile(WHEEL).read(SCHEMA_FILE))
    assert [
        error.message for error in jsonschema.Draft7Validator(schema).iter_errors(yaml.safe_load(TEXT))
    ] == []


def test_every_port_is_on_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith(f"{broker.LOOPBACK}:") for port in ports)


def test_the_image_is_the_official_one_in_the_version_of_the_embedded_broker():
    embedded = next(jar["version"] for jar in jars.read_lock("broker") if jar["artifactId"] == "kafka_2.13")
    images = {service["image"] for service in SERVICES.values() if "kafka" in service["image"]}
    assert images == {f"apache/kafka:{embedded}"}


def test_one_broker_without_a_profile_answers_where_an_error_says_it_does():
    (single,) = brokers()
    address, _, inside = single["ports"][0].rpartition(":")
    assert f"HOST://{address}" in single["KAFKA_ADVERTISED_LISTENERS"]
    assert f"HOST://:{inside}" in single["KAFKA_LISTENERS"]
    assert address == "127.0.0.1:9092"  # as README and notebook 04 say


def test_the_cluster_replicates_three_times_and_needs_two():
    cluster = brokers("cluster")
    assert [one["KAFKA_NODE_ID"] for one in cluster] == ["1", "2", "3"]
    for one in cluster:
        assert len(one["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")) == 3
        assert one["KAFKA_DEFAULT_REPLICATION_FACTOR"] == "3"
        assert one["KAFKA_MIN_INSYNC_REPLICAS"] == one["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "2"
        assert one["ports"][0].rpartition(":")[0] in one["KAFKA_ADVERTISED_LISTENERS"]


def test_the_cluster_has_a_master_and_two_workers_that_know_it():
    master = SERVICES["spark-master"]["command"]
    assert master[1:] == ["org.apache.spark.deploy.master.Master", "--host", "spark-master", "--port", "7077"]
    for number in (1, 2):
        worker = SERVICES[f"spark-worker-{number}"]["command"]
        assert worker[1:] == ["org.apache.spark.deploy.worker.Worker", "spark://spark-master:7077"]


@pytest.mark.parametrize("text", [TEXT, (paths.ROOT / "README.md").read_text(encoding="utf-8")])
def test_the_command_for_the_cluster_starts_the_cluster_and_nothing_else(text):
    (named,) = re.findall(r"docker compose --profile cluster up -d((?: [\w-]+)*)", text)
    started, waiting = set(), named.split()
    while waiting:
        started.add(name := waiting.pop())
        waiting += SERVICES[name].get("depends_on", [])
    assert started == {name for name, one in SERVICES.items() if one.get("profiles") == ["cluster"]}


@pytest.mark.parametrize(
    "ours", ["num.partitions", "message.max.bytes", "log.retention.ms", "group.initial.rebalance.delay.ms"]
)
def test_containers_and_the_embedded_broker_agree(ours):
    embedded = javaproperties.loads(broker.SETTINGS.read_text(encoding="utf-8"))
    name = "KAFKA_" + ours.upper().replace(".", "_")
    assert {one[name] for one in brokers() + brokers("cluster")} == {embedded[ours]}


def test_the_spark_image_is_built_with_the_projects_own_lock():
    version = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert SERVICES["driver"]["image"] == f"wikisieve:{version}"
    assert "--require-hashes -r requirements.lock" in (paths.ROOT / "Dockerfile").read_text()
