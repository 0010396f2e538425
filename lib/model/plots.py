"""Pictures of the model and the blacklist; each function returns a figure for :func:`lib.plots.show`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve

from lib import plots
from lib.model import evaluation
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.evaluation import Forward
from lib.model.user_features import FEATURES
from lib.stats import clopper_pearson, upper_bound

_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")
_FINE_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")
_COLORS = (plots.BOT, plots.GREEN, "black", plots.PURPLE, plots.YELLOW)


def _legend_beside(axes: Axes, title: str = "") -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title=title, fontsize=9, title_fontsize=9)


def comparison_table(cross: CrossFit, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate average precision with its interval, recall and F1 of :func:`lib.model.evaluation.compare`."""
    rows = []
    for name, values in scores.items():
        metrics = evaluation.user_metrics(cross.dataset.is_bot, values, cross.seed)
        low, high = metrics["interval"]
        rows.append(
            {
                "scores by": name,
                "average precision": f"{metrics['average_precision']:.3f} ({low:.3f} to {high:.3f})",
                "recall at 0.5 % humans flagged": f"{metrics['recall_at_half_percent_fpr']:.3f}",
                "F1 of edits": f"{evaluation.edit_f1(cross.dataset, values):.3f}",
            }
        )
    return pd.DataFrame(rows)


def precision_recall(is_bot: np.ndarray, scores: Mapping[str, np.ndarray]) -> Figure:
    """Draw precision against recall; a rule that only answers yes or no is a point."""
    figure, axes = plt.subplots(figsize=(10, 4.4))
    for (name, values), color in zip(scores.items(), _COLORS, strict=False):
        precision, recall, _ = precision_recall_curve(is_bot, values)
        if len(np.unique(values)) > 2:
            axes.step(recall, precision, where="pre", color=color, lw=2, label=name)
        elif values.any():
            axes.scatter(recall[1], precision[1], s=70, color=color, marker="D", zorder=4, label=name)
    axes.axhline(
        is_bot.mean(), color=plots.GREY, ls=":", label=f"chance, majority,\nknown bots: {is_bot.mean():.3f}"
    )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall: bots that are found")
    axes.set_ylabel("precision: found that are bots")
    axes.set_title(f"Bots among {len(is_bot):,} users, split by user")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PERCENT)
    _legend_beside(axes)
    return figure


def weights_table(model: BotClassifier, top: int = 12) -> pd.DataFrame:
    """Tabulate the features with the largest weights of a linear user model, per standard deviation."""
    if not hasattr(model.user_model[-1], "coef_"):
        return pd.DataFrame({"feature": [], "weight": []})
    table = pd.DataFrame({"feature": FEATURES, "weight": model.user_model[-1].coef_[0]})
    return table.sort_values("weight", key=lambda weight: -weight.abs(), ignore_index=True).head(top).round(3)


def guarantee(cross: CrossFit, threshold: float, max_human_fpr: float) -> Figure:
    """Draw what every threshold would cost and find, and the one that was chosen."""
    is_bot = cross.dataset.is_bot
    scores = np.clip(cross.max_scores(repeats=1), 1e-4, 1 - 1e-4)
    human, bot = np.sort(scores[~is_bot]), np.sort(scores[is_bot])
    levels = np.unique(np.append(scores, threshold))
    wrong = len(human) - np.searchsorted(human, levels)
    figure, axes = plt.subplots(figsize=(10, 4.4))
    curves = (
        (1 - np.searchsorted(bot, levels) / len(bot), plots.BOT, "-", "bots found"),
        (wrong / len(human), plots.HUMAN, "-", "humans flagged"),
        ([upper_bound(int(n), len(human)) for n in wrong], plots.HUMAN, "--", "… 95 % upper bound"),
    )
    for share, color, line, label in curves:
        axes.step(levels, share, line, where="pre", color=color, lw=2, label=label)
    axes.axhline(max_human_fpr, color=plots.GREY, ls=":", label=f"MAX_HUMAN_FPR: {100 * max_human_fpr:g} %")
    axes.axvline(threshold, color="black", lw=1.2, label=f"threshold {threshold:.3f}")
    axes.set(
        xscale="logit", yscale="log", ylim=(max(0.2 / len(human), 1e-5), 1.3), xlim=(levels[0], levels[-1])
    )
    ticks = [mark for mark in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999) if levels[0] <= mark <= levels[-1]]
    axes.set_xticks(ticks, [f"{mark:g}" for mark in ticks])
    axes.minorticks_off()
    axes.set(
        xlabel="threshold on a user's highest score (log-odds)",
        ylabel="share of users",
        title="The guarantee",
    )
    axes.yaxis.set_major_formatter(_FINE_PERCENT)
    _legend_beside(axes)
    return figure


