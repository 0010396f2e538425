"""Stage 4 with a real broker and a real Spark: one verdict per edit, the same ones however it is cut or resumed."""

import _thread
import errno
import json
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import pytest
import synthetic
import world

from lib import artifacts, events
from lib.infra import broker
from lib.online import cards, run, state
from lib.online.run import OnlineJob
from lib.online.state import VERDICT_SCHEMA, OnlineError, StateStore
from lib.online.topics import VerdictTopic
from lib.params import ParameterError
from lib.replay import server as replay


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
    bad = Counter(raw.decode(errors="backslashreplace") for raw in raws if raw not in good)
    letters = [json.loads(line) for line in world.letters(out).elements()]
    assert Counter(letter["raw"] for letter in letters) == bad
    assert all(letter["reason"] for letter in letters)
    assert metrics["invalid"] == len(letters)


def test_duplicates_are_counted_and_judged_once(whole, raws):
    ids = Counter(event.meta.id for _, event in valid(raws) if event.meta.id)
    assert whole[1]["duplicates"] == sum(ids.values()) - len(ids)
    assert whole[1]["events"] == len(ids) + sum(1 for _, event in valid(raws) if not event.meta.id)


def test_metrics_have_every_key_of_the_contract(whole):
    out, metrics = whole
    kept = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    wanted = (
        "events edits invalid duplicates dropped flagged kept bot_edits_stopped bot_edits_stopped_last_quarter "
        "human_users_flagged human_users_flagged_upper95 blacklist_members_start blacklist_members_end "
        "hash_collisions events_per_second latency_seconds"
    )
    assert set(wanted.split()) <= set(kept)
    assert 0 < kept["latency_seconds"]["p50"] <= kept["latency_seconds"]["p99"]
    assert kept["blacklist_members_end"] == kept["blacklist_members_start"] + kept["flagged"]
    assert kept["bot_edits_stopped"] > 0.8 and kept["human_users_flagged"] < 0.05
    assert metrics["dropped"] == kept["dropped"]


def test_the_topic_of_verdicts_has_what_parquet_has(whole, kafka):
    out, metrics = whole
    found = world.messages(kafka.bootstrap, metrics["topics"]["verdicts"])
    rows = [json.loads(message.value) for message in found]
    assert all(message.key.decode() == row["meta_id"] for message, row in zip(found, rows, strict=True))
    expected = [dict(zip(VERDICT_SCHEMA.names, row, strict=True)) for row in world.rows(out)]
    for row in expected:
        row["timestamp"] = events.iso(round(row["timestamp"].timestamp() * 1000))
    assert sorted(map(repr, rows)) == sorted(map(repr, expected))


def test_the_topic_of_events_has_each_event_as_it_came_keyed_by_user(whole, kafka, raws):
    found = world.messages(kafka.bootstrap, whole[1]["topics"]["events"])
    users = {raw: event.user for raw, event in valid(raws)}
    assert {message.value for message in found} == set(raws)
    for message in found:
        user = users.get(message.value)
        assert message.key == (None if user is None else user.encode())


def test_cards_have_the_texts_of_the_edits_up_to_the_verdict(here, whole, model_dir, raws):
    out, metrics = whole
    titles = {events.event_key(raw, event): event.title for raw, event in valid(raws)}
    with OnlineJob(out, model_dir, bootstrap=here["bootstrap"], resume=True) as job:
        assert {name: text["title"] for name, text in job.events.texts(frozenset(titles)).items()} == titles
        cards.write(out, job.state.ledger, job.events.texts)
    found = cards.load(out)
    assert len(found) == metrics["flagged"]
    assert all(edit["title"] == titles[edit["meta_id"]] for card in found.values() for edit in card.edits)
    assert {card.edits[-1]["verdict"] for card in found.values()} == {"flagged"}


@pytest.mark.parametrize(
    ("partitions", "max_offsets", "runs"), [(1, 0, (0,)), (8, 500, (0,)), (2, 0, (60, 1, 0))]
)
def test_the_same_verdicts_however_it_is_cut(
    here, model_dir, recording, whole, tmp_path, partitions, max_offsets, runs
):
    options = {"partitions": partitions, "max_offsets": max_offsets, **here}
    metrics = world.judge(tmp_path, model_dir, recording, runs, **options)
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert world.letters(tmp_path) == world.letters(whole[0])
    assert (tmp_path / "blacklist.bloom").read_bytes() == (whole[0] / "blacklist.bloom").read_bytes()
    counts = "events edits invalid duplicates kept flagged dropped blacklist_members_end"
    for name in counts.split():
        assert metrics[name] == whole[1][name]


