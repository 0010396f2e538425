import http.client
import json
import subprocess
import sys
import time
import urllib.request
import zlib
from urllib.parse import quote, urlsplit

import pytest
from streams import ID, START, event, make_events

from lib import paths
from lib.replay import faults
from lib.replay import server as replay
from lib.replay.__main__ import main
from lib.replay.server import Server
from lib.stream import recording, sse
from lib.stream.client import EventStreamClient
from lib.stream.connection import StreamError

AGENT = {"User-Agent": "tests/1 (tests)"}
QUIET = {"canary_seconds": 0}


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
    return [
        int(json.loads(m.data)["meta"]["id"].removeprefix("id-")) for m in messages if m.type == b"message"
    ]


def position(timestamp=None, offset=None, centre="eqiad"):
    value = {"offset": offset} if timestamp is None else {"timestamp": timestamp}
    return json.dumps([{"topic": ID.format(centre), "partition": 0, **value}])


def test_a_stream_begins_with_ok_and_ends_with_end():
    with Server(make_events(2), **QUIET) as server:
        answer, body = get(server)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert body.startswith(b":ok\n\nevent: message\nid: [")
    assert body.endswith(b"event: end\ndata: the recording is over\n\n")


def test_ids_are_kafkas_timestamps_plus_one_and_minus_one_for_silence():
    lines = [event(0), event(1, centre="codfw")]
    with Server(lines, **QUIET) as server:
        first, second = (json.loads(message.id) for message in read(server)[:2])
    assert first == [
        {"topic": ID.format("eqiad"), "partition": 0, "timestamp": START + 1},
        {"topic": ID.format("codfw"), "partition": 0, "offset": -1},
    ]
    assert [entry["timestamp"] for entry in second] == [START + 1, START + 1001]


def test_texts_are_served_byte_for_byte():
    lines = [event(0), b"not JSON", b'{"meta": null}', "\u2028 é".encode(), b"\xff\xfe"]
    with Server(lines, **QUIET) as server:
        assert [message.data for message in read(server)[:-1]] == lines


@pytest.mark.parametrize(
    "since",
    [str(START + 3000), "2015-09-12T00:00:03Z", "2015-09-12T00:00:03", quote("2015-09-12T02:00:03+02:00")],
)
def test_since_in_every_form(since):
    with Server(make_events(6), **QUIET) as server:
        assert numbers(read(server, f"recentchange?since={since}")) == [3, 4, 5]


def test_since_is_kafkas_lookup_so_what_is_late_comes_too():
    lines = [event(0), event(5), event(2), event(6)]
    with Server(lines, **QUIET) as server:
        assert numbers(read(server, f"recentchange?since={START + 5000}")) == [5, 2, 6]


def test_last_event_id_beats_since():
    with Server(make_events(6), **QUIET) as server:
        since = f"recentchange?since={START}"
        assert numbers(read(server, since, **{"Last-Event-ID": position(START + 3001)})) == [4, 5]


def test_ids_of_two_topics_are_two_positions():
    lines = [event(n, centre="eqiad" if n % 2 else "codfw") for n in range(8)]
    both = json.loads(position(START + 5000)) + json.loads(position(START + 2000, centre="codfw"))
    with Server(lines, **QUIET) as server:
        assert numbers(read(server, **{"Last-Event-ID": json.dumps(both)})) == [2, 4, 5, 6, 7]


@pytest.mark.parametrize(
    "id_", ["[" * 5000, "7", "[7]", "{}", "[{}]", "no", position("a"), position(offset=5)]
)
def test_a_bad_last_event_id_is_400(id_):
    with Server(make_events(1)) as server:
        assert get(server, **{"Last-Event-ID": id_})[0].status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("recentchange?since=yesterday", 400),
        ("recentchange?since=", 400),
        ("nothing", 404),
        ("recentchange,nothing", 404),
        ("", 404),
        ("recentchange,page-create", 200),
        ("mediawiki.recentchange", 200),
    ],
)
def test_status_of_a_request(path, status):
    with Server(make_events(1)) as server:
        assert get(server, path)[0].status == status


