"""Return what one edit shows by itself: the numbers that a user's state is made of.

:func:`compute` takes edits and returns :data:`EDIT_FEATURES` numbers for each, which depend on that edit alone, so it
runs wherever the edits are. One of them is the text model's log-odds; :func:`text_matrix` is what that model is trained
on, made by the same loops. None of them sees the ``bot`` flag.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from lib.model import kernels
from lib.model.kernels import KeywordMatcher, njit_cached, njit_inline

#: Digest of kernels.py, whose loops are compiled into those of this file: numba keeps machine code by this file's date,
#: so the line must change with kernels.py (a test checks it).
KERNELS_SOURCE = "c9971bc5ef2b"

#: Columns of an edit that are looked at.
INPUT_COLUMNS = ("wiki", "namespace", "type", "title", "user", "minor", "delta", "comment")

#: The numbers of :func:`compute`, in order.
EDIT_FEATURES = ("text", "hints", "flags", "delta", "template", "title", "wiki")
TEXT_COLUMN, NAME_COLUMN, FLAGS_COLUMN, DELTA_COLUMN, TEMPLATE_COLUMN, TITLE_COLUMN, WIKI_COLUMN = range(
    len(EDIT_FEATURES)
)

#: What an edit can be seen to be, one bit each, in the words of a verdict card.
FLAGS = (
    "marked as minor",
    "new page",
    "edit of one section",
    "link in the comment",
    "template in the comment",
    "web address in the comment",
    "empty comment",
    "comment speaks of a bot",
    "comment speaks of a script or of automation",
    "comment names a tool that people steer",
    "comment of a revert",
    "own name in the comment",
    "own name in the title",
    "in the main namespace",
    "on a talk page",
    "in a user's namespace",
    "in another namespace",
    "size unchanged",
    "size reduced",
    "size of the change unknown",
    "comment begins with a capital",
    "on a subpage",
)

#: What a name can be seen to be, one bit each.
NAME_FLAGS = (
    "name contains “bot”",
    "name ends in “bot”",
    "“Bot” as a word of the name",
    "name begins with “bot”",
    "“bot” in another script in the name",
    "name speaks of a script, a service or automation",
    "name is an IP address",
    "name of a temporary account",
)

_KEYWORDS = tomllib.loads(Path(__file__).with_name("keywords.toml").read_text(encoding="utf-8"))
COMMENT_WORDS = KeywordMatcher(_KEYWORDS["comment"])
NAME_WORDS = KeywordMatcher(_KEYWORDS["name"])

_CONTEXT = 4  # columns for wiki, namespace, type with minor, and their combination
_TITLE_WEIGHT, _CONTEXT_WEIGHT = 0.5, 0.25  # a comment says more than the page does
_SALT_COMMENT, _SALT_TITLE, _SALT_CONTEXT = np.uint64(17), np.uint64(7177), np.uint64(101)
_SCRATCH = 16 * kernels.MAX_TEXT_BYTES
NO_NAMESPACE = -1000
TEXT_SIZES = (3, 5)
TITLE_SIZES = (3, 4)


class Columns(NamedTuple):
    """The buffers of a table of edits, as the compiled loops want them."""

    user: np.ndarray
    user_data: np.ndarray
    title: np.ndarray
    title_data: np.ndarray
    comment: np.ndarray
    comment_data: np.ndarray
    wiki: np.ndarray
    wiki_data: np.ndarray
    namespace: np.ndarray
    new: np.ndarray
    minor: np.ndarray
    delta: np.ndarray


def columns(table: pa.Table) -> Columns:
    """Open the buffers of a table of edits.

    Parameters
    ----------
    table : pyarrow.Table or pyarrow.RecordBatch
        With the columns of :data:`INPUT_COLUMNS`; any may be null.

    Raises
    ------
    ValueError
        When a column is missing.
    """
    missing = [name for name in INPUT_COLUMNS if name not in table.schema.names]
    if missing:
        raise ValueError(
            f"A table of edits must have the columns {', '.join(INPUT_COLUMNS)}. Got none named {', '.join(missing)}. "
            "Read it with dataset.read_csv or edits.parse."
        )
    get = table.column
    namespace = pc.fill_null(get("namespace").cast(pa.int64()), NO_NAMESPACE)
    return Columns(
        *kernels.buffers(get("user")),
        *kernels.buffers(get("title")),
        *kernels.buffers(get("comment")),
        *kernels.buffers(get("wiki")),
        _numbers(namespace, np.int64),
        _numbers(pc.fill_null(pc.equal(get("type"), "new"), False).cast(pa.int8()), np.int8),
        _numbers(pc.fill_null(get("minor").cast(pa.bool_()), False).cast(pa.int8()), np.int8),
        _numbers(get("delta").cast(pa.int64()).cast(pa.float64(), safe=False), np.float64),
    )


def _numbers(column: pa.Array | pa.ChunkedArray, kind: type) -> np.ndarray:
    values = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return np.array(values, kind)  # a copy: numba compiles for writable arrays only once


@njit_inline
def _context_pieces(wiki: int, namespace: int, new: int, minor: int, out: np.ndarray, n: int) -> int:
    """Append the columns of wiki, namespace and kind of edit."""
    space = np.uint64(namespace + 2048)
    kind = np.uint64(2 * new + minor)
    out[n] = kernels.bucket(np.uint64(wiki) + _SALT_CONTEXT)
    out[n + 1] = kernels.bucket(space * np.uint64(0x10001) + _SALT_CONTEXT)
    out[n + 2] = kernels.bucket(kind * np.uint64(0x1000003) + _SALT_CONTEXT)
    out[n + 3] = kernels.bucket((space << np.uint64(20)) * np.uint64(0x10001) + kind + _SALT_CONTEXT)
    return n + _CONTEXT


@njit_inline
def _total(weights: np.ndarray, pieces: np.ndarray, start: int, stop: int) -> float:
    """Sum the weights of some pieces, scaled to unit length as if all were different."""
    if start == stop:
        return 0.0
    total = 0.0
    for i in range(start, stop):
        total += weights[pieces[i]]
    return total / np.sqrt(stop - start)


@njit_inline
def _flags(c: Columns, i: int, seen: int, seen_title: int, words: int, url: bool) -> int:
    """Return the bits of :data:`FLAGS` of edit `i`, the first in the lowest bit."""
    namespace, delta = c.namespace[i], c.delta[i]
    flags = (
        c.minor[i] != 0,
        c.new[i] != 0,
        seen & kernels.SAW_SECTION != 0,
        seen & kernels.SAW_LINK != 0,
        seen & kernels.SAW_BRACES != 0,
        url,
        c.comment[i + 1] == c.comment[i],
        words & 1 != 0,
        words & 2 != 0,
        words & 4 != 0,
        words & 8 != 0,
        seen & kernels.SAW_NAME != 0,
        seen_title & kernels.SAW_NAME != 0,
        namespace == 0,
        namespace > 0 and namespace % 2 == 1,
        namespace == 2,
        namespace > 2 and namespace % 2 == 0,
        delta == 0.0,
        delta < 0.0,
        np.isnan(delta),
        kernels.starts_upper(c.comment_data, c.comment[i], c.comment[i + 1]),
        kernels.has_slash(c.title_data, c.title[i], c.title[i + 1]),
    )
    bits = 0
    for place in range(len(flags)):
        bits |= flags[place] << place
    return bits


@njit_cached
def _edit_features(
    c: Columns,
    weights: np.ndarray,
    bias: float,
    words: tuple[np.ndarray, ...],
    name_words: tuple[np.ndarray, ...],
) -> np.ndarray:
    out = np.empty((len(c.namespace), len(EDIT_FEATURES)))
    text = np.empty(kernels.MAX_TEXT_BYTES + 64, np.uint8)
    tokens = np.empty(_SCRATCH, np.int64)
    for i in range(len(out)):
        u, v = c.user[i], c.user[i + 1]
        wiki = kernels.hash52(c.wiki_data, c.wiki[i], c.wiki[i + 1])
        n, seen = kernels.normalize(c.comment_data, c.comment[i], c.comment[i + 1], c.user_data, u, v, text)
        k = kernels.hash_ngrams(text, n, TEXT_SIZES[0], TEXT_SIZES[1], _SALT_COMMENT, tokens, 0)
        k = kernels.hash_words(text, n, _SALT_COMMENT, tokens, k)
        log_odds = bias + _total(weights, tokens, 0, k)
        out[i, TEMPLATE_COLUMN] = kernels.hash52(text, 0, n)
        found = kernels.match_keywords(text, 0, n, words[0], words[1])
        url = kernels.has_url(text, n)
        n, seen_title = kernels.normalize(c.title_data, c.title[i], c.title[i + 1], c.user_data, u, v, text)
        k = kernels.hash_ngrams(text, n, TITLE_SIZES[0], TITLE_SIZES[1], _SALT_TITLE, tokens, 0)
        log_odds += _total(weights, tokens, 0, k) * _TITLE_WEIGHT
        k = _context_pieces(wiki, c.namespace[i], c.new[i], c.minor[i], tokens, 0)
        for j in range(k):
            log_odds += weights[tokens[j]] * _CONTEXT_WEIGHT
        out[i, TEXT_COLUMN] = log_odds
        out[i, NAME_COLUMN] = kernels.name_flags(c.user_data, u, v, name_words[0], name_words[1])
        out[i, FLAGS_COLUMN] = _flags(c, i, seen, seen_title, found, url)
        out[i, DELTA_COLUMN] = c.delta[i]
        out[i, TITLE_COLUMN] = kernels.hash52(c.title_data, c.title[i], c.title[i + 1])
        out[i, WIKI_COLUMN] = wiki
    return out


class Weights(NamedTuple):
    """The linear model of texts inside the evidence."""

    text: np.ndarray  #: float32, one per bucket
    bias: float


def compute(table: pa.Table, weights: Weights) -> np.ndarray:
    """Return what each edit shows by itself.

    Parameters
    ----------
    table : pyarrow.Table or pyarrow.RecordBatch
        Edits, with the columns of :data:`INPUT_COLUMNS`.
    weights : Weights
        Linear model of the comment, title and context.

    Returns
    -------
    ndarray of float, shape (n, len(EDIT_FEATURES))
        A row depends on its own edit alone.
    """
    words = (COMMENT_WORDS.steps, COMMENT_WORDS.found)
    name_words = (NAME_WORDS.steps, NAME_WORDS.found)
    return _edit_features(columns(table), weights.text, weights.bias, words, name_words)


# --- the matrix behind the linear model -------------------------------------------------------------------------------


@njit_cached
def _text_rows(c: Columns, starts: np.ndarray, index: np.ndarray, values: np.ndarray, fill: bool) -> None:
    """Count (first run) or write (second run) the pieces of every edit."""
    masked = np.empty(kernels.MAX_TEXT_BYTES + 64, np.uint8)
    pieces = np.empty(_SCRATCH, np.int64)
    for i in range(len(c.namespace)):
        u, v = c.user[i], c.user[i + 1]
        length, _ = kernels.normalize(
            c.comment_data, c.comment[i], c.comment[i + 1], c.user_data, u, v, masked
        )
        a = kernels.hash_ngrams(masked, length, TEXT_SIZES[0], TEXT_SIZES[1], _SALT_COMMENT, pieces, 0)
        a = kernels.hash_words(masked, length, _SALT_COMMENT, pieces, a)
        length, _ = kernels.normalize(c.title_data, c.title[i], c.title[i + 1], c.user_data, u, v, masked)
        b = kernels.hash_ngrams(masked, length, TITLE_SIZES[0], TITLE_SIZES[1], _SALT_TITLE, pieces, a)
        wiki = kernels.hash52(c.wiki_data, c.wiki[i], c.wiki[i + 1])
        k = _context_pieces(wiki, c.namespace[i], c.new[i], c.minor[i], pieces, b)
        if not fill:
            starts[i + 1] = starts[i] + k
            continue
        for j in range(k):
            place = starts[i] + j
            index[place] = pieces[j]
            if j < a:
                values[place] = 1 / np.sqrt(a)
            elif j < b:
                values[place] = _TITLE_WEIGHT / np.sqrt(b - a)
            else:
                values[place] = _CONTEXT_WEIGHT


def text_matrix(table: pa.Table) -> sp.csr_matrix:
    """Return the matrix whose product with the text weights is the text model's log-odds.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (n, kernels.BUCKETS)
        One row per edit: pieces of the masked comment, of the masked title, and of the context.
    """
    source, n = columns(table), table.num_rows
    starts = np.zeros(n + 1, np.int64)
    _text_rows(source, starts, np.empty(0, np.int32), np.empty(0), False)
    index, values = np.empty(starts[-1], np.int32), np.empty(starts[-1])
    _text_rows(source, starts, index, values, True)
    matrix = sp.csr_matrix((values, index, starts), shape=(n, kernels.BUCKETS))
    matrix.sum_duplicates()
    return matrix
