"""The model and the blacklist in pictures: each comes as ``(figure, sentence)`` for :func:`lib.plots.show`.

The numbers are those of :mod:`lib.model.evaluation`, :mod:`lib.model.measures` and :mod:`lib.model.blacklist`, computed
on users that the model in question has not learnt from.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from lib import plots
from lib.model import evaluation
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from lib.model.evaluation import Forward, LabelNoise, account_type, name_contains_bot
from lib.stats import clopper_pearson, upper_bound

MODEL = "model"
BOTH = "model and list"
WORDS = "words of the comment"
_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")
_FINE_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")


def words(cross: CrossFit) -> np.ndarray:
    """Score users by the words of their comments as the re-implemented system does, users kept apart."""
    return evaluation.comment_model(cross.people, cross.fold)


def precision_recall(cross: CrossFit, by_words: np.ndarray, seed: int) -> tuple[Figure, str]:
    """Draw precision against recall, for the model and for what is simpler (:func:`words`)."""
    people, bots = cross.people, cross.people.bots
    curves = {
        "model, with the name": (cross.final(True), plots.BOT, "-"),
        "model, without the name": (cross.final(False), plots.GREEN, "-"),
        WORDS: (by_words, plots.PURPLE, "--"),
    }
    figure, axes = plt.subplots(figsize=(10, 4.4))
    precision = {}
    for name, (scores, color, line) in curves.items():
        curve = evaluation.precision_recall(bots, scores)
        precision[name] = evaluation.average_precision(bots, scores)
        low, high = evaluation.bootstrap_interval(bots, scores, seed=seed)
        text = f"{name}:\n{precision[name]:.3f} ({low:.3f} to {high:.3f})"
        axes.step(curve["recall"], curve["precision"], line, where="pre", color=color, lw=2, label=text)
    rule = evaluation.rates(bots, name_contains_bot(people.names))
    text = f"name rule: precision {rule['precision']:.2f},\nrecall {rule['recall']:.2f}"
    axes.scatter(rule["recall"], rule["precision"], s=70, color="black", marker="D", zorder=4, label=text)
    share = float(bots.mean())
    axes.axhline(share, color=plots.GREY, ls=":", label=f"chance, majority,\nlist of known bots: {share:.3f}")
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall: bots that are found")
    axes.set_ylabel("precision: found that are bots")
    axes.set_title(f"Bots among {len(people):,} users, users kept apart")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_PERCENT)
    _legend_beside(axes, "average precision (95 % interval)")
    return figure, (
        f"Average precision is {precision['model, with the name']:.3f} with the user's name and "
        f"{precision['model, without the name']:.3f} without it; the words of the comment alone reach "
        f"{precision[WORDS]:.3f}, and chance {share:.3f}."
    )


def confusion(cross: CrossFit, threshold: float, with_name: bool = True) -> tuple[Figure, str]:
    """Draw what users are and what they are called at the threshold."""
    bots = cross.people.bots
    cells = evaluation.confusion(bots, cross.highest(with_name), threshold).to_numpy()
    share = cells / cells.sum(axis=1, keepdims=True).clip(min=1)
    figure, axes = plt.subplots(figsize=(5.2, 3.4))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
    for row, column in np.ndindex(2, 2):
        count = f"{cells[row, column]:,}\n{100 * share[row, column]:.1f} %"
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, count, ha="center", va="center", fontsize=13, color=color)
    axes.set_xticks([0, 1], ["kept", "flagged"])
    axes.set_yticks([0, 1], ["humans", "bots"])
    axes.grid(visible=False)
    axes.set_title(f"Users at the threshold {threshold:.2f}")
    wrong, found = int(cells[0, 1]), int(cells[1, 1])
    humans, there = (int(count) for count in cells.sum(axis=1))
    return figure, (
        f"At the threshold the model finds {plots.format_share(found, there)} of the bots "
        f"and flags {plots.format_share(wrong, humans)} of the humans."
    )


def calibration(cross: CrossFit) -> tuple[Figure, str]:
    """Draw how often a score comes true."""
    figure, (axes, below) = plt.subplots(2, 1, figsize=(8, 4.8), sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls=":")
    error = {}
    for with_name, color, aside in ((True, plots.BOT, 0.004), (False, plots.GREEN, -0.004)):
        name = f"{'with' if with_name else 'without'} the name"
        scores = np.clip(cross.final(with_name), 0, 1)
        bins = evaluation.calibration(cross.people.bots, scores, bins=5)
        truth = bins["share of bots"]
        spread = np.abs(np.vstack([truth - bins["low"], bins["high"] - truth]))
        axes.errorbar(bins["score"] + aside, truth, spread, fmt="o-", color=color, capsize=3, label=name)
        below.hist(scores, np.linspace(0, 1, 21).tolist(), color=color, histtype="step", lw=1.5)
        error[name] = float((np.abs(bins["score"] - truth) * bins["users"]).sum() / bins["users"].sum())
    axes.set(ylabel="share of bots (95 % interval)", ylim=(-0.02, 1.02))
    below.set(xlabel="score", ylabel="users", yscale="log", xlim=(0, 1))
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_title("What a score means")
    _legend_beside(axes)
    told = " and ".join(f"{100 * value:.1f} points {name}" for name, value in error.items())
    return (
        figure,
        f"A score misses the share of bots among users with such scores by {told} (mean over users).",
    )


def recall_by_edits(cross: CrossFit, model: BotClassifier) -> tuple[Figure, str]:
    """Draw how soon bots are found."""
    table = evaluation.recall_by_edits(cross, model.threshold, model.with_name)
    figure, axes = plt.subplots(figsize=(10, 4))
    seen = table["edits seen"]
    axes.fill_between(seen, table["low"], table["high"], color=plots.BOT, alpha=0.2, lw=0)
    axes.plot(
        seen,
        table["recall"],
        "o-",
        color=plots.BOT,
        label="bots found by then, of those\nwith as many edits (95 % interval)",
    )
    axes.plot(
        seen,
        _humans_flagged_by(cross, model, seen),
        "o-",
        color=plots.HUMAN,
        label="humans flagged by then,\nof all humans",
    )
    for edits, recall, bots in zip(seen, table["recall"], table["bots"], strict=True):
        axes.annotate(
            f"{bots}", (edits, recall), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    axes.set(
        xscale="log", ylim=(-0.03, 1.1), xlabel="edits seen of a user (above the points: bots with as many)"
    )
    axes.set_ylabel("share of users")
    axes.set_xticks(seen.tolist(), [f"{edits:,}" for edits in seen])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_title("How soon a bot is found")
    _legend_beside(axes)
    first, last = table.iloc[0], table.iloc[-1]
    return figure, (
        f"The first edit gives away {first['found']:.0f} of {first['bots']:.0f} bots ({100 * first['recall']:.0f} %); "
        f"of those that make {plots.pluralize(last['edits seen'], 'edit')}, {100 * last['recall']:.0f} % are found by "
        "then."
    )


def errors(cross: CrossFit, threshold: float) -> tuple[Figure, str]:
    """Draw the share of humans flagged, by kind of user and by wiki."""
    people, scores = cross.people, cross.highest()
    kinds = evaluation.errors_by(account_type(people.names), people.bots, scores, threshold)
    wikis = evaluation.errors_by(evaluation.main_wiki(people), people.bots, scores, threshold).head(8)
    kinds, wikis = kinds[kinds["humans"] > 0], wikis[wikis["humans"] > 0]
    table = pd.concat([kinds, wikis], ignore_index=True)
    wrong, humans = int(kinds["humans flagged"].sum()), int(kinds["humans"].sum())
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.34 * len(table)))
    place = np.arange(len(table))
    spread = np.abs(np.vstack([table["share"] - table["low"], table["high"] - table["share"]]))
    axes.axvline(wrong / max(humans, 1), color=plots.GREY, ls=":", label="all humans")
    axes.errorbar(table["share"], place, xerr=spread, fmt="o", color=plots.HUMAN, capsize=3)
    axes.axhline(len(kinds) - 0.5, color=plots.GREY, lw=0.8)
    axes.set_yticks(
        place,
        [f"{plots.safe_label(row['group'], 32)} ({row['humans']:,})" for row in table.to_dict("records")],
    )
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, min(1.0, float(table["high"].max()) * 1.05))
    axes.xaxis.set_major_formatter(_FINE_PERCENT)
    axes.set(xlabel="share of the group's humans (in brackets their number; 95 % interval)")
    axes.set_title("Humans flagged, by kind of user and by wiki")
    axes.legend(loc="upper right")
    return figure, _apart_sentence(table, wrong, humans)


def errors_table(cross: CrossFit, threshold: float) -> pd.DataFrame:
    """Tabulate errors by kind of user and by wiki, those of the name rule beside those of the model."""
    people, scores = cross.people, cross.highest()
    rule = name_contains_bot(people.names).astype(float)
    parts = []
    for group in (account_type(people.names), evaluation.main_wiki(people)):
        model = evaluation.errors_by(group, people.bots, scores, threshold).head(8)
        names = evaluation.errors_by(group, people.bots, rule, 1.0).set_index("group").loc[model["group"]]
        parts.append(
            pd.DataFrame(
                {
                    "group": model["group"],
                    "humans": model["humans"],
                    "flagged by the model": model["humans flagged"],
                    "flagged by the name rule": names["humans flagged"].to_numpy(),
                    "bots": model["bots"],
                    "missed by the model": model["bots missed"],
                    "missed by the name rule": names["bots missed"].to_numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def threshold_table(cross: CrossFit, by_words: np.ndarray, threshold: float) -> pd.DataFrame:
    """Tabulate what the model at its threshold, and what is simpler, find and flag; users kept apart."""
    people, bots = cross.people, cross.people.bots
    answers = {
        "model, with the name, at its threshold": cross.highest(True) >= threshold,
        "name rule: “bot” in the name": name_contains_bot(people.names),
        WORDS: by_words >= evaluation.DECISION,
        "list of known bots, majority": np.zeros(len(people), bool),
    }
    rows = []
    for name, said in answers.items():
        found, wrong = int((said & bots).sum()), int((said & ~bots).sum())
        there, humans = int(bots.sum()), int((~bots).sum())
        rows.append(
            {
                "who says it": name,
                "bots found": plots.format_share(found, there),
                "humans flagged": plots.format_share(wrong, humans),
            }
        )
    return pd.DataFrame(rows)


def guarantee(cross: CrossFit, model: BotClassifier, max_human_fpr: float) -> tuple[Figure, str]:
    """Draw what every threshold would cost and find, and the one that was chosen."""
    bots, scores = cross.people.bots, np.clip(cross.highest(model.with_name), 1e-4, 1 - 1e-4)
    human = np.sort(scores[~bots])
    levels = np.unique(np.concatenate([scores, [model.threshold]]))
    wrong = len(human) - np.searchsorted(human, levels, side="left")
    upper = np.array([upper_bound(int(count), len(human)) for count in wrong])
    found = 1 - np.searchsorted(np.sort(scores[bots]), levels, side="left") / max(int(bots.sum()), 1)
    figure, axes = plt.subplots(figsize=(10, 4.4))
    axes.step(levels, found, where="pre", color=plots.BOT, lw=2, label="bots found")
    axes.step(levels, wrong / len(human), where="pre", color=plots.HUMAN, lw=2, label="humans flagged")
    axes.step(levels, upper, where="pre", color=plots.HUMAN, lw=1.5, ls="--", label="… 95 % upper bound")
    axes.axhline(max_human_fpr, color=plots.GREY, ls=":", label=f"promise: {100 * max_human_fpr:g} %")
    axes.axvline(model.threshold, color="black", lw=1.2, label=f"threshold {model.threshold:.3f}")
    axes.set(xscale="logit", yscale="log", ylim=(max(0.2 / len(human), 1e-5), 1.3))
    axes.set_xlim(max(float(levels.min()), 1e-4), min(float(levels.max()), 1 - 1e-4))
    marks = [
        mark for mark in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999) if levels.min() <= mark <= levels.max()
    ]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set(xlabel="threshold on a user's highest score (log-odds)", ylabel="share of users")
    axes.yaxis.set_major_formatter(_FINE_PERCENT)
    axes.set_title("The guarantee")
    _legend_beside(axes)
    there = int((human >= model.threshold).sum())
    return figure, (
        f"The threshold of {model.threshold:.3f} flags {there} of {len(human):,} humans in the deal that is "
        f"drawn; with 95 % confidence the true share is at most {100 * upper_bound(there, len(human)):.3g} %, "
        f"and {100 * max_human_fpr:g} % were promised."
    )


def forward_answers(people: EditDataset, ahead: Forward) -> dict[str, np.ndarray]:
    """Say which later edits would be stopped by the model and by what is simpler.

    Only the model is kept from knowing the users that it judges; the lists and the words may have seen them before.

    Returns
    -------
    dict of str to ndarray of bool, shape (later edits,)
    """
    later = ahead.later
    earlier = people.subset(people.times < ahead.at_ms)
    known = np.isin(later.names, earlier.names[earlier.bots])[later.user]
    stopped = ahead.verdicts != evaluation.KEPT
    return {
        MODEL: stopped,
        "name rule: “bot” in the name": name_contains_bot(later.names)[later.user],
        "list of the earlier bots": known,
        BOTH: stopped | known,
        WORDS: evaluation.by_words(earlier, later) >= evaluation.DECISION,
        "majority: nobody is a bot": np.zeros(len(later.user), bool),
    }


def forward_table(ahead: Forward, answers: dict[str, np.ndarray]) -> pd.DataFrame:
    """Tabulate what was stopped after the moment, each with its count and interval."""
    rows = []
    for name, stop in answers.items():
        facts = evaluation.stopped(ahead.later, np.where(stop, evaluation.DROPPED, evaluation.KEPT))
        caught = int((stop & ahead.later.flagged).sum())
        rows.append(
            {
                "who stops": name,
                "bot edits stopped": plots.format_share(
                    caught, facts["bot_edits"], facts["bot_edits_stopped_interval"]
                ),
                "humans flagged": plots.format_share(facts["humans_flagged"], facts["humans"]),
                "95 % upper bound": f"{100 * facts['human_user_fpr_upper95']:.2f} %",
            }
        )
    return pd.DataFrame(rows)


def forward(ahead: Forward, answers: dict[str, np.ndarray]) -> tuple[Figure, str]:
    """Draw the share of bot edits stopped so far, over the time after the moment of training."""
    later = ahead.later
    bot = np.flatnonzero(later.flagged)
    figure, axes = plt.subplots(figsize=(10, 4))
    colors = (plots.BOT, "black", plots.GREEN, plots.PURPLE, plots.YELLOW)
    moments = pd.to_datetime(pd.Series(later.times[bot]), unit="ms", errors="coerce").to_numpy()
    ends = {}
    for (name, stop), color in zip(answers.items(), colors, strict=False):  # the majority stops nothing
        so_far = np.cumsum(stop[bot]) / np.arange(1, len(bot) + 1)
        ends[name] = float(so_far[-1]) if len(bot) else 0.0
        axes.plot(moments, so_far, color=color, lw=2, label=f"{name}: {100 * ends[name]:.1f} %")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.set(xlabel="time (UTC)", ylabel="bot edits stopped so far")
    axes.set_ylim(top=1.01)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_title("Forward in time: learnt before, judged after")
    _legend_beside(axes)
    humans = ahead.facts["humans_flagged"]
    if not len(bot):
        return (
            figure,
            f"There are no later bot edits to stop; {humans} of {ahead.facts['humans']:,} humans are flagged.",
        )
    return figure, (
        f"Of {len(bot):,} later bot edits the model, which knows nobody at the start, stops {100 * ends[MODEL]:.1f} %, "
        f"and together with a list of the earlier bots {100 * ends[BOTH]:.1f} %; it flags {humans} of "
        f"{ahead.facts['humans']:,} humans (95 % upper bound {100 * ahead.facts['human_user_fpr_upper95']:.2f} %)."
    )


def promises(table: pd.DataFrame, error_rate: float) -> tuple[Figure, str]:
    """Draw measured against promised error over filter sizes (:func:`lib.model.build_blacklist.bloom_error_study`)."""
    figure, axes = plt.subplots(figsize=(10, 4.2))
    looks = (
        ("ours", plots.GREEN, "o"),
        ("BloomFilter", plots.HUMAN, "s"),
        ("ScalableBloomFilter, small growth", plots.BOT, "^"),
        ("ScalableBloomFilter, large growth", plots.YELLOW, "v"),
    )
    for number, (name, color, marker) in enumerate(looks):
        mine = table[table["filter"] == name]
        bounds = np.array(
            [clopper_pearson(int(w), int(n)) for w, n in zip(mine["wrong"], mine["probes"], strict=True)]
        )
        spread = np.abs(bounds.T - mine["error"].to_numpy())
        members = mine["members"] * (1 + 0.04 * (number - 1.5))  # aside, so that no interval hides another
        axes.errorbar(members, mine["error"], spread, label=name, color=color, marker=marker, capsize=3)
    axes.axhline(error_rate, color="black", ls=":", label=f"promised: {100 * error_rate:g} %")
    axes.set(xscale="log", ylim=(0, None), xlabel="members (the filter is full)")
    axes.set_ylabel("strangers taken for members")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.yaxis.set_major_formatter(_FINE_PERCENT)
    axes.set_title("What Bloom filters promise and what they do (95 % intervals)")
    _legend_beside(axes)
    worst = table.groupby("filter")["error"].max()
    scalable = max(worst["ScalableBloomFilter, small growth"], worst["ScalableBloomFilter, large growth"])
    return figure, (
        f"Promised {100 * error_rate:g} %, our filters err by at most {100 * worst['ours']:.2f} %, pybloom-live's "
        f"BloomFilter by {100 * worst['BloomFilter']:.2f} % and its ScalableBloomFilter by {100 * scalable:.2f} %."
    )


def baseline_table(cross: CrossFit, seed: int) -> pd.DataFrame:
    """Tabulate the model and what is simpler, users kept apart."""
    shown = evaluation.baselines(cross, seed).map(
        lambda cell: cell if isinstance(cell, str) else f"{cell:.3f}"
    )
    shown["average precision"] += " (" + shown["low"] + " to " + shown["high"] + ")"
    return shown.drop(columns=["low", "high"])


def _legend_beside(axes: Axes, title: str = "") -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title=title, fontsize=9, title_fontsize=9)


def _humans_flagged_by(cross: CrossFit, model: BotClassifier, seen: pd.Series) -> np.ndarray:
    """Share of all humans who have been flagged after so many edits."""
    rows, bots = cross.rows, cross.people.bots
    flagged = (cross.scores(model.with_name) >= model.threshold) & ~rows.last & ~bots[rows.user]
    first = np.full(len(bots), np.inf)
    np.minimum.at(first, rows.user[flagged], rows.edits[flagged])
    return np.array([(first[~bots] <= edits).mean() for edits in seen])


def metrics_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Tabulate nested metrics, one row per figure."""
    return pd.DataFrame([{"metric": name, "value": value} for name, value in _flat(metrics)])