def test_a_list_of_streams_has_the_events_of_all():
    other = event(1, meta={"stream": "mediawiki.page-create", "topic": "eqiad.mediawiki.page-create"})
    with Server([event(0), other, event(2)], **QUIET) as server:
        assert numbers(read(server)) == [0, 2]
        assert numbers(read(server, "page-create")) == [1]
        assert numbers(read(server, "recentchange,page-create")) == [0, 1, 2]


@pytest.mark.parametrize("text", [b'{"meta": {"dt":\r"x"}}', b"a\revent: end", b"a\r\revent: end\rdata: b"])
def test_a_carriage_return_in_a_line_ends_neither_the_line_nor_the_stream(text):
    with Server([event(0), text, event(2)], **QUIET) as server:
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
    with Server(lines) as server:
        found = [json.loads(message.data)["meta"] for message in read(server)[:-1]]
    assert [meta.get("domain") for meta in found].count("canary") == 4
    assert found[2]["domain"] == "canary"


def test_real_time_times_n():
    with Server(make_events(5), speed=10) as server:
        begun = time.monotonic()
        assert numbers(read(server)) == [0, 1, 2, 3, 4]
    assert 0.39 < time.monotonic() - begun < 3


# --- the fault plan over a socket -------------------------------------------------------------------------------------


def plan(**content):
    return faults.load(content)


def test_a_cut_leaves_half_an_event_and_happens_once():
    with Server(make_events(5), plan(cuts={"at": [2], "where": "middle"}), **QUIET) as server:
        body = get(server)[1]
        assert numbers(sse.Decoder().feed(body)) == [0, 1]
        assert b'"id-2"' in body and not body.endswith(b"\n\n")
        assert numbers(read(server)) == [0, 1, 2, 3, 4]


def test_a_gap_is_lost_to_who_asks_for_the_latest():
    lines = [*make_events(3), *(event(n, centre="codfw") for n in range(3, 6)), event(6, centre="codfw")]
    with Server(lines, plan(gaps={"at": [2], "events": 3}), **QUIET) as server:
        last = read(server)[-1]
        assert numbers(read(server, **{"Last-Event-ID": last.id.decode()})) == [6]
        kept = json.dumps([*json.loads(position(START + 2001)), *json.loads(position(START, centre="codfw"))])
        assert numbers(read(server, **{"Last-Event-ID": kept})) == [3, 4, 5, 6]


def test_refusals_empty_answers_and_hang_ups_by_the_number_of_the_connection():
    trouble = plan(
        refuse=[{"connections": [1], "status": 429, "retry_after": 7}, {"connections": [2], "status": 503}],
        empty=[3],
        hang_up=[4],
    )
    with Server(make_events(2), trouble, **QUIET) as server:
        answer, _ = get(server)
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert get(server)[0].status == 503
        assert get(server)[1] == b":ok\n\n"
        with pytest.raises(http.client.RemoteDisconnected):
            get(server)
        assert numbers(read(server)) == [0, 1]


def test_an_error_event_closes():
    with Server(make_events(3), plan(errors={"at": [1]}), **QUIET) as server:
        assert [message.type for message in read(server)] == [b"message", b"message", b"error"]


def test_gzip_only_for_who_takes_it():
    with Server(make_events(3), plan(gzip=True), **QUIET) as server:
        answer, packed = get(server, **{"Accept-Encoding": "gzip"})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert zlib.decompress(packed, 31) == get(server)[1]


@pytest.mark.parametrize("chunk", [1, 100, (1, 50)])
def test_chunks_are_as_large_as_the_plan_says(chunk):
    with Server(make_events(2), plan(chunk=chunk), **QUIET) as server:
        url = urlsplit(server.url)
        connection = http.client.HTTPConnection(url.hostname, url.port)
        connection.request("GET", "/v2/stream/recentchange", headers=AGENT)
        raw = connection.sock.makefile("rb").read()
        connection.close()
    chunks = raw.partition(b"\r\n\r\n")[2]
    sizes = []
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        sizes.append(int(size, 16))
        chunks = rest[sizes[-1] + 2 :]
    assert max(sizes) <= (chunk if isinstance(chunk, int) else chunk[1])
    assert sizes[-1] == 0 and sum(sizes) > 400


