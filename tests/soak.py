"""Kill what runs, at random moments, and look whether anything is lost or there twice.

``python -m tests.soak --times 10 --seed 7`` prints the seed, and at every kill what was killed and when. The same is
done twice by the quick tests. A run is a process of its own (``python tests/soak.py run …``), with its own broker and
its own Spark; after a kill of the driver the same command is given again with ``--resume``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

import world

from lib import events, paths
from lib.infra.spark import spark_session
from lib.online.run import OnlineJob
from lib.replay import server as replay

SECONDS = 5.0  # that the recording takes
VICTIMS = ("driver", "broker", "worker", "jvm")
TRIES = 4


def run(out: Path, model_dir: Path, recording: Path, resume: bool) -> None:
    """Judge a recording that comes slowly, so that there is time to be killed; keep what is in both topics."""
    span = 14 * 3600
    with (
        replay.serve(recording, "--canaries", "0", "--speed", str(span / SECONDS)) as server,
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
        command = [sys.executable, __file__, "run", self.out, self.model_dir, self.recording, *options]
        return subprocess.Popen(
            command, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def kill_and_resume(self, victim: str, chance: random.Random) -> list[str]:
        """Run, kill, and run again until it ends well; return what happened."""
        process = self.start()
        lines = [_wait_for_start(process)]
        wait = chance.uniform(0, SECONDS)
        time.sleep(wait)
        lines.append(f"{victim} after {wait:.2f} s: {self.kill(victim, process)}")
        for _ in range(TRIES):
            rest, _ = process.communicate(timeout=200)
            lines.append(rest)
            if process.returncode == 0:
                return lines
            process = self.start("--resume")
        raise AssertionError("The run did not end well:\n" + "\n".join(lines))

    def kill(self, victim: str, process: subprocess.Popen[str]) -> str:
        """Kill something with SIGKILL."""
        if victim == "driver":
            process.kill()
            return "killed"
        family = psutil.Process(process.pid).children(recursive=True)
        wanted = {
            "broker": lambda command: "kafka.Kafka" in command,
            "jvm": lambda command: "SparkSubmit" in command,
            "worker": lambda command: "pyspark.daemon" in command or "pyspark.worker" in command,
        }[victim]
        found = []
        for one in family:
            with contextlib.suppress(psutil.Error):
                if wanted(" ".join(one.cmdline())):
                    found.append(one)
        if not found:
            return "was not there any more"
        with contextlib.suppress(psutil.Error):
            os.kill(found[-1].pid, signal.SIGKILL)
        return "killed"

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
    return (
        f"{more.total()} verdicts too many ({list(more)[:2]} …); {less.total()} missing ({list(less)[:2]} …)"
    )


def prepare(folder: Path) -> tuple[Path, Path, list[bytes]]:
    """Make the model and the recording, and judge it in ``folder/whole``."""
    raws, model_dir = world.make_events(), world.train(folder / "model")
    world.judge_at_once(folder / "whole", model_dir, raws)
    return model_dir, world.record(folder / "day.jsonl", raws), raws


def main() -> int:
    """Kill so many times and report."""
    if sys.argv[1:2] == ["run"]:
        out, model_dir, recording = map(Path, sys.argv[2:5])
        run(out, model_dir, recording, "--resume" in sys.argv)
        return 0
    parser = argparse.ArgumentParser(
        description="Kill stage 4 at random moments; nothing may be lost or doubled."
    )
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    chance = random.Random(seed)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="wikisieve-soak-") as name:
        folder = Path(name)
        model_dir, recording, raws = prepare(folder)
        expected, letters = world.rows(folder / "whole"), world.letters(folder / "whole")
        for number in range(given.times):
            trial = KillRun(folder / f"trial-{number}", model_dir, recording)
            lines = trial.kill_and_resume(VICTIMS[number % len(VICTIMS)], chance)
            trial.check(expected, letters, raws)
            print(
                f"{number + 1} of {given.times}: {lines[1]}; {len(expected)} verdicts as they should be",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
