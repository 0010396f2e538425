"""What can be counted in the verdicts, from their files alone, and in memory that does not grow with them.

The files are read a group of rows at a time, twice: once for the counts, and once more for the edits of the last
quarter, when it is known where that begins. A user is 48 bytes, however many edits there are: the hash of the name, as
in :mod:`lib.online.seen`, and five counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.online import seen, verdicts
from lib.online.judging import VERDICTS
from lib.stats import bootstrap_ci, upper_bound

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
        one-sided exact 95 % upper bound, the counts behind each, and 95 % intervals over users of the shares of edits.
    """
    words: Counter[str] = Counter()
    minutes: Counter[int] = Counter()
    all_ = _Tally()
    for table in verdicts.groups(folder, ["timestamp", "user", "bot", "verdict"]):
        words.update({row["values"]: row["counts"] for row in table["verdict"].value_counts().to_pylist()})
        minute, n = np.unique(_minutes(table), return_counts=True)
        minutes.update(dict(zip(minute.tolist(), n.tolist(), strict=True)))
        all_.add(table)
    edits = words.total()
    late = _Tally()
    for table in _last_quarter(folder, minutes, int(edits * LAST)):
        late.add(table)
    users = all_.users()
    human = 2 * users.bot_edits <= users.edits
    humans, flagged = int(human.sum()), int((human & (users.stopped > 0)).sum())
    human_edits = edits - all_.bot_edits
    human_stopped = words["dropped"] + words["flagged"] - all_.bot_stopped
    return {
        "edits": edits,
        **{word: words[word] for word in VERDICTS},
        "bot_edits": all_.bot_edits,
        "bot_edits_stopped": _share(all_.bot_stopped, all_.bot_edits),
        "bot_edits_stopped_interval": _interval(users),
        "bot_edits_last_quarter": late.bot_edits,
        "bot_edits_stopped_last_quarter": _share(late.bot_stopped, late.bot_edits),
        "bot_edits_stopped_last_quarter_interval": _interval(late.users()),
        "human_edits": human_edits,
        "human_edits_stopped": _share(human_stopped, human_edits),
        "human_users": humans,
        "human_users_flagged": _share(flagged, humans),
        "human_users_flagged_count": flagged,
        "human_users_flagged_in_this_stage": int((human & (users.flagged > 0)).sum()),
        "human_users_flagged_upper95": upper_bound(flagged, humans),
    }


class _Counts(NamedTuple):
    """What each user did: arrays with one number per user; a bot is who has the flag on more than half of the edits."""

    edits: np.ndarray
    bot_edits: np.ndarray
    flagged: np.ndarray
    stopped: np.ndarray
    bot_stopped: np.ndarray


class _Tally:
    """Counts of all edits and per user; added up now and then, so that what waits is never more than what is added up.

    Attributes
    ----------
    bot_edits, bot_stopped : int
        Edits with the flag, and the stopped ones among them; also those whose user is hidden.
    """

    def __init__(self) -> None:
        self.bot_edits = self.bot_stopped = 0
        self._users = np.empty(0, np.uint64)
        self._counts = np.empty((0, len(_Counts._fields)), np.int64)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, table: pa.Table) -> None:
        """Count a group of rows."""
        counts = _counts(table)
        self.bot_edits += int(counts.bot_edits.sum())
        self.bot_stopped += int(counts.bot_stopped.sum())
        names = table["user"].combine_chunks()
        known = pc.is_valid(names).to_numpy(zero_copy_only=False)
        self._waiting.append(_added_up(seen.hashes(names)[known], np.column_stack(counts)[known]))
        if sum(len(users) for users, _ in self._waiting) > len(self._users):
            self.users()

    def users(self) -> _Counts:
        """Give what each user did, in no order that means anything; edits whose user is hidden are nobody's."""
        users, counts = zip((self._users, self._counts), *self._waiting, strict=True)
        self._users, self._counts = _added_up(np.concatenate(users), np.concatenate(counts))
        self._waiting = []
        return _Counts(*self._counts.T)


def _counts(table: pa.Table) -> _Counts:
    """Give the counts of single edits."""
    bot = pc.fill_null(table["bot"], False).to_numpy()
    stopped = _is(table, *STOPPED)
    marks = (np.ones(len(bot)), bot, _is(table, "flagged"), stopped, bot & stopped)
    return _Counts(*(mark.astype(np.int64) for mark in marks))


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


def _last_quarter(folder: Path, minutes: Counter[int], wanted: int) -> Iterator[pa.Table]:
    """Give the last so many edits: by event time, then by ``meta_id``."""
    first, rest = _begin(minutes, wanted)
    torn = []
    for table in verdicts.groups(folder, ["meta_id", "timestamp", "user", "bot", "verdict"]):
        minute = _minutes(table)
        torn.append(table.filter(pa.array(minute == first)))
        yield table.filter(pa.array(minute > first))
    if rest:
        begun = pa.concat_tables(torn).sort_by([("timestamp", "descending"), ("meta_id", "descending")])
        yield begun.slice(0, rest)


def _begin(minutes: Counter[int], wanted: int) -> tuple[int, int]:
    """Find the minute in which the last so many edits begin, and how many of them are in it."""
    for minute in sorted(minutes, reverse=True):
        if wanted <= minutes[minute]:
            return minute, wanted
        wanted -= minutes[minute]
    return 0, 0


def _interval(users: _Counts) -> list[float]:
    return list(bootstrap_ci(users.bot_stopped, users.bot_edits))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def sentence(metrics: dict) -> str:
    """Say what :func:`metrics` counted."""
    low, high = (100 * bound for bound in metrics["bot_edits_stopped_interval"])
    return (
        f"{100 * metrics['bot_edits_stopped']:.1f} % of {metrics['bot_edits']:,} bot edits were stopped (95 % interval "
        f"over users {low:.1f} to {high:.1f} %), in the last quarter "
        f"{100 * metrics['bot_edits_stopped_last_quarter']:.1f} % of "
        f"{metrics['bot_edits_last_quarter']:,}. {metrics['human_users_flagged_count']:,} of "
        f"{metrics['human_users']:,} human users came to be on the list: {100 * metrics['human_users_flagged']:.2f} %, "
        f"with 95 % confidence at most {100 * metrics['human_users_flagged_upper95']:.2f} %."
    )