@pytest.mark.parametrize("end", ["crlf", "cr"])
@pytest.mark.parametrize("multiline", [False, True])
def test_line_ends_and_lines(end, multiline):
    with Server(make_events(3), plan(line_end=end, multiline=multiline), **QUIET) as server:
        body = get(server)[1]
        assert (b"\n" in body) == (end == "crlf")
        assert [json.loads(m.data) for m in sse.Decoder().feed(body)[:-1]] == [
            json.loads(line) for line in make_events(3)
        ]


def test_ids_in_seconds_and_in_any_order():
    lines = [event(n, centre="eqiad" if n % 2 else "codfw") for n in range(30)]
    with Server(lines, plan(id_unit="seconds", id_order="shuffled"), **QUIET) as server:
        ids = [json.loads(message.id) for message in read(server)[:-1]]
    assert {entry["topic"] for entry in ids[-1]} == {ID.format("eqiad"), ID.format("codfw")}
    assert len({tuple(entry["topic"] for entry in id_) for id_ in ids}) == 2
    assert max(entry["timestamp"] for entry in ids[-1]) == START // 1000 + 30


def test_comments_and_retry():
    with Server(make_events(3), plan(comments={"every": 1}, retry=250), **QUIET) as server:
        body = get(server)[1]
    assert body.startswith(b":ok\n\nretry: 250\n\n")
    assert body.count(b": the world is quiet\n\n") == 2


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_recording_is_served_by_a_process_of_its_own(tmp_path):
    recording.write_segment(tmp_path / recording.segment_name(1), make_events(3))
    with replay.serve(tmp_path, "--canaries", "0") as server:
        assert numbers(read(server)) == [0, 1, 2]
    assert server.process.returncode == 0


def test_the_process_goes_with_its_parent(tmp_path):
    (tmp_path / "day.jsonl").write_bytes(b"\n".join(make_events(3)))
    parent = (
        "import sys, time; from pathlib import Path; from lib.replay import server as replay\n"
        f"with replay.serve(Path({str(tmp_path / 'day.jsonl')!r})) as server:\n"
        "    print(server.url, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=paths.ROOT, stdout=subprocess.PIPE, text=True
    )
    url = process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    with pytest.raises(OSError, match=r"refused|reset|closed"):
        while time.monotonic() < deadline:
            urllib.request.urlopen(urllib.request.Request(url, headers=AGENT), timeout=5).close()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.jsonl", None, "which is not there"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00", "breaks off after 0 lines"),
    ],
)
def test_a_recording_that_cannot_be_read_is_one_sentence(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StreamError, match=says), replay.serve(tmp_path / name):
        pass


def test_of_a_damaged_recording_what_can_be_read_is_served(tmp_path):
    segment = tmp_path / "day.jsonl.gz"
    recording.write_segment(segment, [event(n, comment=f"{n * n:x}" * 50) for n in range(2000)])
    segment.write_bytes(segment.read_bytes()[:-2000])
    with replay.serve(segment, "--canaries", "0") as server:
        found = numbers(read(server))
    assert 1000 < len(found) < 2000 and found == list(range(len(found)))


def test_what_is_of_another_stream_is_named_at_the_end(tmp_path):
    other = event(1, meta={"stream": "mediawiki.page-create", "topic": "eqiad.mediawiki.page-create"})
    (tmp_path / "day.jsonl").write_bytes(b"\n".join([event(0), other, event(2)]))
    with replay.serve(tmp_path / "day.jsonl", "--canaries", "0") as server:
        stream = EventStreamClient(server.url)
        assert len(list(stream)) == 2
    (warning,) = stream.warnings
    assert "Got 1 events of other streams (mediawiki.page-create: 1), which were skipped" in warning


def test_a_port_in_use_is_one_sentence(tmp_path, capsys):
    (tmp_path / "day.jsonl").write_bytes(event(0))
    with Server(make_events(1)) as server:
        assert main([str(tmp_path / "day.jsonl"), "--port", str(server.server_address[1])]) == 1
    assert "port" in capsys.readouterr().err
