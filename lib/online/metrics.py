"""The metrics of stage 4, counted from the files of its verdicts.

A user is a bot as in :func:`lib.stats.is_bot`; *stopped* is dropped or flagged.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import acero

from lib.online import sinks
from lib.online.judge import VERDICTS
from lib.online.sinks import SCHEMA
from lib.online.state import StateStore
from lib.stats import bootstrap_ci, is_bot, upper_bound

MIN_LATENCY_SECONDS = 0.002  # shorter ones count as this
_LATENCY = "latency up to "  # seconds; such counts are kept with each batch
LAST_QUARTER = 0.25  # of the edits, by event time, then by meta_id
ALL = pc.scalar(True)  # the filter that every row passes
MIN_SHADOW_EDITS = 3  # scored although dropped, before a user is proposed for release
RELEASE_BELOW = 0.5  # of the threshold: a score below it looks human
COUNTS = ["edits", "bot_edits", "flagged", "stopped", "bot_edits_stopped"]


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
    table = sinks.read_verdicts(out_dir)
    place = table.schema.get_field_index("bot")
    data = table.set_column(place, "is_bot", pc.fill_null(table["bot"], False)).to_pandas()
    data["stopped"] = data["verdict"] != "kept"
    return data.sort_values(["timestamp", "meta_id"], ignore_index=True)


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
    marks = data.assign(
        edits=1,
        bot_edits=data["is_bot"],
        flagged=data["verdict"] == "flagged",
        bot_edits_stopped=data["is_bot"] & data["stopped"],
    )
    users = marks[COUNTS].astype("int64").groupby(data["user"]).sum()
    return users.assign(is_bot=is_bot(users["bot_edits"], users["edits"]))


def summarize(out_dir: Path, state: StateStore, threshold: float) -> dict[str, Any]:
    """Return the content of ``metrics.json``: what follows from the verdicts, and what was counted on the way.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    state : StateStore
        Its state.
    threshold : float
        The model's.
    """
    totals, starts = state.counters(), state.get_meta("runs", [])
    named = ("events", "edits", "invalid", "duplicates", *VERDICTS)
    runs = []
    for run, (start, end) in enumerate(pairwise([*starts, len(state.ledger)]), 1):
        counts = state.counters(run)
        grown = {"members_start": start, "members_end": end}
        runs.append({"run": run, **{name: counts.get(name, 0) for name in named}, **grown})
    return {
        **{name: totals.get(name, 0) for name in named},
        "duplicates": totals.get("duplicates", 0) + state.get_meta("stream_duplicates", 0),
        **{name: value for name, value in compute(out_dir).items() if name not in named},
        "blacklist_members_start": state.get_meta("members_start"),
        "blacklist_members_end": len(state.ledger),
        "hash_collisions": totals.get("collisions", 0),
        "events_per_second": _share(totals.get("read", 0), totals.get("seconds", 0.0)),
        "seconds": totals.get("seconds", 0.0),
        "latency_seconds": {"p50": _latency(totals, 0.5), "p99": _latency(totals, 0.99)},
        **{name: totals.get(name, 0) for name in ("canaries", "without_user", "shadow_scored")},
        "runs": runs,
        "model": state.get_meta("model"),
        "threshold": threshold,
        "topics": state.get_meta("topics"),
    }


def count_latencies(seconds: np.ndarray) -> dict[str, int]:
    """Return how many latencies (shape (n,)) are in each bin, 5 % wide, that is named by its upper edge in seconds."""
    edges = 1.05 ** np.ceil(np.log(np.maximum(seconds, MIN_LATENCY_SECONDS)) / np.log(1.05))
    values, counts = np.unique(edges.round(4), return_counts=True)
    return {f"{_LATENCY}{value:g}": n for value, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _latency(totals: dict[str, Any], share: float) -> float:
    """Return a quantile of the latencies: the upper edge of its bin, at most 5 % too much; 0 without any."""
    bins = sorted((float(k.removeprefix(_LATENCY)), n) for k, n in totals.items() if k.startswith(_LATENCY))
    if not bins:
        return 0.0
    edges, counts = np.array(bins).T
    return float(edges[np.searchsorted(np.cumsum(counts), share * counts.sum())])


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
    files = [str(path) for path in sinks.part_files(out_dir)]
    dataset = ds.dataset(files, SCHEMA, "parquet") if files else ds.dataset(SCHEMA.empty_table())
    all_users, late_users = _count(dataset, ALL), _count_last_quarter(dataset)
    total, total_late = all_users.sum(), late_users.sum()
    users = all_users[all_users.index.notna()]
    humans = users[~is_bot(users["bot_edits"], users["edits"])]
    flagged = int((humans["stopped"] > 0).sum())
    human_edits = int(total["edits"] - total["bot_edits"])
    return {
        "edits": int(total["edits"]),
        "kept": int(total["edits"] - total["stopped"]),
        "flagged": int(total["flagged"]),
        "dropped": int(total["stopped"] - total["flagged"]),
        "bot_edits": int(total["bot_edits"]),
        "bot_edits_stopped": _share(total["bot_edits_stopped"], total["bot_edits"]),
        "bot_edits_stopped_interval": _interval(users),
        "bot_edits_last_quarter": int(total_late["bot_edits"]),
        "bot_edits_stopped_last_quarter": _share(total_late["bot_edits_stopped"], total_late["bot_edits"]),
        "bot_edits_stopped_last_quarter_interval": _interval(late_users[late_users.index.notna()]),
        "human_edits": human_edits,
        "human_edits_stopped": _share(total["stopped"] - total["bot_edits_stopped"], human_edits),
        "human_users": len(humans),
        "human_users_flagged": _share(flagged, len(humans)),
        "human_users_flagged_count": flagged,
        "human_users_flagged_in_this_stage": int((humans["flagged"] > 0).sum()),
        "human_users_flagged_upper95": upper_bound(flagged, len(humans)),
    }


def _count(dataset: ds.Dataset, where: pc.Expression) -> pd.DataFrame:
    """Return counts per user, a hidden one included; files are read in batches, so memory grows with users alone."""
    bot, stopped = pc.coalesce(pc.field("bot"), False), pc.field("verdict") != "kept"
    marks = [pc.scalar(True), bot, pc.field("verdict") == "flagged", stopped, bot & stopped]
    columns = [pc.field("user"), *(mark.cast(pa.int64()) for mark in marks)]
    sums = [(name, "hash_sum", None, name) for name in COUNTS]
    steps = [
        acero.Declaration("scan", acero.ScanNodeOptions(dataset, filter=where)),
        acero.Declaration("filter", acero.FilterNodeOptions(where)),
        acero.Declaration("project", acero.ProjectNodeOptions(columns, ["user", *COUNTS])),
        acero.Declaration("aggregate", acero.AggregateNodeOptions(sums, keys=["user"])),
    ]
    return acero.Declaration.from_sequence(steps).to_table().to_pandas().set_index("user")


def _count_last_quarter(dataset: ds.Dataset) -> pd.DataFrame:
    """Return the counts of the last quarter; of the edits in its first millisecond the ones with the largest ids."""
    times = dataset.to_table(["timestamp"])["timestamp"]
    n = int(len(times) * LAST_QUARTER)
    if not n:
        return _count(dataset, pc.scalar(False))
    start = pa.scalar(int(np.partition(times.cast(pa.int64()).to_numpy(), -n)[-n]), times.type)
    late = _count(dataset, pc.field("timestamp") > start)
    first = dataset.to_table(filter=pc.field("timestamp") == start).sort_by([("meta_id", "descending")])
    rest = _count(ds.dataset(first.slice(0, n - int(late["edits"].sum()))), ALL)
    return pd.concat([late, rest]).groupby(level=0, dropna=False).sum()


def _interval(users: pd.DataFrame) -> list[float]:
    return list(bootstrap_ci(users["bot_edits_stopped"].to_numpy(), users["bot_edits"].to_numpy()))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def shadow_report(out_dir: Path, data: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return the users whose dropped edits were scored, the most human first.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    data : DataFrame
        From :func:`load_verdicts`.
    threshold : float
        The model's.

    Returns
    -------
    DataFrame
        ``user``, ``shadow edits``, ``with the flag``, ``last score`` and ``release``: whether release is proposed,
        because at least :data:`MIN_SHADOW_EDITS` edits were scored and the last score is below half the threshold. A
        person decides, with ``Ledger.remove`` or ``Ledger.allow``.
    """
    with StateStore(out_dir) as store:
        last_scores = store.shadow_scores()
    scored = data[(data["verdict"] == "dropped") & data["score"].notna()]
    counts = count_by_user(scored)[["edits", "bot_edits"]].reset_index()
    users = counts.set_axis(["user", "shadow edits", "with the flag"], axis="columns")
    users["last score"] = [last_scores.get(user, np.nan) for user in users["user"]]
    users["release"] = (users["shadow edits"] >= MIN_SHADOW_EDITS) & (
        users["last score"] < RELEASE_BELOW * threshold
    )
    return users.sort_values(
        ["last score", "shadow edits"], ascending=[True, False], kind="stable", ignore_index=True
    )
