"""The look at the sample: each function makes one picture (or table) and the sentence that says what it shows.

A picture comes as ``(figure, sentence)`` for :func:`lib.plots.show`; the sentence is computed from the data of the
picture. Names, titles and comments are written by strangers: in tables :func:`lib.plots.table` escapes them, in
pictures :func:`label` takes out what matplotlib would read as a formula.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import powerlaw
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from scipy.optimize import minimize_scalar
from scipy.special import zeta

from lib import plots
from lib.model.evaluation import account_type

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
_MASKS = (
    (r"/\*.*?\*/", "/* § */"),
    (r"\[\[[^\]]*\]\]", "[[…]]"),
    (r"\{\{[^}]*\}\}", "{{…}}"),
    (r"https?://\S+", "https://…"),
    (r"\d[\d.,:]*", "0"),
    (r"\s+", " "),
)


def frame(edits: pa.Table) -> pd.DataFrame:
    """Turn edits into a data frame with the columns `kind` (of the user) and `time`.

    Parameters
    ----------
    edits : pyarrow.Table
        In the schema :data:`lib.events.ARROW_SCHEMA`.

    Returns
    -------
    DataFrame
        A user is a bot when more than half of their edits carry the flag. `kind` is missing where the user is.
    """
    data = edits.to_pandas()
    data["bot"] = edits["bot"].fill_null(False).to_numpy().astype(bool)
    data["comment"] = edits["comment"].fill_null("").to_pandas()
    flagged = data.groupby("user", dropna=True)["bot"].mean() > 0.5
    kind = data["user"].map(flagged).map({True: "bot", False: "human"})
    data["kind"] = pd.Categorical(kind, categories=KINDS)
    data["time"] = pd.to_datetime(data["timestamp"], unit="ms", errors="coerce")
    return data


def users(data: pd.DataFrame) -> pd.DataFrame:
    """Count per user.

    Returns
    -------
    DataFrame
        Indexed by user, sorted by name: `edits`, `flagged` (edits with the flag), `kind`, `account`.
    """
    known = data[data["user"].notna()]
    grouped = known.groupby("user", sort=True)
    people = grouped.agg(edits=("bot", "size"), flagged=("bot", "sum"), kind=("kind", "first"))
    return people.assign(account=account_type(people.index))


def overview(data: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Count edits and users, humans and bots side by side."""
    columns = {}
    for kind in KINDS:
        mine, some = data[data["kind"] == kind], people[people["kind"] == kind]
        counts = some["edits"]
        columns[f"{kind}s"] = {
            "users": f"{len(some):,}",
            "share of users": _percent(len(some), len(people)),
            "edits": f"{len(mine):,}",
            "share of edits": _percent(len(mine), len(data)),
            "edits per user, median": f"{counts.median():g}" if len(some) else "none",
            "edits per user, most": f"{counts.max():,}" if len(some) else "none",
            "wikis": f"{mine['wiki'].nunique():,}",
            "IP addresses": f"{int((some['account'] == 'IP').sum()):,}",
            "temporary accounts": f"{int((some['account'] == 'temporary account').sum()):,}",
        }
    return pd.DataFrame(columns)


def imbalance(data: pd.DataFrame, people: pd.DataFrame) -> str:
    """Say how unequal the two classes are."""
    bots = int((people["kind"] == "bot").sum())
    if not bots:
        return f"No user of the {len(people):,} in the sample is a bot: there is nothing to learn from."
    share = _percent(bots, len(people))
    edits = _percent(int((data["kind"] == "bot").sum()), len(data))
    return (
        f"{bots:,} of {len(people):,} users are bots ({share}), and they make {edits} of the edits: "
        f"whoever calls everybody human is right about {_percent(len(people) - bots, len(people))} of the users."
    )


def fit_tails(people: pd.DataFrame, seed: int) -> dict[str, Tail | None]:
    """Fit a power law to the edits per user, of humans and of bots."""
    return {kind: fit(people.loc[people["kind"] == kind, "edits"].to_numpy(), seed) for kind in KINDS}


