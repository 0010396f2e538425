import contextlib
import errno
import gzip
import json
import multiprocessing
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import crashing
import pytest
from streams import END, OK, START, Script, event, make_events, message, silence, status, truth

from lib import artifacts, params, plots
from lib.replay import faults
from lib.replay.server import Server, serve_source
from lib.stream import recorder, recording, sample_day
from lib.stream.client import KINDS, EventStreamClient
from lib.stream.recorder import Recorder, progress
from lib.stream.recording import RecordingError
from lib.stream.source import Source

EVERYTHING = {
    "canary_seconds": 29,
    "malformed": {"every": 31},
    "duplicates": {"every": 37},
    "cuts": {"every": 170, "where": "middle"},
    "switch": {"at": [333]},
    "gaps": {"at": [332], "events": 40},
}


USUAL = {"recording": None, "since": None, "until": None, "wikis": frozenset()}


def source(url, **changed):
    return Source(url, **{**USUAL, **changed})


def record(folder, what, fails_after=0, error=ZeroDivisionError, **options):
    """Record as 01_stream does; return the manifest. After so many events it fails, as a bug would."""
    with contextlib.closing(serve_source(what)) as server:
        wanted = {"since": what.since, "until": what.until, "wikis": what.wikis}
        client = EventStreamClient(server.url, yield_idle=True, **wanted, **options)
        with Recorder(folder, client, what) as recorder:
            for event in progress(client):
                recorder.write(event)
                if fails_after and client.counts.events == fails_after:
                    raise error
    return recorder.manifest


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(recorder, "SEGMENT_EVENTS", 50)


@pytest.fixture
def stream():
    """A source of 120 events."""
    with Server(make_events(120)) as server:
        yield source(server.url)


def ids(folder):
    return [json.loads(line)["meta"]["id"] for line in recording.lines(folder)]


def assert_agrees(folder, manifest, truth):
    """Check folder and manifest against what was on the stream, to the event."""
    names, invalid, canaries, duplicates = truth
    letters = [json.loads(line) for line in (folder / artifacts.DEAD_LETTERS).read_bytes().splitlines()]
    assert ids(folder) == names
    assert [letter["raw"] for letter in letters] == invalid and all(letter["reason"] for letter in letters)
    expected = {"events": len(names), "invalid": len(invalid), "canaries": canaries, "duplicates": duplicates}
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["received"] == sum(manifest[kind] for kind in KINDS)


def test_a_recording_agrees_with_the_truth_to_the_event(tmp_path):
    plan, lines = faults.load(EVERYTHING), make_events(600)
    with Server(lines, plan) as server:
        manifest = record(tmp_path, source(server.url))
        assert_agrees(tmp_path, manifest, truth(plan, lines))
        assert manifest["reconnects"] == server.served - 1
    assert manifest["first_dt"] == "2015-09-12T00:00:00.000Z"
    assert manifest["last_dt"] == "2015-09-12T00:09:59.000Z"
    assert manifest["complete"] and artifacts.read(tmp_path, "01_stream")["events"] == 600
    assert set(manifest["files"]) == {path.name for path in recording.segments(tmp_path)}


def test_texts_are_kept_as_they_came(tmp_path):
    lines = [
        event(0, comment="\u2028 \u0085 \x0b é 🤖 \u202e =1+1 <b>"),
        event(1, title=None, user=..., extra={"deep": [1, 2, {"": None}]}),
        event(2).replace(b'{"$schema"', b'{  "$schema"'),
    ]
    with Server(lines) as server:
        record(tmp_path, source(server.url))
    assert list(recording.lines(tmp_path)) == lines


def test_a_text_over_several_lines_is_one_line_again(tmp_path):
    with Script(OK + message(0, raw=event(0).replace(b', "', b',\ndata: "')) + END) as server:
        record(tmp_path, source(server.url))
    assert list(recording.lines(tmp_path)) == [event(0)]


def test_nothing_at_all(tmp_path):
    with Server([]) as server:
        manifest = record(tmp_path, source(server.url))
    assert (manifest["events"], manifest["files"], manifest["complete"]) == (0, {}, True)
    assert manifest["first_dt"] is None


# --- again in the same folder -----------------------------------------------------------------------------------------


