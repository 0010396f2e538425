"""Other programs write into the topic, too: all of that is accounted for, and our producer still finds its place."""

import json
from collections import Counter

import pytest
import world
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from lib.online.run import OnlineJob
from lib.replay import server as replay

DAY = "2015-09-12T23:59:00Z"


@pytest.fixture(scope="module")
def here(kafka, spark):
    return {"bootstrap": kafka.bootstrap, "session": spark}


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
        (edit(f"another's, {codec}"), {"headers": [("position", b"junk"), ("key", junk), ("source", junk)]}),
        (edit(f"header twice, {codec}"), {"headers": [("id", junk), ("", junk)]}),
        (edit(f"long, {codec}", comment="x" * 5_000_000), {}),
        (None, {"key": b"no value", "partition": 0}),
        (b"", {"partition": 1}),
        (b"[" * 100_000, {"partition": 0}),
    ]


def test_what_others_wrote_is_judged_and_the_producer_finds_its_place(kafka, here, model_dir, tmp_path):
    recording = world.record(tmp_path / "day.jsonl", world.make_events()[:500])
    world.judge(tmp_path / "whole", model_dir, recording, **here)
    metrics = world.judge(tmp_path / "cut", model_dir, recording, (200,), **here)
    for codec in (None, "gzip", "lz4"):
        write(kafka.bootstrap, metrics["topics"]["events"], odd(codec), compression_type=codec).close()
    world.judge(tmp_path / "cut", model_dir, recording, resume=True, **here)
    whole, cut = Counter(world.rows(tmp_path / "whole")), Counter(world.rows(tmp_path / "cut"))
    assert not whole - cut
    theirs = [
        json.loads(value)["meta"]["id"] for codec in (None, "gzip", "lz4") for value, _ in odd(codec)[:5]
    ]
    assert sorted(row[0] for row in (cut - whole).elements()) == sorted(theirs)
    more = world.letters(tmp_path / "cut") - world.letters(tmp_path / "whole")
    assert more.total() == 9 and not world.letters(tmp_path / "whole") - world.letters(tmp_path / "cut")


def test_a_transaction_that_was_aborted_was_never_there(kafka, spark, model_dir, tmp_path):
    recording = world.record(tmp_path / "day.jsonl", world.make_events()[:50])
    with (
        replay.serve(recording, "--canaries", "0") as server,
        OnlineJob(tmp_path, model_dir, bootstrap=kafka.bootstrap) as job,
    ):
        world.run(job, spark, world.client(job, server.url))
        for name, ends in (("kept", "commit_transaction"), ("aborted", "abort_transaction")):
            given = [(edit(f"{name} {n}"), {"partition": n}) for n in range(2)]
            out = write(kafka.bootstrap, job.topics["events"], given, transactional_id=name)
            getattr(out, ends)()
            out.close()
        world.run(
            job, spark, world.client(job, server.url)
        )  # ends, although the last offsets are no messages
    found = {row[0] for row in world.rows(tmp_path)}
    assert {"kept 0", "kept 1"} <= found and not {"aborted 0", "aborted 1"} & found


def test_a_partition_that_somebody_adds_is_read_and_reported(kafka, spark, model_dir, tmp_path, capsys):
    recording = world.record(tmp_path / "day.jsonl", world.make_events()[:50])
    with (
        replay.serve(recording, "--canaries", "0") as server,
        OnlineJob(tmp_path, model_dir, bootstrap=kafka.bootstrap) as job,
    ):
        admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        admin.create_partitions({job.topics["events"]: 3})
        admin.close()
        given = [(edit(f"added {n}"), {"partition": 2}) for n in range(3)]
        write(kafka.bootstrap, job.topics["events"], given).close()
        world.run(job, spark, world.client(job, server.url))
    assert {"added 0", "added 1", "added 2"} <= {row[0] for row in world.rows(tmp_path)}
    assert "Got 3. All of them are read" in capsys.readouterr().out
