"""Pictures and tables of the sample: how much, when, where and what humans and bots edit.

A function returns a figure (for :func:`lib.plots.show`) or a table. Names, titles and comments are untrusted text: in
tables :func:`lib.plots.table` escapes them, in pictures :func:`lib.plots.safe_label`.
"""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import powerlaw
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from lib import plots
from lib.model.evaluation import account_type
from lib.stats import is_bot

KINDS = ("human", "bot")
#: Namespaces that every wiki has, by number; an odd one is the talk about the even one before it.
NAMESPACES = {
    0: "articles",
    1: "talk",
    2: "users",
    3: "user talk",
    4: "project",
    5: "project talk",
    6: "files",
    10: "templates",
    14: "categories",
}
#: Patterns and their marks that reduce a comment to its template.
MASKS = (
    (r"/\*.*?\*/", "/* § */"),
    (r"\[\[[^\]]*\]\]", "[[…]]"),
    (r"\{\{[^}]*\}\}", "{{…}}"),
    (r"https?://\S+", "https://…"),
    (r"\d[\d.,:]*", "0"),
    (r"\s+", " "),
)
MIN_TAIL = 10  # values that a fitted tail must have
BIN_MINUTES = (1, 5, 10, 20, 30, 60, 180, 360, 720, 1440, 10080)
_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")
_COUNT = StrMethodFormatter("{x:,.0f}")


def to_frame(edits: pa.Table) -> pd.DataFrame:
    """Return edits as a data frame with the columns `kind` (of the user; missing where there is none) and `time`.

    Parameters
    ----------
    edits : pyarrow.Table
        In the schema :data:`lib.events.ARROW_SCHEMA`.
    """
    data = edits.to_pandas()
    data["bot"] = edits["bot"].fill_null(False).to_numpy().astype(bool)
    data["comment"] = edits["comment"].fill_null("").to_pandas()
    flags = data.groupby("user")["bot"].agg(["sum", "size"])
    kind = data["user"].map(is_bot(flags["sum"], flags["size"])).map({True: "bot", False: "human"})
    data["kind"] = pd.Categorical(kind, categories=KINDS)
    data["time"] = pd.to_datetime(data["timestamp"], unit="ms", errors="coerce")
    return data


def count_users(data: pd.DataFrame) -> pd.DataFrame:
    """Return one row per user, by name: `edits`, `flagged` (edits with the flag), `kind`, `account`."""
    users = data.groupby("user").agg(edits=("bot", "size"), flagged=("bot", "sum"), kind=("kind", "first"))
    return users.assign(account=account_type(users.index))


def overview(data: pd.DataFrame, users: pd.DataFrame) -> pd.DataFrame:
    """Count edits and users, humans and bots side by side."""
    columns = {}
    for kind in KINDS:
        some, edits = users[users["kind"] == kind], data[data["kind"] == kind]
        columns[f"{kind}s"] = {
            "users": f"{len(some):,}",
            "share of users": f"{len(some) / max(len(users), 1):.1%}",
            "edits": f"{len(edits):,}",
            "share of edits": f"{len(edits) / max(len(data), 1):.1%}",
            "edits per user, median": f"{some['edits'].median():g}" if len(some) else "none",
            "edits per user, most": f"{some['edits'].max():,}" if len(some) else "none",
            "wikis": f"{edits['wiki'].nunique():,}",
            "IP addresses": f"{int((some['account'] == 'IP').sum()):,}",
            "temporary accounts": f"{int((some['account'] == 'temporary account').sum()):,}",
        }
    return pd.DataFrame(columns)


def fit_tail(counts: np.ndarray) -> powerlaw.Fit | None:
    """Fit a discrete power law to the tail of some counts; None where there are too few or they are all alike."""
    counts = np.asarray(counts, dtype=np.int64)
    if len(counts) < MIN_TAIL or len(np.unique(counts)) < 3:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package warns of starts of the tail that it rejects
        fit = powerlaw.Fit(counts, discrete=True, verbose=0)
        usable = np.isfinite([fit.power_law.alpha, fit.xmin]).all()
    tail = counts[counts >= fit.xmin] if usable else counts[:0]
    return fit if len(tail) >= MIN_TAIL and len(np.unique(tail)) > 1 else None