def survival(people: pd.DataFrame, fits: dict[str, Tail | None]) -> tuple[Figure, str]:
    """Draw the share of users who make at least so many edits, with the fitted tails."""
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for kind in KINDS:
        counts = np.sort(people.loc[people["kind"] == kind, "edits"].to_numpy())
        if not len(counts):
            continue
        color = plots.KINDS[kind]
        values, first = np.unique(counts, return_index=True)
        share = 1 - first / len(counts)
        axes.plot(values, share, drawstyle="steps-pre", color=color, lw=1, alpha=0.6)
        axes.scatter(values, share, s=14, color=color, label=f"{kind}s ({len(counts):,})", zorder=3)
        tail = fits[kind]
        if tail is not None:
            grid = np.geomspace(tail.start, max(int(counts.max()), tail.start + 1), 80)
            name = f"power law, exponent {tail.exponent:.2f}, from {plots.pluralize(tail.start, 'edit')} on"
            style = "--" if kind == "human" else ":"
            axes.plot(grid, tail.survival(grid), style, color="black", lw=1.6, zorder=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="edits by one user")
    axes.set_ylabel("share of users with at least as many")
    axes.set_title("How many edits one user makes")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.legend(loc="lower left", fontsize=9)
    return figure, " ".join(_tail_sentence(people, kind, fits[kind]) for kind in KINDS)


def _tail_sentence(people: pd.DataFrame, kind: str, tail: Tail | None) -> str:
    counts = people.loc[people["kind"] == kind, "edits"]
    if not len(counts):
        return f"There are no {kind}s."
    begin = f"The median {kind} makes {plots.pluralize(counts.median(), 'edit')} and the busiest {int(counts.max()):,}"
    if tail is None:
        return f"{begin}; there are too few for the fit of a tail."
    verdict = "do not refute" if tail.p >= 0.1 else "refute"
    return (
        f"{begin}; the data {verdict} a power law with exponent {tail.exponent:.2f} ± {tail.error:.2f} "
        f"for the {tail.values:,} with {plots.pluralize(tail.start, 'edit')} or more ({_p(tail.p)})."
    )


def tail_table(fits: dict[str, Tail | None]) -> pd.DataFrame:
    """Tabulate the fitted tails with their goodness of fit and their rivals."""
    return pd.DataFrame([_tail_row(kind, tail) for kind, tail in fits.items()]).fillna("")


def _tail_row(kind: str, tail: Tail | None) -> dict[str, str]:
    if tail is None:
        return {"users": f"{kind}s", "exponent": "too few to fit"}
    row = {
        "users": f"{kind}s",
        "exponent": f"{tail.exponent:.2f} ± {tail.error:.2f}",
        "from edits": f"{tail.start}",
        "in the tail": f"{tail.values:,} ({100 * tail.share:.0f} %)",
        "Kolmogorov–Smirnov distance": f"{tail.distance:.3f}",
        "goodness of fit": _p(tail.p),
    }
    for rival in tail.rivals:
        if rival.p > 0.1:
            verdict = "as well"
        else:
            verdict = "worse" if rival.ratio > 0 else "better"
        row[f"{rival.name} fits"] = f"{verdict} (R = {rival.ratio:.2f}, {_p(rival.p)})"
    return row


def _p(value: float) -> str:
    return "p < 0.01" if value < 0.01 else f"p = {value:.2f}"


def gini(counts: np.ndarray) -> float:
    """Gini's coefficient: 0 when all have the same, towards 1 when one has all.

    Examples
    --------
    >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 0, 12]))
    (0.0, 0.75)
    """
    ordered = np.sort(np.asarray(counts, dtype=float))
    n = len(ordered)
    if not n or not ordered.sum():
        return 0.0
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * ordered.sum()) - (n + 1) / n)


