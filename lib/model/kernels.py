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
MAX_TEXT_BYTES = 1024  # bytes of a text that are looked at: MediaWiki's comments end at 500 characters

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

    Numba tells by the loop's own file whether the code on disk is stale. A loop with parts from another file must
    change with it (see ``edit_features.TEXT_SOURCE``).
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
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # no chunk at all
            column = pa.array([], pa.string())
    if column.type not in (pa.string(), pa.large_string()):
        column = column.cast(pa.large_string())
    if column.null_count:
        column = pc.fill_null(column, "")
    width = np.int32 if column.type == pa.string() else np.int64
    _, places, texts = column.buffers()
    data = np.frombuffer(texts if texts is not None and texts.size else b"\0", np.uint8)
    data.setflags(write=False)  # always: numba compiles anew for each mix of writable and read-only arrays
    if len(column) == 0:
        return np.zeros(1, np.int64), data
    offsets = np.frombuffer(places, width, len(column) + 1, column.offset * np.dtype(width).itemsize)
    return offsets.astype(np.int64), data


def _small() -> np.ndarray:
    """Small letters for ASCII capitals; a space for underscores, as page titles mean them, and for control bytes."""
    table = np.arange(256, dtype=np.uint8)
    table[65:91] += 32
    table[:32] = table[95] = 32
    return table


_SMALL = _small()


@njit_inline
def to_lower(byte: int) -> int:
    """Make an ASCII capital small, an underscore or a control byte a space."""
    return _SMALL[byte]


@njit_inline
def _is_here(
    data: np.ndarray, place: int, stop: int, name: np.ndarray, name_start: int, name_stop: int
) -> bool:
    length = name_stop - name_start
    if place + length > stop:
        return False
    for i in range(length):
        if to_lower(data[place + i]) != to_lower(name[name_start + i]):
            return False
    return True


@njit_inline
def _find_pair(data: np.ndarray, start: int, stop: int, byte: int) -> tuple[int, bool]:
    """Find two equal bytes in a row before `stop`; -1 when they are not there. A colon on the way is reported."""
    colon = False
    for i in range(start, stop - 1):
        if data[i] == byte and data[i + 1] == byte:
            return i, colon
        colon |= data[i] == 58
    return -1, colon


@njit_inline
def _find_mark(
    data: np.ndarray, i: int, stop: int, name: np.ndarray, name_start: int, name_stop: int
) -> tuple[int, int, int]:
    """Return the mark in place of what begins at byte `i` (0: none), where it ends, and its ``SAW_…`` bit."""
    if name_stop - name_start >= MIN_NAME_BYTES and _is_here(data, i, stop, name, name_start, name_stop):
        return MARK_USER, i + name_stop - name_start, SAW_NAME
    if i + 1 >= stop:
        return 0, i, 0
    if data[i] == 47 and data[i + 1] == 42:  # /* section */
        end = i + 2
        while end + 1 < stop and not (data[end] == 42 and data[end + 1] == 47):
            end += 1
        return MARK_SECTION, end + 2, SAW_SECTION
    if data[i] == 91 and data[i + 1] == 91:  # [[link]]: its words are the page's, not the user's
        end, colon = _find_pair(data, i + 2, stop, 93)
        if end >= 0 and not colon:
            return MARK_LINK, end + 2, SAW_LINK
        return 0, i, SAW_LINK
    if data[i] == 123 and data[i + 1] == 123:
        return 0, i, SAW_BRACES
    return 0, i, 0


@njit_inline
def normalize(
    data: np.ndarray,
    start: int,
    stop: int,
    name: np.ndarray,
    name_start: int,
    name_stop: int,
    out: np.ndarray,
) -> tuple[int, int]:
    """Write a text with marks for names, links and sections, ``0`` for numbers, and in lower case.

    Parameters
    ----------
    data, start, stop
        The bytes, and where in them the text is.
    name, name_start, name_stop
        The user's name, likewise.
    out : ndarray of uint8, shape (at least MAX_TEXT_BYTES + 64,)
        Receives the normalized text.

    Returns
    -------
    tuple of int
        Bytes of the normalized text, and what was found on the way (``SAW_…`` bits).
    """
    stop = min(stop, start + MAX_TEXT_BYTES)
    n, seen, i = 1, 0, start
    out[0] = MARK_START
    while i < stop:
        mark, end, found = _find_mark(data, i, stop, name, name_start, name_stop)
        seen |= found
        byte = to_lower(data[i])
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
def hash52(data: np.ndarray, start: int, stop: int) -> np.int64:
    """FNV-1a of some bytes, folded to the 52 bits that a float holds exactly."""
    value = _FNV_START
    for i in range(start, stop):
        value = (value ^ np.uint64(data[i])) * _FNV_PRIME
    return np.int64(mix64(value) >> np.uint64(12))


