"""Stage 4 with a real broker and a real Spark: one verdict per edit, the same ones however it is cut or resumed."""

import errno
import json
import sqlite3
from collections import Counter
from types import SimpleNamespace

import pytest
import world

from lib import events
from lib.blacklist.bloom import BlacklistFilter
from lib.online import inputs, run, sinks
from lib.online.run import OnlineJob
from lib.online.sinks import SCHEMA
from lib.online.state import OnlineError, StateStore
from lib.params import ParameterError
from lib.replay import server as replay


@pytest.fixture(scope="module")
def raws():
    return world.make_events()


@pytest.fixture(scope="module")
def recording(raws, tmp_path_factory):
    return world.record(tmp_path_factory.mktemp("recording") / "day.jsonl", raws)


@pytest.fixture(scope="module")
def here(kafka, spark):
    """The broker and the session that all tests of this file share."""
    return {"bootstrap": kafka.bootstrap, "session": spark}


@pytest.fixture(scope="module")
def whole(here, model_dir, recording, tmp_path_factory):
    """One run over the whole recording: folder and metrics."""
    out = tmp_path_factory.mktemp("whole")
    return out, world.judge(out, model_dir, recording, **here)


def valid(raws):
    for raw in raws:
        try:
            yield raw, events.decode(raw)
        except events.InvalidEvent:
            continue


def test_every_edit_has_exactly_one_verdict(whole, raws):
    out, metrics = whole
    names = {events.event_key(raw, event) for raw, event in valid(raws) if event.is_edit}
    found = [row[0] for row in world.rows(out)]
    named = [name for name in found if not name.startswith("sha1:")]
    assert len(named) == len(set(named))
    assert set(found) == names
    assert metrics["edits"] == len(found) == metrics["kept"] + metrics["flagged"] + metrics["dropped"]
    assert metrics["flagged"] > 3 and metrics["dropped"] > 100 and metrics["kept"] > 100


def test_what_is_no_event_is_a_dead_letter_with_its_text_and_a_reason(whole, raws):
    out, metrics = whole
    good = {raw for raw, _ in valid(raws)}
    bad = Counter(raw for raw in raws if raw not in good)
    letters = [json.loads(line) for line in world.letters(out).elements()]
    assert Counter(letter["raw"] for letter in letters) == Counter(
        {raw.decode(errors="backslashreplace"): n for raw, n in bad.items()}
    )
    assert all(letter["reason"] for letter in letters)
    assert metrics["invalid"] == len(letters)


def test_duplicates_are_counted_and_judged_once(whole, raws):
    ids = Counter(event.meta.id for _, event in valid(raws) if event.meta.id)
    assert whole[1]["duplicates"] == sum(ids.values()) - len(ids)
    assert whole[1]["events"] == len(ids) + sum(1 for _, event in valid(raws) if not event.meta.id)


def test_metrics_have_every_key_of_the_contract(whole):
    out, metrics = whole
    kept = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    wanted = [
        *("events", "edits", "invalid", "duplicates", "dropped", "flagged", "kept"),
        *("bot_edits_stopped", "bot_edits_stopped_last_quarter"),
        *("human_users_flagged", "human_users_flagged_upper95"),
        *("blacklist_members_start", "blacklist_members_end", "hash_collisions"),
        *("events_per_second", "latency_seconds"),
    ]
    assert set(wanted) <= set(kept)
    assert 0 < kept["latency_seconds"]["p50"] <= kept["latency_seconds"]["p99"]
    assert kept["blacklist_members_end"] == kept["blacklist_members_start"] + kept["flagged"]
    assert kept["bot_edits_stopped"] > 0.8 and kept["human_users_flagged"] < 0.05
    assert metrics["dropped"] == kept["dropped"]


