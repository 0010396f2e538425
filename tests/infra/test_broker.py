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

import pytest
from kafka import KafkaConsumer, KafkaProducer

from lib.infra import broker, guard


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """One broker for this file."""
    with broker.Broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


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
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_what_is_produced_is_consumed(kafka):
    produce(kafka.bootstrap, "letters", b"a", b"b", b"c")
    assert consume(kafka.bootstrap, "letters", 3) == [b"a", b"b", b"c"]


def test_it_listens_on_loopback_only(kafka):
    # Java listens through IPv6 sockets, where 127.0.0.1 is ::ffff:127.0.0.1.
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in table.splitlines() if " 0A " in line]
    addresses = {name.rpartition(":")[0] for name in listening if int(name[-4:], 16) == kafka.port}
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses


def test_events_of_a_past_year_are_kept(kafka):
    """Kafka would delete by the events' own time after a week; a replay of 2015 must stay."""
    assert "log.retention.ms=-1" in (kafka.folder / "server.properties").read_text()


@pytest.mark.slow
def test_a_broker_that_was_killed_comes_back_on_its_port_with_its_topics(kafka):
    produce(kafka.bootstrap, "kept", b"before")
    address, pid = kafka.bootstrap, kafka.pid
    assert not kafka.ensure_running(), "it runs: nothing to do"
    os.kill(pid, signal.SIGKILL)
    kafka._guard.wait()
    assert not kafka.running
    assert kafka.pid is None
    assert kafka.ensure_running()
    assert kafka.bootstrap == address
    produce(address, "kept", b"after")
    assert consume(address, "kept", 2) == [b"before", b"after"]


@pytest.mark.slow
def test_a_broker_on_the_same_folder_has_the_same_topics(tmp_path):
    with broker.Broker(tmp_path) as first:
        produce(first.bootstrap, "kept", b"one", b"two")
        pid = first.pid
    assert gone(pid)
    first.stop()  # a second time: nothing happens
    with broker.Broker(tmp_path) as second:
        assert consume(second.bootstrap, "kept", 2) == [b"one", b"two"]
        third = broker.Broker(tmp_path)
        third.takeover = 0.0
        with pytest.raises(broker.BrokerError, match="folder must be its own.*another broker runs"):
            third.start()
        assert second.running


@pytest.mark.slow
def test_a_folder_may_have_any_name(tmp_path):
    with broker.Broker(tmp_path / "José 🤖"):
        assert (tmp_path / "José 🤖/data/meta.properties").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["José 🤖"]


def test_it_ends_when_its_parent_is_killed(tmp_path):
    """And the next run can have its folder at once."""
    program = (
        "import sys, time; from pathlib import Path; from lib.infra.broker import Broker;"
        "kafka = Broker(Path(sys.argv[1])).start(); print(kafka.pid, flush=True); time.sleep(600)"
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


def test_the_guard_ends_its_program_when_the_parents_pipe_closes(tmp_path):
    command = guard.command(tmp_path / "pid", "/bin/sh", "-c", "echo up; exec sleep 600")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.stdin.close()
    assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_the_program_ends_when_the_guard_itself_is_killed(tmp_path):
    command = guard.command(tmp_path / "pid", "/bin/sh", "-c", "echo $$; exec sleep 600")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    assert gone(pid)


def test_a_port_in_use_is_one_sentence(kafka, tmp_path):
    with pytest.raises(broker.BrokerError, match=f"port must be free. Got {kafka.port}.*take port 0"):
        broker.Broker(tmp_path, port=kafka.port).start()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(broker.BrokerError, match="needs a folder that can be written to"):
        broker.Broker(tmp_path / "file").start()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 7 * 2**20))
    with pytest.raises(broker.BrokerError, match="needs 500 MB of free disk. Got 7 MB"):
        broker.Broker(tmp_path).start()


def test_an_external_broker_is_checked(kafka):
    assert broker.external(kafka.bootstrap) == kafka.bootstrap
    assert broker.external(f"127.0.0.1:1,{kafka.bootstrap}") == f"127.0.0.1:1,{kafka.bootstrap}"


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", "a:1;b:2", "a:1,", "127.0.0.1:99999"])
def test_an_external_address_must_be_host_and_port(text):
    with pytest.raises(broker.BrokerError, match="KAFKA must be host:port"):
        broker.external(text)


def test_an_external_broker_that_is_not_there_is_one_sentence():
    with pytest.raises(broker.BrokerError, match="none answers.*docker compose up -d.*KAFKA empty"):
        broker.external(f"127.0.0.1:{broker.free_port()}")


def test_a_program_that_is_no_broker_is_told_from_one():
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: [server.accept() for _ in range(2)], daemon=True).start()
        with pytest.raises(broker.BrokerError, match="none answers"):
            broker.external(f"127.0.0.1:{server.getsockname()[1]}", seconds=0.5)
