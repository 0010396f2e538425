"""The record: nothing is lost, and what is invalid is so for a stated reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import events

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def event(**fields):
    """A smallest event, with more fields on top."""
    meta = {"dt": "2021-10-08T22:23:28.123Z", "id": "a", "domain": "en.wikipedia.org"} | fields.pop(
        "meta", {}
    )
    return json.dumps(
        {"$schema": "/mediawiki/recentchange/1.0.0", "meta": meta, "type": "edit", **fields}
    ).encode()


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
        (event(meta={"dt": "9999-12-31T23:59:59-01:00"}), "years 1 to 9999"),
        (event(user=5), "Expected `str | null`, got `int` - at `$.user`"),
        (event(bot="true"), "`$.bot`"),
        (event(namespace=1.5), "`$.namespace`"),
        (event(delta=2**63), "9223372036854775807"),
        (event(length=[1, 2]), "`$.length`"),
        (event(user="x").replace(b'"x"', b'"\xff"'), "utf-8"),
        (event()[:-1], "truncated"),
        (event() + b" x", "trailing"),
        (b'{"meta": {"dt": "2021-10-08T22:23:28Z"}, "log_params": ' + b"[" * 50_000 + b"}", "recursion"),
    ],
)
def test_what_is_invalid_has_a_reason(raw, reason):
    with pytest.raises(events.InvalidEvent) as caught:
        events.decode(raw)
    assert reason in str(caught.value)


def test_text_that_is_no_unicode_is_invalid():
    with pytest.raises(events.InvalidEvent, match="surrogates"):
        events.decode(event(user="x").decode().replace("x", "\ud800"))


@pytest.mark.parametrize("fields", [{}, {"user": 5}, {"type": None, "namespace": "x"}, {"meta": {"dt": 7}}])
def test_a_canary_is_one_whatever_else_is_in_it(fields):
    meta = fields.pop("meta", {}) | {"domain": "canary"}
    assert events.decode(event(meta=meta, **fields)).is_canary


def test_what_is_not_utf8_is_invalid_also_where_nobody_looks():
    raw = event(server_name="x").replace(b'"x"', b'"Zo\xeb"')
    with pytest.raises(events.InvalidEvent, match="utf-8"):
        events.decode(raw)
    good, bad = events.decode_all([event(), raw])
    assert isinstance(good, events.Event) and isinstance(bad, events.InvalidEvent)


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


@given(user=TEXT, title=TEXT, comment=TEXT)
def test_text_is_unchanged(user, title, comment):
    raw = event(user=user, title=title, comment=comment)
    row = events.parse([raw]).edits.to_pylist()[0]
    assert (row["user"], row["title"], row["comment"]) == (user, title, comment)


@given(
    st.lists(
        st.sampled_from([event(), event(type="log"), event(meta={"domain": "canary"}), b"no", event(user=1)])
    )
)
def test_every_event_is_counted_once(raws):
    parsed = events.parse(raws)
    assert len(parsed.rows) + len(parsed.invalid) + parsed.canaries + parsed.others == len(raws)
    assert parsed.edits.schema == events.ARROW_SCHEMA
    assert [raws[place] for place, _, _ in parsed.invalid] == [raw for _, raw, _ in parsed.invalid]


@given(st.datetimes())
def test_time_is_utc_in_milliseconds(moment):
    decoded = events.decode(event(meta={"dt": moment.isoformat()}))
    written = events.iso(decoded.time_ms)
    assert written == moment.isoformat(timespec="milliseconds") + "Z"


def test_identity_is_the_id_or_the_text():
    with_id = event()
    assert events.event_key(with_id, events.decode(with_id)) == "a"


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_id_is_none(nothing):
    without = event(meta={"id": nothing})
    name = events.event_key(without, events.decode(without))
    assert name == events.event_key(without.decode(), None) and name.startswith("sha1:")
