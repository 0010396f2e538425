"""The valve sees what Spark's socket source hides, and lets no more through than is dealt with."""

import socket
import threading

import pytest

from lib.sample.valve import RelayLost, Valve
from lib.stream import relay

LINE = b"x" * 999 + b"\n"


class Server:
    """A relay of one client."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self.listener.getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()


@pytest.fixture
def server():
    with Server() as running:
        yield running


def ended(valve):
    """Wait until the valve has hung up, and give all that it passed on."""
    with (
        socket.create_connection((valve.host, valve.port), timeout=20) as client,
        client.makefile("rb") as received,
    ):
        return received.read()


def send(server, content):
    client, _ = server.listener.accept()
    client.sendall(content)
    return client


def test_what_goes_in_comes_out(server):
    content = LINE * 500 + relay.end_line(500) + b"\n"
    with Valve(server.host, server.port, 20) as valve:
        send(server, content).close()
        assert ended(valve) == content
        assert valve.lost is None


@pytest.mark.parametrize("content", [b"", LINE, LINE[:500], relay.end_line(1)[:-5]])
def test_a_connection_that_closes_before_the_end_line_is_lost(server, content):
    with Valve(server.host, server.port, 20) as valve:
        send(server, content).close()
        assert ended(valve) == content
        assert valve.lost == "its connection closed before its end line"


def test_silence_is_told(server):
    with Valve(server.host, server.port, 0.2) as valve:
        client = send(server, LINE)
        assert ended(valve) == LINE
        assert valve.lost == "it sent nothing for 0.2 seconds, neither events nor its end"
        client.close()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    with pytest.raises(RelayLost, match="Connection refused"), Valve("127.0.0.1", port, 20):
        pass


@pytest.mark.parametrize("limits", [{"most_lines": 1000}, {"most_bytes": 1_000_000}])
def test_no_more_is_under_way_than_allowed_and_nothing_is_lost(server, limits):
    total = 20_000
    content = LINE * total + relay.end_line(total) + b"\n"
    sender = threading.Thread(target=lambda: send(server, content).close())
    sender.start()
    with Valve(server.host, server.port, 20, **limits) as valve:
        received, most = received_slowly(valve, len(content))
        assert valve.lost is None
    sender.join()
    assert received == len(content)
    # One block may be on its way when the window fills, and the begin of a line that ends in the next one.
    assert most <= 1_000_000 + (1 << 16) + len(LINE)


def received_slowly(valve, size):
    """Read, and report as done only when nothing more comes."""
    received = done = most = 0
    with socket.create_connection((valve.host, valve.port)) as client:
        client.settimeout(0.02)
        while received < size:
            try:
                received += len(client.recv(1 << 16))
            except TimeoutError:
                done = received // len(LINE)
                valve.done(done)
            most = max(most, received - done * len(LINE))
    return received, most


def test_closing_lets_go_of_a_relay_that_is_held_back(server):
    sender = threading.Thread(target=pour, args=(server,))
    sender.start()
    with (
        Valve(server.host, server.port, 20, 100) as valve,
        socket.create_connection((valve.host, valve.port)) as client,
    ):
        assert client.recv(10)
    sender.join(20)
    assert not sender.is_alive()


def pour(server):
    client, _ = server.listener.accept()
    try:
        while True:
            client.sendall(LINE)
    except OSError:
        client.close()
