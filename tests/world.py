"""A small made-up world for stage 4: a model with its blacklist, a recording with all that can go wrong, results."""

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import synthetic
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from lib import artifacts, events
from lib.blacklist.bloom import BlacklistFilter
from lib.infra import kafka
from lib.model import build_blacklist
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from lib.online import scoring, state
from lib.online.judge import OnlineClassifier
from lib.online.run import OnlineJob
from lib.online.state import VERDICT_SCHEMA, StateStore
from lib.replay import server as replay
from lib.stream.client import EventStreamClient

JUNK = [
    b"not JSON",
    b"[]",
    b"{}",
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "user": %d}',
    b"\xff\xfe not UTF-8",
]


def train(folder: Path) -> Path:
    """Leave in a folder what stage 3 leaves."""
    people = EditDataset(synthetic.sample())
    cross = CrossFit(people)
    judge = synthetic.train(cross, 0.05)
    folder.mkdir(parents=True, exist_ok=True)
    judge.save(folder / "model.skops")
    build_blacklist.write_blacklist(
        folder, [entry for entry in build_blacklist.select_users(people, cross, judge) if "3" in entry.user]
    )
    return folder


def make_events(seed: int = 1, humans: int = 250) -> list[bytes]:
    """Raw events: edits of people and bots, log entries, duplicates, null users, missing ids, and what is none."""
    chance = random.Random(seed)
    raws = []
    for row in synthetic.sample(humans=humans, bots=15, seed=seed).to_pylist():
        time, topic = events.iso(row["timestamp"]), "eqiad.mediawiki.recentchange"
        content = {
            "meta": {"dt": time, "id": row["meta_id"], "topic": topic},
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


SOURCE = "the test's recording"


def client(job: OnlineJob, url: str, source: str = SOURCE, **options) -> EventStreamClient:
    """A client that continues where the job's last one was."""
    return EventStreamClient(url, yield_idle=True, **options, position=job.position({"stream_url": source}))


def producer(job: OnlineJob) -> KafkaProducer:
    """Make a producer as notebook 04 does."""
    options = kafka.for_python(job.properties)
    size = 2 * kafka.MAX_MESSAGE_BYTES
    return KafkaProducer(bootstrap_servers=job.bootstrap, acks="all", max_request_size=size, **options)


def run(
    job: OnlineJob, session, events: EventStreamClient, max_events: int = 0, max_offsets: int = 0
) -> None:
    """Judge what a client yields, as the cells of notebook 04 do; `max_offsets` bounds the batches."""
    out = producer(job)
    publisher, line = job.publisher(events, out), ""
    with job.watch(session):
        job.publish(publisher, max_events)
        options = job.source_options | ({"maxOffsetsPerTrigger": str(max_offsets)} if max_offsets else {})
        messages = session.readStream.format("kafka").options(**options).load().selectExpr(*scoring.MESSAGE)
        scored = messages.mapInArrow(scoring.score_batch(job.model, job.bloom), scoring.SCORED)
        line = job.finish(scored.writeStream.foreachBatch(job.commit_batch).start())
    out.close()
    return line


def judge(
    out: Path,
    model_dir: Path,
    recording: Path,
    runs=(0,),
    *,
    session,
    resume: bool = False,
    source: str = SOURCE,
    max_offsets: int = 0,
    **options,
) -> dict:
    """Judge a recording; each of `runs` is a limit of events, and each but the first resumes."""
    for max_events in runs:
        with replay.serve(recording) as server, OnlineJob(out, model_dir, resume=resume, **options) as job:
            run(job, session, client(job, server.url, source), max_events, max_offsets)
            metrics, resume = job.metrics(), True
    return metrics


def messages_of_spark(raws: list[bytes], partition: int = 0, start: int = 0) -> pa.RecordBatch:
    """Return some events as rows of ``scoring.MESSAGE``."""
    n = len(raws)
    return pa.record_batch(
        {
            "value": pa.array(raws, pa.binary()),
            "partition": pa.array([partition] * n, pa.int32()),
            "offset": pa.array(range(start, start + n), pa.int64()),
            "timestamp": pa.array([0] * n, pa.timestamp("us", "UTC")),
            "id": pa.nulls(n, pa.binary()),
        }
    )


def judge_at_once(out: Path, model_dir: Path, raws: list[bytes]) -> None:
    """Judge some events as one batch, without Kafka and Spark: what every other way must come to."""
    model = BotClassifier.load(model_dir / "model.skops")
    out.mkdir(parents=True)
    state.prepare(out, model_dir)
    with StateStore(out) as store:
        bloom = BlacklistFilter.build(store.ledger.members())
        scored = scoring.score(messages_of_spark(raws), model.weights, bloom)
        result = OnlineClassifier(model, store).classify(pa.Table.from_batches([scored]))
        state.write_part(out, 1, result.verdicts)
        texts = (artifacts.dead_letter(raw, reason) for *_, raw, reason in result.dead_letters)
        artifacts.atomic_write(out / artifacts.DEAD_LETTERS, texts)


def rows(out: Path) -> list[tuple]:
    """All verdicts, as a sorted list: two runs are alike when these are."""
    table = state.verdicts(out).to_table()
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
    whole = [(f"{n:03d}", n, "enwiki", *row, None) for n, row in enumerate(rows)]
    return pa.Table.from_pylist(
        [dict(zip(VERDICT_SCHEMA.names, row, strict=True)) for row in whole], VERDICT_SCHEMA
    )
