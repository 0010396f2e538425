"""Pictures and tables of the sample: how much, when, where and what humans and bots edit.

A function returns a figure (for :func:`lib.plots.show`) or a table. Names, titles and comments are untrusted text:
:func:`lib.plots.table` escapes them, and no picture has them.
"""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import powerlaw
import pyarrow as pa
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter, StrMethodFormatter

from lib import plots
from lib.model.evaluation import account_type
from lib.stats import is_bot
from lib.stream.sample_day import NAMESPACES

KINDS = ("human", "bot")
#: Names of the namespaces by number; of two names the first.
SPACES = {number: name for name, number in reversed(NAMESPACES["*"].items())}
#: Patterns and their marks that reduce a comment to its template.
MASKS = {
    r"/\*.*?\*/": "/* § */",
    r"\[\[[^\]]*\]\]": "[[…]]",
    r"\{\{[^}]*\}\}": "{{…}}",
    r"https?://\S+": "https://…",
    r"\d[\d.,:]*": "0",
    r"\s+": " ",
}
MIN_TAIL = 10  # values that a fitted tail must have
BINS = 60  # of a picture over time
GAP_TICKS = {0.001: "1 ms", 0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3600: "1 h"}
_PERCENT = PercentFormatter(1, decimals=0, symbol=" %")


def to_frame(edits: pa.Table) -> pd.DataFrame:
    """Return edits as a data frame, with the columns `kind`, `time` and `gap` added.

    Parameters
    ----------
    edits : pyarrow.Table
        In the schema :data:`lib.events.ARROW_SCHEMA`, by time.

    Returns
    -------
    DataFrame
        `kind` is the user's, "human" or "bot" (missing where there is no user); `gap` is the time since the same user's
        edit before, in seconds.
    """
    data = edits.to_pandas()
    data["bot"] = edits["bot"].fill_null(False).to_numpy().astype(bool)
    data["comment"] = edits["comment"].fill_null("").to_pandas()
    by_user = data.groupby("user")
    kind = is_bot(by_user["bot"].transform("sum"), by_user["bot"].transform("size"))
    data["kind"] = pd.Categorical(np.where(kind, "bot", "human"), KINDS)
    data.loc[data["user"].isna(), "kind"] = None
    data["time"] = pd.to_datetime(data["timestamp"], unit="ms", errors="coerce")
    data["gap"] = (by_user["timestamp"].diff() / 1000).clip(1e-3, 1e5)
    return data


def count_users(data: pd.DataFrame) -> pd.DataFrame:
    """Return one row per user, by name: `edits`, `flagged` (edits with the flag), `kind`, `account`."""
    users = data.groupby("user").agg(edits=("bot", "size"), flagged=("bot", "sum"), kind=("kind", "first"))
    return users.assign(account=account_type(users.index))


def fit_tail(counts: np.ndarray) -> powerlaw.Fit | None:
    """Fit a discrete power law to the tail of some counts; None where there are too few or they are all alike."""
    counts = np.asarray(counts, dtype=np.int64)
    if len(counts) < MIN_TAIL or len(np.unique(counts)) < 3:
        return None
    with warnings.catch_warnings(action="ignore"):  # the package warns of starts of the tail that it rejects
        try:
            fit = powerlaw.Fit(counts, discrete=True, verbose=0)
            usable = np.isfinite([fit.power_law.alpha, fit.xmin]).all()
        except ValueError:  # no start of a tail leaves enough, as where nobody has made more than three edits
            return None
    return fit if usable and (counts >= fit.xmin).sum() >= MIN_TAIL else None


