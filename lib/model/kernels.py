"""Text as the model sees it: masked and cut into hashed pieces, straight over Arrow's buffers.

A comment is first *masked*: what names the user, the page or the section becomes one mark, digits become ``0``,
capitals become small. Two edits made by one template then look alike, whoever made them. The masked text is cut into
pieces (overlapping bytes, words, pairs of words), and each piece is hashed to one of :data:`BUCKETS` numbers: the
columns of the sparse matrix that a linear model is trained on. The same loop makes that matrix and, later, sums its
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BUCKET_BITS = 17
BUCKETS = 1 << BUCKET_BITS
MAX_TEXT_BYTES = 1024  # bytes of a text that are used: MediaWiki's comments end at 500 characters

MARK_USER, MARK_LINK, MARK_SECTION, MARK_START, MARK_END = 1, 2, 3, 4, 5
MIN_NAME_BYTES = 3  # a name of one or two bytes is not masked: it would be found inside every word

#: What a mask found on its way, as bits.
SAW_SECTION, SAW_LINK, SAW_BRACES, SAW_NAME = 1, 2, 4, 8

_ONE = np.uint64(1)
_EIGHT = np.uint64(8)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FNV_START = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_TO_BUCKET = np.uint64(64 - BUCKET_BITS)
_SALT_WORD = np.uint64(0x5851F42D4C957F2D)
_SALT_PAIR = np.uint64(0x14057B7EF767814F)
_MIX = np.uint64(33)


def njit_inline(function: Callable) -> Any:
    """Compile a part of other loops, into which it is put whole: it is not kept on disk by itself."""
    return numba.njit(nogil=True)(function)


def njit_cached(function: Callable) -> Any:
    """Compile a loop and keep its machine code on disk; where no place can be written, compile each time.

    Numba compares the date of the loop's own file with that of the code on disk. A loop with parts from another file
    must change with it (see ``edit_features.KERNELS_SOURCE``).
    """
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function": installed in a zip, or read-only without a home
        return numba.njit(nogil=True)(function)


def buffers(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets and bytes behind a column of texts, without copying the texts.

    Parameters
    ----------
    column : pyarrow.Array or pyarrow.ChunkedArray
        Any text type; sliced, chunked and dictionary-encoded columns are welcome. A null reads as an empty text.

    Returns
    -------
    offsets : ndarray of int64, shape (n + 1,)
        Text ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
    data : ndarray of uint8
        UTF-8.

    Examples
    --------
    >>> offsets, data = buffers(pa.array(["no", "Ünïted", None, "kingdom"])[1:])
    >>> [bytes(data[a:b]).decode() for a, b in zip(offsets, offsets[1:])]
    ['Ünïted', '', 'kingdom']
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    column = pc.fill_null(column.cast(pa.large_string()), "")
    _, offsets, texts = column.buffers()
    data = np.frombuffer(texts if texts is not None and texts.size else b"\0", np.uint8)
    # Read-only, always: numba compiles once more for each mix of writable and read-only arrays.
    data.setflags(write=False)
    if len(column) == 0:
        return np.zeros(1, np.int64), data
    return np.frombuffer(offsets, np.int64, len(column) + 1, 8 * column.offset).copy(), data


@njit_inline
def text_at(texts: tuple[np.ndarray, np.ndarray], i: int) -> np.ndarray:
    """Return the bytes of text `i` of :func:`buffers`."""
    return texts[1][texts[0][i] : texts[0][i + 1]]


_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32
_LOWER[:32] = _LOWER[95] = 32


@njit_inline
def to_lower(byte: int) -> int:
    """Return a capital of ASCII in lower case, and a space for an underscore (as in page titles) or control byte."""
    return _LOWER[byte]


@njit_inline
def _starts_with(text: np.ndarray, i: int, name: np.ndarray) -> bool:
    if i + len(name) > len(text):
        return False
    for j in range(len(name)):
        if to_lower(text[i + j]) != to_lower(name[j]):
            return False
    return True


@njit_inline
def _find_link_end(text: np.ndarray, start: int) -> int:
    """Return where ``]]`` is; -1 where it is missing, or behind a colon."""
    for i in range(start, len(text) - 1):
        if text[i] == 93 and text[i + 1] == 93:
            return i
        if text[i] == 58:
            return -1
    return -1


@njit_inline
def _find_mark(text: np.ndarray, i: int, name: np.ndarray) -> tuple[int, int, int]:
    """Return the mark in place of what begins at byte `i` (0: none), where it ends, and its ``SAW_…`` bit."""
    if len(name) >= MIN_NAME_BYTES and _starts_with(text, i, name):
        return MARK_USER, i + len(name), SAW_NAME
    if i + 1 >= len(text):
        return 0, i, 0
    if text[i] == 47 and text[i + 1] == 42:  # /* section */
        end = i + 2
        while end + 1 < len(text) and not (text[end] == 42 and text[end + 1] == 47):
            end += 1
        return MARK_SECTION, end + 2, SAW_SECTION
    if text[i] == 91 and text[i + 1] == 91:  # [[link]]: its words are the page's, not the user's
        end = _find_link_end(text, i + 2)
        return (MARK_LINK, end + 2, SAW_LINK) if end >= 0 else (0, i, SAW_LINK)
    if text[i] == 123 and text[i + 1] == 123:
        return 0, i, SAW_BRACES
    return 0, i, 0


@njit_inline
def normalize(text: np.ndarray, name: np.ndarray, out: np.ndarray) -> tuple[int, int]:
    """Write a text with marks for names, links and sections, ``0`` for numbers, and in lower case.

    Parameters
    ----------
    text, name : ndarray of uint8
        The bytes of a text and of its user's name.
    out : ndarray of uint8, shape (at least MAX_TEXT_BYTES + 64,)
        Receives the normalized text.

    Returns
    -------
    tuple of int
        Bytes of the normalized text, and what was found on the way (``SAW_…`` bits).
    """
    text = text[:MAX_TEXT_BYTES]
    n, seen, i = 1, 0, 0
    out[0] = MARK_START
    while i < len(text):
        mark, end, found = _find_mark(text, i, name)
        seen |= found
        byte = to_lower(text[i])
        if mark:
            byte, i = mark, end
        else:
            byte, i = 48 if 48 <= byte <= 57 else byte, i + 1
        if (byte != 48 and byte != 32) or out[n - 1] != byte:
            out[n] = byte
            n += 1
    out[n] = MARK_END
    return n + 1, seen


@njit_inline
def mix64(value: np.uint64) -> np.uint64:
    """Spread a 64-bit number over all its bits."""
    value = value * _GOLDEN
    return (value ^ (value >> _MIX)) * _GOLDEN


@njit_inline
def hash52(text: np.ndarray) -> np.int64:
    """FNV-1a of some bytes, folded to the 52 bits that a float holds exactly."""
    value = _FNV_START
    for byte in text:
        value = (value ^ np.uint64(byte)) * _FNV_PRIME
    return np.int64(mix64(value) >> np.uint64(12))


@njit_inline
def bucket(value: np.uint64) -> np.int64:
    """Hash a number to a column: the top bits of a product (Knuth's multiplicative hashing)."""
    return np.int64((value * _GOLDEN) >> _TO_BUCKET)


@njit_inline
def hash_ngrams(text: np.ndarray, sizes: tuple[int, int], salt: np.uint64, out: np.ndarray, n: int) -> int:
    """Append the bucket of every run of bytes of the sizes (≤ 7) to `out` from index `n`; return the end."""
    for size in range(sizes[0], sizes[1] + 1):
        kept = (_ONE << np.uint64(8 * size)) - _ONE
        mark = (np.uint64(size) << np.uint64(56)) + salt
        window = np.uint64(0)
        for i in range(min(size - 1, len(text))):
            window = (window << _EIGHT) | np.uint64(text[i])
        for i in range(size - 1, len(text)):
            window = ((window << _EIGHT) | np.uint64(text[i])) & kept
            out[n] = bucket(window + mark)
            n += 1
    return n


@njit_inline
def is_letter(byte: int) -> bool:
    """Letters of ASCII, digits, marks and every byte of other scripts."""
    return byte >= 128 or 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or 0 < byte <= 3


@njit_inline
def hash_words(text: np.ndarray, salt: np.uint64, out: np.ndarray, n: int) -> int:
    """Append the bucket of every word and of every pair of neighbours; return the new end."""
    value, before, inside = _FNV_START, np.uint64(0), False
    for i in range(len(text)):
        if is_letter(text[i]):
            value = (value ^ np.uint64(text[i])) * _FNV_PRIME
            inside = True
        if inside and (not is_letter(text[i]) or i == len(text) - 1):
            out[n] = bucket(value + _SALT_WORD + salt)
            out[n + 1] = bucket((value ^ (before * _GOLDEN)) + _SALT_PAIR + salt)
            n += 2
            before, value, inside = value, _FNV_START, False
    return n
