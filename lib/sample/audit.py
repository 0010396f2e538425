"""The sampling audit: is the sample what it says, and what can it not say?

Most functions take the table that :func:`users` makes: one row per user *read*, kept or not. So sample and population
can be compared, which no one who has only the sample can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyspark.sql import SparkSession
from scipy.stats import chisquare, contingency, fisher_exact

from lib import plots, stats

BUCKETS = 100
FIRST_PART = 0.6  # of the edits, in time: a list of bots is made from it and used on the rest
SURPRISE = 0.01  # a p-value below it is worth a closer look
LEAST_EXPECTED = 5  # Cochran's rule: below it a chi-squared test is no test


class Share(NamedTuple):
    """A share with its interval."""

    part: int  #: how many of ``whole``
    whole: int  #: all
    low: float  #: lower end of the 95 % interval
    high: float  #: upper end

    @property
    def value(self) -> float:
        """The share, from 0 to 1; 0 of nothing."""
        return self.part / self.whole if self.whole else 0.0

    def __str__(self) -> str:
        return plots.format_share(self.part, self.whole, (self.low, self.high))


def users(table: pa.Table, percent: int) -> pd.DataFrame:
    """Sum up a sample's table of users, minutes together; edits without a user are no user's.

    Parameters
    ----------
    table : pyarrow.Table
        ``Sample.users``: ``user, bucket, minute, edits, bot_edits``.
    percent : int
        Share of the users that was kept.

    Returns
    -------
    DataFrame
        ``user, bucket, edits, bot_edits, bot, kept`` by user name; ``bot``: more than half of the edits carry the flag.
    """
    named = table.to_pandas().dropna(subset=["user"])
    frame = named.groupby(["user", "bucket"], as_index=False)[["edits", "bot_edits"]].sum()
    return frame.assign(bot=frame["bot_edits"] * 2 > frame["edits"], kept=frame["bucket"] < percent)


# Shares


def shares(frame: pd.DataFrame, seed: int) -> dict[str, Share]:
    """Share of the users and of their edits that is in the sample, of humans and bots too.

    Parameters
    ----------
    frame : DataFrame
        From :func:`users`.
    seed : int
        For the bootstrap.

    Returns
    -------
    dict of Share
        ``users``, ``human users``, ``bot users``: exact binomial intervals. ``edits``, ``human edits``, ``bot edits``:
        bootstrap over users, for a user's edits come and go together.
    """
    groups = {"": frame, "human ": frame[~frame["bot"]], "bot ": frame[frame["bot"]]}
    of_users = {f"{name}users": _share_of_users(group) for name, group in groups.items()}
    of_edits = {f"{name}edits": _share_of_edits(group, seed) for name, group in groups.items()}
    return of_users | of_edits


def _share_of_users(group: pd.DataFrame) -> Share:
    part, whole = int(group["kept"].sum()), len(group)
    return Share(part, whole, *stats.clopper_pearson(part, whole))


def _share_of_edits(group: pd.DataFrame, seed: int) -> Share:
    edits = group["edits"].to_numpy()
    kept = edits * group["kept"].to_numpy(bool)
    draws = stats.bootstrap_users(kept, edits, seed)
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (0.0, 1.0)
    return Share(int(kept.sum()), int(edits.sum()), float(low), float(high))


def unevenness(frame: pd.DataFrame) -> str:
    """Say in a sentence why the share of the edits is so uncertain."""
    busiest = frame.nlargest(10, "edits")
    share = 100 * busiest["edits"].sum() / max(frame["edits"].sum(), 1)
    return (
        f"The ten busiest of {len(frame):,} users made {share:.0f} % of all edits, and {busiest['kept'].sum()} of them "
        f"are in the sample: the share of edits varies as if there were {effective_users(frame['edits']):,.0f} equally "
        "busy users."
    )


def effective_users(edits: pd.Series | np.ndarray) -> float:
    """Number of equally busy users whose edits would vary as much as these: Kish's (Σn)² / Σn².

    Parameters
    ----------
    edits : array-like of int
        Edits per user.

    Returns
    -------
    float
        From 1 (one user makes all edits) to the number of users (all are alike); 0 for none.

    References
    ----------
    L. Kish: Survey Sampling (1965), section 11.7.

    Examples
    --------
    >>> effective_users(np.array([5, 5, 5])), round(effective_users(np.array([100, 1, 1])), 2)
    (3.0, 1.04)
    """
    numbers = np.asarray(edits, dtype=float)
    return float(numbers.sum() ** 2 / (numbers**2).sum()) if len(numbers) else 0.0


# Hashing and being a bot


@dataclass(frozen=True)
class Independence:
    """Whether being kept hangs on being a bot.

    Attributes
    ----------
    table : DataFrame
        Users: rows human and bot, columns kept and left out.
    p : float
        Fisher's exact test, two-sided.
    odds_ratio, low, high : float
        Odds of a bot to be kept over a human's, conditional maximum likelihood, and its exact 95 % interval; not a
        number when there are only humans or only bots.
    """

    table: pd.DataFrame
    p: float
    odds_ratio: float
    low: float
    high: float


def independence(frame: pd.DataFrame) -> Independence:
    """Test whether bots are kept as often as humans."""
    rows = [frame[~frame["bot"]]["kept"], frame[frame["bot"]]["kept"]]
    table = pd.DataFrame(
        [[int(kept.sum()), int((~kept).sum())] for kept in rows],
        index=["human", "bot"],
        columns=["kept", "left out"],
    )
    cells = table.to_numpy()
    if (cells.sum(axis=0) == 0).any() or (cells.sum(axis=1) == 0).any():
        return Independence(table, 1.0, float("nan"), float("nan"), float("nan"))
    ratio = contingency.odds_ratio(cells[::-1])
    low, high = ratio.confidence_interval(0.95)
    return Independence(
        table, float(fisher_exact(cells).pvalue), float(ratio.statistic), float(low), float(high)
    )


@dataclass(frozen=True)
class Uniformity:
    """Whether the users spread evenly over the hash's buckets.

    Attributes
    ----------
    counts : ndarray of shape (100,)
        Users per bucket.
    groups : int
        Neighbouring buckets are put together into so many groups that each can expect five users.
    chi2, p : float
        Pearson's statistic with ``groups - 1`` degrees of freedom; p is 1 when there are too few users for a test.
    """

    counts: np.ndarray
    groups: int
    chi2: float
    p: float


def blindness(found: Independence, spread: Uniformity) -> str:
    """Say in a sentence what both tests found; a p-value below 0.01 is called by its name."""
    if np.isnan(found.odds_ratio):
        first = "There are too few users, humans only or bots only, so nothing to compare"
    else:
        verdict = "are kept as humans are" if found.p >= SURPRISE else "are NOT kept as humans are"
        ratio = f"odds ratio {found.odds_ratio:.2f} (95 % interval {found.low:.2f} to {found.high:.2f})"
        first = f"Bots {verdict}: {ratio}, Fisher's p = {found.p:.2f}"
    if spread.groups == 1:
        return f"{first}. Too few users for a test of the buckets."
    verdict = "even" if spread.p >= SURPRISE else "NOT even"
    second = f"χ² = {spread.chi2:.1f} over {spread.groups} groups, p = {spread.p:.2f}"
    return f"{first}. The buckets are {verdict}: {second}."


def uniformity(frame: pd.DataFrame) -> Uniformity:
    """Test whether the hash spreads the users evenly."""
    counts = np.bincount(frame["bucket"].to_numpy(np.int64), minlength=BUCKETS)
    groups = max(
        (g for g in (1, 2, 4, 5, 10, 20, 25, 50, 100) if counts.sum() / g >= LEAST_EXPECTED), default=1
    )
    if groups == 1:
        return Uniformity(counts, 1, 0.0, 1.0)
    test = chisquare(counts.reshape(groups, -1).sum(axis=1))
    return Uniformity(counts, groups, float(test.statistic), float(test.pvalue))


# The wrong ways


def wrong_ways(spark: SparkSession, frame: pd.DataFrame, percent: int, seed: int) -> pd.DataFrame:
    """Compare the rule with two that are often written instead.

    Parameters
    ----------
    spark : SparkSession
        Computes the signed hash as the wrong rule would.
    frame : DataFrame
        From :func:`users`.
    percent : int
        What is asked for.
    seed : int
        For drawing edits.

    Returns
    -------
    DataFrame
        A row per rule: ``users``, the share of the users with an edit in the sample; ``edits``, the share of the edits;
        ``whole``, the share of those users with two edits or more of whom all edits are there. All from 0 to 1.
    """
    edits = frame["edits"].to_numpy()
    ways = {
        f"users: pmod(xxhash64(user), 100) < {percent}": np.where(frame["kept"], edits, 0),
        f"signed hash: hash(user) % 100 < {percent}": np.where(
            signed_hash(spark, frame["user"], percent), edits, 0
        ),
        f"edits: rand() < {percent / 100:g}": np.random.default_rng(seed).binomial(edits, percent / 100),
    }
    return pd.DataFrame([_outcome(kept, edits) for kept in ways.values()], index=list(ways))


def mistakes(ways: pd.DataFrame, percent: int) -> str:
    """Say in a sentence what the two wrong rules do."""
    right, signed, drawn = ways.to_dict("records")
    return (
        f"Asked for {percent} % of the users, the signed hash gives {100 * signed['users']:.1f} %, the rule "
        f"{100 * right['users']:.1f} %. Drawing edits touches {100 * drawn['users']:.1f} % of the users; of those with "
        f"several edits {100 * drawn['whole']:.1f} % are whole."
    )


def _outcome(kept: np.ndarray, edits: np.ndarray) -> dict[str, float]:
    seen = kept > 0
    several = seen & (edits > 1)
    return {
        "users": float(seen.mean()) if len(seen) else 0.0,
        "edits": float(kept.sum() / max(edits.sum(), 1)),
        "whole": float((kept == edits)[several].mean()) if several.any() else 0.0,
    }


def signed_hash(spark: SparkSession, names: pd.Series, percent: int) -> np.ndarray:
    """Return whom ``hash(user) % 100 < percent`` selects: Spark's ``hash`` is signed, and ``%`` keeps the sign."""
    if names.empty:
        return np.zeros(0, dtype=bool)
    table = spark.createDataFrame(pd.DataFrame({"place": np.arange(len(names)), "user": names.to_numpy()}))
    chosen = (
        table.selectExpr("place", f"hash(user) % {BUCKETS} < {percent} AS chosen").toArrow().sort_by("place")
    )
    return chosen["chosen"].to_numpy()


