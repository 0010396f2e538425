"""What the model looks at: evidence of one edit, a bounded summary of a user, and the numbers made of it.

Three steps, each a compiled loop. :func:`evidence` looks at an edit alone and says what it saw in :data:`EVIDENCE`
numbers; it runs wherever the edits are. :func:`fold` adds them, in order, to a summary of at most :data:`STATE` numbers
per user, so that a user of a million edits costs no more to remember than one of ten. :func:`describe` turns a summary
into the :data:`FEATURES` that the model judges. Training and serving run the same three, and no step sees the ``bot``
flag.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from lib.train import text
from lib.train.text import Lexicon, compiled, inner

#: Digest of text.py, whose loops are compiled into those of this file: numba keeps machine code by this file's date, so
#: the line must change with text.py (a test tells when).
TEXT_SOURCE = "140339377959"

# --- evidence of one edit ---------------------------------------------------------------------------------------------

#: Columns of an edit that are looked at.
LOOKED_AT = ("wiki", "namespace", "type", "title", "user", "minor", "delta", "comment")

#: The numbers of :func:`evidence`, in order.
EVIDENCE = ("text", "hints", "flags", "delta", "template", "title", "wiki")
TEXT, HINTS, SEEN, DELTA, TEMPLATE, TITLE, WIKI = range(len(EVIDENCE))

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
NAME_HINTS = (
    "name contains “bot”",
    "name ends in “bot”",
    "“Bot” as a word of the name",
    "name begins with “bot”",
    "“bot” in another script in the name",
    "name speaks of a script, a service or automation",
    "name is an IP address",
    "name of a temporary account",
)

COMMENT_WORDS = Lexicon(
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

NAME_WORDS = Lexicon(
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
_SCRATCH = 16 * text.LONGEST
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
        With the columns of :data:`LOOKED_AT`; any may be null.

    Raises
    ------
    ValueError
        When a column is missing.
    """
    missing = [name for name in LOOKED_AT if name not in table.schema.names]
    if missing:
        raise ValueError(
            f"A table of edits must have the columns {', '.join(LOOKED_AT)}. Got none named {', '.join(missing)}. "
            "Read it with samples.read or edits.parse."
        )
    get = table.column
    namespace = pc.fill_null(get("namespace").cast(pa.int64()), NO_NAMESPACE)
    return Columns(
        *text.buffers(get("user")),
        *text.buffers(get("title")),
        *text.buffers(get("comment")),
        *text.buffers(get("wiki")),
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


@inner
def _context_pieces(wiki: int, namespace: int, new: int, minor: int, out: np.ndarray, n: int) -> int:
    """Append the columns of wiki, namespace and kind of edit."""
    space = np.uint64(namespace + 2048)
    kind = np.uint64(2 * new + minor)
    out[n] = text.bucket(np.uint64(wiki) + _SALT_CONTEXT)
    out[n + 1] = text.bucket(space * np.uint64(0x10001) + _SALT_CONTEXT)
    out[n + 2] = text.bucket(kind * np.uint64(0x1000003) + _SALT_CONTEXT)
    out[n + 3] = text.bucket((space << np.uint64(20)) * np.uint64(0x10001) + kind + _SALT_CONTEXT)
    return n + _CONTEXT


@inner
def _total(weights: np.ndarray, pieces: np.ndarray, start: int, stop: int) -> float:
    """Sum the weights of some pieces, scaled to unit length as if all were different."""
    if start == stop:
        return 0.0
    total = 0.0
    for i in range(start, stop):
        total += weights[pieces[i]]
    return total / np.sqrt(stop - start)


@inner
def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


@inner
def _is_capital(byte: int) -> bool:
    return 65 <= byte <= 90


@inner
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


@inner
def _temporary(data: np.ndarray, start: int, stop: int) -> bool:
    """Tell a temporary account: a tilde, a year, a dash, digits and dashes (`~2026-12345-67`)."""
    if stop - start < 8 or data[start] != 126 or data[start + 5] != 45:
        return False
    for i in range(start + 1, stop):
        if not (_is_digit(data[i]) or data[i] == 45):
            return False
    return True


@inner
def _hints(data: np.ndarray, start: int, stop: int, steps: np.ndarray, found: np.ndarray) -> int:
    """Look at a user name: the bits of :data:`NAME_HINTS`."""
    bits = 0
    for i in range(start, stop - 2):
        if (data[i] | 32) != 98 or (data[i + 1] | 32) != 111 or (data[i + 2] | 32) != 116:
            continue
        bits |= 1
        rest = i + 3
        while rest < stop and (not text.is_letter(data[rest]) or _is_digit(data[rest])):
            rest += 1
        tail = rest
        while tail < stop and (data[tail] == 73 or data[tail] == 86 or data[tail] == 88):  # BotII, Bot IV
            tail += 1
        ends = rest == stop or (tail == stop and (data[i] == 66 or rest > i + 3))
        if ends:
            bits |= 2
        before = i == start or not text.is_letter(data[i - 1]) or _is_digit(data[i - 1])
        camel = data[i] == 66 and (before or not _is_capital(data[i - 1]))
        after = i + 3 == stop or not (97 <= data[i + 3] <= 122)
        if (camel or before) and (after or ends):
            bits |= 4
        if i == start:
            bits |= 8
    words = text.look(data, start, stop, steps, found)
    if words & 1:
        bits |= 16
    if words & 2:
        bits |= 32
    if _address(data, start, stop):
        bits |= 64
    if _temporary(data, start, stop):
        bits |= 128
    return bits


@inner
def _has_address(masked: np.ndarray, length: int) -> bool:
    """Find `://` in a text."""
    for i in range(length - 2):
        if masked[i] == 58 and masked[i + 1] == 47 and masked[i + 2] == 47:
            return True
    return False


@inner
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


@inner
def _has_slash(data: np.ndarray, start: int, stop: int) -> bool:
    """Find `/` in a title."""
    for i in range(start, stop):
        if data[i] == 47:
            return True
    return False


@inner
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
    bits |= (seen & text.SAW_SECTION != 0) << 2
    bits |= (seen & text.SAW_LINK != 0) << 3
    bits |= (seen & text.SAW_BRACES != 0) << 4
    bits |= address << 5
    bits |= empty << 6
    bits |= (words & 1 != 0) << 7
    bits |= (words & 2 != 0) << 8
    bits |= (words & 4 != 0) << 9
    bits |= (words & 8 != 0) << 10
    bits |= (seen & text.SAW_NAME != 0) << 11
    bits |= (seen_title & text.SAW_NAME != 0) << 12
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


@compiled
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
    out = np.empty((n, len(EVIDENCE)))
    masked = np.empty(text.LONGEST + 64, np.uint8)
    pieces = np.empty(_SCRATCH, np.int64)
    for i in range(n):
        u, v = c.user[i], c.user[i + 1]
        wiki = text.fingerprint(c.wiki_data, c.wiki[i], c.wiki[i + 1])
        length, seen = text.mask(c.comment_data, c.comment[i], c.comment[i + 1], c.user_data, u, v, masked)
        k = text.grams(masked, length, TEXT_SIZES[0], TEXT_SIZES[1], _SALT_COMMENT, pieces, 0)
        k = text.words(masked, length, _SALT_COMMENT, pieces, k)
        logit = text_bias + _total(text_weights, pieces, 0, k)
        template = text.fingerprint(masked, 0, length)
        words = text.look(masked, 0, length, steps, found)
        address = _has_address(masked, length)
        length, seen_title = text.mask(c.title_data, c.title[i], c.title[i + 1], c.user_data, u, v, masked)
        k = text.grams(masked, length, TITLE_SIZES[0], TITLE_SIZES[1], _SALT_TITLE, pieces, 0)
        logit += _total(text_weights, pieces, 0, k) * _TITLE_WEIGHT
        k = _context_pieces(wiki, c.namespace[i], c.new[i], c.minor[i], pieces, 0)
        for j in range(k):
            logit += text_weights[pieces[j]] * _CONTEXT_WEIGHT
        out[i, TEXT] = logit
        out[i, HINTS] = _hints(c.user_data, u, v, name_steps, name_found)
        out[i, SEEN] = _flags(
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
        out[i, DELTA] = c.delta[i]
        out[i, TEMPLATE] = template
        out[i, TITLE] = text.fingerprint(c.title_data, c.title[i], c.title[i + 1])
        out[i, WIKI] = wiki
    return out


class Weights(NamedTuple):
    """The linear model of texts inside the evidence."""

    text: np.ndarray  #: float32, one per bucket
    bias: float


def evidence(table: pa.Table, weights: Weights) -> np.ndarray:
    """Say what each edit shows by itself.

    Parameters
    ----------
    table : pyarrow.Table or pyarrow.RecordBatch
        Edits, with the columns of :data:`LOOKED_AT`.
    weights : Weights
        Linear model of the comment, title and context.

    Returns
    -------
    ndarray of float, shape (n, len(EVIDENCE))
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


@compiled
def _text_rows(c: Columns, starts: np.ndarray, index: np.ndarray, values: np.ndarray, fill: bool) -> None:
    """Count (first run) or write (second run) the pieces of every edit."""
    masked = np.empty(text.LONGEST + 64, np.uint8)
    pieces = np.empty(_SCRATCH, np.int64)
    for i in range(len(c.namespace)):
        u, v = c.user[i], c.user[i + 1]
        length, _ = text.mask(c.comment_data, c.comment[i], c.comment[i + 1], c.user_data, u, v, masked)
        a = text.grams(masked, length, TEXT_SIZES[0], TEXT_SIZES[1], _SALT_COMMENT, pieces, 0)
        a = text.words(masked, length, _SALT_COMMENT, pieces, a)
        length, _ = text.mask(c.title_data, c.title[i], c.title[i + 1], c.user_data, u, v, masked)
        b = text.grams(masked, length, TITLE_SIZES[0], TITLE_SIZES[1], _SALT_TITLE, pieces, a)
        wiki = text.fingerprint(c.wiki_data, c.wiki[i], c.wiki[i + 1])
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
    scipy.sparse.csr_matrix, shape (n, text.BUCKETS)
        One row per edit: pieces of the masked comment, of the masked title, and of the context.
    """
    source, n = columns(table), table.num_rows
    starts = np.zeros(n + 1, np.int64)
    _text_rows(source, starts, np.empty(0, np.int32), np.empty(0), False)
    index, values = np.empty(starts[-1], np.int32), np.empty(starts[-1])
    _text_rows(source, starts, index, values, True)
    matrix = sp.csr_matrix((values, index, starts), shape=(n, text.BUCKETS))
    matrix.sum_duplicates()
    return matrix


# --- the summary of a user --------------------------------------------------------------------------------------------

#: A user is judged after so many edits; above the last, at every doubling of it.
CHECKPOINTS = (1, 2, 3, 5, 8, 13, 20, 35, 50, 100, 200, 500, 1000)
SILENCE_DAYS = 7  # a user silent for longer starts a new summary
_SILENCE_MS = SILENCE_DAYS * 86_400_000

_N_FLAGS, _N_HINTS = len(FLAGS), len(NAME_HINTS)
_EMPTY_COMMENT = 1 << FLAGS.index("empty comment")
(_N, _LAST, _SUM, _SQUARES, _MAX, _MIN, _RECENT, _BITS) = range(8)
_COUNTS = 8
(_D_SAME, _D_LAST, _TITLE_LAST, _SERIES, _BURST, _LONGEST_BURST, _WIKIS) = range(
    _COUNTS + _N_FLAGS, _COUNTS + _N_FLAGS + 7
)
_RING = _WIKIS + 1  # the last three templates
_TEMPLATES = _RING + 3  # this and the next: 96 bits of a sketch
#: Numbers in a user's summary. All zero: nothing seen yet.
STATE = _TEMPLATES + 2
_BURST_GAP_MS = 5000.0
_RECENT_SHARE = 0.2
_SKETCH = 48


@inner
def is_checkpoint(n: float) -> bool:
    """Tell whether a user is judged after `n` edits."""
    for checkpoint in CHECKPOINTS:
        if n == checkpoint:
            return True
    last = CHECKPOINTS[-1]
    while last < n:
        last *= 2
    return n == last


@inner
def _tick(state: np.ndarray, place: int, value: int, bins: int) -> None:
    """Set the bit of a value in a sketch of `bins` bits, 48 to a number."""
    bit = value % bins
    place += bit // _SKETCH
    state[place] = float(np.int64(state[place]) | (np.int64(1) << (bit % _SKETCH)))


@inner
def _bits(value: float) -> int:
    n, rest = 0, np.int64(value)
    while rest:
        rest &= rest - 1
        n += 1
    return n


@inner
def _distinct(state: np.ndarray, place: int, bins: int) -> float:
    """Estimate how many different values a sketch has seen: linear counting (Whang and others, 1990)."""
    ones = 0
    for i in range(bins // _SKETCH):
        ones += _bits(state[place + i])
    zeros = max(bins - ones, 0.5)
    return -bins * np.log(zeros / bins)


@inner
def _add(s: np.ndarray, time: float, e: np.ndarray) -> None:
    """Add one edit to a summary."""
    n = s[_N]
    if n > 0:
        s[_BURST] = s[_BURST] + 1 if time - s[_LAST] <= _BURST_GAP_MS else 0.0
        s[_LONGEST_BURST] = max(s[_LONGEST_BURST], s[_BURST])
        s[_LAST] = max(s[_LAST], time)
        again = e[TEMPLATE] == s[_RING] or e[TEMPLATE] == s[_RING + 1] or e[TEMPLATE] == s[_RING + 2]
        s[_SERIES] += again and e[TITLE] != s[_TITLE_LAST] and (np.int64(e[SEEN]) & _EMPTY_COMMENT) == 0
        s[_D_SAME] += e[DELTA] == s[_D_LAST]
        s[_MAX] = max(s[_MAX], e[TEXT])
        s[_MIN] = min(s[_MIN], e[TEXT])
        s[_RECENT] += _RECENT_SHARE * (e[TEXT] - s[_RECENT])
    else:
        s[_LAST] = time
        s[_MAX] = s[_MIN] = s[_RECENT] = e[TEXT]
    s[_N] = n + 1
    s[_SUM] += e[TEXT]
    s[_SQUARES] += e[TEXT] * e[TEXT]
    s[_BITS] = e[HINTS]
    flags = np.int64(e[SEEN])
    for i in range(_N_FLAGS):
        s[_COUNTS + i] += (flags >> i) & 1
    if not np.isnan(e[DELTA]):
        s[_D_LAST] = e[DELTA]
    s[_RING + 2], s[_RING + 1], s[_RING] = s[_RING + 1], s[_RING], e[TEMPLATE]
    _tick(s, _TEMPLATES, np.int64(e[TEMPLATE]), 2 * _SKETCH)
    _tick(s, _WIKIS, np.int64(e[WIKI]), _SKETCH)
    s[_TITLE_LAST] = e[TITLE]


#: The numbers that the model judges, in the words of a verdict card.
FEATURES = (
    "number of edits",
    "texts: mean evidence",
    "texts: strongest evidence for a bot",
    "texts: strongest evidence for a person",
    "texts: spread of the evidence",
    "texts: recent evidence",
    "texts: evidence added up",
    "different comments: share",
    "different comments",
    "wikis",
    "change of size as before",
    "comments repeated from page to page: share",
    "comments repeated from page to page: number",
    "changes of the same size: number",
    "longest burst without a pause of 5 s",
    *FLAGS,
    *NAME_HINTS,
)
_N_FEATURES = len(FEATURES)
_FLAG_FEATURES = FEATURES.index(FLAGS[0])
_NAME_FEATURES = FEATURES.index(NAME_HINTS[0])
#: Which features say something of the user's name.
OF_THE_NAME = np.arange(len(FEATURES)) >= _NAME_FEATURES


@inner
def _spread(total: float, squares: float, n: float) -> float:
    return np.sqrt(max(squares / n - (total / n) ** 2, 0.0))


@inner
def _describe(s: np.ndarray, x: np.ndarray) -> None:
    """Write the features of a summary to `x`."""
    n = s[_N]
    if n == 0:
        x[:] = 0.0
        return
    gaps = max(n - 1, 1.0)
    mean = s[_SUM] / n
    x[0] = np.log(n)
    x[1] = mean
    x[2] = s[_MAX]
    x[3] = s[_MIN]
    x[4] = _spread(s[_SUM], s[_SQUARES], n)
    x[5] = s[_RECENT]
    x[6] = mean * np.log1p(n)
    templates = _distinct(s, _TEMPLATES, 2 * _SKETCH)
    x[7] = min(templates / n, 1.0)
    x[8] = np.log(max(templates, 1.0))
    x[9] = np.log(max(_distinct(s, _WIKIS, _SKETCH), 1.0))
    x[10] = s[_D_SAME] / gaps
    x[11] = s[_SERIES] / gaps
    # Powers of the logarithm: the further a number is beyond what people do, the more it must count.
    x[12] = np.log1p(s[_SERIES]) ** 2
    x[13] = np.log1p(s[_D_SAME])
    x[14] = np.log1p(s[_LONGEST_BURST]) ** 3
    for i in range(_N_FLAGS):
        x[_FLAG_FEATURES + i] = s[_COUNTS + i] / n
    hints = np.int64(s[_BITS])
    for i in range(_N_HINTS):
        x[_NAME_FEATURES + i] = (hints >> i) & 1


def empty(users: int) -> np.ndarray:
    """Make the summaries of users of whom nothing is known: zeros, shape (users, STATE)."""
    return np.zeros((users, STATE))


@compiled
def _describe_all(state: np.ndarray) -> np.ndarray:
    x = np.empty((len(state), _N_FEATURES))
    for i in range(len(state)):
        _describe(state[i], x[i])
    return x


def describe(state: np.ndarray) -> np.ndarray:
    """Turn summaries into features.

    Parameters
    ----------
    state : ndarray of float, shape (users, STATE)

    Returns
    -------
    ndarray of float, shape (users, len(FEATURES))
    """
    return _describe_all(np.ascontiguousarray(state, np.float64))


@inner
def _is_over(last: float, n: float, time: float) -> bool:
    return n > 0 and time - last > _SILENCE_MS


@inner
def _count_checkpoints(state: np.ndarray, user: np.ndarray, times: np.ndarray) -> int:
    """Count the rows that :func:`fold` will give, so that it can ask for no more memory than that."""
    n, last = state[:, _N].copy(), state[:, _LAST].copy()
    rows = 0
    for i in range(len(user)):
        u = user[i]
        if _is_over(last[u], n[u], times[i]):
            n[u] = 0
        last[u] = max(last[u], float(times[i])) if n[u] > 0 else float(times[i])
        n[u] += 1
        rows += is_checkpoint(n[u])
    return rows


@compiled
def _fold(
    state: np.ndarray, user: np.ndarray, times: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    m = _count_checkpoints(state, user, times)
    rows = np.empty(m, np.int64)
    x = np.empty((m, _N_FEATURES))
    m = 0
    for i in range(len(user)):
        s = state[user[i]]
        time = float(times[i])
        if _is_over(s[_LAST], s[_N], time):
            s[:] = 0.0
        _add(s, time, seen[i])
        if is_checkpoint(s[_N]):
            rows[m] = i
            _describe(s, x[m])
            m += 1
    return rows, x


def fold(
    state: np.ndarray, user: np.ndarray, times_ms: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add edits to the summaries of their users, one after the other.

    However a sequence of edits is cut, folding its pieces gives the same summaries, to the last bit.

    Parameters
    ----------
    state : ndarray of float, shape (users, STATE)
        Summaries so far; not changed. :func:`empty` makes them for new users.
    user : ndarray of int, shape (n,)
        Row of `state` that each edit belongs to.
    times_ms : ndarray of int, shape (n,)
        Event time in milliseconds. A user silent for more than :data:`SILENCE_DAYS` starts anew.
    seen : ndarray of float, shape (n, len(EVIDENCE))
        From :func:`evidence`.

    Returns
    -------
    state : ndarray of float, shape (users, STATE)
        Summaries after the edits.
    rows : ndarray of int, shape (m,)
        The edits that reach a checkpoint of their user, in order.
    features : ndarray of float, shape (m, len(FEATURES))
        What the model judges at those.
    """
    state = np.array(state, np.float64, order="C")
    rows, x = _fold(
        state,
        np.array(user, np.int64),
        np.array(times_ms, np.int64),
        np.array(seen, np.float64, order="C"),
    )
    return state, rows, x
