import json
import socket
import threading

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


def raw_lines(server, count=None):
    """Lines as they come over the socket, control lines and all."""
    with (
        connect(server) as client,
        client.makefile("rb") as file,
    ):
        return [next(file) for _ in range(count)] if count else list(file)


def test_every_client_gets_everything_and_is_told_that_it_is_over(tmp_path):
    write(tmp_path, 1, make_events(700))
    write(tmp_path, 2, make_events(5))
    with Relay(tmp_path) as server:
        assert raw_lines(server)[-1] == b'{"$relay": {"end": true, "events": 705}}\n'
        results = {}
        clients = [
            threading.Thread(target=lambda n=n: results.update({n: list(read_lines(server.address))}))
            for n in range(20)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert (
        all(result == make_events(700) + make_events(5) for result in results.values()) and len(results) == 20
    )


def test_a_file_of_json_lines_is_served_too(tmp_path):
    (tmp_path / "day.jsonl").write_bytes(b"\n\n".join(make_events(3)) + b"\r\n")
    with Relay(tmp_path / "day.jsonl") as server:
        assert list(read_lines(server.address)) == make_events(3)


def test_an_empty_recording_is_over_at_once(tmp_path):
    artifacts.write(tmp_path, events=0)
    with Relay(tmp_path) as server:
        assert raw_lines(server) == [relay.end_line(0) + b"\n"]


def test_an_event_cannot_pass_for_a_control_line(tmp_path):
    fake = relay.end_line(0)
    write(tmp_path, 1, [event(0), fake, event(1)])
    with Relay(tmp_path) as server:
        found = list(read_lines(server.address))
    assert found == [event(0), b" " + fake, event(1)] and json.loads(found[1]) == json.loads(fake)


def test_a_growing_recording_is_followed_and_silence_says_that_it_is_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(relay, "HEARTBEAT_SECONDS", 0.05)
    with (
        Relay(tmp_path, follow=True) as server,
        connect(server) as client,
    ):
        received = client.makefile("rb")
        assert next(received) == relay.HEARTBEAT + b"\n"
        write(tmp_path, 1, make_events(2))
        assert [line for line in (next(received) for _ in range(9)) if relay.CONTROL not in line][:2] == [
            line + b"\n" for line in make_events(2)
        ]
        write(tmp_path, 2, [event(2)])
        artifacts.write(tmp_path, events=3)
        rest = [line for line in received if b"alive" not in line]
        assert rest == [event(2) + b"\n", relay.end_line(3) + b"\n"]
        received.close()


def test_finish_ends_what_has_no_manifest(tmp_path):
    write(tmp_path, 1, make_events(2))
    with Relay(tmp_path, follow=True) as server:
        server.finish()
        assert list(read_lines(server.address)) == make_events(2)


def test_a_slow_client_keeps_nobody_waiting(tmp_path):
    write(tmp_path, 1, [event(n, comment="x" * 2000) for n in range(5000)])
    with Relay(tmp_path) as server, connect(server) as slow:
        slow.recv(1)
        assert sum(1 for _ in read_lines(server.address)) == 5000
        assert server.wait_for_clients(0.1) == 1
        slow.close()
        assert server.wait_for_clients(10) == 0


def test_a_relay_that_stops_in_between_is_broken(tmp_path):
    write(tmp_path, 1, [event(n, comment="x" * 2000) for n in range(5000)])
    server = Relay(tmp_path)
    lines = read_lines(server.address)
    next(lines)
    server.close()
    with pytest.raises(StreamError, match="must send all lines and its end line"):
        list(lines)


def test_a_damaged_recording_has_no_end_line(tmp_path):
    write(tmp_path, 1, make_events(300))
    path = tmp_path / recording.segment_name(1)
    path.write_bytes(path.read_bytes()[:-10])
    with Relay(tmp_path) as server, pytest.raises(StreamError):
        list(read_lines(server.address))


def test_a_port_in_use_is_one_sentence(tmp_path):
    write(tmp_path, 1, make_events(1))
    with (
        Relay(tmp_path) as server,
        pytest.raises(OSError, match=r"must be able to listen .* Choose another port"),
    ):
        Relay(tmp_path, server.address)


def test_a_recording_that_is_not_there_is_an_error_before_anybody_connects(tmp_path):
    with pytest.raises(recording.RecordingError, match="which is not there"):
        Relay(tmp_path / "none")
