"""Other programs write into the topic, too: all of that is accounted for, and our producer still finds its place."""

import json
import time
from collections import Counter

import pytest
import world
from kafka import KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from lib.infra import kafka
from lib.online.run import OnlineJob
from lib.online.state import OnlineError
from lib.replay import server as replay

DAY = "2015-09-12T23:59:00Z"
CODECS = (None, "gzip", "lz4", "snappy", "zstd")


@pytest.fixture
def running(here, spark, model_dir, raws, tmp_path):
    """A job, and a function that judges what is new in the stream and in the topic."""
    recording = world.record(tmp_path / "day.jsonl", raws[:50])
    with (
        replay.serve(recording) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
    ):
        yield job, lambda: world.run(job, spark, world.client(job, server.url))


def edit(name, **fields):
    content = {"meta": {"dt": DAY, "id": name}, "type": "edit", "user": name, **fields}
    return json.dumps(content).encode()


def write(bootstrap, topic, messages, **options):
    """Write messages as another program does: value and whatever else `send` takes."""
    out = KafkaProducer(bootstrap_servers=bootstrap, max_request_size=8 << 20, **options)
    if "transactional_id" in options:
        out.init_transactions()
        out.begin_transaction()
    for value, more in messages:
        out.send(topic, value, **more)
    out.flush()
    return out


def odd(codec):
    """What no producer of ours would write; edits among it are judged, the rest are dead letters."""
    junk = f"\xff {codec}".encode("latin-1")
    return [
        (edit(f"no key, {codec}"), {"partition": 0}),
        (edit(f"wrong key, {codec}"), {"key": b"\xff\xfe", "partition": 1}),
        (edit(f"another's, {codec}"), {"headers": [("position", b"junk"), ("key", junk), ("reason", b"")]}),
        (edit(f"header twice, {codec}"), {"headers": [("id", junk), ("", junk)]}),
        (edit(f"long, {codec}", comment="x" * 900_000), {}),
        (None, {"key": b"no value", "partition": 0}),
        (b"", {"partition": 1}),
        (b"[" * 100_000, {"partition": 0}),
    ]


def test_what_others_wrote_is_judged_and_the_producer_finds_its_place(here, model_dir, raws, short, tmp_path):
    world.judge_at_once(tmp_path / "whole", model_dir, raws[:300])
    metrics = world.judge(tmp_path / "cut", model_dir, short, (200,), **here)
    for codec in CODECS:
        write(here["bootstrap"], metrics["topics"]["events"], odd(codec), compression_type=codec).close()
    world.judge(tmp_path / "cut", model_dir, short, resume=True, **here)
    whole, cut = Counter(world.rows(tmp_path / "whole")), Counter(world.rows(tmp_path / "cut"))
    theirs = [json.loads(value)["meta"]["id"] for codec in CODECS for value, _ in odd(codec)[:5]]
    assert not whole - cut
    assert sorted(row[0] for row in (cut - whole).elements()) == sorted(theirs)
    before, after = world.letters(tmp_path / "whole"), world.letters(tmp_path / "cut")
    assert (after - before).total() == 3 * len(CODECS) and not before - after


def test_a_transaction_that_was_aborted_was_never_there(running, here, tmp_path):
    job, judge = running
    judge()
    for name, ends in (("kept", "commit_transaction"), ("aborted", "abort_transaction")):
        given = [(edit(f"{name} {n}"), {"partition": n}) for n in range(2)]
        out = write(here["bootstrap"], job.topics["events"], given, transactional_id=name)
        getattr(out, ends)()
        out.close()
    judge()  # ends, although the last offsets are no messages
    found = {row[0] for row in world.rows(tmp_path)}
    assert {"kept 0", "kept 1"} <= found and not {"aborted 0", "aborted 1"} & found


def test_a_partition_that_somebody_adds_is_read_and_reported(running, here, tmp_path, capsys):
    job, judge = running
    admin = KafkaAdminClient(bootstrap_servers=here["bootstrap"])
    admin.create_partitions({job.topics["events"]: 3})
    admin.close()
    given = [(edit(f"added {n}"), {"partition": 2}) for n in range(3)]
    write(here["bootstrap"], job.topics["events"], given).close()
    judge()
    assert {"added 0", "added 1", "added 2"} <= {row[0] for row in world.rows(tmp_path)}
    assert "Got 3. All of them are read" in capsys.readouterr().out


def delete_records(admin, job):
    topic = job.topics["events"]
    admin.delete_records({TopicPartition(topic, number): -1 for number in range(2)})  # all of them


def make_again(admin, job):
    topic = job.topics["events"]
    admin.delete_topics([topic])
    while topic in admin.list_topics():
        time.sleep(0.1)
    kafka.make_topics(admin.config["bootstrap_servers"], [topic], 2, {})


def compact(admin, job):
    settings = {"cleanup.policy": "compact"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, job.topics["events"], settings)])


def go_back(admin, job):
    """To whoever judged more than there is, a broker that was set up anew from a backup looks like this."""
    with job.state.transaction():
        job.state.set_offsets({1: 1_000_000})


@pytest.mark.parametrize(
    ("happens", "lost", "sentence", "can_resume"),
    [
        (
            delete_records,
            8,
            "8 records of partition 1 deleted before they were read.* RESUME=True judges",
            True,
        ),
        (make_again, 0, "deleted and made again.* RESUME=False", False),
        (go_back, 0, "offsets that went back.* RESUME=False", False),
        (compact, 0, "cleanup.policy=compact.* RESUME=False", False),
    ],
)
def test_what_is_lost_before_it_is_judged_is_counted_and_ends_the_run(
    running, here, tmp_path, happens, lost, sentence, can_resume
):
    job, judge = running
    judge()
    topic, n = job.topics["events"], len(world.rows(tmp_path))
    admin = KafkaAdminClient(bootstrap_servers=here["bootstrap"])
    write(here["bootstrap"], topic, [(edit(f"lost {n}"), {"partition": 1}) for n in range(8)]).close()
    happens(admin, job)
    admin.close()
    for _ in range(1 if can_resume else 2):
        with pytest.raises(OnlineError, match=sentence):
            judge()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["records_lost"], metrics["edits"]) == (lost, n)
    assert metrics["records_lost_by_partition"] == ({"1": lost} if lost else {})
    if can_resume:
        write(here["bootstrap"], topic, [(edit("kept"), {"partition": 1})]).close()
        judge()
        assert len(world.rows(tmp_path)) == n + 1 and job.metrics()["records_lost"] == lost
