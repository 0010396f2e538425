"""Return what one edit shows by itself: the numbers that a user's state is made of.

:func:`compute` takes edits and returns :data:`EDIT_FEATURES` numbers for each, which depend on that edit alone, so it
runs wherever the edits are. One of them is the text model's log-odds; :func:`text_matrix` is what that model is trained
on, made by the same loops. None of them sees the ``bot`` flag.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from lib.model import kernels
from lib.model.kernels import KeywordMatcher, njit_cached, njit_inline

#: Digest of kernels.py, whose loops are compiled into those of this file: numba keeps machine code by this file's date,
#: so the line must change with kernels.py (a test checks it).
KERNELS_SOURCE = "84be3a3301a5"

#: Columns of an edit that features are computed from.
INPUT_COLUMNS = ("wiki", "namespace", "type", "title", "user", "minor", "delta", "comment")

#: The numbers of :func:`compute`, in order.
EDIT_FEATURES = ("text", "hints", "flags", "delta", "template", "title", "wiki")
TEXT_COLUMN, NAME_COLUMN, FLAGS_COLUMN, DELTA_COLUMN, TEMPLATE_COLUMN, TITLE_COLUMN, WIKI_COLUMN = range(
    len(EDIT_FEATURES)
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

_KEYWORDS = tomllib.loads(resources.files("lib.model").joinpath("keywords.toml").read_text(encoding="utf-8"))
COMMENT_WORDS = KeywordMatcher.of(_KEYWORDS["comment"])
NAME_WORDS = KeywordMatcher.of(_KEYWORDS["name"])

_TITLE_WEIGHT, _CONTEXT_WEIGHT = 0.5, 0.25  # a comment shows more than the page does
_SALT_COMMENT, _SALT_TITLE, _SALT_CONTEXT = np.uint64(17), np.uint64(7177), np.uint64(101)
_SCRATCH = 16 * kernels.MAX_TEXT_BYTES
NO_NAMESPACE = -1000
TEXT_SIZES = (3, 5)
TITLE_SIZES = (3, 4)
#: What the loop finds in the texts of an edit, as bits: those of kernels.SAW_… in the comment, then these.
_URL, _BOT, _AUTOMATION, _TOOL, _REVERT, _CAPITAL, _NAME_IN_TITLE, _SLASH = 1 << np.arange(4, 12)


class Columns(NamedTuple):
    """The columns of a table of edits, as the compiled loops take them."""

    user: tuple[np.ndarray, np.ndarray]  #: offsets and bytes, as the next three
    title: tuple[np.ndarray, np.ndarray]
    comment: tuple[np.ndarray, np.ndarray]
    wiki: tuple[np.ndarray, np.ndarray]
    namespace: np.ndarray
    kind: np.ndarray  #: 2 for a new page, plus 1 if marked as minor


def columns(table: pa.Table) -> Columns:
    """Return the columns of a table of edits with the columns of :data:`INPUT_COLUMNS`; any may be null."""
    new = pc.fill_null(pc.equal(table["type"], "new"), False).cast(pa.int64())
    minor = pc.fill_null(table["minor"], False).cast(pa.int64())
    return Columns(
        kernels.buffers(table["user"]),
        kernels.buffers(table["title"]),
        kernels.buffers(table["comment"]),
        kernels.buffers(table["wiki"]),
        # Writable, always: numba compiles once more for each mix of writable and read-only arrays.
        np.require(pc.fill_null(table["namespace"], NO_NAMESPACE), np.int64, "W"),
        np.require(pc.add(pc.multiply(new, 2), minor), np.int64, "W"),
    )


#: What an edit can be seen to be, in the words of a verdict card: of its columns, the bits found, and its delta.
FLAGS: dict[str, Callable[[Columns, np.ndarray, np.ndarray], np.ndarray]] = {
    "marked as minor": lambda edit, found, delta: edit.kind & 1,
    "new page": lambda edit, found, delta: edit.kind & 2,
    "edit of one section": lambda edit, found, delta: found & kernels.SAW_SECTION,
    "link in the comment": lambda edit, found, delta: found & kernels.SAW_LINK,
    "template in the comment": lambda edit, found, delta: found & kernels.SAW_BRACES,
    "web address in the comment": lambda edit, found, delta: found & _URL,
    "empty comment": lambda edit, found, delta: np.diff(edit.comment[0]) == 0,
    "comment speaks of a bot": lambda edit, found, delta: found & _BOT,
    "comment speaks of a script or of automation": lambda edit, found, delta: found & _AUTOMATION,
    "comment names a tool that people steer": lambda edit, found, delta: found & _TOOL,
    "comment of a revert": lambda edit, found, delta: found & _REVERT,
    "own name in the comment": lambda edit, found, delta: found & kernels.SAW_NAME,
    "own name in the title": lambda edit, found, delta: found & _NAME_IN_TITLE,
    "in the main namespace": lambda edit, found, delta: edit.namespace == 0,
    "on a talk page": lambda edit, found, delta: (edit.namespace > 0) & (edit.namespace % 2 == 1),
    "in a user's namespace": lambda edit, found, delta: edit.namespace == 2,
    "in another namespace": lambda edit, found, delta: (edit.namespace > 2) & (edit.namespace % 2 == 0),
    "size unchanged": lambda edit, found, delta: delta == 0,
    "size reduced": lambda edit, found, delta: delta < 0,
    "size of the change unknown": lambda edit, found, delta: np.isnan(delta),
    "comment begins with a capital": lambda edit, found, delta: found & _CAPITAL,
    "on a subpage": lambda edit, found, delta: found & _SLASH,
}


@njit_inline
def _hash_context(wiki: int, namespace: int, kind: int, out: np.ndarray, n: int) -> int:
    """Append the buckets of wiki, namespace, kind of edit, and the last two together; return the end."""
    space, type_and_minor = np.uint64(namespace + 2048), np.uint64(kind)
    out[n] = kernels.bucket(np.uint64(wiki) + _SALT_CONTEXT)
    out[n + 1] = kernels.bucket(space * np.uint64(0x10001) + _SALT_CONTEXT)
    out[n + 2] = kernels.bucket(type_and_minor * np.uint64(0x1000003) + _SALT_CONTEXT)
    out[n + 3] = kernels.bucket(
        (space << np.uint64(20)) * np.uint64(0x10001) + type_and_minor + _SALT_CONTEXT
    )
    return n + 4


@njit_inline
def _hash_edit(
    edit: Columns, i: int, comment: np.ndarray, title: np.ndarray, out: np.ndarray
) -> tuple[int, int, int, int, int, int, int]:
    """Write the normalized texts of edit `i`, and to `out` the buckets of its comment, title and context.

    Returns
    -------
    tuple of int
        Bytes of comment and title, what was seen in each, and where the buckets of each part end.
    """
    user = kernels.text_at(edit.user, i)
    n, seen = kernels.normalize(kernels.text_at(edit.comment, i), user, comment)
    a = kernels.hash_ngrams(comment[:n], TEXT_SIZES, _SALT_COMMENT, out, 0)
    a = kernels.hash_words(comment[:n], _SALT_COMMENT, out, a)
    m, seen_title = kernels.normalize(kernels.text_at(edit.title, i), user, title)
    b = kernels.hash_ngrams(title[:m], TITLE_SIZES, _SALT_TITLE, out, a)
    wiki = kernels.hash52(kernels.text_at(edit.wiki, i))
    return n, seen, seen_title, a, b, _hash_context(wiki, edit.namespace[i], edit.kind[i], out, b), wiki


@njit_inline
def _mean_weight(weights: np.ndarray, buckets: np.ndarray) -> float:
    """Return the sum of the weights of some buckets, scaled to unit length as if all were different."""
    if len(buckets) == 0:
        return 0.0
    total = 0.0
    for column in buckets:
        total += weights[column]
    return total / np.sqrt(len(buckets))


class Weights(NamedTuple):
    """The text model: a linear model of buckets."""

    text: np.ndarray  #: float32, one per bucket
    bias: float


@njit_cached
def _edit_features(
    edit: Columns, weights: Weights, words: KeywordMatcher, name_words: KeywordMatcher
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features without flags and delta, and what was found in the texts, as bits."""
    out = np.empty((len(edit.kind), len(EDIT_FEATURES)))
    found = np.empty(len(out), np.int64)
    comment, title = np.empty((2, kernels.MAX_TEXT_BYTES + 64), np.uint8)
    buckets = np.empty(_SCRATCH, np.int64)
    for i in range(len(out)):
        n, seen, seen_title, a, b, end, wiki = _hash_edit(edit, i, comment, title, buckets)
        log_odds = weights.bias + _mean_weight(weights.text, buckets[:a])
        log_odds += _mean_weight(weights.text, buckets[a:b]) * _TITLE_WEIGHT
        for column in buckets[b:end]:
            log_odds += weights.text[column] * _CONTEXT_WEIGHT
        raw_title = kernels.text_at(edit.title, i)
        out[i, TEXT_COLUMN] = log_odds
        out[i, NAME_COLUMN] = kernels.name_flags(kernels.text_at(edit.user, i), name_words)
        out[i, TEMPLATE_COLUMN] = kernels.hash52(comment[:n])
        out[i, TITLE_COLUMN] = kernels.hash52(raw_title)
        out[i, WIKI_COLUMN] = wiki
        found[i] = seen | kernels.has_url(comment[:n]) << 4 | kernels.match_keywords(comment[:n], words) << 5
        found[i] |= kernels.starts_upper(kernels.text_at(edit.comment, i)) << 9
        found[i] |= (seen_title & kernels.SAW_NAME != 0) << 10 | (47 in raw_title) << 11
    return out, found


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
    edit = columns(table)
    out, found = _edit_features(edit, weights, COMMENT_WORDS, NAME_WORDS)
    delta = np.array(table["delta"].cast(pa.float64(), safe=False), np.float64)
    out[:, FLAGS_COLUMN] = sum(
        (is_set(edit, found, delta) != 0) << i for i, is_set in enumerate(FLAGS.values())
    )
    out[:, DELTA_COLUMN] = delta
    return out


