"""Pictures and tables of 04_online."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import plots
from lib.online import metrics

STEPS = 60  # of a picture over time
_STEP_SECONDS = np.array([1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10_800, 43_200])
_LINES = [(plots.BOT, "-"), (plots.PURPLE, "--"), (plots.GREY, "-"), (plots.GREEN, "-.")]


def over_time(data: pd.DataFrame) -> Figure:
    """Draw what was dropped, flagged and kept over event time.

    Parameters
    ----------
    data : DataFrame
        From :func:`lib.online.metrics.load_verdicts`, as in all functions here.
    """
    shown = data[_inliers(data)]
    span = (shown["timestamp"].max() - shown["timestamp"].min()).total_seconds() if len(shown) else 0.0
    seconds = _STEP_SECONDS[min(np.searchsorted(_STEP_SECONDS, span / STEPS), len(_STEP_SECONDS) - 1)]
    steps = shown["timestamp"].dt.floor(pd.Timedelta(seconds=int(seconds)))
    words = ["kept", "dropped", "flagged"]
    counts = pd.DataFrame({word: (shown["verdict"] == word).groupby(steps).sum() for word in words})
    figure, axes = plt.subplots()
    colours = [plots.VERDICTS[word] for word in words]
    rates = counts.T.to_numpy(float) * 60 / seconds
    if len(counts):
        axes.stackplot(counts.index, rates, step="post", colors=colours, lw=0, labels=words)
        axes.legend(loc="upper right", ncols=3)
    axes.set(title="Verdicts over time", ylabel="edits per minute", ylim=(0, None))
    _time_axis(axes, data)
    return figure


def growth(data: pd.DataFrame, runs: list[dict[str, Any]]) -> Figure:
    """Draw the growing blacklist over event time, and what each run newly caught.

    Parameters
    ----------
    data : DataFrame
    runs : list of dict
        ``runs`` of ``metrics.json``.
    """
    shown = data[_inliers(data)]
    size = runs[0].get("members_start", 0) + (data["verdict"] == "flagged").cumsum()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=(2, 1))
    left.step(shown["timestamp"], size[shown.index], where="post", color=plots.BOT)
    left.set(title="The blacklist grows", ylabel="users on the list", ylim=(0, None))
    _time_axis(left, data)
    right.bar([str(run["run"]) for run in runs], [run["flagged"] for run in runs], color=plots.YELLOW)
    right.set(title="New in each run", xlabel="run", ylabel="users flagged")
    return figure


def stopped_so_far(data: pd.DataFrame, systems: Mapping[str, pd.Series]) -> Figure:
    """Draw the shares of the edits with the flag, and of the edits of humans, that each system has stopped so far.

    Parameters
    ----------
    data : DataFrame
    systems : mapping of str to Series of bool
        Which edits each stops, by its name.
    """
    figure, panels = plt.subplots(1, 2, figsize=(11, 4))
    users = metrics.count_by_user(data)
    of_humans = data["user"].isin(users.index[~users["is_bot"]])
    for axes, kind, edits in zip(
        panels, ("bot", "human"), (data[data["is_bot"]], data[of_humans]), strict=True
    ):
        shown = edits[_inliers(data)[edits.index]]
        points = slice(None, None, max(1, len(shown) // 2000))
        for (name, stops), (colour, style) in zip(systems.items(), cycle(_LINES), strict=False):
            share = 100 * stops[edits.index].cumsum() / np.arange(1, len(edits) + 1)
            axes.plot(shown["timestamp"][points], share[shown.index][points], style, color=colour, label=name)
        axes.set(title=f"{kind.capitalize()} edits stopped so far", ylabel=f"share of the {kind} edits (%)")
        axes.set_ylim(bottom=0)
        _time_axis(axes, data)
    panels[0].legend(loc="lower right")
    return figure


def compare(data: pd.DataFrame, systems: Mapping[str, pd.Series]) -> pd.DataFrame:
    """Return what each system stops of the bots' edits, and of the humans' edits and users.

    Parameters
    ----------
    data : DataFrame
    systems : mapping of str to Series of bool
        Which edits each stops, by its name.

    Returns
    -------
    DataFrame
        One row per system; shares as text in percent.
    """
    rows = []
    for name, stops in systems.items():
        found = metrics.compute(data.assign(stopped=stops))
        rows.append(
            {
                "system": name,
                "bot edits stopped": f"{100 * found['bot_edits_stopped']:.1f} %",
                "in the last quarter": f"{100 * found['bot_edits_stopped_last_quarter']:.1f} %",
                "human edits stopped": f"{100 * found['human_edits_stopped']:.2f} %",
                "… without “bot” in the name": f"{100 * found['human_edits_stopped_unnamed']:.2f} %",
                "humans stopped": found["human_users_flagged_count"],
                "of humans": found["human_users"],
            }
        )
    return pd.DataFrame(rows)


def _inliers(data: pd.DataFrame) -> pd.Series:
    return plots.time_inliers(data["timestamp"].astype("datetime64[ms, UTC]").astype("int64"))


def _time_axis(axes: Axes, data: pd.DataFrame) -> None:
    locator = mdates.AutoDateLocator(minticks=3, maxticks=8)  # with 5 at least, four hours get none
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    hidden = int((~_inliers(data)).sum())
    axes.set_xlabel(f"event time (UTC).{plots.outlier_note(hidden)}" if hidden else "event time (UTC)")