def _flat(metrics: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{before}{name}.")
        elif isinstance(value, list):
            rows.append((before + name, " to ".join(f"{end:.4g}" for end in value)))
        else:
            rows.append((before + name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}"))
    return rows


def noise_tables(noise: LabelNoise) -> list[tuple[pd.DataFrame, str]]:
    """Give the tables of the label audit with their captions; long reasons are cut."""
    likely = noise.likely.assign(
        reasons=[f"{';'.join(text.split(';')[:4])}" for text in noise.likely["reasons"]]
    )
    return [
        (
            noise.both.head(10).round(3),
            f"Accounts that edit with and without the flag ({len(noise.both):,})",
        ),
        (
            noise.named.head(10).round(3),
            f"Never flagged, but the name ends in “bot” ({len(noise.named):,})",
        ),
        (likely.round(3), "The most bot-like users without a flag, and why"),
    ]


def _apart_sentence(table: pd.DataFrame, wrong: int, humans: int) -> str:
    """Name the groups whose interval does not reach the interval of all."""
    low, high = clopper_pearson(wrong, humans)
    apart = table[(table["low"] > high) | (table["high"] < low)].to_dict("records")
    share = f"{100 * wrong / max(humans, 1):.2g} %"
    if not apart:
        return f"Of all humans {share} are flagged; in no group does the interval leave that of all."
    told = ", ".join(f"{100 * row['share']:.2g} % of {row['group']}" for row in apart)
    return f"Of all humans {share} are flagged; groups apart: {told}."
