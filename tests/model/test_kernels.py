"""Masking, and the buffers that compiled loops read."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.model import kernels


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def masked(comment: str, user: str = "Some user") -> str:
    out = np.zeros(kernels.MAX_TEXT_BYTES + 64, np.uint8)
    length, _ = kernels.normalize(as_bytes(comment), as_bytes(user), out)
    assert out[0] == kernels.MARK_START
    assert out[length - 1] == kernels.MARK_END
    return bytes(out[1 : length - 1]).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("Fixed 3 of 1234 links", "fixed 0 of 0 links"),
        ("/* Early life */ typo", "\3 typo"),
        ("see [[Some page|that]] and [[WP:AWB]]", "see \2 and [[wp:awb]]"),
        ("Reverted edits by Some_user to [[x", "reverted edits by \1 to [[x"),
        ("/* never ends", "\3"),
        ("a \t\n b", "a b"),
        ("", ""),
    ],
)
def test_what_names_user_page_or_section_becomes_a_mark(comment, expected):
    assert masked(comment) == expected


def test_a_name_too_short_to_mean_anything_is_not_masked():
    assert masked("a cat", "A") == "a cat"
    assert masked("a cat", "Cat") == "a \1"


@given(st.text(max_size=60), st.text(min_size=3, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_masked_comment_is_never_longer_and_never_holds_the_name(comment, user):
    result = masked(f"{comment} {user}", user)
    assert len(result.encode()) <= len(f"{comment} {user}".encode()) + 2
    if user.isascii() and user.isalpha():
        assert user.lower() not in result


def test_hostile_lengths_are_cut():
    assert len(masked("x" * 100_000)) == kernels.MAX_TEXT_BYTES


@given(st.lists(st.none() | st.text(max_size=10), max_size=20), st.integers(0, 5), st.booleans())
@settings(max_examples=100, deadline=None)
def test_buffers_are_read_from_any_text_column(values, cut, large):
    column = pa.array(values, pa.large_string() if large else pa.string())[cut:]
    for shape in (column, pa.chunked_array([column, column]), column.dictionary_encode()):
        offsets, data = kernels.buffers(shape)
        read = [bytes(data[a:b]).decode() for a, b in pairwise(offsets)]
        assert read == [value or "" for value in shape.to_pylist()]


def test_a_null_with_bytes_behind_it_reads_as_empty():
    column = pa.Array.from_buffers(
        pa.string(),
        2,
        [pa.py_buffer(b"\x01"), pa.py_buffer(np.array([0, 1, 5], np.int32)), pa.py_buffer(b"abcde")],
    )
    offsets, _ = kernels.buffers(column)
    assert np.diff(offsets).tolist() == [1, 0]
    assert kernels.buffers(pa.chunked_array([], pa.string()))[0].tolist() == [0]
