import json
import time
from itertools import islice

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from streams import END, ID, OK, START, Script, command, event, make_events, message, silence, status, truth

from lib import events
from lib.replay import faults
from lib.replay.server import Server
from lib.stream import client, cursor, sse
from lib.stream.client import EventStreamClient
from lib.stream.recording import StreamError

COUNT = 300
OVER = "the server ended the stream"


def run(stream):
    """Return the numbers of the events that a stream yields, None for those that cannot be decoded."""
    return [None if item.event is None else int(item.event.meta.id.removeprefix("id-")) for item in stream]


def read(lines, plan="", **options):
    """Return the numbers of the events that a client yields of a recording, and the client."""
    with Server(lines, faults.load(plan)) as server:
        stream = EventStreamClient(server.url, **options)
        return run(stream), stream


def two_centres(count):
    """Return events of one data centre, and later of two."""
    return [event(n, centre="codfw" if n > 150 and n % 5 == 0 else "eqiad") for n in range(count)]


PLANS = [
    "{}",
    "{empty: [1, 3], cuts: {every: 140}}",
    (
        "{canary_seconds: 20, malformed: {every: 17}, duplicates: {every: 13}, switch: {at: [170]}, gzip: true, "
        "cuts: {every: 90, where: middle}, gaps: {at: [169], events: 30}, stalls: {at: [40], seconds: 0.7}, "
        "refuse: [{connections: [2], status: 429, retry_after: 0.1}, {connections: [4, 5], status: 503}]}"
    ),
]


def assert_agrees(stream, items, truth):
    """Check what a client yielded, and its counts, against what was on the stream."""
    ids, invalid, canaries, duplicates = truth
    counts = stream.counts
    assert [item.event.meta.id for item in items if item.event is not None] == ids
    assert (counts.events, counts.invalid) == (len(ids), len(invalid))
    assert (counts.canaries, counts.duplicates) == (canaries, duplicates)
    assert counts.received == sum((len(ids), len(invalid), canaries, duplicates, counts.repeated))
    assert counts.reconnects or not counts.repeated
    assert not stream.warnings


@pytest.mark.parametrize("plan", PLANS)
def test_every_event_once_whatever_goes_wrong(plan):
    plan, lines = faults.load(plan), two_centres(COUNT)
    with Server(lines, plan) as server:
        stream = EventStreamClient(server.url, read_timeout=0.4)
        assert_agrees(stream, list(stream), truth(plan, lines))
    assert stream.stop_reason == OVER


AT = st.lists(st.integers(0, 119), max_size=5)
ANY_PLAN = st.fixed_dictionaries(
    {
        "canary_seconds": st.sampled_from([0, 7]),
        **dict.fromkeys(["malformed", "duplicates", "switch"], st.fixed_dictionaries({"at": AT})),
        "cuts": st.fixed_dictionaries({"at": AT, "where": st.sampled_from(["after", "middle"])}),
        "gaps": st.fixed_dictionaries({"at": AT, "events": st.integers(1, 60)}),
        "empty": st.lists(st.integers(2, 3), max_size=1),
        "gzip": st.booleans(),
    }
)


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(ANY_PLAN, st.sampled_from([0, 400, 3000]))
def test_every_event_once_under_any_plan(content, late):
    lines = [event(n, at=START + 1000 * n + (n * 7919 % 13) * late) for n in range(120)]
    plan = faults.load(content)
    with Server(lines, plan) as server:
        stream = EventStreamClient(server.url)
        assert_agrees(stream, list(stream), truth(plan, lines))


# --- what ends a run --------------------------------------------------------------------------------------------------


LATE = [event(n) for n in (0, 1, 5, 2, 8, 4, 65, 66, 70)]
TWO_TOPICS = [event(n, centre="codfw" if n in (1, 2, 200) else "eqiad") for n in (0, 1, 90, 91, 2, 200, 201)]


@pytest.mark.parametrize(
    ("lines", "options", "numbers", "outside"),
    [
        ([event(n) for n in (0, 4, 2, 5)], {"since": START + 3000}, [4, 5], 1),
        # what is late is waited for, up to one that is a minute past UNTIL
        ([*LATE[:5], b"x", *LATE[5:]], {"until": START + 5000}, [0, 1, 2, 4], 4),
        # and every topic is
        (TWO_TOPICS, {"until": START + 10_000}, [0, 1, 2], 3),
    ],
)
def test_events_outside_of_since_and_until_are_skipped(lines, options, numbers, outside):
    found, stream = read(lines, **options)
    assert (found, stream.counts.outside) == (numbers, outside)
    assert stream.stop_reason == (client.PAST_UNTIL if "until" in options else OVER)
    assert not stream.warnings


@pytest.mark.parametrize("count", [0, 1, 3])
def test_until_waits_for_what_is_late_also_after_a_new_start(count):
    lines = [event(0), event(1, centre="codfw"), *(event(n) for n in (2, 6, 3, 90))]
    with Server(lines) as server:
        first = EventStreamClient(server.url, until=START + 5000)
        items = iter(first)
        before = run(islice(items, count))
        items.close()
        second = EventStreamClient(server.url, until=START + 5000, position=first.position)
        assert [*before, *run(second)] == [0, 1, 2, 3]
        third = EventStreamClient(server.url, until=START + 7000, position=second.position)
        assert run(third) == [6], "what came after an earlier UNTIL was not taken"


