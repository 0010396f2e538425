"""What can be counted in the verdicts, from their files alone, and in memory that does not grow with them.

The files are read a group of rows at a time, twice: once for the counts, and once more for the edits of the last
quarter, when it is known where that begins. A user is 40 bytes, however many edits there are: the hash of the name, as
in :mod:`lib.online.seen`, and four counts.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.intervals import clopper_pearson, upper_bound
from lib.online import seen, verdicts
from lib.online.judging import VERDICTS

STOPPED = ("dropped", "flagged")
LAST = 0.25  # the last quarter: the last 25 % of the edits, ordered by event time
_MINUTE_MS = 60_000


def metrics(folder: Path) -> dict:
    """Recount everything that the verdicts tell.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.

    Returns
    -------
    dict
        ``edits``, one count per verdict, ``bot_edits_stopped`` (share of the edits with the flag that were dropped or
        flagged, from all and from the last quarter) and ``human_users_flagged`` (share of the users who are no bots
        that had an edit flagged or dropped, whether they came on the list in this stage or before it) with its
        one-sided exact 95 % upper bound, the counts behind each, and exact 95 % intervals.
    """
    words: Counter[str] = Counter()
    minutes: Counter[int] = Counter()
    users = _Users()
    here = bot_edits = 0
    for table in verdicts.groups(folder, ["timestamp", "user", "bot", "verdict"]):
        words.update({row["values"]: row["counts"] for row in table["verdict"].value_counts().to_pylist()})
        minute, n = np.unique(_minutes(table), return_counts=True)
        minutes.update(dict(zip(minute.tolist(), n.tolist(), strict=True)))
        stopped, of = _bots(table)
        here, bot_edits = here + stopped, bot_edits + of
        users.add(table)
    of_user = users.added_up()
    human = 2 * of_user.bot_edits <= of_user.edits
    humans, flagged = int(human.sum()), int((human & (of_user.stopped > 0)).sum())
    edits = words.total()
    human_stopped = words["dropped"] + words["flagged"] - here
    then, then_all = _last_quarter(folder, minutes, int(edits * LAST))
    return {
        "edits": edits,
        **{word: words[word] for word in VERDICTS},
        "bot_edits": bot_edits,
        "bot_edits_stopped": _share(here, bot_edits),
        "bot_edits_stopped_interval": list(clopper_pearson(here, bot_edits)),
        "bot_edits_last_quarter": then_all,
        "bot_edits_stopped_last_quarter": _share(then, then_all),
        "bot_edits_stopped_last_quarter_interval": list(clopper_pearson(then, then_all)),
        "human_edits": edits - bot_edits,
        "human_edits_stopped": _share(human_stopped, edits - bot_edits),
        "human_users": humans,
        "human_users_flagged": _share(flagged, humans),
        "human_users_flagged_count": flagged,
        "human_users_flagged_in_this_stage": int((human & (of_user.flagged > 0)).sum()),
        "human_users_flagged_upper95": upper_bound(flagged, humans),
    }


class _Counts(NamedTuple):
    """What each user did: arrays with one number per user; a bot is who has the flag on more than half of the edits."""

    edits: np.ndarray
    bot_edits: np.ndarray
    flagged: np.ndarray
    stopped: np.ndarray


class _Users:
    """Counts per user, added up now and then, so that what waits is never more than what is added up."""

    def __init__(self) -> None:
        self._users = np.empty(0, np.uint64)
        self._counts = np.empty((0, len(_Counts._fields)), np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, table: pa.Table) -> None:
        """Count a group of rows; edits whose user is hidden are nobody's."""
        table = table.filter(pc.is_valid(table["user"]))
        self._waiting.append(_added_up(seen.hashes(table["user"].combine_chunks()), _counts(table)))
        if sum(len(users) for users, _ in self._waiting) > len(self._users):
            self.added_up()

    def added_up(self) -> _Counts:
        """Give what each user did, in no order that means anything."""
        users, counts = zip((self._users, self._counts), *self._waiting, strict=True)
        self._users, self._counts = _added_up(np.concatenate(users), np.concatenate(counts))
        self._waiting = []
        return _Counts(*self._counts.T)


def _counts(table: pa.Table) -> np.ndarray:
    """Give the counts of single edits, shape (n, 4)."""
    marks = (_has_flag(table), _is(table, "flagged"), _is(table, *STOPPED))
    return np.column_stack([np.ones(table.num_rows, np.int64), *marks]).astype(np.int64)


def _has_flag(table: pa.Table) -> np.ndarray:
    return pc.fill_null(table["bot"], False).to_numpy()


def _is(table: pa.Table, *words: str) -> np.ndarray:
    return pc.is_in(table["verdict"], pa.array(words)).to_numpy()


def _added_up(users: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up the counts of equal users; they come out in the order of their hashes."""
    order = np.argsort(users, kind="stable")
    users = users[order]
    first = np.flatnonzero(np.append(True, users[1:] != users[:-1])[: len(users)])
    return users[first], np.add.reduceat(counts[order], first) if len(first) else counts


def _minutes(table: pa.Table) -> np.ndarray:
    return table["timestamp"].cast(pa.int64()).to_numpy() // _MINUTE_MS


def _last_quarter(folder: Path, minutes: Counter[int], wanted: int) -> tuple[int, int]:
    """Count the stopped and all bot edits among the last so many: by event time, then by ``meta_id``."""
    first, rest = _begin(minutes, wanted)
    stopped = edits = 0
    torn = []
    for table in verdicts.groups(folder, ["meta_id", "timestamp", "bot", "verdict"]):
        minute = _minutes(table)
        torn.append(table.filter(pa.array(minute == first)))
        late = _bots(table.filter(pa.array(minute > first)))
        stopped, edits = stopped + late[0], edits + late[1]
    if rest:
        begun = pa.concat_tables(torn).sort_by([("timestamp", "descending"), ("meta_id", "descending")])
        late = _bots(begun.slice(0, rest))
        stopped, edits = stopped + late[0], edits + late[1]
    return stopped, edits


def _begin(minutes: Counter[int], wanted: int) -> tuple[int, int]:
    """Find the minute in which the last so many edits begin, and how many of them are in it."""
    for minute in sorted(minutes, reverse=True):
        if wanted <= minutes[minute]:
            return minute, wanted
        wanted -= minutes[minute]
    return 0, 0


def _bots(table: pa.Table) -> tuple[int, int]:
    """Count the stopped and all edits with the flag."""
    bot = _has_flag(table)
    return int((bot & _is(table, *STOPPED)).sum()), int(bot.sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def sentence(metrics: dict) -> str:
    """Say what :func:`metrics` counted."""
    low, high = (100 * bound for bound in metrics["bot_edits_stopped_interval"])
    return (
        f"{100 * metrics['bot_edits_stopped']:.1f} % of {metrics['bot_edits']:,} bot edits were stopped (95 % interval "
        f"{low:.1f} to {high:.1f} %), in the last quarter {100 * metrics['bot_edits_stopped_last_quarter']:.1f} % of "
        f"{metrics['bot_edits_last_quarter']:,}. {metrics['human_users_flagged_count']:,} of "
        f"{metrics['human_users']:,} human users came to be on the list: {100 * metrics['human_users_flagged']:.2f} %, "
        f"with 95 % confidence at most {100 * metrics['human_users_flagged_upper95']:.2f} %."
    )
