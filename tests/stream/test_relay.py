import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from streams import event, make_events

from lib import artifacts
from lib.stream import recording, relay
from lib.stream.recording import StreamError
from lib.stream.relay import Relay, read_lines


def write(folder, number, texts):
    recording.write_segment(folder / recording.segment_name(number), texts)


def connect(server):
    return socket.create_connection(server.server_address, timeout=10)


def raw_lines(server):
    """Lines as they come over the socket, control lines and all."""
    with connect(server) as client, client.makefile("rb") as file:
        return list(file)


def test_every_client_gets_all_lines_and_the_end_line(tmp_path):
    write(tmp_path, 1, make_events(700))
    write(tmp_path, 2, make_events(5))
    with Relay(tmp_path) as server, ThreadPoolExecutor(20) as pool:
        assert raw_lines(server)[-1] == b'{"$relay": {"end": true, "events": 705}}\n'
        for found in pool.map(lambda _: list(read_lines(server.address)), range(20)):
            assert found == make_events(700) + make_events(5)


def test_a_file_of_json_lines_is_served_too(tmp_path):
    (tmp_path / "day.jsonl").write_bytes(b"\n\n".join(make_events(3)) + b"\r\n")
    with Relay(tmp_path / "day.jsonl") as server:
        assert list(read_lines(server.address)) == make_events(3)


def test_an_event_cannot_pass_for_a_control_line(tmp_path):
    fake = relay.end_line(0)
    write(tmp_path, 1, [event(0), fake, event(1)])
    with Relay(tmp_path) as server:
        found = list(read_lines(server.address))
    assert found == [event(0), b" " + fake, event(1)] and json.loads(found[1]) == json.loads(fake)


def test_of_a_line_that_is_too_long_the_beginning_is_read(tmp_path):
    long = event(1, comment="x" * 10_000_000)
    write(tmp_path, 1, [event(0), long, event(2)])
    with Relay(tmp_path) as server:
        first, beginning, last = read_lines(server.address)
    assert (first, last) == (event(0), event(2))
    assert long.startswith(beginning) and 1000 < len(beginning) < 100_000


def test_a_growing_recording_is_followed_with_heartbeats_in_between(tmp_path, monkeypatch):
    monkeypatch.setattr(relay, "HEARTBEAT_SECONDS", 0.05)
    with Relay(tmp_path, follow=True) as server:
        lines = read_lines(server.address)
        assert next(lines) is None
        write(tmp_path, 1, make_events(2))
        assert [next(line for line in lines if line) for _ in range(2)] == make_events(2)
        write(tmp_path, 2, [event(2)])
        artifacts.write(tmp_path, events=3)
        assert [line for line in lines if line] == [event(2)]


def test_a_slow_client_keeps_nobody_waiting(tmp_path):
    write(tmp_path, 1, [event(n, comment="x" * 2000) for n in range(5000)])
    with Relay(tmp_path) as server, connect(server) as slow:
        slow.recv(1)
        assert sum(1 for _ in read_lines(server.address)) == 5000
        assert server.wait_for_clients(0.1) == 1
        slow.close()
        assert server.wait_for_clients(10) == 0


def test_a_relay_that_stops_or_whose_recording_is_damaged_sends_no_end_line(tmp_path):
    write(tmp_path, 1, [event(n, comment="x" * 2000) for n in range(5000)])
    server = Relay(tmp_path)
    lines = read_lines(server.address)
    next(lines)
    server.close()
    with pytest.raises(StreamError, match="must send all lines and its end line"):
        list(lines)
    path = tmp_path / recording.segment_name(1)
    path.write_bytes(path.read_bytes()[:-10])
    with Relay(tmp_path) as server, pytest.raises(StreamError):
        list(read_lines(server.address))


def test_a_recording_that_is_not_there_is_an_error_before_anybody_connects(tmp_path):
    with pytest.raises(recording.RecordingError, match="which is neither"):
        Relay(tmp_path / "none")
