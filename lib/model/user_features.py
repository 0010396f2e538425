"""Return what the classifier scores: a bounded state per user, and the features made of it.

:func:`update_states` adds the features of edits (:mod:`lib.model.edit_features`), in order, to a state of
:data:`STATE_SIZE` numbers per user, so that a user of a million edits costs no more memory than one of ten.
:func:`to_features` turns states into the :data:`FEATURES`. Training and serving run the same compiled loops.
"""

from __future__ import annotations

import numpy as np

from lib.model import edit_features as edit
from lib.model.edit_features import FLAGS, NAME_FLAGS
from lib.model.kernels import njit_cached, njit_inline

#: Digest of edit_features.py, whose constants are compiled into the loops below (see ``edit_features.KERNELS_SOURCE``).
EDIT_FEATURES_SOURCE = "a5f225a76f7f"

#: A user is judged after so many edits; above the last, at every doubling of it.
CHECKPOINTS = (1, 2, 3, 5, 8, 13, 20, 35, 50, 100, 200, 500, 1000)
SILENCE_DAYS = 7  # a user silent for longer starts a new summary
_SILENCE_MS = SILENCE_DAYS * 86_400_000

_N_FLAGS = len(FLAGS)
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
def _add(s: np.ndarray, time: float, e: np.ndarray) -> None:
    """Add one edit to a summary."""
    n, text, delta, flags = s[_N], e[edit.TEXT_COLUMN], e[edit.DELTA_COLUMN], np.int64(e[edit.FLAGS_COLUMN])
    template, title = e[edit.TEMPLATE_COLUMN], e[edit.TITLE_COLUMN]
    if n > 0:
        s[_BURST] = s[_BURST] + 1 if time - s[_LAST] <= _BURST_GAP_MS else 0.0
        s[_LONGEST_BURST] = max(s[_LONGEST_BURST], s[_BURST])
        s[_LAST] = max(s[_LAST], time)
        again = template == s[_RING] or template == s[_RING + 1] or template == s[_RING + 2]
        s[_SERIES] += again and title != s[_TITLE_LAST] and flags & _EMPTY_COMMENT == 0
        s[_D_SAME] += delta == s[_D_LAST]
        s[_MAX] = max(s[_MAX], text)
        s[_MIN] = min(s[_MIN], text)
        s[_RECENT] += _RECENT_SHARE * (text - s[_RECENT])
    else:
        s[_LAST] = time
        s[_MAX] = s[_MIN] = s[_RECENT] = text
    s[_N] = n + 1
    s[_SUM] += text
    s[_SQUARES] += text * text
    s[_BITS] = e[edit.NAME_COLUMN]
    for i in range(_N_FLAGS):
        s[_COUNTS + i] += (flags >> i) & 1
    if not np.isnan(delta):
        s[_D_LAST] = delta
    s[_RING + 2], s[_RING + 1], s[_RING] = s[_RING + 1], s[_RING], template
    _set_sketch_bit(s, _TEMPLATES, np.int64(template), 2 * _SKETCH)
    _set_sketch_bit(s, _WIKIS, np.int64(e[edit.WIKI_COLUMN]), _SKETCH)
    s[_TITLE_LAST] = title


def new_states(users: int) -> np.ndarray:
    """Make the summaries of users of whom nothing is known: zeros, shape (users, STATE_SIZE)."""
    return np.zeros((users, STATE_SIZE))


def _distinct(sketch: np.ndarray) -> np.ndarray:
    """Estimate how many different values sketches have seen: linear counting (Whang and others, 1990)."""
    bins = len(sketch) * _SKETCH
    zeros = bins - np.bitwise_count(sketch.astype(np.int64)).sum(axis=0, dtype=np.int64)
    return -bins * np.log(np.maximum(zeros, 0.5) / bins)


def _describe(s: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features of summaries, shape (STATE_SIZE, users), that are no shares or flags."""
    n = np.maximum(s[_N], 1.0)
    gaps, mean = np.maximum(n - 1, 1.0), s[_SUM] / n
    templates, wikis = _distinct(s[_TEMPLATES : _TEMPLATES + 2]), _distinct(s[_WIKIS : _WIKIS + 1])
    return {
        "number of edits": np.log(n),
        "texts: mean evidence": mean,
        "texts: evidence of the most bot-like edit": s[_MAX],
        "texts: evidence of the most human edit": s[_MIN],
        "texts: spread of the evidence": np.sqrt(np.maximum(s[_SQUARES] / n - mean**2, 0.0)),
        "texts: recent evidence": s[_RECENT],
        "texts: evidence added up": mean * np.log1p(n),
        "different comments: share": np.minimum(templates / n, 1.0),
        "different comments": np.log(np.maximum(templates, 1.0)),
        "wikis": np.log(np.maximum(wikis, 1.0)),
        "change of size as before": s[_D_SAME] / gaps,
        "comments repeated from page to page: share": s[_SERIES] / gaps,
        # Powers of the logarithm: the further a number is beyond what people do, the more it must count.
        "comments repeated from page to page: number": np.log1p(s[_SERIES]) ** 2,
        "changes of the same size: number": np.log1p(s[_D_SAME]),
        "longest burst without a pause of 5 s": np.log1p(s[_LONGEST_BURST]) ** 3,
    }


#: The numbers that the model judges, in the words of a verdict card.
FEATURES = (*_describe(new_states(0).T), *FLAGS, *NAME_FLAGS)
LOG_EDITS = FEATURES.index("number of edits")  #: its logarithm
#: Which features come from the user's name.
OF_THE_NAME = np.isin(FEATURES, list(NAME_FLAGS))


def to_features(state: np.ndarray) -> np.ndarray:
    """Turn summaries into features.

    Parameters
    ----------
    state : ndarray of float, shape (users, STATE_SIZE)

    Returns
    -------
    ndarray of float, shape (users, len(FEATURES))
    """
    s = np.asarray(state).T
    flags = s[_COUNTS : _COUNTS + _N_FLAGS] / np.maximum(s[_N], 1.0)
    of_the_name = s[_BITS].astype(np.int64)[:, None] >> np.arange(len(NAME_FLAGS)) & 1
    return np.column_stack([*_describe(s).values(), flags.T, of_the_name])


@njit_cached
def _fold(
    state: np.ndarray, user: np.ndarray, times: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.empty(len(user), np.int64)
    reached = np.empty((len(user), STATE_SIZE))  # memory that is not written is not taken
    m = 0
    for i in range(len(user)):
        s = state[user[i]]
        time = float(times[i])
        if s[_N] > 0 and time - s[_LAST] > _SILENCE_MS:
            s[:] = 0.0
        _add(s, time, seen[i])
        if is_scoring_point(s[_N]):
            rows[m], reached[m] = i, s
            m += 1
    return rows[:m], reached[:m]


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
        From :func:`lib.model.edit_features.compute`.

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
    integers = np.array(user, np.int64), np.array(times_ms, np.int64)
    rows, reached = _fold(state, *integers, np.array(seen, np.float64, order="C"))
    return state, rows, to_features(reached)
