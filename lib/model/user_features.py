"""Return what the classifier scores: a bounded state per user, and the features made of it.

:func:`update_states` adds the features of edits (:mod:`lib.model.edit_features`), in order, to a state of
:data:`STATE_SIZE` numbers per user, so that a user of a million edits costs no more memory than one of ten.
:func:`to_features` turns states into the :data:`FEATURES`. Training and serving run the same compiled loops.
"""

from __future__ import annotations

import numpy as np

from lib.model.edit_features import (
    DELTA_COLUMN,
    FLAGS,
    FLAGS_COLUMN,
    NAME_COLUMN,
    NAME_FLAGS,
    TEMPLATE_COLUMN,
    TEXT_COLUMN,
    TITLE_COLUMN,
    WIKI_COLUMN,
)
from lib.model.kernels import njit_cached, njit_inline

#: Digest of edit_features.py, whose constants are compiled into the loops below (see ``edit_features.KERNELS_SOURCE``).
EDIT_FEATURES_SOURCE = "de8dea959c1e"

#: A user is judged after so many edits; above the last, at every doubling of it.
CHECKPOINTS = (1, 2, 3, 5, 8, 13, 20, 35, 50, 100, 200, 500, 1000)
SILENCE_DAYS = 7  # a user silent for longer starts a new summary
_SILENCE_MS = SILENCE_DAYS * 86_400_000

_N_FLAGS, _N_HINTS = len(FLAGS), len(NAME_FLAGS)
_EMPTY_COMMENT = 1 << list(FLAGS).index("empty comment")
(_N, _LAST, _SUM, _SQUARES, _MAX, _MIN, _RECENT, _BITS) = range(8)
_COUNTS = 8
(_D_SAME, _D_LAST, _TITLE_LAST, _SERIES, _BURST, _LONGEST_BURST, _WIKIS) = range(
    _COUNTS + _N_FLAGS, _COUNTS + _N_FLAGS + 7
)
_RING = _WIKIS + 1  # the last three templates
_TEMPLATES = _RING + 3  # this and the next: 96 bits of a sketch
#: Numbers in a user's summary. All zero: nothing seen yet.
STATE_SIZE = _TEMPLATES + 2
_BURST_GAP_MS = 5000.0
_RECENT_SHARE = 0.2
_SKETCH = 48


@njit_inline
def is_scoring_point(n: float) -> bool:
    """Return whether a user is scored after `n` edits."""
    for checkpoint in CHECKPOINTS:
        if n == checkpoint:
            return True
    last = CHECKPOINTS[-1]
    while last < n:
        last *= 2
    return n == last


@njit_inline
def _set_sketch_bit(state: np.ndarray, place: int, value: int, bins: int) -> None:
    """Set the bit of a value in a sketch of `bins` bits, 48 to a number."""
    bit = value % bins
    place += bit // _SKETCH
    state[place] = float(np.int64(state[place]) | (np.int64(1) << (bit % _SKETCH)))


@njit_inline
def _bits(value: float) -> int:
    n, rest = 0, np.int64(value)
    while rest:
        rest &= rest - 1
        n += 1
    return n


