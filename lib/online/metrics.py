"""The metrics of stage 4, counted from the files of its verdicts.

A user is a bot as in :func:`lib.stats.is_bot`; *stopped* is dropped or flagged.
"""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import events
from lib.online import state
from lib.online.judge import VERDICTS
from lib.online.state import StateStore
from lib.stats import bootstrap_ci, is_bot, upper_bound
from lib.stream import recording
from lib.stream.source import Source

MIN_LATENCY_SECONDS = 0.002  # shorter ones count as this
_LATENCY = "latency up to "  # seconds; such counts are kept with each batch
LAST_QUARTER = 0.25  # of the edits, by event time, then by meta_id
MIN_SHADOW_EDITS = 3  # scored although dropped, before a user is proposed for release
RELEASE_BELOW = 0.5  # of the threshold: a score below it looks human


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
    data = state.read_verdicts(out_dir).to_pandas()
    data["is_bot"] = data.pop("bot").eq(True)
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
    counts = {
        "edits": 1,
        "bot_edits": data["is_bot"],
        "flagged": data["verdict"] == "flagged",
        "stopped": data["stopped"],
        "bot_edits_stopped": data["is_bot"] & data["stopped"],
    }
    users = pd.DataFrame(counts, data.index).astype("int64").groupby(data["user"]).sum()
    return users.assign(is_bot=is_bot(users["bot_edits"], users["edits"]))


def summarize(out_dir: Path, store: StateStore, threshold: float) -> dict[str, Any]:
    """Return the content of ``metrics.json``: what follows from the verdicts, and what was counted on the way.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    store : StateStore
        Its state.
    threshold : float
        The model's.
    """
    totals, starts = store.counters(), store.get_meta("runs", [])
    named = ("events", "edits", "invalid", "duplicates", *VERDICTS)
    runs = []
    for run, (start, end) in enumerate(pairwise([*starts, len(store.ledger)]), 1):
        counts = {name: store.counters(run)[name] for name in named}
        runs.append({"run": run, **counts, "members_start": start, "members_end": end})
    return {
        **{name: totals[name] for name in named},
        "duplicates": totals["duplicates"] + store.get_meta("stream_duplicates", 0),
        **compute(load_verdicts(out_dir)),
        "blacklist_members_start": store.get_meta("members_start"),
        "blacklist_members_end": len(store.ledger),
        "hash_collisions": totals["collisions"],
        "events_per_second": _share(totals["read"], totals["seconds"]),
        "seconds": totals["seconds"],
        "latency_seconds": {"p50": _latency(totals, 0.5), "p99": _latency(totals, 0.99)},
        **{name: totals[name] for name in ("canaries", "without_user", "shadow_scored")},
        "runs": runs,
        "model": store.get_meta("model"),
        "threshold": threshold,
        "topics": store.get_meta("topics"),
    }


def count_latencies(seconds: np.ndarray) -> dict[str, int]:
    """Return how many latencies (shape (n,)) are in each bin, 5 % wide, that is named by its upper edge in seconds."""
    edges = 1.05 ** np.ceil(np.log(np.maximum(seconds, MIN_LATENCY_SECONDS)) / np.log(1.05))
    values, counts = np.unique(edges.round(4), return_counts=True)
    return {f"{_LATENCY}{value:g}": n for value, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _latency(totals: dict[str, Any], share: float) -> float:
    """Return a quantile of the latencies: the upper edge of its bin, at most 5 % too much; 0 without any."""
    bins = [
        (float(name.removeprefix(_LATENCY)), n) for name, n in totals.items() if name.startswith(_LATENCY)
    ]
    if not bins:
        return 0.0
    edges, counts = np.array(bins).T
    return float(np.quantile(edges, share, weights=counts, method="inverted_cdf"))


def compute(data: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics that follow from the verdicts alone.

    Parameters
    ----------
    data : DataFrame
        From :func:`load_verdicts`.

    Returns
    -------
    dict
        ``bot_edits_stopped`` (share of the edits with the flag, of all and of the last quarter),
        ``human_edits_stopped`` and ``human_users_flagged`` (share of the users who are no bots that had an edit
        stopped, whether they came on the list in this stage or before it) with its one-sided exact 95 % upper bound,
        the counts behind each, and 95 % intervals over users of the shares of bot edits.
    """
    users = count_by_user(data)
    humans, human_edits = users[~users["is_bot"]], data[~data["is_bot"]]
    stopped_users = int((humans["stopped"] > 0).sum())
    late = data.tail(int(len(data) * LAST_QUARTER))
    shares: dict[str, Any] = {}
    for suffix, edits in ("", data), ("_last_quarter", late):
        bots, counts = edits[edits["is_bot"]], count_by_user(edits)
        shares |= {
            f"bot_edits{suffix}": len(bots),
            f"bot_edits_stopped{suffix}": _share(bots["stopped"].sum(), len(bots)),
            f"bot_edits_stopped{suffix}_interval": list(
                bootstrap_ci(counts["bot_edits_stopped"].to_numpy(), counts["bot_edits"].to_numpy())
            ),
        }
    return {
        **shares,
        "human_edits": len(human_edits),
        "human_edits_stopped": _share(human_edits["stopped"].sum(), len(human_edits)),
        "human_users": len(humans),
        "human_users_flagged": _share(stopped_users, len(humans)),
        "human_users_flagged_count": stopped_users,
        "human_users_flagged_in_this_stage": int((humans["flagged"] > 0).sum()),
        "human_users_flagged_upper95": upper_bound(stopped_users, len(humans)),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def known_bots(source: Source) -> frozenset[str]:
    """Return all bots of a recording before ``source.since``, by the flag: what a perfect list would know."""
    if source.recording is None or source.since is None:
        return frozenset()
    balance: dict[str, int] = {}
    for raw in recording.lines(source.recording):
        with contextlib.suppress(events.InvalidEvent):
            event = events.decode(raw)
            if (
                event.is_edit
                and not event.is_canary
                and event.user is not None
                and event.time_ms < source.since
            ):
                balance[event.user] = balance.get(event.user, 0) + (1 if event.bot else -1)
    return frozenset(user for user, more in balance.items() if more > 0)


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
