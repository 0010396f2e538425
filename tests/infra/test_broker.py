"""The embedded broker: a real one, on loopback, that keeps its topics and dies with its parent."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cluster
import psutil
import pytest
from kafka import KafkaConsumer, KafkaProducer

from lib import artifacts
from lib.infra import InfraError, broker, kafka
from lib.stream import recording


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
def test_a_killed_run_takes_its_broker_along_and_the_next_one_has_its_topics_at_once(tmp_path):
    folder = tmp_path / "José 🤖"
    program = (
        "import sys, time; from pathlib import Path; from lib.infra.broker import Broker;"
        "kafka = Broker(Path(sys.argv[1])).start(); print(kafka.bootstrap, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE, text=True)
    produce(parent.stdout.readline().strip(), "kept", b"one", b"two")
    (*_, java) = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    with broker.Broker(folder) as next_run:
        assert gone(java.pid, seconds=0.1)
        assert consume(next_run.bootstrap, "kept", 2) == [b"one", b"two"]
        cluster.kill(next_run.process)
        with pytest.raises(InfraError, match="as long as the run. Got: it has ended .*RESUME=True"):
            next_run.ensure_running()
    assert [path.name for path in tmp_path.iterdir()] == ["José 🤖"]


def test_a_folder_belongs_to_one_broker(tmp_path, monkeypatch):
    monkeypatch.setattr(broker, "LOCK_SECONDS", 0.1)
    with (
        artifacts.lock_folder(tmp_path, InfraError, 0, "broker.log"),
        pytest.raises(InfraError, match="used by one run at a time"),
    ):
        broker.Broker(tmp_path).start()


def start(tmp_path, script):
    """Start a shell's script as a child that writes its id; return both."""
    with open(tmp_path / "log", "wb") as log:
        process = broker.start_child(["/bin/sh", "-c", f"echo $$; {script}"], log)
    while not (tmp_path / "log").read_text().endswith("\n"):
        time.sleep(0.01)
    return process, int((tmp_path / "log").read_text())


def test_a_child_ends_when_it_is_stopped_and_its_exit_code_is_kept(tmp_path):
    process, _ = start(tmp_path, "exec sleep 600")
    broker.stop_child(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert start(tmp_path, "exit 7")[0].wait(20) == 7


def test_a_child_that_does_not_end_is_killed(tmp_path):
    process, pid = start(tmp_path, "trap '' TERM; while :; do sleep 0.1; done")
    broker.stop_child(process, seconds=0.2)
    assert gone(pid)


def test_a_child_ends_with_its_parent_even_if_its_supervisor_was_killed(tmp_path):
    process, pid = start(tmp_path, "exec sleep 600")
    process.kill()
    process.stdin.close()  # as at the parent's end
    assert gone(pid)


def test_a_broker_that_does_not_start_is_one_sentence(tmp_path):
    with pytest.raises(
        InfraError,
        match="must answer within 60 s. Got: .*ConfigException.*More is in .*broker.log.* MB of free disk",
    ):
        broker.Broker(tmp_path, settings={"num.io.threads": "many"}).start()


def test_an_external_broker_is_checked(request):
    address = f"127.0.0.1:1,{request.getfixturevalue('kafka').bootstrap}"
    assert broker.external(address) == address
    with pytest.raises(InfraError, match="none answers.*docker compose up -d.*KAFKA empty"):
        broker.external(f"127.0.0.1:{broker.free_port()}", seconds=0.5)


def test_a_program_that_is_no_broker_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not kafka.ping(f"127.0.0.1:{server.getsockname()[1]}", {}, 0.5)


def test_topics_keep_events_of_a_past_year_and_take_long_messages(request):
    """Kafka would delete by the events' own time after a week; a replay of 2015 must stay."""
    address = request.getfixturevalue("kafka").bootstrap
    for _ in range(2):  # those that are there are left as they are
        kafka.make_topics(address, ["long", "short"], 3, {})
    producer = KafkaProducer(bootstrap_servers=address, max_request_size=kafka.MAX_MESSAGE_BYTES)
    producer.send("long", bytes(2 * recording.MAX_EVENT_BYTES)).get(10)
    producer.close()
    consumer = KafkaConsumer(bootstrap_servers=address)
    assert consumer.partitions_for_topic("long") == {0, 1, 2}
    consumer.close()
