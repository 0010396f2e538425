"""The sample through a real relay, a real socket and a real Spark: whole, the same each time, or an error."""

import _thread
import json
import threading
import time

import pytest
import xxhash
from pyarrow import csv
from pyspark.sql import functions as F
from test_csv_files import HOSTILE

from lib import artifacts
from lib.sample import csv_files, sampling
from lib.sample.tcp_source import RelayDataSource
from lib.stream import recording, relay
from lib.stream.recording import StreamError


def event(user="Ada", kind="edit", number=0, **fields):
    content = {
        "meta": {"dt": f"2015-09-12T00:46:{number % 60:02d}.771Z", "id": f"id-{number}"},
        "type": kind,
        "user": user,
        "title": user,
        "comment": user,
        "wiki": "enwiki",
        "namespace": 0,
        "bot": False,
    }
    return json.dumps({**content, **fields}, ensure_ascii=number % 2 == 0).encode()


def bucket(user):
    """Spark's pmod(xxhash64(user), 100): xxHash64 with seed 42, as a signed number; null is the seed itself."""
    if user is None:
        return 42
    unsigned = xxhash.xxh64_intdigest(user.encode(), seed=42)
    return (unsigned - (unsigned >> 63 << 64)) % 100


CROWD = [event(f"user {number % 40}", number=number, bot=number % 40 == 0) for number in range(200)]
USERS = [f"user {number % 40}" for number in range(200)]
KEPT = next(user for user in USERS if bucket(user) < 20)
TEXTS = [event(KEPT, number=n, title=text and text[:99], comment=text) for n, text in enumerate(HOSTILE, 300)]
NOISE = [
    event(None, number=200),
    event(number=201, kind="log"),
    event(number=202, kind="categorize"),
    b'{"meta": {"domain": "canary"}, "type": 7}',
    event(number=203, meta={"domain": "canary", "dt": "2015-09-12T00:00:00Z"}),
    b"not JSON",
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "user": "broken \xff"}',
    b'{"meta": {"dt": "2015-09-12T00:00:00Z"},\r"type": "log"}',
    b'{"$relay": {"end": true, "events": 0}}',
]


@pytest.fixture
def in_dir(tmp_path):
    """Fill a folder of stage 1."""
    folder = tmp_path / "stream"
    folder.mkdir()

    def fill(*lines):
        recording.write_segment(folder / recording.segment_name(1), lines)
        return folder

    return fill


def marked(lines, percent):
    """Mark what is kept, as the notebook does."""
    edits = sampling.parse(lines).withColumn("is_edit", F.expr("type in ('edit', 'new')"))
    return edits.withColumn("kept", F.expr(f"is_edit and pmod(xxhash64(user), 100) < {percent}"))


def sample_of(spark, address, percent, out_dir):
    """Read a relay to its end; return the manifest and the users."""
    spark.dataSource.register(RelayDataSource)
    lines = spark.readStream.format("relay").option("address", address).load()
    with sampling.SampleWriter(out_dir) as writer:
        query = marked(lines, percent).writeStream.foreachBatch(writer.write_batch).start()
        complete = sampling.await_end(query, writer)
        return writer.finish(percent=percent, complete=complete), writer.users


def rows_of(out_dir):
    files = sorted(out_dir.glob("edits-*.csv"))
    return [row for file in files for row in csv.read_csv(file, **csv_files.ARROW).to_pylist()]


