"""Return what one edit shows by itself: the numbers that a user's state is made of.

:func:`compute` takes edits and returns :data:`EDIT_FEATURES` numbers for each, which depend on that edit alone, so it
runs wherever the edits are. One of them is the text model's log-odds; :func:`text_matrix` is what that model is trained
on, made by the same loops. None of them sees the ``bot`` flag.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from lib.model import kernels
from lib.model.kernels import KeywordMatcher, njit_cached, njit_inline

#: Digest of text.py, whose loops are compiled into those of this file: numba keeps machine code by this file's date, so
#: the line must change with text.py (a test tells when).
TEXT_SOURCE = "4e873e71df87"

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

COMMENT_WORDS = KeywordMatcher(
    {
        "bot": [
            " bot ", " bots ", "robot", " bot0", "robô", "roboti", "бот ", "бот:", "бота ", "ботом",
            "робот", "ボット", "로봇", "봇 ", "봇:", "机器人", "機器人", "機械人", "روبوت", "ربات", "بوت ",
            "בוט", "रोबोट", "बॉट", "บอต", "ρομπότ", "बोट", "ռոբոտ", "ბოტ", "robotti", "botti ", " bott ",
            "botas ", " pywikibot", "wikibot",
        ],
        "automation": [
            "automat", "autom. ", " auto ", " script", "скрипт", "автомат", "自动", "自動", "자동",
            "خودکار", "अपने आप", "pywiki", " cron ", " api ", "scheduled", "updating stat", "wikidata list",
        ],
        "tool": [
            "autowikibrowser", " awb ", "hotcat", "twinkle", "huggle", "stiki", "cat a lot", "wpcleaner",
            "jwb ", "popups", "reflinks", "using ", "igloo", "page curation", "afch", " ves ", "dispenser",
            "refill", "wikiplus", "livrc", "rtrc", "wikiloop", "redwarn", "ultraviolet", "shortdesc helper",
            "proveit",
        ],
        "revert": [
            "revert", " undid", " undo", " rv ", " rvv", "rückgängig", "zurückgesetzt", "annul", "deshecha",
            "revoc", "отмена", "откат", "отклонен", "скасовано", "ongedaan", "teruggedraaid", "wycofano",
            "anulowano", "desfeita", "取り消し", "撤销", "撤銷", "回退", "되돌", "خنثی", "återställ",
            "tilbakestill", "visszavon",
        ],
    }
)  # fmt: skip

NAME_WORDS = KeywordMatcher(
    {
        "bot": [
            "бот", "ボット", "봇", "机器人", "機器人", "روبوت", "ربات", "بوت", "בוט", "रोबोट", "बॉट",
            "ρομπότ", "ბოტ", "robot",
        ],
        "automation": [
            "script", "скрипт", "service", "automat", " auto", "crawler", "daemon", "mediawiki",
            "message delivery", "delinker", "abuse filter", "babel auto", "translator", "machine", "awb",
            "конверт",
        ],
    }
)  # fmt: skip

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
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@njit_inline
def _is_capital(byte: int) -> bool:
    return 65 <= byte <= 90


@njit_inline
def _address(data: np.ndarray, start: int, stop: int) -> bool:
    """Tell an IP address: digits and three dots, or hexadecimal groups with at least two colons."""
    dots, colons = 0, 0
    if stop - start < 3 or stop - start > 45:
        return False
    for i in range(start, stop):
        byte = data[i]
        if byte == 46:
            dots += 1
        elif byte == 58:
            colons += 1
        elif _is_digit(byte):
            continue
        elif dots > 0 or not (97 <= byte <= 102 or 65 <= byte <= 70):
            return False
    return dots == 3 and colons == 0 or colons >= 2


@njit_inline
def _temporary(data: np.ndarray, start: int, stop: int) -> bool:
    """Tell a temporary account: a tilde, a year, a dash, digits and dashes (`~2026-12345-67`)."""
    if stop - start < 8 or data[start] != 126 or data[start + 5] != 45:
        return False
    for i in range(start + 1, stop):
        if not (_is_digit(data[i]) or data[i] == 45):
            return False
    return True


@njit_inline
def _hints(data: np.ndarray, start: int, stop: int, steps: np.ndarray, found: np.ndarray) -> int:
    """Look at a user name: the bits of :data:`NAME_FLAGS`."""
    bits = 0
    for i in range(start, stop - 2):
        if (data[i] | 32) != 98 or (data[i + 1] | 32) != 111 or (data[i + 2] | 32) != 116:
            continue
        bits |= 1
        rest = i + 3
        while rest < stop and (not kernels.is_letter(data[rest]) or _is_digit(data[rest])):
            rest += 1
        tail = rest
        while tail < stop and (data[tail] == 73 or data[tail] == 86 or data[tail] == 88):  # BotII, Bot IV
            tail += 1
        ends = rest == stop or (tail == stop and (data[i] == 66 or rest > i + 3))
        if ends:
            bits |= 2
        before = i == start or not kernels.is_letter(data[i - 1]) or _is_digit(data[i - 1])
        camel = data[i] == 66 and (before or not _is_capital(data[i - 1]))
        after = i + 3 == stop or not (97 <= data[i + 3] <= 122)
        if (camel or before) and (after or ends):
            bits |= 4
        if i == start:
            bits |= 8
    words = kernels.match_keywords(data, start, stop, steps, found)
    if words & 1:
        bits |= 16
    if words & 2:
        bits |= 32
    if _address(data, start, stop):
        bits |= 64
    if _temporary(data, start, stop):
        bits |= 128
    return bits


@njit_inline
def _has_address(masked: np.ndarray, length: int) -> bool:
    """Find `://` in a text."""
    for i in range(length - 2):
        if masked[i] == 58 and masked[i + 1] == 47 and masked[i + 2] == 47:
            return True
    return False


@njit_inline
def _begins_large(data: np.ndarray, start: int, stop: int) -> bool:
    """Tell whether a comment, behind its section, begins with a capital of ASCII."""
    i = start
    if stop - start > 3 and data[i] == 47 and data[i + 1] == 42:  # /* section */
        i += 2
        while i + 1 < stop and not (data[i] == 42 and data[i + 1] == 47):
            i += 1
        i += 2
    while i < stop and data[i] == 32:
        i += 1
    return i < stop and _is_capital(data[i])


@njit_inline
def _has_slash(data: np.ndarray, start: int, stop: int) -> bool:
    """Find `/` in a title."""
    for i in range(start, stop):
        if data[i] == 47:
            return True
    return False


@njit_inline
def _flags(
    seen: int,
    seen_title: int,
    words: int,
    empty: bool,
    address: bool,
    large: bool,
    subpage: bool,
    minor: int,
    new: int,
    namespace: int,
    delta: float,
) -> int:
    """Pack what was seen of an edit into the bits of :data:`FLAGS`."""
    bits = 0
    bits |= (minor != 0) << 0
    bits |= (new != 0) << 1
    bits |= (seen & kernels.SAW_SECTION != 0) << 2
    bits |= (seen & kernels.SAW_LINK != 0) << 3
    bits |= (seen & kernels.SAW_BRACES != 0) << 4
    bits |= address << 5
    bits |= empty << 6
    bits |= (words & 1 != 0) << 7
    bits |= (words & 2 != 0) << 8
    bits |= (words & 4 != 0) << 9
    bits |= (words & 8 != 0) << 10
    bits |= (seen & kernels.SAW_NAME != 0) << 11
    bits |= (seen_title & kernels.SAW_NAME != 0) << 12
    bits |= (namespace == 0) << 13
    bits |= (namespace > 0 and namespace % 2 == 1) << 14
    bits |= (namespace == 2) << 15
    bits |= (namespace > 2 and namespace % 2 == 0) << 16
    bits |= (delta == 0.0) << 17
    bits |= (delta < 0.0) << 18
    bits |= np.isnan(delta) << 19
    bits |= large << 20
    bits |= subpage << 21
    return bits


@njit_cached
def _evidence(
    c: Columns,
    text_weights: np.ndarray,
    text_bias: float,
    steps: np.ndarray,
    found: np.ndarray,
    name_steps: np.ndarray,
    name_found: np.ndarray,
) -> np.ndarray:
    n = len(c.namespace)
    out = np.empty((n, len(EDIT_FEATURES)))
    masked = np.empty(kernels.MAX_TEXT_BYTES + 64, np.uint8)
    pieces = np.empty(_SCRATCH, np.int64)
    for i in range(n):
        u, v = c.user[i], c.user[i + 1]
        wiki = kernels.hash52(c.wiki_data, c.wiki[i], c.wiki[i + 1])
        length, seen = kernels.normalize(
            c.comment_data, c.comment[i], c.comment[i + 1], c.user_data, u, v, masked
        )
        k = kernels.hash_ngrams(masked, length, TEXT_SIZES[0], TEXT_SIZES[1], _SALT_COMMENT, pieces, 0)
        k = kernels.hash_words(masked, length, _SALT_COMMENT, pieces, k)
        logit = text_bias + _total(text_weights, pieces, 0, k)
        template = kernels.hash52(masked, 0, length)
        words = kernels.match_keywords(masked, 0, length, steps, found)
        address = _has_address(masked, length)
        length, seen_title = kernels.normalize(
            c.title_data, c.title[i], c.title[i + 1], c.user_data, u, v, masked
        )
        k = kernels.hash_ngrams(masked, length, TITLE_SIZES[0], TITLE_SIZES[1], _SALT_TITLE, pieces, 0)
        logit += _total(text_weights, pieces, 0, k) * _TITLE_WEIGHT
        k = _context_pieces(wiki, c.namespace[i], c.new[i], c.minor[i], pieces, 0)
        for j in range(k):
            logit += text_weights[pieces[j]] * _CONTEXT_WEIGHT
        out[i, TEXT_COLUMN] = logit
        out[i, NAME_COLUMN] = _hints(c.user_data, u, v, name_steps, name_found)
        out[i, FLAGS_COLUMN] = _flags(
            seen,
            seen_title,
            words,
            c.comment[i + 1] == c.comment[i],
            address,
            _begins_large(c.comment_data, c.comment[i], c.comment[i + 1]),
            _has_slash(c.title_data, c.title[i], c.title[i + 1]),
            c.minor[i],
            c.new[i],
            c.namespace[i],
            c.delta[i],
        )
        out[i, DELTA_COLUMN] = c.delta[i]
        out[i, TEMPLATE_COLUMN] = template
        out[i, TITLE_COLUMN] = kernels.hash52(c.title_data, c.title[i], c.title[i + 1])
        out[i, WIKI_COLUMN] = wiki
    return out


class Weights(NamedTuple):
    """The linear model of texts inside the evidence."""

    text: np.ndarray  #: float32, one per bucket
    bias: float


def compute(table: pa.Table, weights: Weights) -> np.ndarray:
    """Say what each edit shows by itself.

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
    return _evidence(
        columns(table),
        weights.text,
        weights.bias,
        COMMENT_WORDS.steps,
        COMMENT_WORDS.found,
        NAME_WORDS.steps,
        NAME_WORDS.found,
    )


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
    """Give the matrix whose product with the text weights is the text's evidence.

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
