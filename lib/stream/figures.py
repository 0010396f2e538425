"""What a recording holds, and the pictures of stage 1."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib import events, plots
from lib.stats import clopper_pearson
from lib.stream import recording
from lib.stream.client import KINDS
from lib.stream.cursor import SECONDS_BELOW, Cursor

BINS = 900  # more minutes than this are drawn in wider steps
NO_NAME = "(none)"


def read(path: Path) -> pd.DataFrame:
    """Read time, wiki, type and bot flag of every event of a recording.

    Parameters
    ----------
    path : Path
        A recording.

    Returns
    -------
    DataFrame
        ``time`` (datetime64, UTC), ``wiki`` and ``type`` (categories), ``kind``: ``bot``, ``human``, or missing where
        the event has no flag. About 20 bytes per event.
    """
    times, bots = array("q"), array("b")
    codes: dict[str, dict[str, int]] = {"wiki": {}, "type": {}}
    columns = {"wiki": array("i"), "type": array("i")}
    for line in recording.lines(path):
        event = events.decode(line)
        times.append(event.time_ms)
        for name, value in (("wiki", event.wiki), ("type", event.type)):
            known = codes[name]
            columns[name].append(known.setdefault(value or NO_NAME, len(known)))
        bots.append(-1 if event.bot is None else int(event.bot))
    frame = {
        name: pd.Categorical.from_codes(
            np.array(columns[name], "int64"), pd.Index(list(codes[name]), dtype="object")
        )
        for name in columns
    }
    return pd.DataFrame(
        {
            "time": pd.Series(np.array(times, "datetime64[ms]")).dt.tz_localize("UTC"),
            **frame,
            "kind": pd.Categorical.from_codes(np.array(bots, "int64"), pd.Index(["human", "bot"])),
        }
    )


def books(made: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """Show what became of the messages that came, and say whether these are all.

    Parameters
    ----------
    made : mapping
        The manifest of a recording.
    """
    counts = pd.Series({kind.replace("_", " "): made[kind] for kind in KINDS}, name="messages")
    sums = "the books balance" if counts.sum() == made["received"] else "THE BOOKS DO NOT BALANCE"
    finding = (
        f"{made['received']:,} messages came over {made['reconnects'] + 1} connection(s), "
        f"{made['events']:,} were kept, {made['invalid']:,} could not be read: {sums}."
    )
    return counts.to_frame(), finding


class Rates(NamedTuple):
    """Events per minute over time."""

    per_minute: pd.DataFrame  #: one row per step, columns ``human`` and ``bot``, events per minute
    step_minutes: int
    far: int = 0  #: events left out, for their time lies far from the others'


def rates(events: pd.DataFrame) -> Rates:
    """Count the events per minute; a recording of many hours is counted in wider steps."""
    events, whole = events[plots.time_inliers(events["time"].astype("int64"))], len(events)
    if events.empty:
        return Rates(pd.DataFrame({"human": [], "bot": []}), 1, whole)
    minutes = (events["time"].max() - events["time"].min()).total_seconds() / 60
    step = max(1, int(np.ceil(minutes / BINS)))
    binned = events.groupby([events["time"].dt.floor(f"{step}min"), "kind"], observed=False).size()
    table = binned.unstack("kind", fill_value=0)
    every = pd.date_range(table.index[0], table.index[-1], freq=f"{step}min")
    return Rates(table.reindex(every, fill_value=0) / step, step, whole - len(events))


def rate_finding(found: Rates, events: int) -> str:
    """Say how many events there are, and how fast they came."""
    totals = found.per_minute.sum(axis=1)
    if totals.empty:
        return f"There is no event to count.{plots.outlier_note(found.far)}"
    hours = found.step_minutes * len(totals) / 60
    return (
        f"{events:,} events in {hours:.1f} hours: {totals.mean():.1f} per minute on average, "
        f"{totals.max():.0f} at most, at {totals.idxmax():%H:%M} UTC.{plots.outlier_note(found.far)}"
    )


def rate_figure(found: Rates) -> Figure:
    """Draw events per minute, bots on top of humans."""
    figure, axes = plt.subplots(figsize=(9, 3.6))
    table = found.per_minute
    step = "minute" if found.step_minutes == 1 else f"{found.step_minutes} minutes"
    if len(table):
        axes.stackplot(
            table.index,
            table["human"],
            table["bot"],
            labels=["human", "bot"],
            colors=[plots.HUMAN, plots.BOT],
            step="post",
            linewidth=0,
        )
        axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
        axes.legend(loc="upper left", ncols=2)
    axes.set(title=f"Events over time, by the {step}", xlabel="event time (UTC)", ylabel="events per minute")
    return figure


def shares(events: pd.DataFrame, by: str, most: int = 15) -> pd.DataFrame:
    """Count humans and bots by a column, with the bots' share and its 95 % interval.

    Parameters
    ----------
    events : DataFrame
        From `read`.
    by : str
        ``wiki`` or ``type``.
    most : int, default 15
        How many of the largest groups to keep.

    Returns
    -------
    DataFrame
        Per group ``human``, ``bot``, ``share``, ``low`` and ``high`` (fractions), the largest first.
    """
    counts = events.groupby([by, "kind"], observed=True).size().unstack("kind", fill_value=0)
    counts = counts.reindex(columns=["human", "bot"], fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    whole = counts.sum(axis=1)
    bounds = [clopper_pearson(int(bot), int(n)) for bot, n in zip(counts["bot"], whole, strict=True)]
    return counts.assign(
        share=counts["bot"] / whole, low=[low for low, _ in bounds], high=[high for _, high in bounds]
    )


def share_finding(events: pd.DataFrame, wikis: pd.DataFrame) -> str:
    """Say how many events are by bots, and in which wiki the most."""
    flags = events["kind"].dropna()
    if flags.empty:
        return "No event says whether a bot made it."
    bots = int((flags == "bot").sum())
    share = plots.format_share(bots, len(flags))
    percent = 100 * wikis["share"]
    return (
        f"Bots made {share} of the events. Of the busiest wikis {percent.idxmax()} is the most automatic "
        f"({percent.max():.0f} % bots); {percent.index[0]}, the largest, has {percent.iloc[0]:.0f} %."
    )


def type_finding(events: pd.DataFrame) -> str:
    """Say how many events change a page's text."""
    texts, new = int(events["type"].isin(["edit", "new"]).sum()), int((events["type"] == "new").sum())
    return f"{texts:,} of {len(events):,} events change a page's text; {new:,} of them are new pages."


