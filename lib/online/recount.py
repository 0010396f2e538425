"""What can be counted in the verdicts, from their files alone, and in memory that does not grow with them.

The files are read a group of rows at a time, twice: once for the counts, and once more for the edits of the last
quarter, when it is known where that begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.intervals import clopper_pearson, upper_bound
from lib.online import verdicts
from lib.online.judging import VERDICTS

STOPPED = ("dropped", "flagged")
LAST = 0.25  # the last quarter: the last 25 % of the edits, ordered by event time
_MINUTE_MS = 60_000
_NUMBERS = ("edits", "bot_edits", "flagged", "stopped")


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
    for table in verdicts.groups(folder, ["timestamp", "user", "bot", "verdict"]):
        words.update({row["values"]: row["counts"] for row in table["verdict"].value_counts().to_pylist()})
        minute, n = np.unique(_minutes(table), return_counts=True)
        minutes.update(dict(zip(minute.tolist(), n.tolist(), strict=True)))
        users.add(_numbers(table))
    everyone = users.added_up()
    known = everyone.filter(pc.is_valid(everyone["user"]))  # edits whose user is hidden are nobody's
    human = ~is_bot(known)
    humans, flagged = int(human.sum()), int((human & (known["stopped"].to_numpy() > 0)).sum())
    edits, bot_edits = words.total(), pc.sum(everyone["bot_edits"]).as_py() or 0
    here = pc.sum(everyone["bot_stopped"]).as_py() or 0
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
        "human_users_flagged_in_this_stage": int((human & (known["flagged"].to_numpy() > 0)).sum()),
        "human_users_flagged_upper95": upper_bound(flagged, humans),
    }


def is_bot(users: pa.Table) -> np.ndarray:
    """Tell the bots among users with ``edits`` and ``bot_edits``: more than half of their edits carry the flag."""
    return 2 * users["bot_edits"].to_numpy() > users["edits"].to_numpy()


class _Users:
    """Numbers per user, added up now and then, so that what waits is never more than what is added up."""

    def __init__(self) -> None:
        self._sum = _sum([_numbers(verdicts.SCHEMA.empty_table())])
        self._waiting: list[pa.Table] = []

    def add(self, numbers: pa.Table) -> None:
        self._waiting.append(_sum([numbers]))
        if sum(table.num_rows for table in self._waiting) > self._sum.num_rows:
            self.added_up()

    def added_up(self) -> pa.Table:
        """One row per user; a null is a user, too."""
        self._sum, self._waiting = _sum([self._sum, *self._waiting]), []
        return self._sum


def _numbers(table: pa.Table) -> pa.Table:
    stopped = pc.is_in(table["verdict"], pa.array(STOPPED)).cast(pa.int64())
    bot = pc.fill_null(table["bot"], False).cast(pa.int64())
    return pa.table(
        {
            "user": table["user"],
            "edits": pa.array(np.ones(table.num_rows, np.int64)),
            "bot_edits": bot,
            "flagged": pc.equal(table["verdict"], "flagged").cast(pa.int64()),
            "stopped": stopped,
            "bot_stopped": pc.multiply(bot, stopped),
        }
    )


def _sum(tables: Iterable[pa.Table]) -> pa.Table:
    whole = pa.concat_tables(tables)
    names = whole.column_names[1:]
    grouped = whole.group_by("user").aggregate([(name, "sum") for name in names])
    return grouped.select(["user", *(f"{name}_sum" for name in names)]).rename_columns(["user", *names])


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
    numbers = _numbers(table.append_column("user", pa.nulls(table.num_rows, pa.string())))
    return pc.sum(numbers["bot_stopped"]).as_py() or 0, pc.sum(numbers["bot_edits"]).as_py() or 0


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
