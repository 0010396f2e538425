"""Pictures of the model and the blacklist; each function returns a figure for :func:`lib.plots.show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, PercentFormatter
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve

from lib import plots
from lib.model import evaluation
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.evaluation import Forward
from lib.model.user_features import FEATURES
from lib.stats import clopper_pearson

_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")
_FINE_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")
_COLORS = (plots.BOT, plots.GREEN, "black", plots.PURPLE, plots.YELLOW)


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str, shares: Formatter = _PERCENT) -> None:
    """Set title, labels and the format of the vertical axis, and put the legend beside the picture."""
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.yaxis.set_major_formatter(shares)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)


def _errorbar(axes: Axes, x: Any, parts: Any, wholes: Any, **options: Any) -> None:
    """Draw shares with their exact 95 % intervals."""
    share = np.asarray(parts) / np.asarray(wholes)
    ends = [clopper_pearson(int(part), int(whole)) for part, whole in zip(parts, wholes, strict=True)]
    axes.errorbar(x, share, np.abs(np.transpose(ends) - share), capsize=3, **options)


def comparison_table(cross: CrossFit, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate average precision with its interval, recall and F1 of users' scores, a row per way to score."""
    rows = {}
    for name, values in scores.items():
        metrics = evaluation.user_metrics(cross.dataset.is_bot, values, cross.seed)
        low, high = metrics["interval"]
        rows[name] = {
            "average precision": f"{metrics['average_precision']:.3f} ({low:.3f} to {high:.3f})",
            "recall at 0.5 % humans flagged": f"{metrics['recall_at_half_percent_fpr']:.3f}",
            "F1 of edits (bot: a score of 0.5)": f"{evaluation.edit_f1(cross.dataset, values):.3f}",
        }
    return pd.DataFrame(rows).T.rename_axis("scores by")