def tail_table(users: pd.DataFrame, fits: dict[str, powerlaw.Fit | None]) -> pd.DataFrame:
    """Tabulate the fitted tails and how well two other laws fit them (Vuong's test: R above 0 is for the power law)."""
    rows = []
    for kind, fit in fits.items():
        if fit is None:
            rows.append({"users": f"{kind}s", "exponent": "too few to fit"})
            continue
        counts, law = users.loc[users["kind"] == kind, "edits"], fit.power_law
        tail = int((counts >= fit.xmin).sum())
        row = {
            "users": f"{kind}s",
            "exponent": f"{law.alpha:.2f} ± {law.standard_err:.2f}",
            "from edits": f"{fit.xmin:.0f}",
            "in the tail": f"{tail:,} ({tail / len(counts):.0%})",
            "Kolmogorov–Smirnov distance": f"{law.D:.3f}",
        }
        for other in ("lognormal", "exponential"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ratio, p = fit.distribution_compare("power_law", other, normalized_ratio=True)
            row[f"against {other}"] = f"R = {ratio:.2f}, p = {p:.2f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def plot_survival(users: pd.DataFrame, fits: dict[str, powerlaw.Fit | None]) -> Figure:
    """Draw the share of users who make at least so many edits, with the fitted tails."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for kind, style in zip(KINDS, ("--", ":"), strict=True):
        counts = np.sort(users.loc[users["kind"] == kind, "edits"].to_numpy())
        if not len(counts):
            continue
        values, first = np.unique(counts, return_index=True)
        axes.plot(
            values, 1 - first / len(counts), drawstyle="steps-pre", color=plots.KINDS[kind], lw=1, alpha=0.6
        )
        label = f"{kind}s ({len(counts):,})"
        axes.scatter(values, 1 - first / len(counts), s=14, color=plots.KINDS[kind], label=label, zorder=3)
        if fit := fits[kind]:
            grid = np.unique(np.geomspace(fit.xmin, max(counts[-1], fit.xmin + 1), 80).astype(int))
            share = (counts >= fit.xmin).mean() * fit.power_law.ccdf(grid)
            label = f"power law, exponent {fit.power_law.alpha:.2f}, from {fit.xmin:.0f} on"
            axes.plot(grid, share, style, color="black", lw=1.6, zorder=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="edits by one user")
    axes.set_ylabel("share of users with at least as many")
    axes.set_title("How many edits one user makes")
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_formatter(_COUNT)
    axes.legend(loc="lower left", fontsize=9)
    return figure


def gini(counts: np.ndarray) -> float:
    """Return Gini's coefficient: 0 when all have the same, towards 1 when one has all.

    Examples
    --------
    >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 0, 12]))
    (0.0, 0.75)
    """
    ordered = np.sort(np.asarray(counts, dtype=float))
    n, total = len(ordered), ordered.sum()
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * total) - (n + 1) / n) if total else 0.0


def plot_concentration(users: pd.DataFrame) -> Figure:
    """Draw Lorenz curves of the edits, and how much of all edits of their kind the busiest users make."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    left.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls=":")
    for kind in KINDS:
        counts = np.sort(users.loc[users["kind"] == kind, "edits"].to_numpy())
        if len(counts):
            share = np.concatenate([[0], np.cumsum(counts) / counts.sum()])
            label = f"{kind}s, Gini {gini(counts):.2f}"
            left.plot(np.linspace(0, 1, len(share)), share, color=plots.KINDS[kind], lw=2, label=label)
            right.plot(
                np.arange(1, len(share)), 1 - share[-2::-1], color=plots.KINDS[kind], lw=2, label=f"{kind}s"
            )
    left.set(
        xlabel="share of users, least active first", ylabel="share of their edits", xlim=(0, 1), ylim=(0, 1)
    )
    left.set_title("Lorenz curves of the edits")
    left.legend(loc="upper left")
    right.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="busiest users (number)",
        ylabel="share of the edits of their kind",
    )
    right.set_title("What the busiest make")
    right.xaxis.set_major_formatter(_COUNT)
    right.legend(loc="lower right")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(_PERCENT)
    return figure


def count_over_time(data: pd.DataFrame) -> pd.DataFrame:
    """Count edits of humans and of bots in at most about 60 bins; times far from all others are left out."""
    known = data[data["kind"].notna() & data["time"].notna()]
    known = known[plots.time_inliers(known["timestamp"])]
    minutes = (known["time"].max() - known["time"].min()).total_seconds() / 60 if len(known) else 0
    bins = next((size for size in BIN_MINUTES if minutes / size <= 60), BIN_MINUTES[-1])
    counts = known.groupby([pd.Grouper(key="time", freq=f"{bins}min"), "kind"], observed=False).size()
    return counts.unstack(fill_value=0).reindex(columns=list(KINDS), fill_value=0)


def plot_over_time(counts: pd.DataFrame) -> Figure:
    """Draw the edits over time (:func:`count_over_time`)."""
    figure, axes = plt.subplots(figsize=(10, 3.8))
    for kind in KINDS:
        color = plots.KINDS[kind]
        axes.plot(counts.index.to_numpy(), counts[kind], "o-", ms=3, lw=2, color=color, label=f"{kind}s")
    minutes = (counts.index[1] - counts.index[0]).total_seconds() / 60 if len(counts) > 1 else 1
    axes.set(ylim=(0, None), xlabel="time (UTC)", ylabel=f"edits in {minutes:.0f} min")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.set_title("Edits over the day")
    axes.legend(loc="upper left", ncols=2)
    return figure


