"""Return what one edit shows by itself: the numbers that a user's state is made of.

:func:`compute` takes edits and returns :data:`EDIT_FEATURES` numbers for each, which depend on that edit alone, so it
runs wherever the edits are. One of them is the text model's log-odds; :func:`text_matrix` is what that model is trained
on, made by the same loops. None of them sees the ``bot`` flag.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from importlib import resources
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from lib.model import kernels
from lib.model.kernels import njit_cached, njit_inline

#: Digest of kernels.py, whose loops are compiled into those of this file: numba keeps machine code by this file's date,
#: so the line must change with kernels.py (a test checks it).
KERNELS_SOURCE = "1132b87b49fb"

#: Columns of an edit that features are computed from.
INPUT_COLUMNS = ("wiki", "namespace", "type", "title", "user", "minor", "delta", "comment")

#: The numbers of :func:`compute`, in order.
EDIT_FEATURES = ("text", "hints", "flags", "delta", "template", "title", "wiki")
TEXT_COLUMN, NAME_COLUMN, FLAGS_COLUMN, DELTA_COLUMN, TEMPLATE_COLUMN, TITLE_COLUMN, WIKI_COLUMN = range(
    len(EDIT_FEATURES)
)


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern of bytes for keywords."""
    return "|".join(re.escape(word).replace(r"\ ", r"(?:^|[^a-z0-9\x80-\xff]|$)") for word in words)


_KEYWORDS = tomllib.loads(resources.files("lib.model").joinpath("keywords.toml").read_text(encoding="utf-8"))
_BOT, _AUTOMATION, _TOOL, _REVERT = map(_any_of, _KEYWORDS["comment"].values())
_CAPITAL = r"^(/\*([^*]|\*+[^*/])*\*+/)? *[A-Z]"  # after the section

_NO_LETTER = r"[^a-zA-Z\x80-\xff]"
IP_ADDRESS = r"\d{1,3}(\.\d{1,3}){3}|[\da-fA-F]*:[\da-fA-F]*:[\da-fA-F:.]*"
TEMPORARY_ACCOUNT = r"~\d{4}-[\d-]{2,}"
#: What a name can be seen to be, one bit each, and the pattern of its bytes.
NAME_FLAGS = {
    "name contains “bot”": r"(?i)bot",
    "name ends in “bot”": rf"(?i:bot){_NO_LETTER}*$|(B(?i:ot)|(?i:bot){_NO_LETTER}){_NO_LETTER}*[IVX]*$",
    "“Bot” as a word of the name": rf"((^|{_NO_LETTER})(?i:b)|[^A-Z]B)(?i:ot)([^a-z]|$)",
    "name begins with “bot”": r"(?i)^bot",
    "“bot” in another script in the name": f"(?i){_any_of(_KEYWORDS['name']['bot'])}",
    "name speaks of a script, a service or automation": f"(?i){_any_of(_KEYWORDS['name']['automation'])}",
    "name is an IP address": f"^({IP_ADDRESS})$",
    "name of a temporary account": f"^{TEMPORARY_ACCOUNT}$",
}

_TITLE_WEIGHT, _CONTEXT_WEIGHT = 0.5, 0.25  # a comment shows more than the page does
_SALT_COMMENT, _SALT_TITLE, _SALT_CONTEXT = np.uint64(17), np.uint64(7177), np.uint64(101)
_SCRATCH = 16 * kernels.MAX_TEXT_BYTES
_TEXT_BYTES = kernels.MAX_TEXT_BYTES + 64
NO_NAMESPACE = -1000
TEXT_SIZES = (3, 5)
TITLE_SIZES = (3, 4)
_NAME_IN_TITLE = 16  # a bit beside kernels.SAW_… of the comment


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
    user, title, comment, wiki = map(kernels.buffers, map(table.column, ("user", "title", "comment", "wiki")))
    new = pc.fill_null(pc.equal(table["type"], "new"), False).cast(pa.int64())
    minor = pc.fill_null(table["minor"], False).cast(pa.int64())
    # Writable, always: numba compiles once more for each mix of writable and read-only arrays.
    namespace = np.require(pc.fill_null(table["namespace"], NO_NAMESPACE), np.int64, "W")
    return Columns(
        user, title, comment, wiki, namespace, np.require(pc.add(pc.multiply(new, 2), minor), np.int64, "W")
    )


class Seen(NamedTuple):
    """What flags are read from."""

    edit: Columns
    masked: tuple[np.ndarray, np.ndarray]  #: offsets and bytes of the normalized comments
    found: np.ndarray  #: bits of kernels.SAW_… in the comment, and _NAME_IN_TITLE
    delta: np.ndarray


def _matches(texts: tuple[np.ndarray, np.ndarray], pattern: str) -> np.ndarray:
    """Return which texts have a match of a pattern of bytes; RE2's time is linear in their length."""
    buffers = [None, *map(pa.py_buffer, texts)]
    array = pa.Array.from_buffers(pa.large_binary(), len(texts[0]) - 1, buffers)
    return pc.match_substring_regex(array, pattern).to_numpy(zero_copy_only=False)


