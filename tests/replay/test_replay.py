import http.client
import json
import socket
import time
import zlib
from urllib.parse import quote, urlsplit

import pytest
from streams import ID, START, command, event, make_events

from lib.replay import faults
from lib.replay.__main__ import main
from lib.replay.server import Server
from lib.stream import recording, sse
from lib.stream.client import EventStreamClient

AGENT = {"User-Agent": "tests/1 (tests)"}


def plan(**content):
    return faults.load(content)


def get(server, path="recentchange", **headers):
    """Status, headers and body, read to the end."""
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    connection.request("GET", f"/v2/stream/{path}", headers={**AGENT, **headers})
    answer = connection.getresponse()
    try:
        body = answer.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    connection.close()
    return answer, body


def read(server, path="recentchange", **headers):
    """Messages of a stream."""
    return sse.Decoder().feed(get(server, path, **headers)[1])


def numbers(messages):
    """Numbers of the events among the messages."""
    texts = [message.data for message in messages if message.type == b"message"]
    return [int(json.loads(text)["meta"]["id"].removeprefix("id-")) for text in texts]


def position(timestamp=None, offset=None, centre="eqiad"):
    value = {"offset": offset} if timestamp is None else {"timestamp": timestamp}
    return json.dumps([{"topic": ID.format(centre), "partition": 0, **value}])


def test_a_stream_begins_with_ok_and_ends_with_end():
    with Server(make_events(2)) as server:
        answer, body = get(server)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert body.startswith(b":ok\n\nevent: message\nid: [")
    assert body.endswith(b"event: end\ndata: the recording is over\n\n")


def test_ids_are_kafkas_timestamps_plus_one_and_minus_one_for_silence():
    lines = [event(0), event(1, centre="codfw")]
    with Server(lines) as server:
        first, second = (json.loads(message.id) for message in read(server)[:2])
    assert first == [
        {"topic": ID.format("eqiad"), "partition": 0, "timestamp": START + 1},
        {"topic": ID.format("codfw"), "partition": 0, "offset": -1},
    ]
    assert [entry["timestamp"] for entry in second] == [START + 1, START + 1001]


def test_texts_are_served_byte_for_byte():
    lines = [event(0), b"not JSON", b'{"meta": null}', "\u2028 é".encode(), b"\xff\xfe"]
    with Server(lines) as server:
        assert [message.data for message in read(server)[:-1]] == lines


@pytest.mark.parametrize(
    "since",
    [str(START + 3000), "2015-09-12T00:00:03Z", "2015-09-12T00:00:03", quote("2015-09-12T02:00:03+02:00")],
)
def test_since_in_every_form_is_kafkas_lookup_so_what_is_late_comes_too(since):
    with Server([event(n) for n in (0, 3, 1, 4)]) as server:
        assert numbers(read(server, f"recentchange?since={since}")) == [3, 1, 4]


def test_last_event_id_beats_since():
    with Server(make_events(6)) as server:
        since = f"recentchange?since={START}"
        assert numbers(read(server, since, **{"Last-Event-ID": position(START + 3001)})) == [4, 5]


def test_ids_of_two_topics_are_two_positions():
    lines = [event(n, centre="eqiad" if n % 2 else "codfw") for n in range(8)]
    both = json.loads(position(START + 5000)) + json.loads(position(START + 2000, centre="codfw"))
    with Server(lines) as server:
        assert numbers(read(server, **{"Last-Event-ID": json.dumps(both)})) == [2, 4, 5, 6, 7]


DEEP = '[{"topic": "", "partition": 0, "x": ' + "[" * 60_000


@pytest.mark.parametrize(
    "id_", ["[" * 60_000, DEEP, "7", "[7]", "{}", "[{}]", "no", position("a"), position(offset=5)]
)
def test_a_bad_last_event_id_is_400(id_):
    with Server(make_events(1)) as server:
        assert get(server, **{"Last-Event-ID": id_})[0].status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("recentchange?since=yesterday", 400),
        ("recentchange?since=", 400),
        ("recentchange?since=" + "9" * 5000, 400),
        ("recentchange?since=" + "9" * 300, 204),
        ("page-create", 404),
        ("", 404),
        ("mediawiki.recentchange", 200),
    ],
)
def test_status_of_a_request(path, status):
    with Server(make_events(1)) as server:
        assert get(server, path)[0].status == status


