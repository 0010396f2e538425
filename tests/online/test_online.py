"""Stage 4 with a real broker and a real Spark: one verdict per edit, the same ones however it is cut or resumed."""

import errno
import json
import sqlite3
from collections import Counter

import pytest
import world

from lib import artifacts, events
from lib.blacklist.bloom import BlacklistFilter
from lib.online import online, query, verdicts
from lib.online.judging import SCHEMA
from lib.online.sender import Sender
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
    return {"kafka": kafka.bootstrap, "session": spark}


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
    ("partitions", "most", "runs", "many"),
    [(1, 500_000, (0,), verdicts.MANY), (8, 150, (0,), 2), (2, 100_000, (60, 200, 1, 300, 0), 2)],
)
def test_the_same_verdicts_however_it_is_cut_and_merged(
    here, model_dir, recording, whole, tmp_path, monkeypatch, partitions, most, runs, many
):
    monkeypatch.setattr(verdicts, "MANY", many)
    metrics = world.judge(tmp_path, model_dir, recording, runs, partitions=partitions, most=most, **here)
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert world.letters(tmp_path) == world.letters(whole[0])
    assert (tmp_path / "blacklist.bloom").read_bytes() == (whole[0] / "blacklist.bloom").read_bytes()
    merged = [path for path in verdicts.files(tmp_path) if path.stem.count("-") == 2]
    assert bool(merged) == (many == 2)
    same = ("events", "edits", "invalid", "kept", "flagged", "dropped", "blacklist_members_end")
    assert {name: metrics[name] for name in same} == {name: whole[1][name] for name in same}


def test_a_failure_at_any_point_of_an_epoch_changes_nothing(
    here, model_dir, recording, whole, tmp_path, monkeypatch
):
    steps = ["_publish", "_teach", "_publish"]
    calls = Counter()

    def failing(name, real):
        def step(self, *arguments):
            calls[name] += 1
            if steps and steps[0] == name and calls[name] > 1:
                steps.pop(0)
                calls.clear()
                raise OSError("as the test wants it")
            return real(self, *arguments)

        return step

    for name in ("_publish", "_teach"):
        monkeypatch.setattr(online.Stage, name, failing(name, getattr(online.Stage, name)))
    world.judge(tmp_path, model_dir, recording, most=200, **here)
    assert not steps
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert world.letters(tmp_path) == world.letters(whole[0])


def test_a_filter_that_says_yes_to_everybody_costs_nobody_an_edit(
    here, model_dir, recording, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr(online.Stage, "_look", _look_with_full_filter)
    metrics = world.judge(tmp_path, model_dir, recording, **here)
    assert world.rows(tmp_path) == world.rows(whole[0])
    assert metrics["hash_collisions"] > 100


def _look_with_full_filter(stage):
    full = BlacklistFilter.build(stage.books.ledger.members(), capacity=2)
    full._bloom.bitarray.setall(1)
    stage._known_to_filter = len(full)
    stage.judge.filter_sent()
    return query.examine(stage._eyes, stage.spark.sparkContext.broadcast(full.to_bytes()), stage.shadow_share)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_is_one_sentence_and_resume_goes_on(
    here, model_dir, recording, whole, tmp_path, monkeypatch, error
):
    tries = []

    def full(*_):
        tries.append(1)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(verdicts, "write", full)
        with pytest.raises(online.OnlineError, match=r"OUT_DIR must have room .*RESUME=True"):
            world.judge(tmp_path, model_dir, recording, **here)
    assert len(tries) == 1
    world.judge(tmp_path, model_dir, recording, resume=True, **here)
    assert world.rows(tmp_path) == world.rows(whole[0])


def test_a_spark_that_is_stopped_is_one_sentence(here, model_dir, tmp_path, monkeypatch):
    def fails(stage, sender):
        raise OSError("Connection refused")

    monkeypatch.setattr(online.Stage, "_sieve_once", fails)
    with online.Stage(tmp_path, model_dir, say=print, **here) as stage:
        monkeypatch.setattr(stage, "spark", None)
        with pytest.raises(online.OnlineError, match=r"JVM has ended \(Connection refused\).* RESUME=True"):
            stage.sieve(None)


def test_an_empty_recording_leaves_whole_files(here, model_dir, tmp_path):
    empty = world.record(
        tmp_path / "empty.jsonl", [b'{"meta": {"dt": "2015-09-12T00:00:00Z"}, "type": "log"}']
    )
    metrics = world.judge(tmp_path / "out", model_dir, empty, **here)
    assert (metrics["events"], metrics["edits"], metrics["bot_edits_stopped"]) == (1, 0, 0.0)
    assert world.rows(tmp_path / "out") == [] and world.letters(tmp_path / "out") == Counter()


def test_beginning_anew_removes_an_earlier_run_and_nothing_else(here, model_dir, recording, tmp_path):
    world.judge(tmp_path, model_dir, recording, (100,), **here)
    (tmp_path / "notes.txt").write_text("mine")
    metrics = world.judge(tmp_path, model_dir, recording, (50,), **here)
    assert metrics["edits"] == len(world.rows(tmp_path)) <= 50
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_another_recording_may_follow(here, model_dir, recording, whole, tmp_path):
    world.judge(tmp_path, model_dir, recording, **here)
    again = world.record(tmp_path / "again.jsonl", world.make_events(seed=2))
    metrics = world.judge(tmp_path, model_dir, again, resume=True, **here)
    assert metrics["edits"] > whole[1]["edits"] and set(world.rows(whole[0])) <= set(world.rows(tmp_path))


def test_two_runs_in_one_folder_are_refused(here, model_dir, tmp_path):
    with (
        online.Stage(tmp_path, model_dir, **here),
        pytest.raises(online.OnlineError, match="one run at a time"),
    ):
        online.Stage(tmp_path, model_dir, resume=True, **here).__enter__()


def test_a_missing_model_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(artifacts.MissingInput, match=r"03_eda_train.ipynb"):
        online.Stage(tmp_path / "out", tmp_path).__enter__()


def test_a_stream_that_is_refused_ends_the_run_with_its_reason(here, model_dir, recording, tmp_path):
    with replay.serve(recording) as server, online.Stage(tmp_path, model_dir, **here) as stage:
        wrong = world.order(stage, server.url.replace("recentchange", "no-such-stream"))
        with Sender(wrong) as sender, pytest.raises(online.OnlineError, match="status 404"):
            stage.sieve(sender)
