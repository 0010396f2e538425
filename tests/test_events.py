"""The record: nothing is lost, and what is invalid is so for a stated reason."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import artifacts, events

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def event(**fields):
    """A smallest event, with more fields on top."""
    meta = {"dt": "2021-10-08T22:23:28.123Z", "id": "a", "domain": "en.wikipedia.org"}
    meta |= fields.pop("meta", {})
    content = {"$schema": "/mediawiki/recentchange/1.0.0", "meta": meta, "type": "edit", **fields}
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "truncated"),
        (b"not JSON", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `meta`"),
        (b'{"meta": {}}', "missing required field `dt`"),
        (event(meta={"dt": "yesterday"}), "Invalid RFC3339"),
        (event(meta={"dt": 1633731808}), "Expected `datetime`, got `int`"),
        (event(meta={"dt": "9999-12-31T23:59:59-01:00"}), "out of range"),
        (event(**{"$schema": "/mediawiki/page/change/1.2.0"}), "Got '/mediawiki/page/change/1.2.0'"),
        (event(user=5), "Expected `str | null`, got `int` - at `$.user`"),
        (event(bot="true"), "`$.bot`"),
        (event(namespace=1.5), "`$.namespace`"),
        (event(delta=2**63), "9223372036854775807"),
        (event(length=[1, 2]), "`$.length`"),
        (event(user="x").replace(b'"x"', b'"\xff"'), "utf-8"),
        (event(server_name="x").replace(b'"x"', b'"Zo\xeb"'), "utf-8"),  # which nobody reads
        (event(meta={"id": "x" * 5_000_000}), "length <= 1000 - at `$.meta.id`"),
        (event(user="é" * 1001), "length <= 1000 - at `$.user`"),
        (event(comment="x" * 1_000_001), "length <= 1000000 - at `$.comment`"),
        (event(namespace=1).replace(b'": 1', b'": ' + b"1" * 6000), "`$.namespace`"),
        (event()[:-1], "truncated"),
        (event() + b" x", "trailing"),
        (b'{"meta": {"dt": "2021-10-08T22:23:28Z"}, "log_params": ' + b"[" * 50_000 + b"}", "recursion"),
    ],
)
def test_what_is_invalid_has_a_reason(raw, reason):
    with pytest.raises(events.InvalidEvent) as caught:
        events.decode(raw)
    assert reason in str(caught.value)


@pytest.mark.parametrize("fields", [{}, {"user": 5}, {"type": None, "namespace": "x"}, {"meta": {"dt": 7}}])
def test_a_canary_is_one_whatever_else_is_in_it(fields):
    meta = fields.pop("meta", {}) | {"domain": "canary"}
    assert events.decode(event(meta=meta, **fields)).is_canary


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(TEXT, value, max_size=3),
    max_leaves=5,
)
META = st.dictionaries(st.sampled_from(["dt", "id", "domain", "topic", "offset"]), JSON)
FIELDS = st.dictionaries(st.sampled_from(["id", "log_params", *events.COLUMNS[2:]]), JSON)


@settings(deadline=None)
@given(st.binary() | st.builds(lambda meta, fields: event(meta=meta, **fields), META, FIELDS))
def test_whatever_comes_is_a_row_of_the_table_or_invalid_with_a_reason(raw):
    try:
        decoded = events.decode(raw)
    except events.InvalidEvent as error:
        assert str(error)
        letter = json.loads(artifacts.dead_letter(raw, str(error)))
        assert letter["raw"].encode() == raw or letter["not_utf8"]
    else:
        assert events.table([decoded]).num_rows == 1
        assert events.decode(raw) == decoded


def test_an_integer_of_any_size_is_skipped_where_nobody_reads_it():
    raw = event(id=7).replace(b'"id": 7', b'"id": ' + b"7" * 6000)
    assert events.decode(raw).user is None


def test_null_and_missing_are_the_same():
    missing = events.decode(b'{"meta": {"dt": "2021-10-08T22:23:28Z"}, "type": "edit"}')
    null = events.decode(event(user=None, comment=None, bot=None, length=None, meta={"id": None}))
    assert missing.user is null.user is missing.bot is null.bot is None
    assert events.delta(missing) is events.delta(null) is None


@pytest.mark.parametrize(
    ("fields", "delta"),
    [
        ({"length": {"old": 5, "new": 3}}, -2),
        ({"length": {"new": 3}, "type": "new"}, 3),
        ({"length": {"old": None, "new": 3}, "type": "new"}, 3),
        ({"length": {"new": 3}}, None),
        ({"length": {"old": None, "new": None}, "delta": 36}, 36),
        ({"length": {"old": 1, "new": 2}, "delta": 36}, 1),
    ],
)
def test_delta(fields, delta):
    assert events.delta(events.decode(event(**fields))) == delta


@settings(deadline=None)
@given(user=TEXT, title=TEXT, comment=TEXT)
def test_text_is_unchanged(user, title, comment):
    raw = event(user=user, title=title, comment=comment)
    (row,) = events.table([events.decode(raw)]).to_pylist()
    assert (row["user"], row["title"], row["comment"]) == (user, title, comment)


@given(st.datetimes())
def test_time_is_utc_in_milliseconds(moment):
    decoded = events.decode(event(meta={"dt": moment.isoformat()}))
    written = events.iso(decoded.time_ms)
    assert written == moment.isoformat(timespec="milliseconds") + "Z"


def test_the_key_is_the_id_or_a_sum_of_the_text():
    assert events.event_key(event(), events.decode(event())) == "a"
    for nothing in (None, ""):
        raw = event(meta={"id": nothing})
        key = events.event_key(raw, events.decode(raw))
        assert key == events.event_key(raw, None) and key.startswith("sha1:")