FULL = "OUT_DIR must have room .*RESUME=True"


@pytest.mark.parametrize(
    ("where", "name", "error", "sentence"),
    [
        (state, "write_part", OSError(errno.ENOSPC, "No space left"), FULL),
        (StateStore, "write_batch", sqlite3.OperationalError("database or disk is full"), FULL),
        (VerdictTopic, "send", RuntimeError("as the test wants it"), "Got: as the test wants it"),
        (OnlineJob, "commit_batch", KeyError("in Spark's thread"), 'Got: KeyError: "in Spark\'s thread". W'),
    ],
)
def test_a_failure_in_a_batch_is_one_sentence_and_resume_continues(
    here, model_dir, raws, short, tmp_path, monkeypatch, where, name, error, sentence
):
    real, calls = getattr(where, name), Counter()

    def fails(*arguments):
        calls[name] += 1
        if calls[name] == 2:
            raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(OnlineError, match=sentence):
            world.judge(tmp_path / "out", model_dir, short, max_offsets=100, **here)
    world.judge_at_once(tmp_path / "whole", model_dir, raws[:300])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert 0 < metrics["edits"] == len(world.rows(tmp_path / "out")) < len(world.rows(tmp_path / "whole"))
    world.judge(tmp_path / "out", model_dir, short, resume=True, **here)
    assert world.rows(tmp_path / "out") == world.rows(tmp_path / "whole")
    assert world.letters(tmp_path / "out") == world.letters(tmp_path / "whole")


def test_a_spark_that_has_ended_is_one_sentence(here, model_dir, short, tmp_path):
    class Gone:
        @property
        def isActive(self):
            raise ConnectionRefusedError("Connection refused")

    with (
        replay.serve(short) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
    ):
        job.publish(job.publisher(world.client(job, server.url), world.producer(job)), 10)
        with pytest.raises(OnlineError, match=r"JVM has ended.* Connection refused.* RESUME=True"):
            job.finish(Gone())


def test_an_interrupt_ends_a_run_well(here, spark, model_dir, recording, tmp_path):
    def interrupt_after_the_first_edits():
        while not job.state.counters()["edits"]:
            time.sleep(0.05)
        _thread.interrupt_main()

    with (
        replay.serve(recording, speed=1000) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
        mock.patch.object(job, "export", wraps=job.export) as export,
    ):
        threading.Thread(target=interrupt_after_the_first_edits).start()
        world.run(job, spark, world.client(job, server.url, since=synthetic.START))
        export.assert_called_once()
        assert not spark.streams.active
        cards.write(tmp_path, job.state.ledger, job.events.texts)
    judged = len(world.rows(tmp_path))
    assert 0 < judged == json.loads((tmp_path / "metrics.json").read_text())["edits"]
    metrics = world.judge(tmp_path, model_dir, recording, resume=True, **here)
    assert metrics["edits"] == len(world.rows(tmp_path)) > judged


def test_a_kafka_that_stands_still_is_waited_for_and_named(
    spark, model_dir, short, raws, tmp_path, monkeypatch, capsys
):
    for name, seconds in {"CHECK_SECONDS": 0.5, "PING_SECONDS": 0.5, "KAFKA_SECONDS": 2}.items():
        monkeypatch.setattr(run, name, seconds)
    spark.conf.set("spark.sql.streaming.stopTimeout", "2s")
    with broker.Broker(tmp_path / "kafka") as kafka:
        here = {"bootstrap": kafka.bootstrap, "session": spark}
        with (
            replay.serve(short) as server,
            OnlineJob(tmp_path / "out", model_dir, bootstrap=kafka.bootstrap) as job,
        ):
            world.run(job, spark, world.client(job, server.url), max_events=100)
            threading.Timer(1, os.killpg, (kafka.process.pid, signal.SIGSTOP)).start()
            stalled = world.client(job, "http://127.0.0.1:9/")
            with pytest.raises(OnlineError, match=r"Kafka at 127.*must answer.* no answer.* RESUME=True"):
                world.run(job, spark, stalled)
        os.killpg(kafka.process.pid, signal.SIGCONT)
        world.judge(tmp_path / "out", model_dir, short, resume=True, **here)
    spark.conf.set("spark.sql.streaming.stopTimeout", "60s")
    assert "has not answered for" in capsys.readouterr().out
    world.judge_at_once(tmp_path / "whole", model_dir, raws[:300])
    assert world.rows(tmp_path / "out") == world.rows(tmp_path / "whole")