def test_a_since_that_the_server_no_longer_has_is_a_warning():
    found, stream = read(make_events(3), since=START - 86_400_000)
    assert found == [0, 1, 2]
    asked_for, first = events.iso(START - 86_400_000), events.iso(START)
    warning = f"Events were requested from {asked_for}; the server's first is of {first}."
    assert stream.warnings[0].startswith(warning)


@pytest.mark.parametrize(
    "parts",
    [[silence(OK)], [silence()], [OK], [status(503)], [status(429, "Retry-After: 60")]],
    ids=["silent", "no answer", "closing", "503", "429"],
)
def test_max_seconds_whatever_the_server_does(parts):
    with Script(*parts) as server:
        started = time.monotonic()
        stream = EventStreamClient(server.url, max_seconds=0.6)
        assert run(stream) == []
    assert 0.55 < time.monotonic() - started < 2
    assert "MAX_SECONDS" in stream.stop_reason


@pytest.mark.parametrize(
    "then",
    [silence(OK), OK, status(503), silence(OK, message(0), message(1))],
    ids=["silent", "closing", "503", "nothing new"],
)
def test_a_history_that_gives_nothing_new_is_over(then):
    with Script(OK + message(0) + message(1), then) as server:
        stream = EventStreamClient(server.url, idle_timeout=0.7, read_timeout=0.2)
        assert run(stream) == [0, 1]
    assert stream.stop_reason == "nothing new came for 0.7 seconds"


def test_a_live_source_is_waited_for():
    now = int(time.time() * 1000)
    live = message(0, raw=event(0, meta={"dt": events.iso(now)}))
    with Script(OK + live, OK) as server:
        stream = EventStreamClient(server.url, idle_timeout=0.3, max_seconds=1.5)
        assert run(stream) == [0]
    assert "MAX_SECONDS" in stream.stop_reason and len(server.heads) > 2


@pytest.mark.parametrize(
    ("then", "reason", "reconnects"),
    [
        ([b"", OK + message(0) + b"event: error\ndata: x\n\n", OK + message(0) + END], OVER, 2),
        ([status(204)], "the server has no more (204)", 0),
    ],
    ids=["a server that comes back", "204"],
)
def test_a_stream_that_is_over(then, reason, reconnects):
    with Script(OK + message(0), *then) as server:
        stream = EventStreamClient(server.url)
        assert run(stream) == [0]
    assert stream.stop_reason == reason
    assert stream.counts.reconnects == stream.counts.repeated == reconnects


# --- giving up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (status(400, body=b"because\n\x1b[2J"), r"Got status 400 because \[2J\. Check SINCE"),
        (status(403), "Set WIKISIEVE_CONTACT"),
        (status(404), "Check STREAM_URL"),
        (status(200, "Content-Type: text/html", body=b"<html>"), "It is a web page"),
    ],
)
def test_an_answer_that_will_not_change_is_an_error_with_advice(answer, advice):
    with Script(answer) as server, pytest.raises(StreamError, match=advice):
        run(EventStreamClient(server.url))
    assert len(server.heads) == 1


@pytest.mark.parametrize("position", [None, {"events": 1, "received": 1}])
def test_a_server_that_is_not_there(position):
    with Script(OK) as server:
        url = server.url
    stream = EventStreamClient(url, idle_timeout=0.3)
    if position is not None:
        stream.resume({**stream.position, "counts": position})
    with pytest.raises(StreamError, match=r"Got none: nothing new came for 0\.3 seconds \(.*refused"):
        run(stream)


def test_wikimedia_gets_a_contact(monkeypatch):
    monkeypatch.delenv(sse.CONTACT, raising=False)
    with pytest.raises(StreamError, match="WIKISIEVE_CONTACT is not set"):
        next(iter(EventStreamClient(sse.LIVE_URL)))
    monkeypatch.setenv(sse.CONTACT, "ada@example.org")
    assert sse.user_agent(sse.LIVE_URL).endswith(" (ada@example.org)")


def test_every_request_says_who_we_are(monkeypatch):
    monkeypatch.setenv(sse.CONTACT, "ada@example.org\r\nX-Evil: 1")
    with Script(OK + message(0), OK + END) as server:
        run(EventStreamClient(server.url))
    for head in server.heads:
        assert "User-Agent: wikisieve/" in head and "(ada@example.org??X-Evil: 1)" in head
        assert "Accept: text/event-stream" in head and "Accept-Encoding: " in head


def test_no_proxy_stands_between_us_and_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert read(make_events(3))[0] == [0, 1, 2]


