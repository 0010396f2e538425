"""The reader of a relay: batches with offsets, and an error for every way to lose the relay."""

import pytest

from lib.sample import tcp_source
from lib.sample.tcp_source import RelayStreamReader
from lib.stream import relay
from lib.stream.recording import StreamError

START = {"line": 0, "end": False}
LINES = [b"line %d" % number for number in range(7)]
WHOLE = [*LINES, relay.end_line(7)]


def lines(rows):
    return [line for (line,) in rows]


def read_all(address):
    """Read to the end; return the lines of every batch."""
    reader, offset, found = RelayStreamReader(address), START, []
    while not offset["end"]:
        rows, offset = reader.read(offset)
        found.append(lines(rows))
    assert offset == {"line": sum(map(len, found)), "end": True}
    rows, again = reader.read(offset)
    assert (lines(rows), again) == ([], offset)
    return found


@pytest.mark.parametrize("limit", [{"MAX_BATCH_LINES": 3}, {"MAX_BATCH_BYTES": 15}])
def test_all_lines_come_in_order_in_batches_of_bounded_size(scripted_relay, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(tcp_source, name, value)
    assert read_all(scripted_relay(*WHOLE)) == [LINES[:3], LINES[3:6], LINES[6:]]


def test_a_heartbeat_ends_a_batch_so_that_a_slow_relay_is_read_along(scripted_relay):
    address = scripted_relay(relay.HEARTBEAT, *LINES[:2], relay.HEARTBEAT, *WHOLE[2:])
    assert read_all(address) == [[], LINES[:2], LINES[2:]]


def test_a_batch_is_read_again_over_a_new_connection(scripted_relay):
    address = scripted_relay(*WHOLE)
    rows = RelayStreamReader(address).readBetweenOffsets(START | {"line": 2}, START | {"line": 5})
    assert lines(rows) == LINES[2:5]
    rows, offset = RelayStreamReader(address).read(START | {"line": 5})
    assert (lines(rows), offset) == (LINES[5:], {"line": 7, "end": True})


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([], "Got 0 lines: the connection closed."),
        (LINES, "Got 7 lines: the connection closed."),
        ([*LINES, relay.HEARTBEAT], "Got 7 lines: timed out."),
    ],
)
def test_a_relay_that_is_lost_is_an_error(scripted_relay, monkeypatch, script, reason):
    monkeypatch.setattr(relay, "TIMEOUT_SECONDS", 0.3)
    with pytest.raises(StreamError) as error:
        read_all(scripted_relay(*script))
    assert reason in str(error.value)
    assert str(error.value).endswith("or leave SOCKET empty to read IN_DIR.")


def test_a_relay_that_is_not_there_is_an_error():
    with pytest.raises(StreamError, match="Connection refused. Start the relay"):
        read_all("127.0.0.1:9")