def positions(kept: dict[str, Any]) -> pd.DataFrame:
    """Show a cursor: per topic where the recording stands, and what a reconnect asks for.

    Parameters
    ----------
    kept : dict
        What :meth:`lib.stream.cursor.Cursor.to_json` gave.
    """
    stands = {entry["topic"]: entry for entry in kept["topics"]}
    asks = {entry["topic"]: entry for entry in json.loads(Cursor.from_json(kept).last_event_id() or "[]")}
    rows = [(topic, _position(stands[topic]), _position(asks[topic])) for topic in sorted(stands)]
    return pd.DataFrame(rows, columns=["topic", "last event", "asked for"])


def _position(entry: dict[str, Any]) -> str:
    if entry.get("timestamp") is None:
        return f"offset {entry.get('offset')}"
    unit = 1000 if entry["timestamp"] < SECONDS_BELOW else 1
    return f"{entry['timestamp']} ({events.iso(entry['timestamp'] * unit)})"


def share_figure(groups: pd.DataFrame, title: str, ylabel: str) -> Figure:
    """Draw counts of humans and bots beside the bots' share with its interval."""
    height = 1.3 + 0.27 * max(len(groups), 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, height), sharey=True)
    places = np.arange(len(groups))
    left.barh(places, groups["human"], color=plots.HUMAN, label="human")
    left.barh(places, groups["bot"], left=groups["human"], color=plots.BOT, label="bot")
    right.hlines(places, groups["low"], groups["high"], color=plots.BOT, linewidth=3)
    right.plot(groups["share"], places, "o", color=plots.BOT, markeredgecolor="white")
    left.set_yticks(places, [plots.safe_label(name) for name in groups.index])
    left.invert_yaxis()
    left.set(title=title, xlabel="events", ylabel=ylabel)
    right.set(title="Share of bots", xlabel="share of the events, with 95 % interval", xlim=(-0.02, 1.02))
    right.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if len(groups):
        left.legend(loc="lower right")
    return figure
