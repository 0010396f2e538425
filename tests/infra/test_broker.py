"""The embedded broker: a real one, on loopback, that keeps its topics and dies with its parent."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import cluster
import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer

from lib.infra import InfraError, broker, kafka
from lib.stream import sse


def produce(bootstrap, topic, *values):
    """Send values and wait until the broker has them."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for value in values:
        producer.send(topic, value, partition=0)
    producer.flush()
    producer.close()


def consume(bootstrap, topic, count):
    """Read so many values from the topic's start."""
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    values = [next(consumer).value for _ in range(count)]
    consumer.close()
    return values


def gone(pid, seconds=20.0):
    """Wait until a process is gone (a zombie is)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_listens_on_loopback_only(request):
    embedded = request.getfixturevalue("kafka")
    # Java listens through IPv6 sockets, where 127.0.0.1 is ::ffff:127.0.0.1.
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in table.splitlines() if " 0A " in line]
    addresses = {name.rpartition(":")[0] for name in listening if int(name[-4:], 16) == embedded.port}
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses


@pytest.mark.slow
def test_a_folder_of_any_name_keeps_its_topics_when_the_broker_was_killed(tmp_path):
    folder = tmp_path / "José 🤖"
    with broker.Broker(folder) as first:
        produce(first.bootstrap, "kept", b"one", b"two")
        cluster.kill(first.process)
        with pytest.raises(InfraError, match="as long as the run. Got: it has ended .*RESUME=True"):
            first.ensure_running()
    first.stop()  # a second time: nothing happens
    with broker.Broker(folder) as second:
        assert consume(second.bootstrap, "kept", 2) == [b"one", b"two"]
    assert [path.name for path in tmp_path.iterdir()] == ["José 🤖"]


@pytest.mark.slow
def test_it_ends_when_its_parent_is_killed_and_the_next_run_can_have_its_folder_at_once(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from lib.infra.broker import Broker;"
        "kafka = Broker(Path(sys.argv[1])).start(); print(kafka.process.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    with broker.Broker(tmp_path) as next_run:
        assert gone(pid, seconds=0.1)
        assert next_run.running


def test_a_folder_belongs_to_one_broker(tmp_path, monkeypatch):
    monkeypatch.setattr(broker, "LOCK_SECONDS", 0.1)
    other = subprocess.Popen(["flock", tmp_path / "broker.log", "sleep", "60"])
    while not (tmp_path / "broker.log").exists():
        time.sleep(0.01)
    with pytest.raises(InfraError, match="used by one run at a time"):
        broker.Broker(tmp_path).start()
    other.kill()
    other.wait()


def start(tmp_path, script):
    """Start a shell's script as a child; return it and the first line that it wrote."""
    with open(tmp_path / "log", "wb") as log:
        process = broker.start_child(["/bin/sh", "-c", script], log)
    while not (tmp_path / "log").read_text().endswith("\n"):
        time.sleep(0.01)
    return process, (tmp_path / "log").read_text().strip()


def test_a_child_ends_when_it_is_stopped_and_its_exit_code_is_kept(tmp_path):
    process, _ = start(tmp_path, "echo up; exec sleep 600")
    broker.stop_child(process)
    assert process.returncode == 128 + signal.SIGTERM
    process, _ = start(tmp_path, "echo up; exit 7")
    assert process.wait(20) == 7


def test_a_child_that_does_not_end_is_killed(tmp_path):
    process, pid = start(tmp_path, "trap '' TERM; echo $$; while :; do sleep 0.1; done")
    broker.stop_child(process, seconds=0.2)
    assert gone(int(pid))


def test_a_child_ends_with_its_parent_even_if_its_supervisor_was_killed(tmp_path):
    process, pid = start(tmp_path, "echo $$; exec sleep 600")
    os.kill(process.pid, signal.SIGKILL)
    process.stdin.close()  # as at the parent's end
    assert gone(int(pid))


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 7 * 2**20))
    with pytest.raises(InfraError, match="needs 500 MB of free disk. Got 7 MB"):
        broker.Broker(tmp_path).start()


def test_a_broker_that_does_not_start_is_one_sentence(tmp_path):
    with pytest.raises(
        InfraError, match="must answer within 60 s. Got: .*ConfigException.*More is in .*broker.log"
    ):
        broker.Broker(tmp_path, settings={"num.io.threads": "many"}).start()


def test_an_external_broker_is_checked(request):
    address = request.getfixturevalue("kafka").bootstrap
    assert broker.external(address) == address
    assert broker.external(f"127.0.0.1:1,{address}") == f"127.0.0.1:1,{address}"


def test_an_external_broker_that_is_not_there_is_one_sentence():
    with pytest.raises(InfraError, match="none answers.*docker compose up -d.*KAFKA empty"):
        broker.external(f"127.0.0.1:{broker.free_port()}", seconds=0.5)


def test_a_program_that_is_no_broker_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: [server.accept() for _ in range(2)], daemon=True).start()
        assert not kafka.ping(f"127.0.0.1:{server.getsockname()[1]}", {}, 0.5)


def test_topics_keep_events_of_a_past_year_and_take_long_messages(request):
    """Kafka would delete by the events' own time after a week; a replay of 2015 must stay."""
    address = request.getfixturevalue("kafka").bootstrap
    for _ in range(2):  # those that are there are left as they are
        kafka.make_topics(address, ["long", "short"], 3, {})
    producer = KafkaProducer(bootstrap_servers=address, max_request_size=kafka.MAX_MESSAGE_BYTES)
    producer.send("long", bytes(2 * sse.MAX_BYTES)).get(10)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=address)
    assert consumer.partitions_for_topic("long") == {0, 1, 2}
    consumer.close()
