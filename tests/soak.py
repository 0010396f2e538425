"""Kill what runs, at random moments, and look whether anything is lost or there twice.

A run is a process of its own (``python tests/soak.py OUT_DIR MODEL_DIR RECORDING``), with its own broker and its own
Spark; after a kill the same command is given again with ``--resume``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import world

from lib import events, paths
from lib.infra.spark import spark_session
from lib.online.run import OnlineJob
from lib.replay import server as replay

SECONDS = 5.0  # that the recording takes
VICTIMS = ("driver", "broker", "worker", "jvm")


def run(out: Path, model_dir: Path, recording: Path, resume: bool) -> None:
    """Judge a recording that comes slowly, so that there is time to be killed; keep what is in both topics."""
    span = 14 * 3600
    with (
        replay.serve(recording, speed=span / SECONDS) as server,
        OnlineJob(out, model_dir, resume=resume) as job,
        spark_session("soak", "local[2]") as session,
    ):
        client = world.client(job, server.url, since=edits_start(recording))
        print("judging", flush=True)
        world.run(job, session, client, max_offsets=200)
        sent = {message.value for message in world.messages(job.bootstrap, job.topics["events"])}
        verdicts = world.messages(job.bootstrap, job.topics["verdicts"])
        pairs = {(message.key.decode(), message.value.decode()) for message in verdicts}
    (out / "topics.json").write_text(json.dumps([sorted(x.decode("latin-1") for x in sent), sorted(pairs)]))


def edits_start(recording: Path) -> int:
    """Time of the first event: a paced server begins at the clock's hand, not at the beginning."""
    with open(recording, "rb") as file:
        return events.decode(file.readline().rstrip()).time_ms - 3_600_000


class KillRun:
    """One recording judged under fire."""

    def __init__(self, out: Path, model_dir: Path, recording: Path):
        self.out, self.model_dir, self.recording = out, model_dir, recording

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the run."""
        command = [sys.executable, __file__, self.out, self.model_dir, self.recording, *options]
        environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kill_and_resume(self, victims: list[str], chance: random.Random) -> list[str]:
        """Run, kill one after the other, and resume; return what happened."""
        process = self.start()
        lines = [_wait_for_start(process)]
        for victim in victims:
            wait = chance.uniform(0, SECONDS / len(victims))
            time.sleep(wait)
            lines.append(f"{victim} after {wait:.2f} s: {self.kill(victim, process)}")
        lines.append(process.communicate(timeout=200)[0])
        process = self.start("--resume")
        lines.append(process.communicate(timeout=200)[0])
        assert process.returncode == 0, "The run did not end well:\n" + "\n".join(lines)
        return lines

    def kill(self, victim: str, process: subprocess.Popen[str]) -> str:
        """Kill something with SIGKILL."""
        if victim == "driver":
            process.kill()
            return "killed"
        name, mark = {
            "broker": ("java", "kafka.Kafka"),
            "jvm": ("java", "SparkSubmit"),
            "worker": ("python", "pyspark.daemon"),
        }[victim]
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name().startswith(name) and mark in " ".join(child.cmdline()):
                    child.kill()
                    return "killed"
        return "was not there any more"

    def check(self, expected: list[tuple], letters: Counter, raws: list[bytes]) -> None:
        """Compare with a run that nobody killed: verdicts, dead letters, and both topics."""
        found = world.rows(self.out)
        assert found == expected, _difference(found, expected)
        assert world.letters(self.out) == letters
        sent, pairs = json.loads((self.out / "topics.json").read_text())
        ids = {events.event_key(raw, None): raw for raw in raws}
        assert {text.encode("latin-1") for text in sent} == set(ids.values()), "an event is missing, or new"
        assert {key for key, _ in pairs} == {row[0] for row in expected}
        doubled = Counter(key for key, _ in pairs if not key.startswith("sha1:"))
        assert doubled.total() == len(doubled), f"two verdicts for {doubled.most_common(2)}"


def _wait_for_start(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("judging"):
            return line.strip()
    raise AssertionError("The run ended before it began.")


def _difference(found: list[tuple], expected: list[tuple]) -> str:
    more, less = Counter(found) - Counter(expected), Counter(expected) - Counter(found)
    return f"{more.total()} too many ({list(more)[:2]} …); {less.total()} missing ({list(less)[:2]} …)"


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:4]), resume="--resume" in sys.argv)