def edit_gaps(data: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds between two edits of one user: columns `kind` and `gap`."""
    known = data[data["user"].notna()].sort_values(["user", "timestamp"], kind="stable")
    gap = known.groupby("user", sort=False)["timestamp"].diff() / 1000
    return known[["kind"]].assign(gap=gap.clip(1e-3, 1e5))[gap.notna()]


def plot_gaps(gaps: pd.DataFrame) -> Figure:
    """Draw the time between two edits of one user (:func:`edit_gaps`)."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    for kind, gap in gaps.groupby("kind", observed=True)["gap"]:
        _histogram(axes, gap, np.logspace(-3, 5, 49), str(kind), f"{kind}s ({len(gap):,})")
        axes.axvline(gap.median(), color=plots.KINDS[str(kind)], lw=1.5, ls="--")
    ticks = {
        0.001: "1 ms",
        0.1: "0.1 s",
        1: "1 s",
        10: "10 s",
        60: "1 min",
        600: "10 min",
        3600: "1 h",
        36000: "10 h",
    }
    axes.set(
        xscale="log", xlabel="time to the same user's next edit (dashed: median)", ylabel="share of the gaps"
    )
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_title("How soon a user edits again")
    if len(gaps):
        axes.set_xlim(float(gaps["gap"].quantile(0.001)) / 2, 1e5)
        axes.legend(loc="upper left")
    return figure


def _histogram(axes: Axes, values: Any, bins: np.ndarray, kind: str, label: str) -> None:
    """Draw the shares of the values in bins."""
    weights = np.full(len(values), 1 / max(len(values), 1))
    axes.hist(values, bins.tolist(), weights=weights, color=plots.KINDS[kind], alpha=0.55, label=label)
    axes.yaxis.set_major_formatter(_PERCENT)


def plot_places(data: pd.DataFrame) -> Figure:
    """Draw in which namespaces and on which wikis humans and bots edit."""
    known = data[data["kind"].notna()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    space = known["namespace"].map(NAMESPACES).fillna("others").where(known["namespace"].notna(), "unknown")
    _bars(left, space, known["kind"], "Where they edit: namespaces")
    wiki = known["wiki"].fillna("unknown").astype(str)
    _bars(right, wiki.where(wiki.isin(wiki.value_counts().index[:9]), "others"), known["kind"], "… and wikis")
    return figure


def _bars(axes: Axes, group: pd.Series, kind: pd.Series, title: str) -> None:
    """Draw the share of each group in the edits of humans and of bots, the most frequent first, the others last."""
    counts = pd.crosstab(group.to_numpy(), kind.to_numpy()).reindex(columns=list(KINDS), fill_value=0)
    order = sorted(counts.index, key=lambda name: (name == "others", -counts.loc[name].sum(), name))
    share = counts.loc[order] / counts.sum().clip(lower=1)
    for number, one in enumerate(KINDS):
        place = np.arange(len(share)) + 0.4 * number - 0.2
        axes.barh(place, share[one], 0.4, color=plots.KINDS[one], label=f"{one}s")
    axes.set_yticks(np.arange(len(share)), [plots.safe_label(name, 32) for name in order])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of the edits of their kind", title=title)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.legend(loc="lower right")


def plot_sizes(data: pd.DataFrame) -> Figure:
    """Draw the length of the comments and the size of the changes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for kind in KINDS:
        edits = data[data["kind"] == kind]
        change = edits["delta"].dropna().astype(float)
        scaled = (np.sign(change) * np.log10(1 + change.abs())).clip(-5, 5)
        _histogram(left, edits["comment"].str.len().clip(upper=299), np.arange(0, 310, 10), kind, f"{kind}s")
        _histogram(right, scaled, np.linspace(-5, 5, 61), kind, f"{kind}s")
    left.set(
        xlabel="length of the comment (characters; from 290 on together)",
        ylabel="share of edits of their kind",
    )
    left.set_title("Comments")
    left.legend(loc="upper right")
    right.set(xlabel="change of the page's size (bytes)", title="Changes")
    right.set_xticks([-4, -2, 0, 2, 4], ["−10,000", "−100", "0", "+100", "+10,000"])
    return figure


def template(comments: pd.Series) -> pd.Series:
    """Reduce comments to their templates: sections, links, templates, addresses and numbers become one mark each.

    Examples
    --------
    >>> template(pd.Series(["/* Life */ typo in [[Ada]], 3rd  time"]))[0]
    '/* § */ typo in [[…]], 0rd time'
    """
    distinct = pd.Series(comments.unique())
    masked = distinct.astype(str)
    for pattern, mark in MASKS:
        masked = masked.str.replace(pattern, mark, regex=True)
    return comments.map(dict(zip(distinct, masked.str.strip().str.slice(0, 120), strict=True)))


def count_templates(data: pd.DataFrame) -> pd.DataFrame:
    """Count the templates of comments: columns `comment's template`, `edits`, `users`, `by bots` (share)."""
    known = data[data["kind"].notna() & (data["comment"] != "")]
    known = known.assign(template=template(known["comment"]), by_bot=known["kind"] == "bot")
    groups = known.groupby("template").agg(
        edits=("by_bot", "size"), users=("user", "nunique"), bots=("by_bot", "mean")
    )
    groups = groups.reset_index().sort_values(
        ["edits", "template"], ascending=[False, True], ignore_index=True
    )
    return groups.rename(columns={"template": "comment's template", "bots": "by bots"})
