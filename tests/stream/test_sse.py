import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.stream import recording
from lib.stream.sse import Decoder, Message

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30)
FIELDS = st.fixed_dictionaries(
    {"data": st.lists(TEXT, min_size=1, max_size=3)},
    optional={
        "id": TEXT,
        "event": TEXT.filter(bool),
        "retry": st.integers(0, 99999),
        "": TEXT,
        "other": TEXT,
    },
)


def encode(messages, ends):
    """The messages as bytes, every line with the next of the line ends."""
    lines = []
    for fields in messages:
        for name, value in fields.items():
            lines += [f"{name}: {part}" for part in (value if isinstance(value, list) else [value])]
        lines.append("")
    # A message that ends with LF after one that ends with CR would be read as one line end, CR LF.
    return "".join(line + end for line, end in zip(lines, ends, strict=True)).encode()


def expected(messages):
    found, last = [], b""
    for fields in messages:
        last = fields["id"].encode() if "id" in fields else last
        data = "\n".join(fields["data"]).encode()
        found.append(Message(data, last, fields.get("event", "message").encode()))
    return found


def decode(text, cuts):
    decoder, found, before = Decoder(), [], 0
    for cut in [*sorted(cuts), len(text)]:
        found += decoder.feed(text[before:cut])
        before = cut
    return found


@given(st.data(), st.lists(FIELDS, max_size=6), st.sampled_from([["\n"], ["\r"], ["\n", "\r\n"]]))
def test_any_chunking_and_line_ends_give_the_same_messages(data, messages, ends):
    lines = sum(1 + sum(len(v) if isinstance(v, list) else 1 for v in fields.values()) for fields in messages)
    drawn = data.draw(st.lists(st.sampled_from(ends), min_size=lines, max_size=lines))
    text = encode(messages, drawn)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    assert decode(text, cuts) == expected(messages)


def test_byte_by_byte():
    text = b':ok\n\nevent: message\n: nothing\nid: 1\ndata: {"a": 1}\n\ndata:x\r\ndata: y\r\rid\ndata\n\n'
    found = decode(text, range(len(text)))
    assert found == [
        Message(b'{"a": 1}', b"1", b"message"),
        Message(b"x\ny", b"1", b"message"),
        Message(b"", b"", b"message"),
    ]


def test_a_bad_retry_and_a_nul_in_an_id_are_ignored():
    decoder = Decoder()
    decoder.feed(
        b"retry: soon\nid: 1\ndata: a\n\nretry: 250\nid: 2\0\ndata: b\n\nretry: %b\n\n" % (b"9" * 5000)
    )
    assert decoder.retry_ms == 250
    assert decoder.last_id == b"1"


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_a_message_without_end_does_not_fill_the_memory(size, monkeypatch):
    monkeypatch.setattr(recording, "MAX_EVENT_BYTES", 1000)
    monkeypatch.setattr(recording, "KEPT_BYTES", 900)
    decoder = Decoder()
    text = b"id: 7\ndata: " + b"x" * 4000 + b"\n\ndata: after\n\n"
    found = []
    for place in range(0, len(text), size):
        found += decoder.feed(text[place : place + size])
        assert len(decoder._rest) <= 1000 + size
    long, after = found
    assert after == Message(b"after", b"7", b"message")
    assert long.data == b"x" * len(long.data) and (len(long.data) == 4000) == (size == 5000)
    assert len(long.data) > 880
