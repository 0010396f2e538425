"""A cluster without Docker, for tests: Spark's standalone master and two workers, and three brokers, on loopback."""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import pyspark

from lib.infra import java
from lib.infra.broker import LOOPBACK, Broker, free_port, start_child, stop_child

SPARK_HOME = Path(pyspark.__file__).parent
WORKERS = 2  # of one core each
BROKERS = 3
START_SECONDS = 90


def kill(process):
    """Kill a program that `start_child` started, and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class SparkCluster:
    """A standalone master and its workers, each a process of its own, for the length of a ``with`` block."""

    def __init__(self, folder):
        self.folder = folder
        self.port, self.web_port = free_port(), free_port()
        self.processes = {}

    @property
    def master(self):
        """What ``SPARK_MASTER`` must be."""
        return f"spark://{LOOPBACK}:{self.port}"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._start("master", "--port", self.port, "--webui-port", self.web_port)
            self._wait_for(workers=0)
            for number in range(1, WORKERS + 1):
                work = self.folder / f"work-{number}"
                size = ("--cores", 1, "--memory", "1g", "--webui-port", 0)
                self._start(f"worker-{number}", *size, "--work-dir", work, self.master)
            self._wait_for(WORKERS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes.values()):
            stop_child(process)

    def _start(self, name, *arguments):
        role = name.partition("-")[0]
        main = f"org.apache.spark.deploy.{role}.{role.capitalize()}"
        flags = " ".join(java.JVM_FLAGS)
        environment = {
            "JAVA_HOME": str(java.find().home),
            "SPARK_HOME": str(SPARK_HOME),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": LOOPBACK,
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": flags,
            "SPARK_LAUNCHER_OPTS": flags,
        }
        command = [str(SPARK_HOME / "bin" / "spark-class"), main, "--host", LOOPBACK, *map(str, arguments)]
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = start_child(command, log, env=os.environ | environment)

    def _wait_for(self, workers):
        """Wait until the master answers and has so many workers."""
        for _ in range(10 * START_SECONDS):
            with (
                contextlib.suppress(OSError, ValueError),
                urllib.request.urlopen(f"http://{LOOPBACK}:{self.web_port}/json/", timeout=5) as answer,
            ):
                if json.load(answer)["aliveworkers"] >= workers:
                    return
            time.sleep(0.1)
        raise AssertionError(f"The cluster does not start, see {self.folder}")


class KafkaCluster:
    """Three brokers that keep a copy of every topic each, for the length of a ``with`` block."""

    def __init__(self, folder):
        controllers = {node: free_port() for node in range(1, BROKERS + 1)}
        voters = ",".join(f"{node}@{LOOPBACK}:{port}" for node, port in controllers.items())
        logs = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
        shared = {
            "controller.quorum.voters": voters,
            "default.replication.factor": BROKERS,
            "min.insync.replicas": 2,
        }
        shared |= {f"{log}.replication.factor": BROKERS for log in logs}
        shared |= {f"{log}.min.isr": 2 for log in logs[1:]}
        self.nodes = []
        for node, controller in controllers.items():
            broker = Broker(folder / f"kafka-{node}")
            listeners = f"PLAINTEXT://{broker.bootstrap},CONTROLLER://{LOOPBACK}:{controller}"
            broker.settings = {**shared, "node.id": node, "listeners": listeners}
            self.nodes.append(broker)

    @property
    def bootstrap(self):
        """The addresses of all brokers, with commas."""
        return ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self):
        try:
            for node in self.nodes:  # none answers before a majority is there
                node.launch()
            for node in self.nodes:
                node.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.stop()
