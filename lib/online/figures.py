"""The pictures of 04_online, each with the sentence that says what it says."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import plots
from lib.model.evaluation import name_contains_bot
from lib.online import recount, verdicts
from lib.online.judging import VERDICTS

BINS = 60  # steps of a picture over time
_LINES = {
    "wikisieve": (plots.BOT, "-"),
    "“bot” in the name": (plots.PURPLE, "--"),
    "stage 3's list alone": (plots.GREY, "-"),
    "a perfect list of all before": (plots.GREEN, "-."),
}


def frame(out_dir: Path) -> pd.DataFrame:
    """Read the verdicts, ordered by event time, with ``stopped`` and ``is_bot`` (of the edit)."""
    data = verdicts.read(out_dir).to_pandas()
    data = data.sort_values(["timestamp", "meta_id"], ignore_index=True)
    data["stopped"] = data["verdict"].isin(recount.STOPPED)
    data["is_bot"] = data["bot"].eq(True)  # a missing flag is none
    return data


def over_time(data: pd.DataFrame) -> tuple[Figure, str]:
    """Draw what was dropped, flagged and kept over event time."""
    shown = data[_near(data)]
    step = _step(shown)
    steps = shown["timestamp"].dt.floor(step)
    counts = pd.DataFrame({word: (shown["verdict"] == word).groupby(steps).sum() for word in VERDICTS})
    per_minute = counts / (step / pd.Timedelta(minutes=1))
    figure, axes = plt.subplots()
    bottom = np.zeros(len(counts))
    for word in ("kept", "dropped", "flagged") if len(counts) else ():
        top = bottom + per_minute[word].to_numpy()
        axes.fill_between(
            counts.index,
            bottom,
            top,
            step="post",
            color=plots.VERDICTS[word],
            alpha=0.85,
            label=word,
            linewidth=0,
        )
        bottom = top
    axes.set(title="Verdicts over time", xlabel="event time (UTC)", ylabel="edits per minute", ylim=(0, None))
    _clock(axes)
    if len(counts):
        axes.legend(loc="upper right", ncols=3)
    total = data["verdict"].value_counts()
    share = {word: 100 * total.get(word, 0) / max(len(data), 1) for word in VERDICTS}
    return figure, (
        f"Of {len(data):,} edits {share['dropped']:.1f} % were dropped, {share['kept']:.1f} % kept, and "
        f"{total.get('flagged', 0):,} put their user on the blacklist.{plots.outlier_note(len(data) - len(shown))}"
    )


def growth(data: pd.DataFrame, runs: list[dict[str, Any]]) -> tuple[Figure, str]:
    """Draw the growing blacklist over event time, and what each run newly caught."""
    start = runs[0].get("members_start", 0) if runs else 0
    caught = data[data["verdict"] == "flagged"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(2, 1))
    shown = data[_near(data)]
    new = shown[shown["verdict"] == "flagged"]
    times = [*shown["timestamp"].iloc[:1], *new["timestamp"], *shown["timestamp"].iloc[-1:]]
    first = start + int((caught.index < shown.index.min()).sum())
    sizes = [first, *range(first + 1, first + len(new) + 1), first + len(new)] if len(shown) else []
    left.step(times, sizes, where="post", color=plots.BOT)
    left.set(
        title="The blacklist grows", xlabel="event time (UTC)", ylabel="users on the list", ylim=(0, None)
    )
    _clock(left)
    right.bar([str(run["run"]) for run in runs], [run["flagged"] for run in runs], color=plots.YELLOW)
    right.set(title="New in each run", xlabel="run", ylabel="users flagged")
    caught_by = ", ".join(f"{run['flagged']:,}" for run in runs)
    return figure, (
        f"The list grew from {start:,} to {start + len(caught):,} users; the {len(runs)} runs newly caught {caught_by}."
        if len(runs) != 1
        else f"The list grew from {start:,} to {start + len(caught):,} users in one run."
    )


def comparison(
    data: pd.DataFrame, listed: Collection[str], perfect: Collection[str] | None
) -> tuple[Figure, str, pd.DataFrame]:
    """Compare with three simpler sieves: cumulative share of the bot edits that each stops.

    Parameters
    ----------
    data : DataFrame
        From :func:`frame`.
    listed : collection of str
        The blacklist before this stage.
    perfect : collection of str or None
        All bots that could have been known by then.

    Returns
    -------
    figure, sentence, table
        The table has the share of bot edits stopped, in all and in the last quarter, and the humans hit.
    """
    user = data["user"].fillna("")
    ways = {"wikisieve": data["stopped"], "“bot” in the name": _of(user, name_contains_bot)}
    ways["stage 3's list alone"] = user.isin(set(listed))
    if perfect is not None:
        ways["a perfect list of all before"] = user.isin(set(perfect))
    figure, axes = plt.subplots()
    bots = data["is_bot"].to_numpy()
    shown = _near(data).to_numpy()[bots]
    times = data["timestamp"][bots][shown]
    step = max(1, len(times) // 2000)
    for name, stops in ways.items():
        share = np.cumsum(stops.to_numpy()[bots]) / np.arange(1, bots.sum() + 1)
        colour, style = _LINES[name]
        axes.plot(times[::step], 100 * share[shown][::step], style, color=colour, label=name)
    axes.set(
        title="Bot edits stopped so far",
        xlabel="event time (UTC)",
        ylabel="share of the bot edits so far (%)",
        ylim=(0, 101),
    )
    _clock(axes)
    axes.legend(loc="lower right")
    table = pd.DataFrame([_row(name, data, stops) for name, stops in ways.items()])
    best = table.set_index("sieve")
    ours, name_rule = best.loc["wikisieve"], best.loc["“bot” in the name"]
    return (
        figure,
        f"wikisieve stopped {ours['bot edits stopped']} of the bot edits and hit "
        f"{plots.pluralize(int(str(ours['humans hit'])), 'human')}; "
        f"the name rule stopped {name_rule['bot edits stopped']} and hit {name_rule['humans hit']}; "
        f"stage 3's list alone {best.loc[list(ways)[2]]['bot edits stopped']}"
        + (
            f", a perfect one {best.loc[list(ways)[3]]['bot edits stopped']}." if perfect is not None else "."
        ),
        table,
    )


def latency(metrics: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what varies from run to run: how fast it went."""
    seconds = metrics["latency_seconds"]
    return pd.DataFrame(
        {
            "events per second, all in": [f"{metrics['events_per_second']:,.0f}"],
            "latency p50 (s)": [f"{seconds['p50']:.2f}"],
            "latency p99 (s)": [f"{seconds['p99']:.2f}"],
        }
    )


