"""The pictures of the sampling audit: each takes what :mod:`lib.sample.audit` computed and returns a figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib import plots

_SHARE = PercentFormatter(1, symbol=" %")


def shares(table: pd.DataFrame, percent: int) -> Figure:
    """Draw the shares of users and edits that were kept, with their 95 % intervals.

    Parameters
    ----------
    table : DataFrame
        From :func:`lib.sample.audit.shares`.
    percent : int
        Share of the users that was asked for.
    """
    figure, axes = plt.subplots(figsize=(9, 3.4))
    places = range(len(table))
    colours = [plots.KINDS.get(name.split()[0], plots.GREY) for name in table.index]
    axes.hlines(places, table["low"], table["high"], colours, linewidth=3)
    axes.scatter(table["part"] / table["whole"].clip(1), places, 80, colours, edgecolors="white", zorder=3)
    axes.axvline(percent / 100, color="black", linewidth=1, linestyle="--", label=f"asked for: {percent} %")
    axes.set_yticks(places, [f"{name} ({whole:,})" for name, whole in table["whole"].items()])
    axes.invert_yaxis()
    axes.set(title="Share of users and of edits in the sample", xlabel="share kept, with 95 % interval")
    axes.set_xlim(0, None)
    axes.xaxis.set_major_formatter(_SHARE)
    axes.legend(loc="upper right")
    return figure


def coverage(curve: pd.DataFrame, percent: int, stopped: float) -> Figure:
    """Draw what a list of the bots in a sample is worth on later edits, by the size of the sample.

    Parameters
    ----------
    curve : DataFrame
        From :func:`lib.sample.audit.coverage`.
    percent : int
        Size of the sample at hand.
    stopped : float
        Share of the later bot edits that its bots make, from 0 to 1.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    band = axes.fill_between(curve.index, curve["low"], curve["high"], label="90 of 100 samples")
    band.set(color=plots.BOT, alpha=0.15, linewidth=0)
    axes.plot(curve.index, curve["mean"], color=plots.BOT, label="mean of 100 samples")
    axes.plot(percent, stopped, "D", color="black", markersize=8, label="this sample")
    axes.set_title("Later bot edits stopped by a perfect list of the bots in the sample")
    axes.set(xlabel="share of the users in the sample", ylabel="share of the later bot edits")
    axes.set(xlim=(0, 101), ylim=(-0.02, 1))
    axes.xaxis.set_major_formatter(PercentFormatter(100, symbol=" %"))
    axes.legend(loc="upper left")
    axes.yaxis.set_major_formatter(_SHARE)
    return figure
