"""Pictures and tables of 04_online."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import plots
from lib.online import metrics

STEPS = 60  # of a picture over time
_LINES = [(plots.BOT, "-"), (plots.GREEN, "--"), (plots.GREY, "-"), (plots.PURPLE, "-.")]


def over_time(data: pd.DataFrame) -> Figure:
    """Draw what was dropped, flagged and kept over event time.

    Parameters
    ----------
    data : DataFrame
        From :func:`lib.online.metrics.load_verdicts`, as in all functions here.
    """
    shown = data[_inliers(data)]
    span = (shown["timestamp"].max() - shown["timestamp"].min()).total_seconds() if len(shown) else 0.0
    seconds = max(round(span / STEPS), 1)
    steps = shown["timestamp"].dt.floor(pd.Timedelta(seconds=seconds))
    counts = {word: (shown["verdict"] == word).groupby(steps).sum() for word in plots.VERDICTS}
    rate = pd.DataFrame(counts) * 60 / seconds
    figure, axes = plt.subplots()
    if len(rate):
        axes.stackplot(rate.index, rate.T, step="post", colors=plots.VERDICTS.values(), lw=0, labels=[*rate])
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
    by_kind = {"bot": data["is_bot"], "human": data["user"].isin(users.index[~users["is_bot"]])}
    for axes, (kind, of_kind) in zip(panels, by_kind.items(), strict=True):
        edits = data[of_kind]
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
        One row per system; shares as text in percent, with 95 % intervals and bounds over users.
    """
    rows = []
    for name, stops in systems.items():
        found = metrics.compute(data.assign(stopped=stops))
        rows.append(
            {
                "system": name,
                "bot edits stopped": _between(found, "bot_edits_stopped"),
                "in the last quarter": _between(found, "bot_edits_stopped_last_quarter"),
                "human edits stopped": plots.format_bounded(found, "human_edits_stopped"),
                "… without “bot” in the name": plots.format_bounded(found, "human_edits_stopped", "_unnamed"),
                "humans stopped": f"{found['human_users_flagged_count']:,} of {found['human_users']:,}",
            }
        )
    return pd.DataFrame(rows)


def _between(found: Mapping[str, Any], key: str) -> str:
    low, high = (100 * end for end in found[f"{key}_interval"])
    return f"{100 * found[key]:.1f} % ({low:.1f} to {high:.1f})"


def _inliers(data: pd.DataFrame) -> pd.Series:
    return plots.time_inliers(data["timestamp"].astype("datetime64[ms, UTC]").astype("int64"))


def _time_axis(axes: Axes, data: pd.DataFrame) -> None:
    plots.time_axis(axes, plots.outlier_note(int((~_inliers(data)).sum())))