@pytest.mark.parametrize("start", [[], [b'{"meta": {"domain": "canary"}}']])
def test_a_stream_of_another_schema_is_named_at_its_first_event(start):
    other = event(1, **{"$schema": "/mediawiki/page/change/1.2.0"})
    with pytest.raises(
        StreamError, match=r"must be /mediawiki/recentchange/.* '/mediawiki/page/change/1.2.0'"
    ):
        read([*start, other, event(2)])
    assert read([event(0), other, event(2)])[0] == [0, None, 2]


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_reconnect_asks_per_topic_and_never_for_the_latest():
    eqiad, codfw = ({"topic": ID.format(centre), "partition": 0} for centre in ("eqiad", "codfw"))
    id_ = json.dumps([eqiad | {"timestamp": START + 60_001}, codfw | {"offset": -1}])
    with Script(OK + message(0, id_=id_), OK + END) as server:
        run(EventStreamClient(server.url))
    asked = server.heads[1].partition("Last-Event-ID: ")[2].partition("\r\n")[0]
    assert json.loads(asked) == [eqiad | {"timestamp": START + 55_000}, codfw | {"timestamp": START}]
    assert "GET /v2/stream/recentchange?since=" in server.heads[1]


@pytest.mark.parametrize("id_", [None, ""], ids=["positions", "no positions"])
def test_a_server_that_does_not_go_back_is_a_warning(id_):
    then = OK + message(0, id_=id_, raw=b"?") + message(9, id_=id_) + message(10, id_=id_) + END
    with Script(OK + message(0, id_=id_) + message(1, id_=id_), then) as server:
        stream = EventStreamClient(server.url)
        assert run(stream) == [0, 1, None, 9, 10]
    (warning,) = stream.warnings
    assert warning.startswith(
        f"After a break at {events.iso(START + 1000)} the server resumed at {events.iso(START + 9000)},"
    )


NESTED = '[{"topic": "x", "y": ' + "[" * 60_000


@pytest.mark.parametrize("id_", ["", "17", "[]", "{}", "[{", '[{"topic": 3}]', NESTED])
def test_a_server_whose_ids_are_no_positions_is_asked_by_time(id_):
    with Script(OK + message(0, id_=id_) + message(60, id_=id_), OK + message(60, id_=id_) + END) as server:
        stream = EventStreamClient(server.url)
        assert run(stream) == [0, 60]
    assert f"?since={START + 55_000}" in server.heads[1] and "Last-Event-ID" not in server.heads[1]


@pytest.mark.parametrize("cut", [0, 1, 7, 100, 299])
def test_another_process_resumes_where_this_one_stood(cut):
    plan = faults.load("{canary_seconds: 9, malformed: {every: 6}, duplicates: {every: 9}}")
    lines = two_centres(COUNT)
    with Server(lines, plan) as server:
        first = EventStreamClient(server.url)
        items = iter(first)
        before = [next(items) for _ in range(cut)]
        position = json.loads(json.dumps(first.position))
        items.close()
        second = EventStreamClient(server.url, position=position)
        assert_agrees(second, [*before, *second], truth(plan, lines))


@pytest.mark.parametrize("missing", [None, ""])
def test_events_without_meta_id_are_identified_by_text_and_position(missing):
    lines = [event(n, meta={"id": missing}, comment="the same") for n in range(20)]
    with Server(lines, faults.load("cuts: {every: 7}\nduplicates: {at: [3]}")) as server:
        stream = EventStreamClient(server.url)
        assert len(list(stream)) == 20
    assert stream.counts.duplicates == 1 and stream.counts.reconnects == 2


def test_equal_invalid_texts_at_different_positions_are_different():
    lines = [event(0), b"broken", event(1), b"broken", event(2), b"broken"]
    assert read(lines, "cuts: {at: [3, 4]}")[0] == [0, None, 1, None, 2, None]


def test_of_a_message_that_is_too_long_the_beginning_is_yielded():
    long = event(1, comment="x" * 5_000_000)
    with Server([event(0), long, event(2)]) as server:
        first, item, last = EventStreamClient(server.url)
    assert (first.data, last.data) == (event(0), event(2))
    assert long.startswith(item.data) and 50_000 < len(item.data) < 100_000 and "truncated" in item.reason


def test_wikis_are_chosen_after_reading():
    lines = [event(n, wiki="dewiki" if n % 3 else "enwiki") for n in range(9)]
    found, stream = read([*lines, b"?"], wikis={"enwiki"})
    assert found == [0, 3, 6, None]
    assert stream.counts.other_wikis == 6 and stream.counts.invalid == 1


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 10))
def test_the_memory_of_keys_is_bounded_and_knows_the_last_ones(keys, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cursor, "SEEN_KEYS", size)
        known, last = cursor.Deduplicator({}), []
        for key in map(str, keys):
            assert known.add(key, "topic") == ("duplicates" if key in last else "new")
            last = [key, *(other for other in last if other != key)][:size]


def test_thirty_thousand_events_per_second(tmp_path):
    """In processor time, for a busy machine is no slow client."""
    meta = {"request_id": "r" * 36, "uri": "u" * 60}
    path = tmp_path / "day.jsonl"
    path.write_bytes(b"\n".join(event(n, meta=meta, parsedcomment="p" * 300) for n in range(36_000)))
    with command(path) as url:
        started = time.process_time()
        count = sum(1 for _ in EventStreamClient(url))
        seconds = time.process_time() - started
    assert count == 36_000 and count / seconds > 30_000
