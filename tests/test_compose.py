"""docker-compose.yml is valid by the Compose schema, stays on loopback, and fits the library's own settings."""

import hashlib
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

# The schema is not copied into the project: it is read out of the last package of Compose that was on PyPI.
SCHEMA_PACKAGE = "docker-compose==1.29.2"
SCHEMA_SHA256 = "8d5589373b35c8d3b1c8c1182c6e4a4ff14bffa3dd0b605fcd08f73c94cef809"
SCHEMA_FILE = "compose/config/compose_spec.json"
WHEEL = paths.ROOT / ".setup" / "docker_compose-1.29.2-py2.py3-none-any.whl"


@pytest.fixture(scope="module")
def compose():
    """The content of docker-compose.yml, anchors resolved."""
    return yaml.safe_load((paths.ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """The Compose specification's JSON schema."""
    if not WHEEL.exists():
        download(tmp_path_factory.mktemp("wheel"))
    assert hashlib.sha256(WHEEL.read_bytes()).hexdigest() == SCHEMA_SHA256, f"delete {WHEEL}"
    return json.loads(zipfile.ZipFile(WHEEL).read(SCHEMA_FILE))


def download(folder):
    """Fetch the wheel by its hash, or skip with a loud word."""
    lock = folder / "schema.lock"
    lock.write_text(f"{SCHEMA_PACKAGE} --hash=sha256:{SCHEMA_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-q", "-r", lock]
    done = subprocess.run([*command, "-d", folder], capture_output=True, text=True, check=False)
    wheel = folder / WHEEL.name
    if not wheel.exists():
        pytest.skip(f"docker-compose.yml was NOT checked against the schema: {done.stderr.strip()[-200:]}")
    WHEEL.parent.mkdir(exist_ok=True)
    wheel.replace(WHEEL)


def brokers(compose, profile=None):
    """Return the Kafka services of a profile; without one, those that plain ``up`` starts."""
    services = compose["services"].values()
    wanted = [profile] if profile else []
    return [one for one in services if "kafka" in one["image"] and one.get("profiles", []) == wanted]


def setting(service, name):
    """Return one of a broker's settings."""
    return service["environment"][name]


def test_it_is_valid_by_the_schema(compose, schema):
    problems = [
        f"{list(e.path)}: {e.message}" for e in jsonschema.Draft7Validator(schema).iter_errors(compose)
    ]
    assert problems == []


def test_every_port_is_on_loopback(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith(f"{broker.LOOPBACK}:") for port in ports)


def test_the_image_is_the_official_one_in_the_version_of_the_embedded_broker(compose):
    embedded = next(jar["version"] for jar in jars.read_lock("broker") if jar["artifactId"] == "kafka_2.13")
    images = {service["image"] for service in compose["services"].values() if "kafka" in service["image"]}
    assert images == {f"apache/kafka:{embedded}"}


def test_one_broker_without_a_profile_answers_where_clients_are_told(compose):
    (single,) = brokers(compose)
    (port,) = single["ports"]
    address, _, inside = port.rpartition(":")
    assert f"HOST://{address}" in setting(single, "KAFKA_ADVERTISED_LISTENERS")
    assert f"HOST://:{inside}" in setting(single, "KAFKA_LISTENERS")
    assert address == broker.DEFAULT_BOOTSTRAP, "what an error tells the user to set KAFKA to"


def test_the_cluster_replicates_three_times_and_needs_two(compose):
    cluster = brokers(compose, "cluster")
    voters = setting(cluster[0], "KAFKA_CONTROLLER_QUORUM_VOTERS").split(",")
    assert len(cluster) == len(voters) == 3
    assert sorted(setting(one, "KAFKA_NODE_ID") for one in cluster) == ["1", "2", "3"]
    for one in cluster:
        assert setting(one, "KAFKA_DEFAULT_REPLICATION_FACTOR") == "3"
        assert setting(one, "KAFKA_MIN_INSYNC_REPLICAS") == "2"
        assert setting(one, "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR") == "2"
        assert one["ports"][0].rpartition(":")[0] in setting(one, "KAFKA_ADVERTISED_LISTENERS")


def test_the_cluster_has_a_master_and_two_workers_that_know_it(compose):
    commands = [
        one.get("command", []) for one in compose["services"].values() if one.get("profiles") == ["cluster"]
    ]
    (master,) = [command for command in commands if "org.apache.spark.deploy.master.Master" in command]
    workers = [command for command in commands if "org.apache.spark.deploy.worker.Worker" in command]
    address = f"spark://{master[master.index('--host') + 1]}:{master[master.index('--port') + 1]}"
    assert [command[-1] for command in workers] == [address] * 2
    assert address.removeprefix("spark://").partition(":")[0] in compose["services"]


@pytest.mark.parametrize("file", ["README.md", "docker-compose.yml"])
def test_the_command_for_the_cluster_starts_the_cluster_and_nothing_else(compose, file):
    text = (paths.ROOT / file).read_text(encoding="utf-8")
    (named,) = re.findall(r"docker compose --profile cluster up -d((?: [\w-]+)*)", text)
    services = compose["services"]
    started, waiting = set(), named.split()
    while waiting:
        started.add(name := waiting.pop())
        waiting += services[name].get("depends_on", [])
    assert started == {name for name, one in services.items() if one.get("profiles") == ["cluster"]}


@pytest.mark.parametrize(
    "ours", ["num.partitions", "message.max.bytes", "log.retention.ms", "group.initial.rebalance.delay.ms"]
)
def test_containers_and_the_embedded_broker_agree(compose, ours):
    embedded = javaproperties.loads(broker.SETTINGS.read_text(encoding="utf-8"))
    name = "KAFKA_" + ours.upper().replace(".", "_")
    assert {setting(one, name) for one in brokers(compose) + brokers(compose, "cluster")} == {embedded[ours]}


def test_the_spark_image_is_built_with_the_projects_own_locks(compose):
    version = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert compose["services"]["driver"]["image"] == f"wikisieve:{version}"
    dockerfile = (paths.ROOT / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in dockerfile
