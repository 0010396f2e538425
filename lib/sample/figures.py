"""The pictures of the sampling audit: each takes what :mod:`lib.sample.audit` found and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib import plots
from lib.sample import audit


def shares(found: Mapping[str, audit.Share], percent: int) -> Figure:
    """Draw the shares of users and edits that were kept, with their 95 % intervals.

    Parameters
    ----------
    found : mapping of Share
        From :func:`lib.sample.audit.shares`.
    percent : int
        What was asked for.
    """
    figure, axes = plt.subplots(figsize=(9, 3.4))
    for place, (name, share) in enumerate(found.items()):
        colour = (
            plots.BOT if name.startswith("bot") else plots.HUMAN if name.startswith("human") else plots.GREY
        )
        axes.plot([share.low, share.high], [place, place], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(share.value, place, "o", color=colour, markersize=9, markeredgecolor="white")
    axes.axvline(percent / 100, color="black", linewidth=1, linestyle="--", label=f"asked for: {percent} %")
    axes.set_yticks(range(len(found)), [f"{name} ({share.whole:,})" for name, share in found.items()])
    axes.invert_yaxis()
    axes.set(
        title="Share of users and of edits in the sample",
        xlabel="share kept, with 95 % interval",
        xlim=(0, None),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="upper right")
    return figure


def survival(frame: pd.DataFrame) -> Figure:
    """Draw how many users make at least so many edits: everybody as a line, the sample as dots.

    Parameters
    ----------
    frame : DataFrame
        From :func:`lib.sample.audit.users`.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    for kind, group in {"human": frame[~frame["bot"]], "bot": frame[frame["bot"]]}.items():
        if group.empty:
            continue
        axes.step(
            *_survival(group["edits"]), where="pre", color=plots.KINDS[kind], label=f"{kind} users, all read"
        )
        kept = group["edits"][group["kept"]]
        label = f"{kind} users, sample"
        axes.plot(*_survival(kept), "o", color=plots.KINDS[kind], markersize=4, alpha=0.6, label=label)
    axes.set(
        title="Edits per user: of everybody who was read, and of the sample",
        xlabel="edits of a user (at least)",
        ylabel="share of the users",
        xscale="log",
        yscale="log",
    )
    if not frame.empty:
        axes.legend()
    return figure


def _survival(edits: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    values, counts = np.unique(edits, return_counts=True)
    return values, counts[::-1].cumsum()[::-1] / max(len(edits), 1)


def buckets(found: audit.Uniformity, percent: int) -> Figure:
    """Draw the users per bucket of the hash, the kept buckets in colour.

    Parameters
    ----------
    found : Uniformity
        From :func:`lib.sample.audit.uniformity`.
    percent : int
        So many buckets are kept.
    """
    figure, axes = plt.subplots(figsize=(9, 3.4))
    expected = found.counts.mean()
    colours = [plots.GREEN if bucket < percent else plots.GREY for bucket in range(audit.BUCKETS)]
    axes.bar(range(audit.BUCKETS), found.counts, color=colours, width=1, edgecolor="white", linewidth=0.4)
    axes.axhline(expected, color="black", linewidth=1, label=f"even: {expected:.1f} users")
    spread = 2 * np.sqrt(expected)
    axes.axhspan(
        expected - spread, expected + spread, color="black", alpha=0.08, label="even ± 2 standard deviations"
    )
    axes.set(
        title=f"Users per bucket: buckets 0 to {percent - 1} are the sample",
        xlabel="bucket of the user's name",
    )
    axes.set(ylabel="users", xlim=(-1, audit.BUCKETS), ylim=(0, max(float(found.counts.max()) * 1.35, 1)))
    axes.legend(loc="upper right", ncols=2)
    return figure


def ways(found: pd.DataFrame, percent: int) -> Figure:
    """Draw what the rule and the two wrong ways select.

    Parameters
    ----------
    found : DataFrame
        From :func:`lib.sample.audit.wrong_ways`.
    percent : int
        What was asked for.
    """
    figure, axes = plt.subplots(figsize=(9, 3.8))
    names = {"users": "users seen", "edits": "edits kept", "whole": "users seen whole*"}
    colours = [plots.GREEN, plots.PURPLE, plots.YELLOW]
    for row, (way, colour) in enumerate(zip(found.index, colours, strict=True)):
        places = np.arange(len(names)) + (row - 1) * 0.26
        bars = axes.bar(places, found.loc[way, list(names)], width=0.24, color=colour, label=way, linewidth=0)
        axes.bar_label(bars, [f"{100 * value:.0f} %" for value in found.loc[way, list(names)]], padding=2)
    axes.axhline(percent / 100, color="black", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(names)), names.values())
    axes.set(title=f"One right way and two wrong ones to take {percent} %", ylabel="share", ylim=(0, 1.42))
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", fontsize="small")
    axes.set_xlabel(
        "* of those with two edits or more: all their edits are there", loc="right", fontsize="small"
    )
    return figure


def coverage(found: audit.Coverage, percent: int) -> Figure:
    """Draw what a list of the bots in a sample is worth on later edits, by the size of the sample.

    Parameters
    ----------
    found : Coverage
        From :func:`lib.sample.audit.coverage`.
    percent : int
        Size of the sample at hand.
    """
    figure, axes = plt.subplots(figsize=(9, 4))
    axes.fill_between(
        found.percents,
        found.low,
        found.high,
        color=plots.BOT,
        alpha=0.15,
        linewidth=0,
        label="90 of 100 samples",
    )
    axes.plot(found.percents, found.mean, color=plots.BOT, label="mean of 100 samples")
    axes.plot(percent, found.ours, "D", color="black", markersize=8, label="this sample")
    axes.set(
        title="Later bot edits stopped by a perfect list of the bots that the sample has seen",
        xlabel="share of the users in the sample",
        ylabel="share of the later bot edits",
        xlim=(0, 101),
        ylim=(-0.02, 1),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(100, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="upper left")
    return figure