def confusion(is_bot: np.ndarray, flagged: np.ndarray) -> Figure:
    """Draw what users are and whether they are flagged."""
    cells = confusion_matrix(is_bot, flagged, labels=[False, True])
    share = cells / cells.sum(axis=1, keepdims=True).clip(min=1)
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for row, column in np.ndindex(2, 2):
        text = f"{cells[row, column]:,}\n{100 * share[row, column]:.1f} %"
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=13, color=color)
    axes.set_xticks([0, 1], ["kept", "flagged"])
    axes.set_yticks([0, 1], ["humans", "bots"])
    axes.grid(visible=False)
    axes.set_title("Users at the threshold")
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
    for (name, values), color in zip(scores.items(), _COLORS, strict=False):
        truth, predicted = calibration_curve(is_bot, values, n_bins=5)
        counts = np.histogram(values, np.linspace(0, 1, 6))[0]
        counts = counts[counts > 0]
        ends = [clopper_pearson(round(t * n), int(n)) for t, n in zip(truth, counts, strict=True)]
        spread = np.abs(np.transpose(ends) - truth)
        axes.errorbar(predicted, truth, spread, fmt="o-", color=color, capsize=3, label=name)
        below.hist(values, np.linspace(0, 1, 21).tolist(), color=color, histtype="step", lw=1.5)
    axes.set(ylabel="share of bots (95 % interval)", ylim=(-0.02, 1.02), title="What a score means")
    below.set(xlabel="score", ylabel="users", yscale="log", xlim=(0, 1))
    axes.yaxis.set_major_formatter(_PERCENT)
    _legend_beside(axes)
    return figure


def recall_by_edits(table: pd.DataFrame) -> Figure:
    """Draw how soon bots are found (:func:`lib.model.evaluation.recall_by_edits`)."""
    figure, axes = plt.subplots(figsize=(10, 4))
    axes.fill_between(table["edits"], table["low"], table["high"], color=plots.BOT, alpha=0.2, lw=0)
    label = "bots found by then, of those\nwith as many edits (95 % interval)"
    axes.plot(table["edits"], table["recall"], "o-", color=plots.BOT, label=label)
    label = "humans flagged by then,\nof all humans"
    axes.plot(table["edits"], table["humans flagged"], "o-", color=plots.HUMAN, label=label)
    axes.set(xscale="log", ylim=(-0.03, 1.1), ylabel="share of users", title="How soon a bot is found")
    ticks = [f"{edits:,}\n({bots})" for edits, bots in zip(table["edits"], table["bots"], strict=True)]
    axes.set_xticks(table["edits"].tolist(), ticks)
    axes.set_xlabel("edits of a user (in brackets: bots with as many)")
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_PERCENT)
    _legend_beside(axes)
    return figure


