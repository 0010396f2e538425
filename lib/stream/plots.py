"""The pictures of stage 1, and the tables behind them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib import events, plots
from lib.stats import clopper_pearson
from lib.stream import recording

MAX_GROUPS = 15  # the largest are drawn
MAX_SPAN = pd.Timedelta(days=7)  # of which the picture of the rates shows every minute
NO_NAME = "(none)"
COLORS = (plots.HUMAN, plots.BOT)
KIND = pd.CategoricalDtype(["human", "bot"])


def read_events(path: Path) -> pd.DataFrame:
    """Return time, wiki, type and bot flag of every event of a recording.

    Parameters
    ----------
    path : Path
        A recording.

    Returns
    -------
    DataFrame
        ``time`` (datetime64, UTC), ``wiki`` and ``type`` (categories), ``kind``: ``bot``, ``human``, or missing where
        the event has no flag.
    """
    decoded = (events.decode(line) for line in recording.lines(path))
    rows = ((e.time_ms, e.wiki or NO_NAME, e.type or NO_NAME, e.bot) for e in decoded)
    frame = pd.DataFrame(rows, columns=["time", "wiki", "type", "kind"])
    frame = frame.astype({"time": "M8[ms]", "wiki": "category", "type": "category"})
    kind = frame["kind"].map({True: "bot", False: "human"}).astype(KIND)
    return frame.assign(time=frame["time"].dt.tz_localize("UTC"), kind=kind)


class Rates(NamedTuple):
    """Events per minute over time."""

    per_minute: pd.DataFrame  #: one row per step, columns ``human`` and ``bot``
    step: int  #: minutes; one for a recording of up to a week
    outliers: int  #: events skipped because their time lies far from the others'


def event_rates(events: pd.DataFrame) -> Rates:
    """Return the events per minute."""
    inliers = events[plots.time_inliers(events["time"].astype("int64"))]
    outliers = len(events) - len(inliers)
    if inliers.empty:
        return Rates(pd.DataFrame({"human": [], "bot": []}), 1, outliers)
    step = 1 + int((inliers["time"].max() - inliers["time"].min()) / MAX_SPAN)
    binned = inliers.groupby([inliers["time"].dt.floor(f"{step}min"), "kind"], observed=False).size()
    table = binned.unstack("kind", fill_value=0)
    every = pd.date_range(table.index[0], table.index[-1], freq=f"{step}min")
    return Rates(table.reindex(every, fill_value=0) / step, step, outliers)


def rate_figure(rates: Rates) -> Figure:
    """Return a picture of the events per minute, bots on top of humans."""
    figure, axes = plt.subplots(figsize=(9, 3.6))
    table = rates.per_minute
    if len(table):
        axes.stackplot(table.index, table["human"], table["bot"], colors=COLORS, step="post", linewidth=0)
        axes.legend(["human", "bot"], loc="upper left", ncols=2)
    plots.time_axis(axes)
    title = f"Events over time, in steps of {plots.pluralize(rates.step, 'minute')}"
    axes.set(title=title, ylabel="events per minute")
    return figure


def bot_shares(events: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the counts of humans and bots by a column, with the bots' share and its 95 % interval.

    Parameters
    ----------
    events : DataFrame
        From `read_events`.
    by : str
        ``wiki`` or ``type``.

    Returns
    -------
    DataFrame
        Per group ``human``, ``bot``, ``share``, ``low`` and ``high`` (fractions), the largest first.
    """
    counts = events.groupby([by, "kind"], observed=True).size().unstack("kind", fill_value=0)
    counts = counts.reindex(columns=["human", "bot"], fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index[:MAX_GROUPS]]
    total = counts.sum(axis=1)
    bounds = [clopper_pearson(int(bot), int(n)) for bot, n in zip(counts["bot"], total, strict=True)]
    low, high = zip(*bounds, strict=True) if bounds else ((), ())
    return counts.assign(share=counts["bot"] / total, low=low, high=high)


def share_figure(shares: pd.DataFrame, title: str, ylabel: str) -> Figure:
    """Return a picture of counts of humans and bots beside the bots' share with its interval."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 1.3 + 0.27 * max(len(shares), 1)), sharey=True)
    rows = np.arange(len(shares))
    left.barh(rows, shares["human"], color=plots.HUMAN, label="human")
    left.barh(rows, shares["bot"], left=shares["human"], color=plots.BOT, label="bot")
    right.hlines(rows, shares["low"], shares["high"], color=plots.BOT, linewidth=3)
    right.plot(shares["share"], rows, "o", color=plots.BOT, markeredgecolor="white")
    left.set_yticks(rows, [plots.safe_label(name) for name in shares.index])
    left.invert_yaxis()
    left.set(title=title, xlabel="events", ylabel=ylabel)
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.set(title="Share of bots", xlabel="share of the events, with 95 % interval", xlim=(-0.06, 1.03))
    right.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if len(shares):
        left.legend(loc="lower right")
    return figure
