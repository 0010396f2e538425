"""The metrics of stage 4, counted from the files of its verdicts.

A user is a bot as in :func:`lib.stats.is_bot`; *stopped* is dropped or flagged.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import acero

from lib import events, plots
from lib.model import classifier, user_features
from lib.online import state
from lib.online.judge import VERDICTS
from lib.online.state import BatchResult, StateStore
from lib.stats import bootstrap_ci, human_rates, is_bot
from lib.stream import recording
from lib.stream.source import Source

MIN_LATENCY_SECONDS = 0.002  # shorter ones count as this
_LATENCY = "latency up to "  # seconds; such counts are kept with each batch
LAST_QUARTER = 0.25  # of the edits, by event time, then by meta_id
MIN_SHADOW_EDITS = 3  # scored although dropped, before a user is released
RELEASE_BELOW = np.log(10)  # a margin so far below the threshold, odds of a tenth, releases


def load_verdicts(out_dir: Path) -> pd.DataFrame:
    """Return all verdicts by event time, then by ``meta_id``.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.

    Returns
    -------
    DataFrame
        ``timestamp, wiki, verdict, score`` and the columns of :func:`tally`; ``edits`` is 1.
    """
    verdicts = state.verdicts(out_dir)
    key = ["timestamp", "meta_id"]  # which takes more memory than all else
    order = pc.sort_indices(verdicts.to_table(key), [(name, "ascending") for name in key])
    shown = {name: pc.field(name) for name in ("timestamp", "wiki", "verdict", "score")} | _counted(verdicts)
    columns = (verdicts.to_table({name: column}) for name, column in shown.items())
    return pd.concat([column.take(order).to_pandas() for column in columns], axis=1).assign(edits=1)


def tally(out_dir: Path) -> pd.DataFrame:
    """Return what is counted of the verdicts, without holding them: a row stands for all edits that are alike in it.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.

    Returns
    -------
    DataFrame
        ``user``, ``is_bot`` (a missing flag is none), ``flagged``, ``stopped`` (dropped or flagged), ``late`` (in the
        last quarter), and how many ``edits`` a row stands for.
    """
    verdicts = state.verdicts(out_dir)
    columns = _counted(verdicts)
    rows = acero.RecordBatchReaderSourceNodeOptions(verdicts.scanner(columns).to_reader())
    count = acero.AggregateNodeOptions([([], "hash_count_all", None, "edits")], list(columns))
    plan = acero.Declaration("aggregate", count, [acero.Declaration("record_batch_reader_source", rows)])
    table = plan.to_table(use_threads=False)  # each thread would have a table of its own
    return table.to_pandas(types_mapper={pa.string(): pd.ArrowDtype(pa.string())}.get)


def _counted(verdicts: ds.Dataset) -> dict[str, pc.Expression]:
    """Return the columns that are counted."""
    user, verdict, bot = (pc.field(name) for name in ("user", "verdict", "bot"))
    columns = {"user": user, "is_bot": pc.coalesce(bot, pc.scalar(False)), "flagged": verdict == "flagged"}
    return columns | {"stopped": verdict != "kept", "late": _is_late(verdicts)}


def _is_late(verdicts: ds.Dataset) -> pc.Expression:
    """Return what is true in the last quarter: from its first edit on."""
    time, name = pc.field("timestamp").cast(pa.int64()), pc.field("meta_id")
    times = verdicts.to_table({"time": time})["time"].to_numpy()
    if not (n := int(len(times) * LAST_QUARTER)):
        return pc.scalar(False)
    first = int(np.partition(times, -n)[-n])
    names = sorted(verdicts.to_table(["meta_id"], time == first)["meta_id"].to_pylist())
    return (time > first) | ((time == first) & (name >= names[(times > first).sum() - n]))


def count_by_user(data: pd.DataFrame) -> pd.DataFrame:
    """Return what each user did; edits whose user is hidden are skipped.

    Parameters
    ----------
    data : DataFrame
        From :func:`load_verdicts` or :func:`tally`.

    Returns
    -------
    DataFrame
        Index ``user``; ``edits, bot_edits, flagged, stopped`` and whether the user ``is_bot``.
    """
    counted = data[["is_bot", "flagged", "stopped"]].mul(data["edits"], axis=0).assign(edits=data["edits"])
    users = counted.groupby(data["user"]).sum().rename(columns={"is_bot": "bot_edits"})
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
    totals, starts, lost = store.counters(), store.get_meta("runs", []), store.get_meta("records_lost", {})
    named = ("events", "edits", "invalid", "duplicates", *VERDICTS)
    runs = []
    for run, (start, end) in enumerate(pairwise([*starts, len(store.ledger)]), 1):
        counts = {name: store.counters(run)[name] for name in named}
        runs.append({"run": run, **counts, "members_start": start, "members_end": end})
    return {
        **{name: totals[name] for name in named},
        "duplicates": totals["duplicates"] + store.get_meta("stream_duplicates", 0),
        **compute(tally(out_dir)),
        "blacklist_members_start": store.get_meta("members_start"),
        "blacklist_members_end": len(store.ledger),
        "hash_collisions": totals["collisions"],
        "records_lost": sum(lost.values()),
        "records_lost_by_partition": lost,
        "events_per_second": _share(totals["read"], totals["seconds"]),
        "seconds": totals["seconds"],
        "latency_seconds": {"p50": latency(totals, 0.5), "p99": latency(totals, 0.99)},
        **{name: totals[name] for name in ("canaries", "without_user", "shadow_scored")},
        "runs": runs,
        "model": store.get_meta("model"),
        "threshold": threshold,
        "topics": store.get_meta("topics"),
    }


class Progress:
    """What a panel shows of stage 4 while it runs: counts that are added up batch by batch.

    Parameters
    ----------
    store : StateStore
        With the counts of earlier runs.
    """

    def __init__(self, store: StateStore) -> None:
        self.store, self.counts, self.wikis = store, store.counters(), set[str | None]()
        self.newest: deque[str] = deque(maxlen=3)  # users
        self.panel: plots.Panel | None = None  # once somebody watches

    def add(self, result: BatchResult) -> None:
        """Add a batch."""
        self.counts.update(result.counts)
        self.wikis.update(result.verdicts["wiki"].unique().to_pylist())
        new = sorted(result.entries, key=lambda entry: entry.since)
        self.newest.extend("".join(filter(str.isprintable, entry.user))[:24] for entry in new)

    def values(self) -> dict[str, object]:
        """Return the panel's values; what is behind the stream waits in Kafka."""
        behind = sum(self.store.get_meta("ends", {}).values()) - sum(self.store.offsets().values())
        newest = f" users, newest: {', '.join(reversed([*self.newest]))}" if self.newest else " users"
        return {
            **{name: int(self.counts[name]) for name in ("events", "edits", *VERDICTS)},
            "wikis": len(self.wikis),
            "blacklist": f"{len(self.store.ledger):,}{newest}",
            "behind the stream": f"{max(behind, 0):,} events",
            "latency (p50)": f"{p50:.2f} s" if (p50 := latency(dict(self.counts), 0.5)) else "–",
        }