@njit_inline
def _distinct(state: np.ndarray, place: int, bins: int) -> float:
    """Estimate how many different values a sketch has seen: linear counting (Whang and others, 1990)."""
    ones = 0
    for i in range(bins // _SKETCH):
        ones += _bits(state[place + i])
    zeros = max(bins - ones, 0.5)
    return -bins * np.log(zeros / bins)


@njit_inline
def _add(s: np.ndarray, time: float, e: np.ndarray) -> None:
    """Add one edit to a summary."""
    n = s[_N]
    if n > 0:
        s[_BURST] = s[_BURST] + 1 if time - s[_LAST] <= _BURST_GAP_MS else 0.0
        s[_LONGEST_BURST] = max(s[_LONGEST_BURST], s[_BURST])
        s[_LAST] = max(s[_LAST], time)
        again = (
            e[TEMPLATE_COLUMN] == s[_RING]
            or e[TEMPLATE_COLUMN] == s[_RING + 1]
            or e[TEMPLATE_COLUMN] == s[_RING + 2]
        )
        s[_SERIES] += (
            again and e[TITLE_COLUMN] != s[_TITLE_LAST] and (np.int64(e[FLAGS_COLUMN]) & _EMPTY_COMMENT) == 0
        )
        s[_D_SAME] += e[DELTA_COLUMN] == s[_D_LAST]
        s[_MAX] = max(s[_MAX], e[TEXT_COLUMN])
        s[_MIN] = min(s[_MIN], e[TEXT_COLUMN])
        s[_RECENT] += _RECENT_SHARE * (e[TEXT_COLUMN] - s[_RECENT])
    else:
        s[_LAST] = time
        s[_MAX] = s[_MIN] = s[_RECENT] = e[TEXT_COLUMN]
    s[_N] = n + 1
    s[_SUM] += e[TEXT_COLUMN]
    s[_SQUARES] += e[TEXT_COLUMN] * e[TEXT_COLUMN]
    s[_BITS] = e[NAME_COLUMN]
    flags = np.int64(e[FLAGS_COLUMN])
    for i in range(_N_FLAGS):
        s[_COUNTS + i] += (flags >> i) & 1
    if not np.isnan(e[DELTA_COLUMN]):
        s[_D_LAST] = e[DELTA_COLUMN]
    s[_RING + 2], s[_RING + 1], s[_RING] = s[_RING + 1], s[_RING], e[TEMPLATE_COLUMN]
    _set_sketch_bit(s, _TEMPLATES, np.int64(e[TEMPLATE_COLUMN]), 2 * _SKETCH)
    _set_sketch_bit(s, _WIKIS, np.int64(e[WIKI_COLUMN]), _SKETCH)
    s[_TITLE_LAST] = e[TITLE_COLUMN]


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
    *NAME_FLAGS,
)
LOG_EDITS = FEATURES.index("number of edits")  #: its logarithm
_N_FEATURES = len(FEATURES)
_FLAG_FEATURES = FEATURES.index(next(iter(FLAGS)))
_NAME_FEATURES = len(FEATURES) - len(NAME_FLAGS)
#: Which features come from the user's name.
OF_THE_NAME = np.arange(len(FEATURES)) >= _NAME_FEATURES


@njit_inline
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
    x[4] = np.sqrt(max(s[_SQUARES] / n - mean**2, 0.0))
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


def new_states(users: int) -> np.ndarray:
    """Make the summaries of users of whom nothing is known: zeros, shape (users, STATE_SIZE)."""
    return np.zeros((users, STATE_SIZE))


@njit_cached
def _describe_all(state: np.ndarray) -> np.ndarray:
    x = np.empty((len(state), _N_FEATURES))
    for i in range(len(state)):
        _describe(state[i], x[i])
    return x


def to_features(state: np.ndarray) -> np.ndarray:
    """Turn summaries into features.

    Parameters
    ----------
    state : ndarray of float, shape (users, STATE_SIZE)

    Returns
    -------
    ndarray of float, shape (users, len(FEATURES))
    """
    return _describe_all(np.ascontiguousarray(state, np.float64))


@njit_cached
def _fold(
    state: np.ndarray, user: np.ndarray, times: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.empty(len(user), np.int64)
    x = np.empty((len(user), _N_FEATURES))  # memory that is not written is not taken
    m = 0
    for i in range(len(user)):
        s = state[user[i]]
        time = float(times[i])
        if s[_N] > 0 and time - s[_LAST] > _SILENCE_MS:
            s[:] = 0.0
        _add(s, time, seen[i])
        if is_scoring_point(s[_N]):
            rows[m] = i
            _describe(s, x[m])
            m += 1
    return rows[:m], x[:m]


def update_states(
    state: np.ndarray, user: np.ndarray, times_ms: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add edits to the summaries of their users, one after the other.

    However a sequence of edits is cut, its pieces make the same states, to the last bit.

    Parameters
    ----------
    state : ndarray of float, shape (users, STATE_SIZE)
        Summaries so far; not changed. :func:`new_states` makes them for new users.
    user : ndarray of int, shape (n,)
        Row of `state` that each edit belongs to.
    times_ms : ndarray of int, shape (n,)
        Event time in milliseconds. A user silent for more than :data:`SILENCE_DAYS` starts again.
    seen : ndarray of float, shape (n, len(EDIT_FEATURES))
        From :func:`lib.model.edit_features.of`.

    Returns
    -------
    state : ndarray of float, shape (users, STATE_SIZE)
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