def tail_table(fits: dict[str, powerlaw.Fit | None]) -> pd.DataFrame:
    """Tabulate the fitted tails and how well two other laws fit them (Vuong's test: R above 0 is for the power law)."""
    rows = []
    for kind, fit in fits.items():
        if fit is None:
            rows.append({"users": f"{kind}s", "exponent": "too few to fit"})
            continue
        law = fit.power_law
        row = {
            "users": f"{kind}s",
            "exponent": f"{law.alpha:.2f} ± {law.standard_err:.2f}",
            "from edits": f"{fit.xmin:.0f}",
            "in the tail": f"{len(fit.data):,} ({len(fit.data) / len(fit.data_original):.0%})",
            "Kolmogorov–Smirnov distance": f"{law.D:.3f}",
        }
        for other in ("lognormal", "exponential"):
            with warnings.catch_warnings(action="ignore"):
                ratio, p = fit.distribution_compare("power_law", other, normalized_ratio=True)
            row[f"against {other}"] = f"R = {ratio:.2f}, p {'< 0.01' if p < 0.005 else f'= {p:.2f}'}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def plot_survival(users: pd.DataFrame, fits: dict[str, powerlaw.Fit | None]) -> Figure:
    """Draw the share of users who make at least so many edits, with the fitted tails."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for kind, style in zip(KINDS, ("--", ":"), strict=True):
        counts = users.loc[users["kind"] == kind, "edits"]
        at_least = counts.value_counts().sort_index(ascending=False).cumsum() / max(len(counts), 1)
        axes.plot(at_least, "o", ms=4, color=plots.KINDS[kind], label=f"{kind}s ({len(counts):,})")
        if fit := fits[kind]:
            grid = np.unique(np.geomspace(fit.xmin, max(counts.max(), fit.xmin + 1), 80).astype(int))
            share = (counts >= fit.xmin).mean() * fit.power_law.ccdf(grid)
            label = f"power law, exponent {fit.power_law.alpha:.2f}, from {fit.xmin:.0f} on"
            axes.plot(grid, share, style, color="black", label=label)
    axes.set(xscale="log", yscale="log", xlabel="edits by one user", title="How many edits one user makes")
    axes.set_ylabel("share of users with at least as many")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend()
    return figure


def plot_over_time(data: pd.DataFrame) -> Figure:
    """Draw the number of edits over time; times far from all others are skipped."""
    known = data[plots.time_inliers(data["timestamp"])]
    figure, axes = plt.subplots(figsize=(10, 3.8))
    options = {"stat": "count", "element": "step", "fill": False, "lw": 1.5, "alpha": 1}
    _histogram(axes, known, x="time", bins=BINS, **options)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set(ylabel=f"edits in 1/{BINS} of the time", title="Edits over time", ylim=(0, None))
    plots.time_axis(axes)
    return figure


def plot_gaps(data: pd.DataFrame) -> Figure:
    """Draw the time between two edits of one user."""
    figure, axes = plt.subplots(figsize=(8, 3.8))
    _histogram(axes, data, x="gap", bins=np.logspace(-3, 5, 49).tolist())
    for kind, median in data.groupby("kind", observed=True)["gap"].median().dropna().items():
        axes.axvline(median, color=plots.KINDS[str(kind)], lw=1.5, ls="--")
    axes.set(xscale="log", xlabel="time to the same user's next edit (dashed: median)")
    axes.set_xticks(list(GAP_TICKS), list(GAP_TICKS.values()))
    axes.set_xlim(float(np.nanmin([*data["gap"], 1])) / 2, 1e5)
    axes.minorticks_off()
    axes.set(ylabel="share of the gaps", title="How soon a user edits again")
    return figure


def _histogram(axes: Axes, data: pd.DataFrame, **columns: Any) -> None:
    """Draw a histogram of humans and one of bots, in shares of the edits of their kind."""
    options: dict[str, Any] = {"stat": "probability", "common_norm": False, "lw": 0, "alpha": 0.55}
    column = columns.get("x") or columns["y"]
    known = data[data["kind"].notna() & data[column].notna()]
    if len(known):  # seaborn has no picture of nothing
        sns.histplot(known, hue="kind", palette=plots.KINDS, ax=axes, **options | columns)
        sns.move_legend(axes, "best" if "x" in columns else "center right")  # the longest bars lie at the top
    shares = axes.yaxis if "x" in columns else axes.xaxis
    shares.set_major_formatter(_PERCENT)
    shares.set_label_text("share of the edits of their kind")


def plot_places(data: pd.DataFrame) -> Figure:
    """Draw in which namespaces and on which wikis humans and bots edit, the most frequent ten."""
    space = data["namespace"].map(SPACES).where(data["namespace"].notna(), "unknown")
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2))
    for axes, values, title in zip(panels, (space, data["wiki"]), ("Namespaces", "Wikis"), strict=True):
        names = values.value_counts(sort=False).sort_values(ascending=False, kind="stable").index[:9]
        labels = {name: plots.safe_label(name) for name in names}
        order = [*dict.fromkeys(labels.values()), "others"]
        place = pd.Categorical(values.map(labels).fillna("others"), order)
        _histogram(axes, data.assign(place=place), y="place", multiple="dodge", shrink=0.8, alpha=1)
        axes.set(ylabel="", title=title)
        axes.grid(axis="y", visible=False)
    return figure


def template(comments: pd.Series) -> pd.Series:
    """Reduce comments to their templates: sections, links, templates, addresses and numbers become one mark each.

    Examples
    --------
    >>> template(pd.Series(["/* Life */ typo in [[Ada]], 3rd  time"]))[0]
    '/* § */ typo in [[…]], 0rd time'
    """
    # MediaWiki's longest comment has 500 characters; the patterns' time grows with the square of the length.
    return comments.str.slice(0, 1000).replace(MASKS, regex=True).str.strip().str.slice(0, 120)


def count_templates(data: pd.DataFrame) -> pd.DataFrame:
    """Count the templates of comments: columns `comment's template`, `edits`, `users`, `share by bots`."""
    known = data[data["kind"].notna() & (data["comment"] != "")]
    known = known.assign(template=template(known["comment"]), by_bot=known["kind"] == "bot")
    by_template = known.groupby("template")
    counts = by_template.agg(edits=("by_bot", "size"), users=("user", "nunique"), bots=("by_bot", "mean"))
    counts = counts.sort_values("edits", ascending=False, kind="stable").reset_index()  # equal ones by name
    return counts.rename(columns={"template": "comment's template", "bots": "share by bots"})
