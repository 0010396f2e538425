import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.stream import cursor
from lib.stream.cursor import Cursor, Entry, parse_id, place_of

A, B = "eqiad.mediawiki.recentchange", "codfw.mediawiki.recentchange"
T = 1_442_018_818_771


def id_of(*entries):
    return json.dumps(entries).encode()


def stamp(topic, timestamp):
    return {"topic": topic, "partition": 0, "timestamp": timestamp}


def silent(topic):
    return {"topic": topic, "partition": 0, "offset": -1}


def asked(at):
    return {entry["topic"]: entry for entry in json.loads(at.last_event_id())}


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
        (
            T - 60_000,
            [[stamp(A, T // 1000 + 1), silent(B)]],
            [stamp(A, T // 1000 - 5), stamp(B, (T - 60_000) // 1000)],
        ),
    ],
    ids=["a few seconds", "not before the start", "silent: by time", "silent later: no", "in seconds"],
)
def test_what_a_reconnect_asks_for(start, ids, expected):
    at = Cursor(start=start)
    for entries in ids:
        at.update(id_of(*entries))
    assert json.loads(at.last_event_id()) == expected


def test_without_ids_the_time_of_the_last_event_counts():
    at = Cursor(start=T - 60_000, time=T)
    assert at.last_event_id() == ""
    assert at.since() == T - cursor.REWIND_MS
    assert Cursor(start=T - 100, time=T).since() == T - 100
    assert Cursor().since() is None


ENTRIES = st.lists(
    st.builds(
        Entry,
        topic=st.sampled_from([A, B, "x"]),
        partition=st.just(0),
        timestamp=st.none() | st.integers(10**12, 2 * 10**12),
        offset=st.none() | st.integers(-2, 10**9),
    ),
    max_size=4,
)


@given(st.lists(ENTRIES, max_size=4), st.none() | st.integers(10**12, 2 * 10**12))
def test_kept_as_json_it_asks_for_the_same(ids, base):
    at = Cursor(start=base, time=base)
    for entries in ids:
        at.update(json.dumps([{k: getattr(e, k) for k in Entry.__struct_fields__} for e in entries]).encode())
    again = msgspec.json.decode(msgspec.json.encode(at), type=Cursor)
    assert again.last_event_id() == at.last_event_id()
    assert again.since() == at.since()


@given(st.permutations([stamp(A, T + 1), silent(B), stamp("x", T)]))
def test_the_order_within_an_id_does_not_matter(entries):
    at = Cursor(start=T)
    at.update(id_of(*entries))
    assert set(asked(at)) == {A, B, "x"}
    assert asked(at)[A] == stamp(A, T)


@given(st.binary(max_size=40))
def test_no_id_can_break_it(id_):
    at = Cursor(start=T)
    at.update(id_)
    if not parse_id(id_):
        assert at.last_event_id() == ""


def test_a_message_is_placed_by_what_changed():
    before = id_of(stamp(A, T), stamp(B, T - 9))
    assert place_of(before, id_of(stamp(B, T - 2), stamp(A, T)), A) == (B, T - 2)
    assert place_of(before, before, A) == (A, T)
    assert place_of(b"", id_of(stamp(A, T), silent(B)), "") == (A, T)
    assert place_of(b"7", b"8", "") == ("", b"8")