@njit_cached
def _text_rows(edit: Columns, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, columns and row starts of the text matrix, which has at most so many values."""
    starts = np.zeros(len(edit.kind) + 1, np.int64)
    index, values = np.empty(most, np.int32), np.empty(most)
    comment, title = np.empty((2, kernels.MAX_TEXT_BYTES + 64), np.uint8)
    buckets = np.empty(_SCRATCH, np.int64)
    for i in range(len(edit.kind)):
        _, _, _, a, b, end, _ = _hash_edit(edit, i, comment, title, buckets)
        start = starts[i]
        index[start : start + end] = buckets[:end]
        values[start : start + a] = 1 / np.sqrt(max(a, 1))
        values[start + a : start + b] = _TITLE_WEIGHT / np.sqrt(max(b - a, 1))
        values[start + b : start + end] = _CONTEXT_WEIGHT
        starts[i + 1] = start + end
    return values[: starts[-1]], index[: starts[-1]], starts


def text_matrix(table: pa.Table) -> sp.csr_matrix:
    """Return the matrix whose product with the text weights is the text model's log-odds.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (n, kernels.BUCKETS)
        One row per edit: pieces of the masked comment, of the masked title, and of the context.
    """
    edit = columns(table)
    # A text of n bytes with its two marks has at most 3 (n + 2) n-grams of three sizes and n + 3 words and pairs.
    lengths = sum(
        np.minimum(np.diff(text[0]), kernels.MAX_TEXT_BYTES).sum() for text in (edit.comment, edit.title)
    )
    matrix = sp.csr_matrix(
        _text_rows(edit, 4 * lengths + 24 * len(edit.kind)), shape=(len(edit.kind), kernels.BUCKETS)
    )
    matrix.sum_duplicates()
    return matrix