# What a list of bots from a sample is worth


@dataclass(frozen=True)
class Coverage:
    """What share of the later bot edits a list of the bots seen first would stop, by the share of the users sampled.

    Attributes
    ----------
    percents : ndarray of shape (100,)
        1 to 100.
    low, mean, high : ndarray of shape (100,)
        5 % quantile, mean and 95 % quantile over the 100 samples of so many neighbouring buckets.
    ours : float
        The share with the sample at hand.
    full : float
        The share with all users.
    ours_bots, full_bots : int
        Length of the two lists.
    split_minute : int
        Minute since the epoch at which the first part ends.
    """

    percents: np.ndarray
    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray
    ours: float
    full: float
    ours_bots: int
    full_bots: int
    split_minute: int


def worth(found: Coverage, percent: int) -> str:
    """Say in a sentence what a list from the sample is worth."""
    if not found.full:
        return "No bot of the first 60 % of the edits edits again later: here a list would stop nothing."
    at = percent - 1
    return (
        f"The sample has {found.ours_bots} of the {found.full_bots} early bots; a list of them stops "
        f"{100 * found.ours:.1f} % of the later bot edits, one of all early bots {100 * found.full:.1f} %. Samples of "
        f"{percent} % stop {100 * found.mean[at]:.1f} % on average, 90 of 100 of them between "
        f"{100 * found.low[at]:.1f} and {100 * found.high[at]:.1f} %."
    )