def test_a_finished_recording_is_made_again_with_the_same_content(tmp_path, stream):
    first, second = (record(tmp_path, stream) for _ in range(2))
    assert first["files"] == second["files"] and first["received"] == second["received"]


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        ({"since": START + 50_000}, range(50, 120)),
        ({"until": START + 50_000}, range(50)),
        ({"wikis": frozenset({"x"})}, ()),
    ],
)
def test_another_range_is_never_mixed_in(tmp_path, stream, changed, numbers):
    with pytest.raises(ZeroDivisionError):
        record(tmp_path, stream, 76)
    assert record(tmp_path, source(stream.stream_url, **changed))["repeated"] == 0
    assert ids(tmp_path) == [f"id-{number}" for number in numbers]


def test_another_stream_is_never_mixed_in(tmp_path):
    with Script(OK + message(0), silence(OK)) as one, Server([event(7)]) as two:
        record(tmp_path, source(one.url), max_seconds=0.3)
        assert ids(tmp_path) == ["id-0"]
        record(tmp_path, source(two.url))
    assert ids(tmp_path) == ["id-7"]


def test_what_was_received_before_an_error_is_kept_and_the_next_run_resumes(tmp_path, stream):
    with pytest.raises(ZeroDivisionError):
        record(tmp_path, stream, 76)
    assert ids(tmp_path) == [f"id-{number}" for number in range(76)]
    assert not (tmp_path / artifacts.NAME).exists()
    manifest = record(tmp_path, stream, max_events=100)  # of the whole recording
    assert ids(tmp_path) == [f"id-{number}" for number in range(100)]
    assert manifest["repeated"] > 0 and manifest["duplicates"] == 0 and manifest["reconnects"] == 1


def test_silence_leaves_a_recording_that_is_resumed(tmp_path):
    with Script(OK + message(0), OK) as server:
        first = record(tmp_path, source(server.url), idle_timeout=0.4)
        assert (first["events"], first["complete"]) == (1, False)
        server.parts = (OK + message(0) + message(1) + END,)
        assert record(tmp_path, source(server.url))["complete"]
    assert ids(tmp_path) == ["id-0", "id-1"]


def test_an_interrupt_ends_a_recording_cleanly(tmp_path, stream):
    manifest = record(tmp_path, stream, 60, KeyboardInterrupt)
    assert (manifest["events"], manifest["ended"], manifest["complete"]) == (60, "interrupted", False)
    assert artifacts.read(tmp_path, "01_stream")["events"] == len(ids(tmp_path)) == 60
    assert record(tmp_path, stream)["events"] == 120


def test_an_event_between_client_and_recorder_is_there_after_an_interrupt(tmp_path, stream, monkeypatch):
    receive = EventStreamClient._receive

    def interrupted(client, message):
        if (event := receive(client, message)) is not None and client.counts.events == 60:
            signal.raise_signal(signal.SIGINT)
        return event

    monkeypatch.setattr(EventStreamClient, "_receive", interrupted)
    assert record(tmp_path, stream)["ended"] == "interrupted"
    assert record(tmp_path, stream)["events"] == len(set(ids(tmp_path))) == 120


@pytest.mark.parametrize(
    ("part", "line"),
    [
        (silence(OK, message(0)), " UTC: events 1, "),
        (status(429, "Retry-After: 3600", body=b"two already"), ", waiting status 429 two already"),
    ],
)
def test_progress_is_printed_now_and_then_and_why_nothing_comes(tmp_path, monkeypatch, capsys, part, line):
    monkeypatch.setattr(plots, "LINE_SECONDS", 0.2)
    with Script(part) as server:
        record(tmp_path, source(server.url), max_seconds=1.0)
    assert line in capsys.readouterr().out.splitlines()[-1]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, "{"])
def test_a_folder_with_other_segments_is_left_alone(tmp_path, stream, state):
    recording.write_segment(tmp_path / recording.segment_name(1), make_events(3))
    if state is not None:
        (tmp_path / recorder.STATE).write_text(state)
    with pytest.raises(RecordingError, match=r"without a readable state\.json\. Choose another folder\."):
        record(tmp_path, stream)
    assert len(ids(tmp_path)) == 3


def test_one_run_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "LOCK_SECONDS", 0.2)
    with (
        artifacts.lock_folder(tmp_path, RecordingError),
        pytest.raises(RecordingError, match="one run at a time"),
    ):
        record(tmp_path, source("http://localhost/"))


