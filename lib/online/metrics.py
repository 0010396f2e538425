"""The metrics of stage 4, counted from the files of its verdicts.

A user is a bot when more than half of their edits carry the flag (:func:`is_bot`); *stopped* is dropped or flagged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lib.online import verdicts
from lib.online.judging import SCHEMA, VERDICTS
from lib.stats import bootstrap_ci, upper_bound

LAST_QUARTER = 0.25  # of the edits, by event time, then by meta_id
_COLUMNS = ["timestamp", "user", "bot", "verdict"]
_Numbers = TypeVar("_Numbers", pd.Series, np.ndarray)


def is_bot(bot_edits: _Numbers, edits: _Numbers) -> _Numbers:
    """Return which users are bots: more than half of their edits carry the flag."""
    return 2 * bot_edits > edits


def load_verdicts(out_dir: Path) -> pd.DataFrame:
    """Return all verdicts by event time, then by ``meta_id``.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.

    Returns
    -------
    DataFrame
        The columns of the verdicts; in place of ``bot`` stands ``is_bot`` (a missing flag is none), and ``stopped``
        (dropped or flagged) is added.
    """
    return _frame(verdicts.read(out_dir)).sort_values(["timestamp", "meta_id"], ignore_index=True)


def count_by_user(data: pd.DataFrame) -> pd.DataFrame:
    """Return what each user did; edits whose user is hidden are skipped.

    Parameters
    ----------
    data : DataFrame
        From :func:`load_verdicts`.

    Returns
    -------
    DataFrame
        Index ``user``; ``edits, bot_edits, flagged, stopped, bot_edits_stopped`` and whether the user ``is_bot``.
    """
    users = _counts(data).groupby(data["user"], observed=True).sum()
    return users.assign(is_bot=is_bot(users["bot_edits"], users["edits"]))


def compute(out_dir: Path) -> dict[str, Any]:
    """Return the metrics that follow from the verdicts alone.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.

    Returns
    -------
    dict
        ``edits``, one count per verdict, ``bot_edits_stopped`` (share of the edits with the flag, of all and of the
        last quarter), ``human_edits_stopped`` and ``human_users_flagged`` (share of the users who are no bots that had
        an edit stopped, whether they came on the list in this stage or before it) with its one-sided exact 95 % upper
        bound, the counts behind each, and 95 % intervals over users of the shares of bot edits.
    """
    dataset = _dataset(out_dir)
    data, late = _frame(dataset.to_table(_COLUMNS)), _frame(_last_quarter(dataset))
    total, total_late = _counts(data).sum(), _counts(late).sum()
    users = count_by_user(data)
    humans = users[~users["is_bot"]]
    flagged = int((humans["stopped"] > 0).sum())
    human_edits = int(total["edits"] - total["bot_edits"])
    return {
        "edits": len(data),
        **{verdict: int((data["verdict"] == verdict).sum()) for verdict in VERDICTS},
        "bot_edits": int(total["bot_edits"]),
        "bot_edits_stopped": _share(total["bot_edits_stopped"], total["bot_edits"]),
        "bot_edits_stopped_interval": _interval(users),
        "bot_edits_last_quarter": int(total_late["bot_edits"]),
        "bot_edits_stopped_last_quarter": _share(total_late["bot_edits_stopped"], total_late["bot_edits"]),
        "bot_edits_stopped_last_quarter_interval": _interval(count_by_user(late)),
        "human_edits": human_edits,
        "human_edits_stopped": _share(total["stopped"] - total["bot_edits_stopped"], human_edits),
        "human_users": len(humans),
        "human_users_flagged": _share(flagged, len(humans)),
        "human_users_flagged_count": flagged,
        "human_users_flagged_in_this_stage": int((humans["flagged"] > 0).sum()),
        "human_users_flagged_upper95": upper_bound(flagged, len(humans)),
    }


def _dataset(out_dir: Path) -> ds.Dataset:
    words = ds.ParquetFileFormat(
        dictionary_columns=["wiki", "user", "verdict"]
    )  # each word is in memory once
    files = [str(path) for path in verdicts.files(out_dir)]
    return ds.dataset(files, format=words) if files else ds.dataset(SCHEMA.empty_table())


def _frame(table: pa.Table) -> pd.DataFrame:
    place = table.schema.get_field_index("bot")
    table = table.set_column(place, "is_bot", pc.fill_null(table["bot"], False))
    data = table.unify_dictionaries().to_pandas()
    return data.assign(stopped=data["verdict"] != "kept")


def _counts(data: pd.DataFrame) -> pd.DataFrame:
    marks = {
        "edits": True,
        "bot_edits": data["is_bot"],
        "flagged": data["verdict"] == "flagged",
        "stopped": data["stopped"],
        "bot_edits_stopped": data["is_bot"] & data["stopped"],
    }
    return pd.DataFrame(marks, index=data.index).astype(np.int64)


def _last_quarter(dataset: ds.Dataset) -> pa.Table:
    """Return the last quarter of the edits; of those in its first millisecond, the ones with the largest ids."""
    times = dataset.to_table(["timestamp"])["timestamp"]
    n = int(len(times) * LAST_QUARTER)
    if not n:
        return dataset.schema.empty_table().select(_COLUMNS)
    start = pa.scalar(int(np.partition(times.cast(pa.int64()).to_numpy(), -n)[-n]), times.type)
    late = dataset.to_table(_COLUMNS, filter=ds.field("timestamp") > start)
    first = dataset.to_table(["meta_id", *_COLUMNS], filter=ds.field("timestamp") == start)
    first = first.sort_by([("meta_id", "descending")]).slice(0, n - late.num_rows)
    return pa.concat_tables([late, first.select(_COLUMNS)])


def _interval(users: pd.DataFrame) -> list[float]:
    return list(bootstrap_ci(users["bot_edits_stopped"].to_numpy(), users["bot_edits"].to_numpy()))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