def _row(name: str, data: pd.DataFrame, stops: pd.Series) -> dict[str, Any]:
    bots = data["is_bot"]
    late = np.arange(len(data)) >= len(data) - int(len(data) * recount.LAST)
    known = data[data["user"].notna()].assign(hit=stops)
    people = known.groupby("user").agg(bot=("is_bot", "mean"), hit=("hit", "any"))
    humans = people[people["bot"] <= 0.5]
    return {
        "sieve": name,
        "bot edits stopped": _percent(stops[bots].mean()),
        "in the last quarter": _percent(stops[bots & late].mean()),
        "humans hit": int(humans["hit"].sum()),
        "of humans": len(humans),
    }


def _of(user: pd.Series, rule: Any) -> pd.Series:
    names = user.unique()
    return user.isin(set(names[rule(names.tolist())]) - {""})


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %"


def _near(data: pd.DataFrame) -> pd.Series:
    return plots.time_inliers(data["timestamp"].astype("datetime64[ms, UTC]").astype("int64"))


def _step(data: pd.DataFrame) -> pd.Timedelta:
    """Choose a round step of time that gives about :data:`BINS` of them."""
    span = (data["timestamp"].max() - data["timestamp"].min()).total_seconds() if len(data) else 0.0
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 43200):
        if span / seconds <= BINS:
            break
    return pd.Timedelta(seconds=seconds)


def _clock(axes: Axes) -> None:
    locator = mdates.AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))


def runs_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Tabulate the runs."""
    names = {
        "run": "run",
        "edits": "edits",
        "dropped": "dropped",
        "flagged": "newly caught",
        "kept": "kept",
        "members_start": "list before",
        "members_end": "list after",
    }
    return pd.DataFrame(
        [{shown: run.get(name, "") for name, shown in names.items()} for run in metrics["runs"]]
    )


def left_behind(out_dir: Path, metrics: dict[str, Any]) -> pd.DataFrame:
    """Tabulate what lies in the stage's folder."""
    rows = [
        ("verdicts/*.parquet", f"{metrics['edits']:,} verdicts"),
        ("dead_letters.jsonl", f"{metrics['invalid']:,} invalid events, each with its reason"),
        (
            "ledger.sqlite",
            f"{metrics['blacklist_members_end']:,} users on the blacklist, with evidence; the books",
        ),
        ("blacklist.bloom", f"{(out_dir / 'blacklist.bloom').stat().st_size:,} bytes"),
        ("cards.json", f"{metrics['flagged']:,} verdict cards"),
        ("metrics.json", "all figures of this page"),
    ]
    return pd.DataFrame(rows, columns=["file", "holds"])