# --- the source -------------------------------------------------------------------------------------------------------


def settings(**changed):
    return SimpleNamespace(**{"stream_url": "", **USUAL, **changed})


def test_without_parameters_the_source_is_the_default_day_until_two(tmp_path, monkeypatch):
    day = tmp_path / "2015-09-12.jsonl.gz"
    recording.write_segment(day, [event(n, at=START + 3_000_000 * n) for n in range(20)])
    monkeypatch.setattr(sample_day, "PATH", day)
    two = params.parse_time("2015-09-12T14:00:00Z")
    default = Source.from_settings(settings())
    assert default == source("", recording=day, until=two)
    assert record(tmp_path / "out", default)["canaries"] > 20  # one per hour and data centre
    assert Source.from_settings(settings(until=START + 1)).until == START + 1
    assert Source.from_settings(settings(since=two)).until is None


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"stream_url": "http://x/", "recording": Path("/x")}, "Only one of STREAM_URL and RECORDING"),
        ({"stream_url": "http://x/", "since": START, "until": START}, "UNTIL must be after SINCE"),
    ],
)
def test_parameters_that_contradict_each_other(changed, error):
    with pytest.raises(params.ParameterError, match=error):
        Source.from_settings(settings(**changed))


def test_a_recording_is_replayed_just_as_it_is(tmp_path):
    day = tmp_path / "day.jsonl.gz"
    recording.write_segment(day, [event(n, at=START + 3_000_000 * n) for n in range(20)])
    manifest = record(tmp_path / "out", source("", recording=day))
    assert (manifest["events"], manifest["canaries"]) == (20, 0)
    assert manifest["source"]["sha256"] == artifacts.sha256(day)


def test_a_full_disk_is_one_sentence_and_what_was_committed_is_safe(tmp_path, stream, monkeypatch):
    write, left = recording.write_segment, iter([True, True])

    def filling(path, texts):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, texts)

    monkeypatch.setattr(recording, "write_segment", filling)
    with pytest.raises(RecordingError, match=r"No space left on device\. What was written before is safe"):
        record(tmp_path, stream)
    monkeypatch.undo()
    assert ids(tmp_path) == [f"id-{number}" for number in range(100)]
    record(tmp_path, stream)
    assert ids(tmp_path) == [f"id-{number}" for number in range(120)]


# --- kill -9 ----------------------------------------------------------------------------------------------------------


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "lib.stream.recorder"])


def is_killed(folder, url, seconds=None, **options):
    """Record in a process, which is killed after so many seconds; return whether it was killed."""
    child = PROCESSES.Process(target=crashing.record, args=(str(folder), url, START), kwargs=options)
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    for path in recording.segments(folder):
        gzip.decompress(path.read_bytes())  # it is whole
    return child.exitcode < 0


@pytest.mark.parametrize("call", ["replace", "fsync", "open"])
def test_killed_at_every_step_of_a_commit(tmp_path, call):
    plan, lines = faults.load({**EVERYTHING, "cuts": {}}), make_events(150)
    with Server(lines, plan) as server:
        for calls in range(1, 10):
            folder = tmp_path / f"{calls}"
            folder.mkdir()
            assert is_killed(folder, server.url, dies_at=(call, calls))
            assert not is_killed(folder, server.url)
            assert_agrees(folder, artifacts.read(folder, "01_stream"), truth(plan, lines))


@pytest.mark.parametrize(
    ("seed", "kills", "count"), [(1, 6, 2000), pytest.param(2, 20, 4000, marks=pytest.mark.slow)]
)
def test_killed_at_random_moments(tmp_path, seed, kills, count):
    chance = random.Random(seed)
    plan, lines = faults.load(EVERYTHING), make_events(count)
    with Server(lines, plan, speed=count / 3) as server:
        server.wait_seconds(0)
        killed = 0
        for _ in range(kills):
            every = chance.choice([0.0, 0.01, 10])
            killed += is_killed(tmp_path, server.url, chance.uniform(0.1, 0.35), segment_seconds=every)
        assert not is_killed(tmp_path, server.url) and killed > 5
    assert_agrees(tmp_path, artifacts.read(tmp_path, "01_stream"), truth(plan, lines))