def coverage(table: pa.Table, percent: int) -> Coverage:
    """Make lists of bots from samples of the first 60 % of the edits, and use them on the rest.

    Parameters
    ----------
    table : pyarrow.Table
        ``Sample.users``.
    percent : int
        Share of the users in the sample at hand.

    Returns
    -------
    Coverage
        Shares from 0 to 1; all 0 when there is no bot, or nothing after the first part.

    Notes
    -----
    A list here is perfect: each user with more than half of the first edits flagged is on it. So it is the bound for
    any model's list. Each of the 100 rotations of the buckets is a sample that another hash could have drawn.
    """
    frame = table.to_pandas().dropna(subset=["user"])
    split = _split_minute(frame)
    first = frame[frame["minute"] < split].groupby(["user", "bucket"])[["edits", "bot_edits"]].sum()
    bots = first.index[first["bot_edits"] * 2 > first["edits"]]
    later = frame[frame["minute"] >= split].groupby(["user", "bucket"])["bot_edits"].sum()
    stopped = later.reindex(bots, fill_value=0)
    by_bucket = np.zeros(BUCKETS)
    np.add.at(by_bucket, stopped.index.get_level_values("bucket").to_numpy(np.int64), stopped.to_numpy())
    by_bucket /= max(float(later.sum()), 1.0)
    rotations = _rotations(by_bucket)
    listed = bots.get_level_values("bucket") < percent
    return Coverage(
        percents=np.arange(1, BUCKETS + 1),
        low=np.quantile(rotations, 0.05, axis=1),
        mean=rotations.mean(axis=1),
        high=np.quantile(rotations, 0.95, axis=1),
        ours=float(by_bucket[:percent].sum()),
        full=float(by_bucket.sum()),
        ours_bots=int(listed.sum()),
        full_bots=len(bots),
        split_minute=split,
    )


def _split_minute(frame: pd.DataFrame) -> int:
    """Return the minute that ends the first 60 % of the edits, as near as whole minutes allow."""
    minutes = frame.groupby("minute")["edits"].sum().sort_index()
    if minutes.empty:
        return 0
    before = (minutes.cumsum() - minutes) / minutes.sum()
    return int(minutes.index.to_numpy()[np.argmin(np.abs(before - FIRST_PART))])


def _rotations(by_bucket: np.ndarray) -> np.ndarray:
    """Sum every run of neighbouring buckets on the ring: row k has the 100 runs of k + 1 buckets."""
    ring = np.concatenate([by_bucket, by_bucket])
    sums = np.concatenate([[0.0], np.cumsum(ring)])
    return np.array([sums[size : size + BUCKETS] - sums[:BUCKETS] for size in range(1, BUCKETS + 1)])