def concentration(people: pd.DataFrame) -> tuple[Figure, str]:
    """Draw Lorenz curves of the edits, and how much of all bot edits the busiest bots make."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4))
    left.plot([0, 1], [0, 1], color=plots.GREY, lw=1, ls=":")
    coefficients = {}
    for kind in KINDS:
        counts = np.sort(people.loc[people["kind"] == kind, "edits"].to_numpy())
        if not len(counts):
            continue
        coefficients[kind] = gini(counts)
        color = plots.KINDS[kind]
        share = np.concatenate([[0], np.cumsum(counts) / counts.sum()])
        left.plot(
            np.linspace(0, 1, len(share)),
            share,
            color=color,
            lw=2,
            label=f"{kind}s, Gini {coefficients[kind]:.2f}",
        )
        top = np.cumsum(counts[::-1]) / counts.sum()
        marker = "o" if len(top) < 100 else None
        right.plot(np.arange(1, len(top) + 1), top, color=color, lw=2, marker=marker, ms=3, label=f"{kind}s")
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
    right.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    right.legend(loc="lower right")
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return figure, _concentration_sentence(people, coefficients)


def _concentration_sentence(people: pd.DataFrame, coefficients: dict[str, float]) -> str:
    unequal = " and ".join(f"{value:.2f} for {kind}s" for kind, value in coefficients.items())
    counts = people.loc[people["kind"] == "bot", "edits"].sort_values(ascending=False)
    if not len(counts):
        return f"Gini's coefficient is {unequal}; there are no bots."
    ten, all_of_them = min(10, len(counts)), int(counts.sum())
    return (
        f"The busiest bot makes {_percent(int(counts.iloc[0]), all_of_them)} of all bot edits and the busiest {ten} of "
        f"{len(counts)} make {_percent(int(counts.iloc[:ten].sum()), all_of_them)}; Gini's coefficient is {unequal}."
    )


def rhythm(data: pd.DataFrame) -> tuple[Figure, str]:
    """Draw the edits over time, humans and bots; times far from all others are left out."""
    known = data[data["kind"].notna() & data["time"].notna()]
    known = known[plots.time_inliers(known["timestamp"])]
    figure, axes = plt.subplots(figsize=(10, 3.8))
    axes.set_title("The rhythm of the day")
    if known["time"].nunique() < 2:
        return figure, "All edits were made at one moment: there is no rhythm to see."
    minutes = _bin_minutes(float((known["time"].max() - known["time"].min()).total_seconds()))
    moment = known["time"].dt.floor(f"{minutes}min")
    counts = known.groupby([moment, "kind"], observed=False).size().unstack(fill_value=0)
    counts = counts.asfreq(f"{minutes}min", fill_value=0) if len(counts) > 1 else counts
    for kind in KINDS:
        axes.plot(
            counts.index.to_numpy(), counts[kind], "o-", ms=3, lw=2, color=plots.KINDS[kind], label=f"{kind}s"
        )
    axes.set(ylim=(0, None), xlabel="time (UTC)", ylabel=f"edits in {_span(minutes)}")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.legend(loc="upper left", ncols=2)
    return figure, _rhythm_sentence(known, counts, moment, minutes)


def _rhythm_sentence(known: pd.DataFrame, counts: pd.DataFrame, moment: pd.Series, minutes: int) -> str:
    # The sample's ends cut off the first and the last.
    whole = counts.iloc[1:-1] if len(counts) > 4 else counts
    change = {
        kind: float(whole[kind].std(ddof=0) / whole[kind].mean()) for kind in KINDS if whole[kind].sum()
    }
    spread = " and ".join(f"{100 * value:.0f} % of their mean for {kind}s" for kind, value in change.items())
    told = f"The number of edits in {_span(minutes)} varies by {spread} (standard deviation)"
    if not counts["bot"].sum():
        return f"{told}."
    peak = counts["bot"].idxmax()
    then = known.loc[(moment == peak) & (known["kind"] == "bot"), "user"].value_counts()
    share = _percent(int(then.iloc[0]), int(then.sum()))
    return (
        f"{told}; when the bots are busiest, at {peak:%H:%M} UTC, one of them makes {share} of their edits."
    )


def _bin_minutes(seconds: float) -> int:
    """Bins that a reader knows, between 12 and some 60 of them."""
    for minutes in (1, 5, 10, 20, 30, 60, 180, 360, 720, 1440):
        if seconds / 60 / minutes <= 60:
            return minutes
    return 10080


def _span(minutes: int) -> str:
    if minutes % 1440 == 0:
        days = minutes // 1440
        return "one day" if days == 1 else f"{days} days"
    if minutes % 60 == 0:
        return "one hour" if minutes == 60 else f"{minutes // 60} hours"
    return "one minute" if minutes == 1 else f"{minutes} minutes"


def gaps(data: pd.DataFrame) -> tuple[Figure, str]:
    """Draw the time between two edits of one user."""
    known = data[data["user"].notna()].sort_values(["user", "timestamp"], kind="stable")
    seconds = known.groupby("user", sort=False)["timestamp"].diff() / 1000
    known = known.assign(gap=seconds.clip(1e-3, 1e5))[seconds.notna()]
    figure, axes = plt.subplots(figsize=(8, 3.8))
    middle = {}
    for kind in KINDS:
        gap = known.loc[known["kind"] == kind, "gap"]
        if len(gap):
            middle[kind] = float(gap.median())
            _histogram(axes, gap, np.logspace(-3, 5, 49), kind, f"{kind}s ({len(gap):,})")
            axes.axvline(middle[kind], color=plots.KINDS[kind], lw=1.5, ls="--")
    axes.set(
        xscale="log", xlabel="time to the same user's next edit (dashed: median)", ylabel="share of the gaps"
    )
    ticks = {
        0.001: "1 ms",
        0.01: "10 ms",
        0.1: "0.1 s",
        1: "1 s",
        10: "10 s",
        60: "1 min",
        600: "10 min",
        3600: "1 h",
    }
    axes.set_xticks([*ticks, 36000], [*ticks.values(), "10 h"])
    axes.minorticks_off()
    axes.set_title("How soon a user edits again")
    if not middle:
        return figure, "Nobody edits twice in the sample."
    axes.set_xlim(float(known["gap"].quantile(0.001)) / 2, 1e5)
    axes.legend(loc="upper left")
    told = " and ".join(f"{_time(value)} for {kind}s" for kind, value in middle.items())
    return figure, f"The median time to a user's next edit is {told}."


def _histogram(axes: Axes, values: Any, bins: np.ndarray, kind: str, name: str) -> None:
    """Draw the shares of the values in bins."""
    weights = np.full(len(values), 1 / max(len(values), 1))
    axes.hist(values, bins.tolist(), weights=weights, color=plots.KINDS[kind], alpha=0.55, label=name)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _time(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= 2 * size or unit == "seconds":
            return f"{seconds / size:.3g} {unit}"
    return ""


def places(data: pd.DataFrame) -> tuple[Figure, str]:
    """Draw in which namespaces and on which wikis humans and bots edit."""
    known = data[data["kind"].notna()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    numbers = known["namespace"]
    space = numbers.map(NAMESPACES).fillna("others").where(numbers.notna(), "unknown")
    _bars(left, space, known["kind"], "Where they edit: namespaces")
    wiki = known["wiki"].fillna("unknown").astype(str)
    _bars(right, wiki.where(wiki.isin(wiki.value_counts().index[:9]), "others"), known["kind"], "… and wikis")
    if not numbers.notna().any():
        return figure, "The sample does not tell namespaces."
    told = []
    for kind in KINDS:
        mine = known["kind"] == kind
        if mine.any():
            told.append(f"{_percent(int((numbers[mine] == 0).sum()), int(mine.sum()))} of {kind}s' edits")
    return figure, f"{' and '.join(told)} are made in articles."


def _bars(axes: Axes, group: pd.Series, kind: pd.Series, title: str) -> None:
    """Draw the share of each group in the edits of humans and of bots, the most frequent first, the others last."""
    counts = pd.crosstab(group.to_numpy(), kind.to_numpy()).reindex(columns=list(KINDS), fill_value=0)
    order = sorted(counts.index, key=lambda name: (name == "others", -counts.loc[name].sum(), name))
    share = counts.loc[order] / counts.sum().clip(lower=1)
    place = np.arange(len(share))
    for number, one in enumerate(KINDS):
        axes.barh(place + 0.4 * number - 0.2, share[one], 0.4, color=plots.KINDS[one], label=f"{one}s")
    axes.set_yticks(place, [plots.safe_label(name, 32) for name in order])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of the edits of their kind", ylabel="")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_title(title)
    axes.legend(loc="lower right")


def sizes(data: pd.DataFrame) -> tuple[Figure, str]:
    """Draw the length of the comments and the size of the changes."""
    known = data[data["kind"].notna()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    lengths = known["comment"].str.len()
    told = []
    for kind in KINDS:
        mine = known["kind"] == kind
        if not mine.any():
            continue
        _histogram(left, lengths[mine].clip(upper=299), np.arange(0, 310, 10), kind, f"{kind}s")
        change = known.loc[mine, "delta"].dropna().astype(float)
        scaled = (np.sign(change) * np.log10(1 + change.abs())).clip(-5, 5)
        _histogram(right, scaled, np.linspace(-5, 5, 61), kind, f"{kind}s")
        empty = 100 * float((lengths[mine] == 0).mean())
        told.append(f"{lengths[mine].median():.0f} characters for {kind}s ({empty:.0f} % are empty)")
    left.set(
        xlabel="length of the comment (characters; from 290 on together)",
        ylabel="share of edits of their kind",
    )
    left.set_title("Comments")
    right.set(xlabel="change of the page's size (bytes)", ylabel="")
    right.set_xticks([-4, -2, 0, 2, 4], ["−10,000", "−100", "0", "+100", "+10,000"])
    right.set_title("Changes")
    if told:
        left.legend(loc="upper right")
    return figure, f"The median comment has {' and '.join(told)}."


def template(comments: pd.Series) -> pd.Series:
    """Reduce comments to their templates: sections, links, templates, addresses and numbers become one mark each.

    Examples
    --------
    >>> template(pd.Series(["/* Life */ typo in [[Ada]], 3rd  time"]))[0]
    '/* § */ typo in [[…]], 0rd time'
    """
    distinct = pd.Series(comments.unique())
    masked = distinct.astype(str)
    for pattern, mark in _MASKS:
        masked = masked.str.replace(pattern, mark, regex=True)
    return comments.map(dict(zip(distinct, masked.str.strip().str.slice(0, 120), strict=True)))


def templates(data: pd.DataFrame, most: int = 12) -> tuple[pd.DataFrame, str]:
    """Tabulate the most frequent templates of comments and who writes them."""
    known = data[data["kind"].notna() & (data["comment"] != "")]
    known = known.assign(template=template(known["comment"]), by_bot=known["kind"] == "bot")
    groups = known.groupby("template").agg(
        edits=("by_bot", "size"), users=("user", "nunique"), bots=("by_bot", "mean")
    )
    shown = groups.reset_index().sort_values(["edits", "template"], ascending=[False, True]).head(most)
    table = pd.DataFrame(
        {
            "comment's template": shown["template"],
            "edits": [f"{edits:,}" for edits in shown["edits"]],
            "users": [f"{users:,}" for users in shown["users"]],
            "by bots": [f"{100 * share:.0f} %" for share in shown["bots"]],
        }
    ).reset_index(drop=True)
    told = []
    for kind in KINDS:
        mine = known.loc[known["kind"] == kind, "template"]
        if len(mine):
            share = _percent(mine.nunique(), len(mine))
            told.append(f"{len(mine):,} comments of {kind}s have {mine.nunique():,} templates ({share})")
    return table, f"{'; '.join(told)}." if told else "There are no comments."


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


RIVALS = ("lognormal", "exponential")
FEWEST = 10  # values that a tail must have
SAMPLES = 200  # drawn to judge the fit
STEEPEST = 8.0  # exponent looked for at most
_TABLE = 4096  # counts of a law that are drawn by looking up, not by bisection
_LARGEST = 2**50  # counts above it are no longer exact as floats


class Rival(NamedTuple):
    """Another law on the same tail."""

    name: str
    ratio: float  #: normalised log-likelihood ratio: above 0 the power law fits better
    p: float  #: chance of a ratio at least as far from 0 if both fitted equally well (Vuong's test)


class Tail(NamedTuple):
    """A discrete power law: the chance of k is proportional to ``k ** -exponent`` from `start` on."""

    exponent: float
    error: float  #: standard error of the exponent
    start: int  #: smallest count of the tail, chosen so that the fit is closest
    values: int  #: counts in the tail
    share: float  #: of all counts, those in the tail
    distance: float  #: Kolmogorov and Smirnov's distance between data and fit
    p: float  #: chance of a distance at least as large if the tail were this power law
    rivals: tuple[Rival, ...]

    def survival(self, counts: np.ndarray) -> np.ndarray:
        """Share of all counts that the fit expects at `counts` or above, for counts in the tail."""
        return self.share * _survival(np.asarray(counts, dtype=float), self.exponent, self.start)


def fit(counts: np.ndarray, seed: int = 0) -> Tail | None:
    """Fit a power law to the tail of some counts.

    Parameters
    ----------
    counts : ndarray of int, shape (n,)
        Each at least 1.
    seed : int
        For the samples drawn to judge the fit.

    Returns
    -------
    Tail or None
        None when the tail has fewer than `FEWEST` values or they are all alike: nothing can then be said.

    Examples
    --------
    >>> tail = fit(np.random.default_rng(0).zipf(2.5, 2000))
    >>> abs(tail.exponent - 2.5) < 3 * tail.error and tail.p > 0.05
    True
    >>> fit(np.array([1, 1, 1])) is None
    True
    """
    counts = np.asarray(counts, dtype=np.int64)
    if len(counts) < FEWEST or len(np.unique(counts)) < 3:
        return None
    with warnings.catch_warnings():
        # The package warns of rival laws that cannot be fitted: they are left out below.
        warnings.simplefilter("ignore")
        fitted = powerlaw.Fit(counts, discrete=True, verbose=0)
        law = fitted.power_law
        if not math.isfinite(law.alpha) or not math.isfinite(fitted.xmin):
            return None
        tail = counts[counts >= fitted.xmin]
        if len(tail) < FEWEST or len(np.unique(tail)) < 2:
            return None
        rivals = tuple(_compare(fitted, name) for name in RIVALS)
        error = float(law.standard_err)
    return Tail(
        exponent=float(law.alpha),
        error=error,
        start=int(fitted.xmin),
        values=len(tail),
        share=len(tail) / len(counts),
        distance=_distance(tail, float(law.alpha), int(fitted.xmin)),
        p=_chance(tail, float(law.alpha), int(fitted.xmin), np.random.default_rng(seed)),
        rivals=tuple(rival for rival in rivals if math.isfinite(rival.ratio) and math.isfinite(rival.p)),
    )


def _compare(fitted: powerlaw.Fit, name: str) -> Rival:
    ratio, p = fitted.distribution_compare("power_law", name, normalized_ratio=True)
    return Rival(name, float(ratio), float(p))


def _survival(counts: np.ndarray, exponent: float, start: int) -> np.ndarray:
    return zeta(exponent, counts) / zeta(exponent, start)


def _distance(tail: np.ndarray, exponent: float, start: int) -> float:
    values, times = np.unique(tail, return_counts=True)
    below = np.cumsum(times) / len(tail)
    return float(np.abs(below - (1 - _survival(values + 1.0, exponent, start))).max())


def _chance(tail: np.ndarray, exponent: float, start: int, rng: np.random.Generator) -> float:
    """Share of samples of the fitted law, each fitted again, that lie at least as far from their own fit.

    The start of the tail stays as it was found, which leans towards a large value: a small one speaks clearly.
    """
    observed = _distance(tail, exponent, start)
    further = 0
    for _ in range(SAMPLES):
        sample = _draw(exponent, start, rng.random(len(tail)))
        further += _distance(sample, _exponent(sample, start), start) >= observed
    return further / SAMPLES


def _draw(exponent: float, start: int, uniform: np.ndarray) -> np.ndarray:
    """Counts of the discrete power law: the largest k that is reached or passed with a chance of at least `uniform`."""
    known = _survival(np.arange(start + 1.0, start + _TABLE), exponent, start)
    counts = start + len(known) - np.searchsorted(known[::-1], uniform, side="left")
    far = counts == start + len(known)
    counts[far] = _draw_far(exponent, start, uniform[far], low=float(start + len(known)))
    return counts


def _draw_far(exponent: float, start: int, uniform: np.ndarray, low: float) -> np.ndarray:
    """The same by bisection, for counts from `low` on."""
    below = np.full(len(uniform), low)
    above = 2 * below
    while (rising := (_survival(above, exponent, start) >= uniform) & (above < _LARGEST)).any():
        below[rising] = above[rising]
        above[rising] *= 2
    while (open_ := above - below > 1).any():
        middle = np.floor((below + above) / 2)
        reached = _survival(middle, exponent, start) >= uniform
        below = np.where(open_ & reached, middle, below)
        above = np.where(open_ & ~reached, middle, above)
    return below.astype(np.int64)


def _exponent(sample: np.ndarray, start: int) -> float:
    """Most likely exponent of a discrete power law."""
    mean_log = float(np.log(sample).mean())
    found = minimize_scalar(
        lambda exponent: math.log(zeta(exponent, start)) + exponent * mean_log,
        bounds=(1.01, STEEPEST),
        method="bounded",
    )
    return float(found.x)