#: What an edit can be seen to be, in the words of a verdict card.
FLAGS: dict[str, Callable[[Seen], np.ndarray]] = {
    "marked as minor": lambda seen: seen.edit.kind & 1,
    "new page": lambda seen: seen.edit.kind & 2,
    "edit of one section": lambda seen: seen.found & kernels.SAW_SECTION,
    "link in the comment": lambda seen: seen.found & kernels.SAW_LINK,
    "template in the comment": lambda seen: seen.found & kernels.SAW_BRACES,
    "web address in the comment": lambda seen: _matches(seen.masked, "://"),
    "empty comment": lambda seen: np.diff(seen.edit.comment[0]) == 0,
    "comment speaks of a bot": lambda seen: _matches(seen.masked, _BOT),
    "comment speaks of a script or of automation": lambda seen: _matches(seen.masked, _AUTOMATION),
    "comment names a tool that people steer": lambda seen: _matches(seen.masked, _TOOL),
    "comment of a revert": lambda seen: _matches(seen.masked, _REVERT),
    "own name in the comment": lambda seen: seen.found & kernels.SAW_NAME,
    "own name in the title": lambda seen: seen.found & _NAME_IN_TITLE,
    "in the main namespace": lambda seen: seen.edit.namespace == 0,
    "on a talk page": lambda seen: (seen.edit.namespace > 0) & (seen.edit.namespace % 2 == 1),
    "in a user's namespace": lambda seen: seen.edit.namespace == 2,
    "in another namespace": lambda seen: (seen.edit.namespace > 2) & (seen.edit.namespace % 2 == 0),
    "size unchanged": lambda seen: seen.delta == 0,
    "size reduced": lambda seen: seen.delta < 0,
    "size of the change unknown": lambda seen: np.isnan(seen.delta),
    "comment begins with a capital": lambda seen: _matches(seen.edit.comment, _CAPITAL),
    "on a subpage": lambda seen: _matches(seen.edit.title, "/"),
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
    edit: Columns, weights: Weights, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the features without flags and delta, what was found, and ends and bytes of the normalized comments."""
    out = np.empty((len(edit.kind), len(EDIT_FEATURES)))
    found, ends = np.empty(len(out), np.int64), np.zeros(len(out) + 1, np.int64)
    comments, title = np.empty(size, np.uint8), np.empty(_TEXT_BYTES, np.uint8)
    buckets = np.empty(_SCRATCH, np.int64)
    for i in range(len(out)):
        comment = comments[ends[i] :]
        n, seen, seen_title, a, b, end, wiki = _hash_edit(edit, i, comment, title, buckets)
        ends[i + 1] = ends[i] + n
        log_odds = weights.bias + _mean_weight(weights.text, buckets[:a])
        log_odds += _mean_weight(weights.text, buckets[a:b]) * _TITLE_WEIGHT
        for column in buckets[b:end]:
            log_odds += weights.text[column] * _CONTEXT_WEIGHT
        out[i, TEXT_COLUMN] = log_odds
        out[i, TEMPLATE_COLUMN] = kernels.hash52(comment[:n])
        out[i, TITLE_COLUMN] = kernels.hash52(kernels.text_at(edit.title, i))
        out[i, WIKI_COLUMN] = wiki
        found[i] = seen | _NAME_IN_TITLE * (seen_title & kernels.SAW_NAME != 0)
    return out, found, ends, comments


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
    delta = np.array(table["delta"].cast(pa.float64(), safe=False), np.float64)
    out, found, *masked = _edit_features(edit, weights, _bytes(edit.comment) + _TEXT_BYTES)
    seen = Seen(edit, tuple(masked), found, delta)
    out[:, NAME_COLUMN] = _bits(_matches(edit.user, pattern) for pattern in NAME_FLAGS.values())
    out[:, FLAGS_COLUMN] = _bits(is_set(seen) for is_set in FLAGS.values())
    out[:, DELTA_COLUMN] = delta
    return out


def _bits(flags: Iterable[np.ndarray]) -> np.ndarray:
    return sum((flag != 0) << i for i, flag in enumerate(flags))


def _bytes(texts: tuple[np.ndarray, np.ndarray]) -> int:
    """Return how many bytes the normalized texts have at most: two marks more each."""
    return np.minimum(np.diff(texts[0]), kernels.MAX_TEXT_BYTES).sum() + 2 * len(texts[0])


@njit_cached
def _text_rows(edit: Columns, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, columns and row starts of the text matrix, which has at most so many values."""
    starts = np.zeros(len(edit.kind) + 1, np.int64)
    index, values = np.empty(most, np.int32), np.empty(most)
    comment, title = np.empty((2, _TEXT_BYTES), np.uint8)
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
    # A normalized text of n bytes has at most 3 n n-grams of three sizes and n + 1 words and pairs.
    most = 4 * (_bytes(edit.comment) + _bytes(edit.title)) + 16 * len(edit.kind)
    matrix = sp.csr_matrix(_text_rows(edit, most), shape=(len(edit.kind), kernels.BUCKETS))
    matrix.sum_duplicates()
    return matrix