@njit_inline
def bucket(value: np.uint64) -> np.int64:
    """Hash a number to a column: the top bits of a product (Knuth's multiplicative hashing)."""
    return np.int64((value * _GOLDEN) >> _TO_BUCKET)


@njit_inline
def hash_ngrams(
    text: np.ndarray, length: int, shortest: int, longest: int, salt: np.uint64, out: np.ndarray, n: int
) -> int:
    """Append the bucket of every run of `shortest` to `longest` (≤ 7) bytes to `out` from place `n`; return the end."""
    for size in range(shortest, longest + 1):
        kept = (_ONE << np.uint64(8 * size)) - _ONE
        mark = (np.uint64(size) << np.uint64(56)) + salt
        window = np.uint64(0)
        for i in range(min(size - 1, length)):
            window = (window << _EIGHT) | np.uint64(text[i])
        for i in range(size - 1, length):
            window = ((window << _EIGHT) | np.uint64(text[i])) & kept
            out[n] = bucket(window + mark)
            n += 1
    return n


@njit_inline
def is_letter(byte: int) -> bool:
    """Letters of ASCII, digits, marks and every byte of other scripts."""
    return byte >= 128 or 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or 0 < byte <= 3


@njit_inline
def hash_words(text: np.ndarray, length: int, salt: np.uint64, out: np.ndarray, n: int) -> int:
    """Append the bucket of every word and of every pair of neighbours; return the new end."""
    value, before, inside = _FNV_START, np.uint64(0), False
    for i in range(length):
        if is_letter(text[i]):
            value = (value ^ np.uint64(text[i])) * _FNV_PRIME
            inside = True
        if inside and (not is_letter(text[i]) or i == length - 1):
            out[n] = bucket(value + _SALT_WORD + salt)
            out[n + 1] = bucket((value ^ (before * _GOLDEN)) + _SALT_PAIR + salt)
            n += 2
            before, value, inside = value, _FNV_START, False
    return n


class KeywordMatcher:
    """Many words looked for at once, one step per byte (Aho and Corasick, 1975).

    Parameters
    ----------
    groups : dict of str to list of str
        Words by group, in small letters. A space stands for any byte of ASCII that is neither letter nor digit, the
        text's beginning and its end: ``" bot "`` is the whole word.

    Examples
    --------
    >>> lexicon = KeywordMatcher({"bot": [" bot ", "бот"], "revert": ["undid"]})
    >>> [lexicon.look(text) for text in ("Bot: archiving", "bottom", "Работа бота", "Undid by bot")]
    [['bot'], [], ['bot'], ['bot', 'revert']]
    """

    def __init__(self, groups: dict[str, list[str]]) -> None:
        self.groups = tuple(groups)
        tree: list[dict[int, int]] = [{}]
        found = [0]
        for bit, patterns in enumerate(groups.values()):
            for pattern in patterns:
                state = 0
                for byte in pattern.encode():
                    if byte not in tree[state]:
                        tree[state][byte] = len(tree)
                        tree.append({})
                        found.append(0)
                    state = tree[state][byte]
                found[state] |= 1 << bit
        self.steps = np.zeros((len(tree), 256), np.int16)
        self.found = np.array(found, np.int64)
        self._complete(tree)

    def _complete(self, tree: list[dict[int, int]]) -> None:
        """Fill in where a failed match goes on, breadth first."""
        back = [0] * len(tree)
        queue = [0]
        for state in queue:
            if state:
                self.steps[state] = self.steps[back[state]]
            for byte, child in tree[state].items():
                back[child] = int(self.steps[state, byte])
                self.found[child] |= self.found[back[child]]
                self.steps[state, byte] = child
                queue.append(child)

    def look(self, text: str) -> list[str]:
        """Name the groups that a text has a word of."""
        data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        bits = match_keywords(data, 0, len(data), self.steps, self.found)
        return [group for bit, group in enumerate(self.groups) if bits >> bit & 1]