def test_the_topic_of_verdicts_says_what_parquet_says(whole, kafka):
    out, metrics = whole
    found = world.messages(kafka.bootstrap, metrics["topics"]["verdicts"])
    rows = [json.loads(message.value) for message in found]
    assert all(message.key.decode() == row["meta_id"] for message, row in zip(found, rows, strict=True))
    expected = [dict(zip(SCHEMA.names, row, strict=True)) for row in world.rows(out)]
    for row in expected:
        row["timestamp"] = events.iso(round(row["timestamp"].timestamp() * 1000))
    assert sorted(map(repr, rows)) == sorted(map(repr, expected))


def test_the_topic_of_events_has_each_event_as_it_came_keyed_by_user(whole, kafka, raws):
    found = world.messages(kafka.bootstrap, whole[1]["topics"]["events"])
    sent = Counter(message.value for message in found)
    assert set(sent) == set(raws)
    for message in found:
        try:
            user = events.decode(message.value).user
        except events.InvalidEvent:
            user = None
        assert message.key == (None if user is None else user.encode())


@pytest.mark.parametrize(
    ("partitions", "max_offsets", "runs"),
    [(1, 500_000, (0,)), (8, 150, (0,)), (2, 100_000, (60, 200, 1, 300, 0))],
)
def test_the_same_verdicts_however_it_is_cut(
    here, model_dir, recording, whole, tmp_path, partitions, max_offsets, runs
):
    metrics = world.judge(
        tmp_path, model_dir, recording, runs, partitions=partitions, max_offsets=max_offsets, **here
    )
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert world.letters(tmp_path) == world.letters(whole[0])
    assert (tmp_path / "blacklist.bloom").read_bytes() == (whole[0] / "blacklist.bloom").read_bytes()
    same = (
        "events",
        "edits",
        "invalid",
        "duplicates",
        *("kept", "flagged", "dropped"),
        "blacklist_members_end",
    )
    assert {name: metrics[name] for name in same} == {name: whole[1][name] for name in same}


FULL = "OUT_DIR must have room .*RESUME=True"


@pytest.mark.parametrize(
    ("where", "name", "error", "sentence"),
    [
        (sinks, "write_part", OSError(errno.ENOSPC, "No space left"), FULL),
        (StateStore, "write_batch", sqlite3.OperationalError("database or disk is full"), FULL),
        (sinks.VerdictTopic, "send", RuntimeError("as the test wants it"), "Got: as the test wants it"),
    ],
)
def test_a_failure_in_a_batch_is_one_sentence_and_resume_continues(
    here, model_dir, recording, whole, tmp_path, monkeypatch, where, name, error, sentence
):
    real, calls = getattr(where, name), Counter()

    def fails(*arguments):
        calls[name] += 1
        if calls[name] == 3:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(OnlineError, match=sentence):
            world.judge(tmp_path, model_dir, recording, max_offsets=200, **here)
    assert 0 < json.loads((tmp_path / "metrics.json").read_text())["edits"] < whole[1]["edits"]
    world.judge(tmp_path, model_dir, recording, resume=True, **here)
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert world.letters(tmp_path) == world.letters(whole[0])


def test_a_filter_that_says_yes_to_everybody_costs_nobody_an_edit(
    here, model_dir, recording, whole, tmp_path, monkeypatch
):
    full = BlacklistFilter.build(["A"], capacity=2)
    full.bitarray.setall(1)
    monkeypatch.setattr(run.bloom, "load_or_rebuild", lambda path, ledger: full)
    metrics = world.judge(tmp_path, model_dir, recording, **here)
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert metrics["hash_collisions"] > 100


def test_a_spark_that_has_ended_is_one_sentence(here, model_dir, recording, tmp_path):
    class Gone:
        @property
        def isActive(self):
            raise ConnectionRefusedError("Connection refused")

    with (
        replay.serve(recording) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
    ):
        published = job.publish(job.publisher(world.client(job, server.url), world.producer(job)), 10)
        with pytest.raises(OnlineError, match=r"JVM has ended \(Connection refused\).* RESUME=True"):
            job.finish(Gone(), published)


