"""A small made-up world for stage 4: a model with its blacklist, a recording with all that can go wrong, results."""

import json
import random
from collections import Counter
from pathlib import Path

import made_up
import pyarrow as pa
from kafka import KafkaConsumer, TopicPartition

from lib import events
from lib.model import build_blacklist
from lib.model.classifier import BotClassifier, cross_validate
from lib.model.dataset import EditDataset
from lib.online import online, producer, verdicts
from lib.online.judging import SCHEMA
from lib.online.sender import Sender
from lib.replay import server as replay

JUNK = [
    b"not JSON",
    b"[]",
    b"{}",
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "user": %d}',
    b"\xff\xfe not UTF-8",
]


def train(folder: Path) -> Path:
    """Leave in a folder what stage 3 leaves."""
    people = EditDataset.from_table(made_up.sample())
    cross = cross_validate(people, 0)
    judge = BotClassifier.fit(people, 0, 0.05, cross=cross)
    folder.mkdir(parents=True, exist_ok=True)
    judge.save(folder / "model.skops")
    build_blacklist.write_blacklist(
        folder, [entry for entry in build_blacklist.select_users(people, cross, judge) if "3" in entry.user]
    )
    return folder


def make_events(seed: int = 1) -> list[bytes]:
    """Raw events: edits of people and bots, log entries, duplicates, null users, missing ids, and what is none."""
    chance = random.Random(seed)
    raws = []
    for row in made_up.sample(humans=250, bots=15, seed=seed).to_pylist():
        content = {
            "meta": {
                "dt": events.iso(row["timestamp"]),
                "id": row["meta_id"],
                "topic": "eqiad.mediawiki.recentchange",
            },
            "type": chance.choice(["edit", "edit", "edit", "new", "log"]),
            "length": {"old": 10_000, "new": 10_000 + row["delta"]},
            **{name: row[name] for name in ("wiki", "namespace", "title", "user", "bot", "minor", "comment")},
        }
        if chance.random() < 0.03:
            content["user"] = None
        if chance.random() < 0.03:
            del content["meta"]["id"]
        raws.append(json.dumps(content, ensure_ascii=False).encode())
        if chance.random() < 0.03:
            junk = chance.choice(JUNK)
            raws.append(junk % len(raws) if b"%" in junk else junk)
        if chance.random() < 0.05 and "id" in content["meta"]:
            raws.append(chance.choice([raw for raw in raws[-200:] if b'"id": "id' in raw]))
    return raws


def record(path: Path, raws: list[bytes]) -> Path:
    """Write a recording."""
    path.write_bytes(b"".join(raw + b"\n" for raw in raws))
    return path


def order(stage: online.Stage, url: str, **more) -> producer.Order:
    """What a producer of a test is to do."""
    return producer.Order(
        stage.bootstrap, stage.events_topic, stage.partitions, url, "the test's recording", **more
    )


def judge(out: Path, model_dir: Path, recording: Path, runs=(0,), **options) -> dict:
    """Judge a recording; each of `runs` is a limit of events, and each but the first resumes."""
    more = {}
    for number, most in enumerate(runs):
        with replay.serve(recording, "--canaries", "0") as server:
            options["resume"] = options.get("resume", False) or number > 0
            with online.Stage(out, model_dir, say=lambda text: None, **options) as stage:
                with Sender(order(stage, server.url, max_events=most, **more)) as sender:
                    stage.sieve(sender)
                metrics = stage.metrics()
    return metrics


def rows(out: Path) -> list[tuple]:
    """All verdicts, as a sorted list: two runs are alike when these are."""
    table = verdicts.read(out)
    return sorted(map(tuple, zip(*(column.to_pylist() for column in table.columns), strict=True)), key=repr)


def letters(out: Path) -> Counter:
    """The dead letters, each with how often it is there."""
    return Counter((out / "dead_letters.jsonl").read_text(encoding="utf-8").splitlines())


def messages(bootstrap: str, topic: str) -> list:
    """Everything that is in a topic, as another client sees it."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    ends = consumer.end_offsets(places)
    consumer.assign(places)
    consumer.seek_to_beginning()
    found = []
    while any(consumer.position(place) < ends[place] for place in places):
        for records in consumer.poll(timeout_ms=1000, max_records=5000).values():
            found += records
    consumer.close()
    return found


def verdict_table(*rows):
    """Rows of user, bot, verdict; the place is the time."""
    return pa.Table.from_pylist(
        [
            {
                "meta_id": f"{n:03d}",
                "timestamp": n,
                "wiki": "enwiki",
                "user": user,
                "bot": bot,
                "verdict": verdict,
            }
            for n, (user, bot, verdict) in enumerate(rows)
        ],
        SCHEMA,
    )