@pytest.mark.slow
def test_all_edits_of_some_users_with_their_text_and_none_of_the_others(spark, in_dir, tmp_path):
    out_dir = tmp_path / "sample"
    out_dir.mkdir()
    (out_dir / "edits-00007.csv").write_text("of an older, larger sample")
    with relay.Relay(in_dir(*CROWD, *NOISE, *TEXTS)) as server:
        manifest, users = sample_of(spark, server.address, 20, out_dir)
    rows, kept = rows_of(out_dir), [user for user in USERS if bucket(user) < 20]
    assert [row["user"] for row in rows] == kept + [KEPT] * len(HOSTILE)
    assert [row["comment"] for row in rows[-len(HOSTILE) :]] == HOSTILE
    assert [row["title"] for row in rows[-len(HOSTILE) :]] == [text and text[:99] for text in HOSTILE]
    assert artifacts.read(out_dir, "").items() >= manifest.items() >= {
        "percent": 20,
        "complete": True,
        "events_read": 209 + len(HOSTILE),
        "edits_read": 201 + len(HOSTILE),
        "edits_kept": len(rows),
        "edits_skipped": 201 - len(kept),
        "not_edits": 3,
        "canaries": 2,
        "invalid": 3,
        "users_read": 40,
        "users_kept": len(kept) // 5,
    }.items()  # fmt: skip
    letters = [json.loads(line) for line in (out_dir / "dead_letters.jsonl").read_text().splitlines()]
    assert [letter["raw"].strip()[:9] for letter in letters] == ["not JSON", '{"meta": ', '{"$relay"']
    hashes = {name: artifacts.sha256(out_dir / name) for name in ("dead_letters.jsonl", "edits-00000.csv")}
    assert manifest["files"] == hashes
    assert {path.name for path in out_dir.iterdir()} == {".lock", "manifest.json", *hashes}
    assert set(users["user"].dropna()) == set(USERS)


def test_spark_hashes_as_the_reference_does(spark):
    users = [text and text[:1000] for text in HOSTILE]
    lines = spark.createDataFrame([(event(user),) for user in users], "value binary")
    for percent in (20, 42, 43):
        kept = [row.kept for row in marked(lines, percent).collect()]
        assert kept == [bucket(user) < percent for user in users]


@pytest.mark.slow
def test_the_batches_change_nothing_and_a_growing_recording_is_read_along(spark, in_dir, tmp_path):
    folder = in_dir(*CROWD[:50])
    with relay.Relay(folder, follow=True) as server:
        grow = threading.Timer(1, in_dir_grows, [folder])
        grow.start()
        manifest, users = sample_of(spark, server.address, 20, tmp_path / "growing")
    with relay.Relay(folder) as server:
        at_once, same_users = sample_of(spark, server.address, 20, tmp_path / "at once")
    assert manifest == at_once and manifest["events_read"] == 200
    assert users.equals(same_users)


def in_dir_grows(folder):
    recording.write_segment(folder / recording.segment_name(2), CROWD[50:])
    artifacts.write(folder)


@pytest.mark.slow
def test_a_relay_that_is_lost_is_an_error_and_an_older_sample_stays(spark, scripted_relay, tmp_path):
    (tmp_path / "edits-00000.csv").write_text("older")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StreamError, match=r"^The relay at .* Got 200 lines: .* Start the relay .*IN_DIR\.$"):
        sample_of(spark, scripted_relay(*CROWD), 20, tmp_path)
    assert (tmp_path / "edits-00000.csv").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "edits-00000.csv", "manifest.json"}
    assert spark.streams.active == []


@pytest.mark.slow
def test_an_interrupt_leaves_the_sample_of_what_was_read(spark, scripted_relay, tmp_path, capsys):
    spark.dataSource.register(RelayDataSource)
    lines = spark.readStream.format("relay").option("address", scripted_relay(*CROWD, relay.HEARTBEAT)).load()
    with sampling.SampleWriter(tmp_path) as writer:
        query = marked(lines, 100).writeStream.foreachBatch(writer.write_batch).start()
        threading.Thread(target=interrupt_after, args=(writer, 200)).start()
        complete = sampling.await_end(query, writer)
        manifest = writer.finish(complete=complete)
    assert capsys.readouterr().out == "Interrupted after 200 lines: the sample is of these.\n"
    assert (manifest["complete"], manifest["edits_kept"], len(rows_of(tmp_path))) == (False, 200, 200)
    assert spark.streams.active == []


def interrupt_after(writer, lines):
    while writer.lines < lines:
        time.sleep(0.1)
    _thread.interrupt_main()


def test_one_run_at_a_time_writes_to_a_folder(tmp_path):
    with (
        sampling.SampleWriter(tmp_path),
        pytest.raises(StreamError, match="OUT_DIR must be used by one run at a time"),
        sampling.SampleWriter(tmp_path),
    ):
        pass
    with sampling.SampleWriter(tmp_path):
        pass


def test_a_damaged_recording_is_found_before_spark_starts(in_dir):
    folder = in_dir(*CROWD)
    path = folder / recording.segment_name(1)
    assert sampling.inputs(folder) == {path.name: artifacts.sha256(path)}
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(recording.RecordingError, match="breaks off"):
        sampling.inputs(folder)