def test_an_empty_recording_leaves_whole_files(here, model_dir, tmp_path):
    log = [b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "type": "log"}']
    empty = world.record(tmp_path / "empty.jsonl", log)
    metrics = world.judge(tmp_path / "out", model_dir, empty, **here)
    assert (metrics["events"], metrics["edits"], metrics["bot_edits_stopped"]) == (1, 0, 0.0)
    assert world.rows(tmp_path / "out") == [] and world.letters(tmp_path / "out") == Counter()


def test_resume_keeps_what_is_committed_and_a_new_run_nothing(here, model_dir, short, tmp_path):
    world.judge(tmp_path, model_dir, short, (100,), **here)
    rows = world.rows(tmp_path)
    notes = [tmp_path / "notes.txt", tmp_path / "verdicts" / "notes.txt"]
    for file in notes:
        file.write_text("mine")
    state.write_part(
        tmp_path, 9, world.verdict_table(("A", False, "kept"))
    )  # of a batch that is not committed
    (tmp_path / "verdicts" / ".part-00000010.parquet.tmp").write_bytes(b"half")
    OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True).close()
    assert world.rows(tmp_path) == rows
    assert not list((tmp_path / "verdicts").glob("*.tmp")) and all(file.exists() for file in notes)
    state.part_files(tmp_path)[0].unlink()
    with pytest.raises(OnlineError, match=r"RESUME=True needs all files of verdicts.* Got 1 fewer .*part-"):
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True)
    with OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job:
        assert world.rows(tmp_path) == [] and job.metrics()["edits"] == 0
    with artifacts.lock_folder(tmp_path, OnlineError), pytest.raises(OnlineError, match="one run at a time"):
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True)
    assert notes[0].read_text() == "mine"


def test_another_recording_may_follow(here, model_dir, short, tmp_path):
    first = world.judge(tmp_path, model_dir, short, **here)
    rows = world.rows(tmp_path)
    with OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"], resume=True) as job:  # and ends at once
        assert [job.position({"stream_url": "another"}) for _ in range(2)] == [None] * 2
    again = world.record(tmp_path / "again.jsonl", world.make_events(seed=2)[500:800])
    metrics = world.judge(tmp_path, model_dir, again, resume=True, source="another recording", **here)
    assert metrics["edits"] > first["edits"] and set(rows) <= set(world.rows(tmp_path))


def test_a_missing_model_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(ParameterError, match=r"03_eda_train.ipynb"):
        OnlineJob(tmp_path / "out", tmp_path)


def test_a_stream_that_is_refused_ends_the_run_with_its_reason(here, spark, model_dir, short, tmp_path):
    with (
        replay.serve(short) as server,
        OnlineJob(tmp_path, model_dir, bootstrap=here["bootstrap"]) as job,
    ):
        wrong = world.client(job, server.url.replace("recentchange", "no-such-stream"))
        with pytest.raises(OnlineError, match="status 404"):
            world.run(job, spark, wrong)


@pytest.mark.parametrize(
    ("max_events", "resume", "sizes"),
    [(0, False, None), (22, False, [5, 5, 5, 5, 2]), (6, False, [2, 2, 2]), (22, True, [22])],
)
def test_a_recording_is_cut_into_five_runs_of_equal_size(recording, raws, max_events, resume, sizes):
    source = SimpleNamespace(recording=recording, since=None, until=None, wikis=frozenset())
    settings = SimpleNamespace(resume=resume, max_seconds=0, max_events=max_events)
    n = sum(1 for _ in valid(raws))
    assert run.split_runs(source, settings) == (sizes or [-(-n // 5)] * 4 + [0])
    source.wikis = {"none"}
    assert run.split_runs(source, settings) == [max_events if resume else 0], "without events a run, too"
