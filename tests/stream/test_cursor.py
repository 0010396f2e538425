import json

import pytest

from lib.stream import cursor
from lib.stream.cursor import Cursor, place_of

A, B = "eqiad.mediawiki.recentchange", "codfw.mediawiki.recentchange"
T = 1_442_018_818_771


def id_of(*entries):
    return json.dumps(entries).encode()


def stamp(topic, timestamp):
    return {"topic": topic, "partition": 0, "timestamp": timestamp}


def silent(topic):
    return {"topic": topic, "partition": 0, "offset": -1}


@pytest.mark.parametrize(
    ("start", "ids", "expected"),
    [
        (T - 60_000, [[stamp(A, T + 1)]], [stamp(A, T - cursor.REWIND_MS)]),
        (T - 100, [[stamp(A, T + 1)]], [stamp(A, T - 100)]),
        (T - 60_000, [[silent(B), stamp(A, T + 1)]], [stamp(B, T - 60_000), stamp(A, T - cursor.REWIND_MS)]),
        (
            T - 60_000,
            [[stamp(A, T + 1), stamp(B, T + 1)], [stamp(A, T + 5), silent(B)]],
            [stamp(A, T + 4 - cursor.REWIND_MS), stamp(B, T - cursor.REWIND_MS)],
        ),
    ],
    ids=["a few seconds", "not before the start", "silent: by time", "silent later: no"],
)
def test_what_a_reconnect_asks_for(start, ids, expected):
    at = Cursor(start=start)
    for entries in ids:
        at.update(id_of(*entries))
    assert json.loads(at.last_event_id()) == expected


def test_a_message_is_placed_by_what_changed():
    before = id_of(stamp(A, T), stamp(B, T - 9))
    assert place_of(before, id_of(stamp(B, T - 2), stamp(A, T)), A) == (B, T - 2)
    assert place_of(before, before, A) == (A, T)
    assert place_of(b"", id_of(stamp(A, T), silent(B)), "") == (A, T)
    assert place_of(b"7", b"8", "") == ("", b"8")