def count_latencies(seconds: np.ndarray) -> dict[str, int]:
    """Return how many latencies (shape (n,)) are in each bin, 5 % wide, that is named by its upper edge in seconds."""
    edges = 1.05 ** np.ceil(np.log(np.maximum(seconds, MIN_LATENCY_SECONDS)) / np.log(1.05))
    values, counts = np.unique(edges.round(4), return_counts=True)
    return {f"{_LATENCY}{value:g}": n for value, n in zip(values.tolist(), counts.tolist(), strict=True)}


def latency(totals: dict[str, Any], share: float) -> float:
    """Return a quantile of the latencies: the upper edge of its bin, at most 5 % too much; 0 without any."""
    bins = {float(name.removeprefix(_LATENCY)): n for name, n in totals.items() if name.startswith(_LATENCY)}
    if not bins:
        return 0.0
    return float(np.quantile(list(bins), share, weights=list(bins.values()), method="inverted_cdf"))


def compute(data: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics that follow from the verdicts alone.

    Parameters
    ----------
    data : DataFrame
        From :func:`load_verdicts` or :func:`tally`.

    Returns
    -------
    dict
        ``bot_edits_stopped`` (share of the edits with the flag, of all and of the last quarter),
        ``human_edits_stopped`` (share of the edits of users who are no bots) and ``human_users_flagged`` (share of
        these users that had an edit stopped, whether they came on the list in this stage or before it), both with
        one-sided 95 % upper bounds, the counts behind each, and 95 % intervals over users of the shares of bot edits.
    """
    users = count_by_user(data)
    stops, sizes = users[["stopped", "edits"]].to_numpy().T
    human = ~users["is_bot"].to_numpy()
    rates = human_rates(stops, sizes, ~human, users.index)
    shares: dict[str, Any] = {}
    bots = data[data["is_bot"]]
    for suffix, rows in ("", bots), ("_last_quarter", bots[bots["late"]]):
        n, part, whole = rows["edits"].sum(), *count_by_user(rows)[["stopped", "edits"]].to_numpy().T
        shares |= {
            f"bot_edits{suffix}": int(n),
            f"bot_edits_stopped{suffix}": _share(rows["edits"][rows["stopped"]].sum(), n),
            f"bot_edits_stopped{suffix}_interval": list(bootstrap_ci(part, whole)),
        }
    return {
        **shares,
        "human_edits": int(sizes[human].sum()),
        "human_users": rates["humans"],
        "human_users_flagged_count": rates["humans_flagged"],
        "human_users_flagged": rates["human_user_fpr"],
        "human_users_flagged_upper95": rates["human_user_fpr_upper95"],
        "human_users_flagged_in_this_stage": int((users["flagged"][human] > 0).sum()),
        **{name: rate for name, rate in rates.items() if name.startswith("human_edits_stopped")},
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def known_bots(source: Source) -> frozenset[str]:
    """Return all bots of a recording before ``source.since``, by the flag: what a perfect list would know."""
    if source.recording is None or source.since is None:
        return frozenset()
    flagged, edits = Counter[str](), Counter[str]()
    for _, event in events.decode_valid(recording.lines(source.recording)):
        if event.is_edit and not event.is_canary and event.user is not None and event.time_ms < source.since:
            edits[event.user] += 1
            flagged[event.user] += bool(event.bot)
    return frozenset(user for user, n in edits.items() if is_bot(flagged[user], n))


def shadow_report(store: StateStore, threshold: float) -> pd.DataFrame:
    """Return the users on the list whose dropped edits were scored, the most human first.

    Parameters
    ----------
    store : StateStore
        Of stage 4.
    threshold : float
        The model's.

    Returns
    -------
    DataFrame
        ``user``, ``shadow edits``, ``last score``, its ``margin`` and ``release``: whether at least
        :data:`MIN_SHADOW_EDITS` edits were scored and the margin is :data:`RELEASE_BELOW` below the threshold.
    """
    found = store.shadow_states()
    log_edits = user_features.to_features(found.state)[:, user_features.LOG_EDITS]
    users = pd.DataFrame({"user": found.users, "shadow edits": np.exp(log_edits).round().astype(int)})
    users["last score"], users["margin"] = found.score, classifier.margin(found.score, log_edits)
    looks_human = users["margin"] < threshold - RELEASE_BELOW
    users["release"] = (users["shadow edits"] >= MIN_SHADOW_EDITS) & looks_human
    return users.sort_values(["margin", "user"], ignore_index=True)