@pytest.mark.parametrize("text", [b'{"meta": {"dt":\r"x"}}', b"a\revent: end", b"a\r\revent: end\rdata: b"])
def test_a_carriage_return_in_a_line_ends_neither_the_line_nor_the_stream(text):
    with Server([event(0), text, event(2)]) as server:
        found = [message.data for message in read(server) if message.type == b"message"]
    assert found == [event(0), text.replace(b"\r", b"\n"), event(2)]


def test_who_asks_from_the_end_gets_204():
    with Server([]) as server:
        assert get(server)[0].status == 204
    with Server(make_events(3)) as server:
        assert get(server, **{"Last-Event-ID": position(START + 2001)})[0].status == 204
        assert get(server, f"recentchange?since={START + 3000}")[0].status == 204


def test_a_canary_comes_every_hour_in_every_data_centre():
    lines = [event(0), event(3500), event(3700), event(7300)]
    with Server(lines, plan(canary_seconds=3600)) as server:
        found = [json.loads(message.data)["meta"] for message in read(server)[:-1]]
    assert [meta.get("domain") for meta in found].count("canary") == 4
    assert found[2]["domain"] == "canary"


def test_real_time_times_n():
    with Server(make_events(5), speed=10) as server:
        started = time.monotonic()
        assert numbers(read(server)) == [0, 1, 2, 3, 4]
    assert 0.39 < time.monotonic() - started < 3


# --- the fault plan over a socket -------------------------------------------------------------------------------------


def test_a_cut_leaves_half_an_event_and_happens_once():
    with Server(make_events(5), plan(cuts={"at": [2], "where": "middle"})) as server:
        body = get(server)[1]
        assert numbers(sse.Decoder().feed(body)) == [0, 1]
        assert b'"id-2"' in body and not body.endswith(b"\n\n")
        assert numbers(read(server)) == [0, 1, 2, 3, 4]


def test_a_gap_is_lost_to_who_asks_for_the_latest():
    lines = [*make_events(3), *(event(n, centre="codfw") for n in range(3, 6)), event(6, centre="codfw")]
    with Server(lines, plan(gaps={"at": [2], "events": 3})) as server:
        last = read(server)[-1]
        assert numbers(read(server, **{"Last-Event-ID": last.id.decode()})) == [6]
        kept = json.dumps([*json.loads(position(START + 2001)), *json.loads(position(START, centre="codfw"))])
        assert numbers(read(server, **{"Last-Event-ID": kept})) == [3, 4, 5, 6]


def test_refusals_and_empty_answers_by_the_number_of_the_connection():
    refuse = [{"connections": [1], "status": 429, "retry_after": 7}, {"connections": [2], "status": 503}]
    trouble = plan(refuse=refuse, empty=[3])
    with Server(make_events(2), trouble) as server:
        answer, _ = get(server)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert get(server)[0].status == 503
        assert get(server)[1] == b":ok\n\n"
        assert numbers(read(server)) == [0, 1]


def test_gzip_only_for_who_takes_it():
    with Server(make_events(3), plan(gzip=True)) as server:
        answer, packed = get(server, **{"Accept-Encoding": "gzip"})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert zlib.decompress(packed, 31) == get(server)[1]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_serves_a_recording(tmp_path):
    recording.write_segment(tmp_path / recording.segment_name(1), make_events(3))
    (tmp_path / "plan.yml").write_text("duplicates: {at: [1]}")
    with command(tmp_path, "--faults", tmp_path / "plan.yml") as url:
        stream = EventStreamClient(url)
        assert [event.event.meta.id for event in stream] == ["id-0", "id-1", "id-2"]
    assert stream.counts.duplicates == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none.jsonl", [], "which is neither"),
        ("cut.jsonl.gz", [], "breaks off after 0 lines"),
        ("day.jsonl", ["--port", "{port}"], "Choose another port, or 0 for a free one"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(tmp_path, name, options, message):
    (tmp_path / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (tmp_path / "day.jsonl").write_bytes(event(0))
    with socket.create_server(("127.0.0.1", 0)) as another:
        port = another.getsockname()[1]
        with pytest.raises(SystemExit, match=message):
            main([str(tmp_path / name), *(option.format(port=port) for option in options)])