def precision_recall(is_bot: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
    """Draw precision against recall; a rule that only answers yes or no is a point."""
    figure, axes = plt.subplots(figsize=(10, 4.4))
    for (name, values), color in zip(scores.items(), _COLORS, strict=False):
        precision, recall, _ = precision_recall_curve(is_bot, values)
        if len(np.unique(values)) > 2:
            axes.step(recall, precision, where="post", color=color, lw=2, label=name)
        elif values.any():
            axes.scatter(recall[1], precision[1], s=70, color=color, marker="D", zorder=4, label=name)
    chance = f"chance, majority,\nknown bots: {is_bot.mean():.3f}"
    axes.axhline(is_bot.mean(), color=plots.GREY, ls=":", label=chance)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    axes.xaxis.set_major_formatter(_PERCENT)
    title = f"Bots among {len(is_bot):,} users, split by user"
    _finish(axes, title, "recall: bots that are found", "precision: found that are bots")
    return figure


def weights_table(model: BotClassifier, top: int = 12) -> pd.DataFrame:
    """Tabulate the features with the largest weights of a user model, per standard deviation; 0 if it is not linear."""
    weights = getattr(model.user_model[-1], "coef_", np.zeros((1, len(FEATURES))))
    table = pd.DataFrame({"feature": FEATURES, "weight": weights[0]})
    table = table.sort_values("weight", key=lambda weight: -weight.abs(), kind="stable", ignore_index=True)
    return table.head(top).round(3)


def trade_off(
    curves: Mapping[str, pd.DataFrame],
    chosen: pd.Series,
    rule: tuple[float, float],
    max_human_edit_fpr: float,
) -> Figure:
    """Draw bot edits stopped against human edits stopped as the threshold moves.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        :func:`lib.model.classifier.threshold_curve` by label.
    chosen : Series
        The row of the chosen threshold.
    rule : tuple of float
        Shares of the human edits (of people without "bot" in the name: none) and of the bot edits that the name rule
        stops.
    max_human_edit_fpr : float
    """
    figure, axes = plt.subplots(figsize=(10, 4.4))
    for (label, curve), color in zip(curves.items(), (plots.BOT, plots.GREY), strict=False):
        axes.step(curve["human_edits"], curve["bot_edits"], where="post", color=color, lw=2, label=label)
    upper = chosen["human_edits_upper95"] - chosen["human_edits"]
    label = f"chosen: {chosen['threshold']:.2f}\n(with the upper bound)"
    at = chosen["human_edits"], chosen["bot_edits"]
    axes.errorbar(*at, xerr=[[0], [upper]], fmt="o", color="black", capsize=3, label=label, zorder=4)
    axes.scatter(*rule, s=70, color=plots.GREEN, marker="D", label="name rule: “bot” in the name", zorder=4)
    axes.axvline(max_human_edit_fpr, color=plots.GREY, ls=":", label="MAX_HUMAN_EDIT_FPR")
    axes.xaxis.set_major_formatter(_FINE_PERCENT)
    axes.set_ylim(top=1.02)
    xlabel = "human edits stopped (names without “bot”)"
    _finish(axes, "What a threshold buys, and at what price", xlabel, "bot edits stopped")
    return figure


def answers_table(is_bot: np.ndarray, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate which share of bots and of humans each way flags, with exact intervals."""
    return pd.DataFrame(
        {
            "flagged by": name,
            "bots": plots.format_share(int((flagged & is_bot).sum()), int(is_bot.sum())),
            "humans": plots.format_share(int((flagged & ~is_bot).sum()), int((~is_bot).sum())),
        }
        for name, flagged in answers.items()
    )


def calibration(is_bot: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
    """Draw the share of bots among users with about the same score."""
    figure, (axes, below) = plt.subplots(2, 1, figsize=(8, 4.8), sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls=":")
    for (name, values), color in zip(scores.items(), _COLORS[::2], strict=False):
        truth, predicted = calibration_curve(is_bot, values, n_bins=5)
        counts = np.bincount(
            np.searchsorted([0.2, 0.4, 0.6, 0.8], values), minlength=5
        )  # as scikit-learn has it
        counts = counts[counts > 0]
        _errorbar(axes, predicted, np.rint(truth * counts), counts, fmt="o-", color=color, label=name)
        below.hist(values, np.linspace(0, 1, 21).tolist(), color=color, histtype="step", lw=1.5)
    axes.set_ylim(-0.02, 1.02)
    below.set(xlabel="score", ylabel="users", yscale="log", xlim=(0, 1))
    below.yaxis.set_major_formatter("{x:,.0f}")
    _finish(axes, "What a score means", "", "share of bots (95 % interval)")
    return figure


def recall_by_edits(table: pd.DataFrame) -> Figure:
    """Draw how soon bots are found (:func:`lib.model.evaluation.recall_by_edits`)."""
    figure, axes = plt.subplots(figsize=(10, 4))
    label = "bots found by then, of those\nwith as many edits (95 % interval)"
    _errorbar(axes, table["edits"], table["found"], table["bots"], fmt="o-", color=plots.BOT, label=label)
    label = "humans flagged by then,\nof all humans"
    axes.plot(table["edits"], table["humans flagged"], "o-", color=plots.HUMAN, label=label)
    axes.set(xscale="log", ylim=(-0.03, 1.1))
    ticks = [f"{edits:,}\n({bots})" for edits, bots in zip(table["edits"], table["bots"], strict=True)]
    axes.set_xticks(table["edits"].tolist(), ticks, fontsize=8)
    axes.minorticks_off()
    _finish(axes, "How soon a bot is found", "a user's edits (brackets: bots with as many)", "share of users")
    return figure


def forward(test: Forward, answers: Mapping[str, np.ndarray]) -> Figure:
    """Draw the share of bot edits stopped so far, over the time after the moment of training."""
    bot = np.flatnonzero(test.later.flagged)
    moments = pd.to_datetime(pd.Series(test.later.times[bot]), unit="ms", errors="coerce").to_numpy()
    figure, axes = plt.subplots(figsize=(10, 4))
    for (name, stopped), color in zip(answers.items(), _COLORS, strict=False):  # the majority stops nothing
        so_far = np.cumsum(stopped[bot]) / np.arange(1, len(bot) + 1)
        # Two equal lines are both seen.
        axes.plot(moments, so_far, ("-", "--")[len(axes.lines) % 2], color=color, lw=2, label=name)
    axes.set_ylim(top=1.01)
    _finish(axes, "Forward in time: trained before, scored after", "", "bot edits stopped so far")
    plots.time_axis(axes)
    return figure


def forward_table(test: Forward, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate what was stopped after the moment, each with its count and interval."""
    rows = {}
    for name, stopped in answers.items():
        rates = evaluation.stop_rates(test.later, stopped)
        interval = rates["bot_edits_stopped_interval"]
        rows[name] = {
            "bot edits": plots.format_share(rates["bot_edits_caught"], rates["bot_edits"], interval),
            "human edits": plots.format_bounded(rates, "human_edits_stopped"),
            "… without “bot” in the name": plots.format_bounded(rates, "human_edits_stopped", "_unnamed"),
            "humans": plots.format_bounded(rates, "human_user_fpr"),
        }
    return pd.DataFrame(rows).T.rename_axis("stopped by")


def bloom_errors(table: pd.DataFrame, error_rate: float) -> Figure:
    """Draw measured errors of full Bloom filters: columns `filter`, `members`, `wrong`, `trials`."""
    figure, axes = plt.subplots(figsize=(10, 4.2))
    for (name, rows), color in zip(table.groupby("filter", sort=False), _COLORS, strict=False):
        _errorbar(axes, rows["members"], rows["wrong"], rows["trials"], fmt="o-", color=color, label=name)
    axes.axhline(error_rate, color="black", ls=":", label=f"requested: {100 * error_rate:g} %")
    axes.set(xscale="log", ylim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    title = "Requested and measured error of Bloom filters (95 % intervals)"
    _finish(
        axes, title, "members (the filter is full)", "false positives: users not on the list", _FINE_PERCENT
    )
    return figure