@njit_inline
def match_keywords(data: np.ndarray, start: int, stop: int, steps: np.ndarray, found: np.ndarray) -> int:
    """Return the groups of keywords that the text has a word of, as bits."""
    state = np.int64(steps[0, 32])
    bits = found[state]
    for i in range(start, stop):
        byte = to_lower(data[i])
        if byte < 128 and not (97 <= byte <= 122 or 48 <= byte <= 57):
            byte = 32
        state = np.int64(steps[state, byte])
        bits |= found[state]
    return bits | found[np.int64(steps[state, 32])]


@njit_inline
def is_digit(byte: int) -> bool:
    """Return whether a byte is a digit of ASCII."""
    return 48 <= byte <= 57


@njit_inline
def is_upper(byte: int) -> bool:
    """Return whether a byte is an upper-case letter of ASCII."""
    return 65 <= byte <= 90


@njit_inline
def is_ip_address(data: np.ndarray, start: int, stop: int) -> bool:
    """Return whether a name is an IP address: digits and three dots, or hexadecimal groups with at least two colons."""
    dots, colons = 0, 0
    if stop - start < 3 or stop - start > 45:
        return False
    for i in range(start, stop):
        byte = data[i]
        if byte == 46:
            dots += 1
        elif byte == 58:
            colons += 1
        elif is_digit(byte):
            continue
        elif dots > 0 or not (97 <= byte <= 102 or 65 <= byte <= 70):
            return False
    return dots == 3 and colons == 0 or colons >= 2


@njit_inline
def is_temporary_account(data: np.ndarray, start: int, stop: int) -> bool:
    """Return whether a name is a temporary account's: a tilde, a year, a dash, digits and dashes (`~2026-12345-67`)."""
    if stop - start < 8 or data[start] != 126 or data[start + 5] != 45:
        return False
    for i in range(start + 1, stop):
        if not (is_digit(data[i]) or data[i] == 45):
            return False
    return True


@njit_inline
def name_flags(data: np.ndarray, start: int, stop: int, steps: np.ndarray, found: np.ndarray) -> int:
    """Return the bits of ``edit_features.NAME_FLAGS`` of a user name."""
    bits = 0
    for i in range(start, stop - 2):
        if (data[i] | 32) != 98 or (data[i + 1] | 32) != 111 or (data[i + 2] | 32) != 116:
            continue
        bits |= 1
        rest = i + 3
        while rest < stop and (not is_letter(data[rest]) or is_digit(data[rest])):
            rest += 1
        tail = rest
        while tail < stop and (data[tail] == 73 or data[tail] == 86 or data[tail] == 88):  # BotII, Bot IV
            tail += 1
        ends = rest == stop or (tail == stop and (data[i] == 66 or rest > i + 3))
        if ends:
            bits |= 2
        before = i == start or not is_letter(data[i - 1]) or is_digit(data[i - 1])
        camel = data[i] == 66 and (before or not is_upper(data[i - 1]))
        after = i + 3 == stop or not (97 <= data[i + 3] <= 122)
        if (camel or before) and (after or ends):
            bits |= 4
        if i == start:
            bits |= 8
    words = match_keywords(data, start, stop, steps, found)
    if words & 1:
        bits |= 16
    if words & 2:
        bits |= 32
    if is_ip_address(data, start, stop):
        bits |= 64
    if is_temporary_account(data, start, stop):
        bits |= 128
    return bits


@njit_inline
def has_url(masked: np.ndarray, length: int) -> bool:
    """Find `://` in a text."""
    for i in range(length - 2):
        if masked[i] == 58 and masked[i + 1] == 47 and masked[i + 2] == 47:
            return True
    return False


@njit_inline
def starts_upper(data: np.ndarray, start: int, stop: int) -> bool:
    """Return whether a comment, behind its section, begins with an upper-case letter of ASCII."""
    i = start
    if stop - start > 3 and data[i] == 47 and data[i + 1] == 42:  # /* section */
        i += 2
        while i + 1 < stop and not (data[i] == 42 and data[i + 1] == 47):
            i += 1
        i += 2
    while i < stop and data[i] == 32:
        i += 1
    return i < stop and is_upper(data[i])


@njit_inline
def has_slash(data: np.ndarray, start: int, stop: int) -> bool:
    """Find `/` in a title."""
    for i in range(start, stop):
        if data[i] == 47:
            return True
    return False