def errors(groups: pd.DataFrame, overall: float) -> Figure:
    """Draw the share of humans flagged in each group (:func:`lib.model.evaluation.errors_by`)."""
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.34 * len(groups)))
    place = np.arange(len(groups))
    spread = np.abs(np.vstack([groups["share"] - groups["low"], groups["high"] - groups["share"]]))
    axes.axvline(overall, color=plots.GREY, ls=":", label="all humans")
    axes.errorbar(groups["share"], place, xerr=spread, fmt="o", color=plots.HUMAN, capsize=3)
    rows = zip(groups["group"], groups["humans"], strict=True)
    axes.set_yticks(place, [f"{plots.safe_label(group, 32)} ({n:,})" for group, n in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, min(1.0, float(groups["high"].max()) * 1.05))
    axes.xaxis.set_major_formatter(_FINE_PERCENT)
    axes.set(xlabel="share of the group's humans (in brackets their number; 95 % interval)")
    axes.set_title("Humans flagged, by kind of user and by wiki")
    axes.legend(loc="upper right")
    return figure


def forward(test: Forward, answers: Mapping[str, np.ndarray]) -> Figure:
    """Draw the share of bot edits stopped so far, over the time after the moment of training."""
    bot = np.flatnonzero(test.later.flagged)
    moments = pd.to_datetime(pd.Series(test.later.times[bot]), unit="ms", errors="coerce").to_numpy()
    figure, axes = plt.subplots(figsize=(10, 4))
    for (name, stopped), color in zip(answers.items(), _COLORS, strict=False):  # the majority stops nothing
        so_far = np.cumsum(stopped[bot]) / np.arange(1, len(bot) + 1)
        label = f"{name}: {100 * so_far[-1]:.1f} %" if len(bot) else name
        axes.plot(moments, so_far, color=color, lw=2, label=label)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.set(xlabel="time (UTC)", ylabel="bot edits stopped so far")
    axes.set_ylim(top=1.01)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_title("Forward in time: trained before, scored after")
    _legend_beside(axes)
    return figure


def forward_table(test: Forward, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate what was stopped after the moment, each with its count and interval."""
    rows = []
    for name, stopped in answers.items():
        rates = evaluation.stop_rates(test.later, stopped)
        caught, bot_edits, interval = (
            rates[key] for key in ("bot_edits_caught", "bot_edits", "bot_edits_stopped_interval")
        )
        rows.append(
            {
                "stopped by": name,
                "bot edits": plots.format_share(caught, bot_edits, interval),
                "humans": plots.format_share(rates["humans_flagged"], rates["humans"]),
                "95 % upper bound": f"{100 * rates['human_user_fpr_upper95']:.2f} %",
            }
        )
    return pd.DataFrame(rows)


def bloom_errors(table: pd.DataFrame, error_rate: float) -> Figure:
    """Draw measured errors of full Bloom filters: columns `filter`, `members`, `wrong`, `trials`."""
    figure, axes = plt.subplots(figsize=(10, 4.2))
    for (name, rows), color in zip(table.groupby("filter", sort=False), _COLORS, strict=False):
        share = (rows["wrong"] / rows["trials"]).to_numpy()
        ends = [clopper_pearson(int(w), int(n)) for w, n in zip(rows["wrong"], rows["trials"], strict=True)]
        spread = np.abs(np.transpose(ends) - share)
        axes.errorbar(rows["members"], share, spread, label=name, color=color, marker="o", capsize=3)
    axes.axhline(error_rate, color="black", ls=":", label=f"requested: {100 * error_rate:g} %")
    axes.set(xscale="log", ylim=(0, None), xlabel="members (the filter is full)")
    axes.set_ylabel("users off the list taken for members")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_major_formatter(_FINE_PERCENT)
    axes.set_title("Requested and measured error of Bloom filters (95 % intervals)")
    _legend_beside(axes)
    return figure


def metrics_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Tabulate nested metrics, one row per figure."""
    flat = pd.json_normalize(dict(metrics)).iloc[0]
    return pd.DataFrame({"metric": flat.index, "value": [_figure(value) for value in flat]})


def _figure(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{end:.4g}" for end in value)
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