def test_an_empty_recording_leaves_whole_files(here, model_dir, tmp_path):
    empty = world.record(
        tmp_path / "empty.jsonl", [b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "type": "log"}']
    )
    metrics = world.judge(tmp_path / "out", model_dir, empty, **here)
    assert (metrics["events"], metrics["edits"], metrics["bot_edits_stopped"]) == (1, 0, 0.0)
    assert world.rows(tmp_path / "out") == [] and world.letters(tmp_path / "out") == Counter()


def test_starting_again_removes_an_earlier_run_and_nothing_else(here, model_dir, recording, tmp_path):
    world.judge(tmp_path, model_dir, recording, (100,), **here)
    (tmp_path / "notes.txt").write_text("mine")
    metrics = world.judge(tmp_path, model_dir, recording, (50,), **here)
    assert metrics["edits"] == len(world.rows(tmp_path)) <= 50
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_without_a_file_of_verdicts_is_one_sentence(here, model_dir, recording, tmp_path):
    world.judge(tmp_path, model_dir, recording, (100,), **here)
    sinks.part_files(tmp_path)[0].unlink()
    with pytest.raises(OnlineError, match=r"RESUME=True needs all files of verdicts.* Got 1 fewer .*part-"):
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True)


def test_a_file_of_a_batch_that_is_not_committed_is_removed(here, model_dir, recording, tmp_path):
    world.judge(tmp_path, model_dir, recording, (100,), **here)
    rows = world.rows(tmp_path)
    sinks.write_part(tmp_path, 9, world.verdict_table(("A", False, "kept")))
    (tmp_path / "verdicts" / ".part-00000010.parquet.tmp").write_bytes(b"half")
    (tmp_path / "verdicts" / "notes.txt").write_text("mine")
    OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True).close()
    assert world.rows(tmp_path) == rows
    assert not list((tmp_path / "verdicts").glob("*.tmp")) and (tmp_path / "verdicts" / "notes.txt").exists()


def test_another_recording_may_follow(here, model_dir, recording, whole, tmp_path):
    world.judge(tmp_path, model_dir, recording, **here)
    again = world.record(tmp_path / "again.jsonl", world.make_events(seed=2))
    metrics = world.judge(tmp_path, model_dir, again, resume=True, source="another recording", **here)
    assert metrics["edits"] > whole[1]["edits"] and set(world.rows(whole[0])) <= set(world.rows(tmp_path))


def test_two_runs_in_one_folder_are_refused(here, model_dir, tmp_path):
    options = {"bootstrap": here["bootstrap"]}
    with (
        OnlineJob(tmp_path, model_dir, **options),
        pytest.raises(OnlineError, match="one run at a time"),
    ):
        OnlineJob(tmp_path, model_dir, resume=True, **options)


def test_a_missing_model_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(ParameterError, match=r"03_eda_train.ipynb"):
        OnlineJob(tmp_path / "out", tmp_path)


def test_a_stream_that_is_refused_ends_the_run_with_its_reason(here, spark, model_dir, recording, tmp_path):
    with (
        replay.serve(recording) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
    ):
        wrong = world.client(job, server.url.replace("recentchange", "no-such-stream"))
        with pytest.raises(OnlineError, match="status 404"):
            world.run(job, spark, wrong)


def test_a_recording_is_cut_into_five_runs_of_equal_size(recording, raws):
    source = SimpleNamespace(recording=recording, since=None, until=None, wikis=frozenset())
    settings = SimpleNamespace(resume=False, max_seconds=0, max_events=0)
    n = sum(1 for _ in valid(raws))
    assert inputs.split_runs(source, settings) == [-(-n // 5)] * 4 + [0]
    settings.max_events = 22
    assert inputs.split_runs(source, settings) == [5, 5, 5, 5, 2]
    settings.resume = True
    assert inputs.split_runs(source, settings) == [22]
