"""The sampling audit: is the sample what it should be, and what can it not contain?

Most functions take the table that :func:`users` returns: one row per user *read*, kept or not. So the sample can be
compared with its population.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib import plots, stats

BUCKETS = 100
FIRST_PART = 0.6  # of the edits, in time: a list of bots is made from it and used on the rest


def users(by_minute: pd.DataFrame) -> pd.DataFrame:
    """Return one row per user; edits without a user belong to none.

    Parameters
    ----------
    by_minute : DataFrame
        ``SampleWriter.users``: ``user, minute, edits, bot_edits, kept_edits``.

    Returns
    -------
    DataFrame
        ``user, edits, bot_edits, kept_edits, bot, kept`` by user name; ``bot``: more than half of the edits carry the
        flag; ``kept``: an edit of the user is in the sample.
    """
    frame = by_minute.groupby("user", as_index=False)[["edits", "bot_edits", "kept_edits"]].sum()
    return frame.assign(bot=stats.is_bot(frame["bot_edits"], frame["edits"]), kept=frame["kept_edits"] > 0)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of the users and of their edits that are in the sample.

    Parameters
    ----------
    frame : DataFrame
        From :func:`users`.

    Returns
    -------
    DataFrame
        Rows ``users``, ``human users``, ``bot users`` with exact binomial intervals, and ``edits``, ``human edits``,
        ``bot edits`` with a bootstrap over users, because the edits of a user are kept or not together. Columns
        ``part, whole`` (counts), ``low, high`` (95 % interval, from 0 to 1), ``text`` (all four).
    """
    groups = {"": frame, "human ": frame[~frame["bot"]], "bot ": frame[frame["bot"]]}
    rows: dict[str, tuple[int, int, float, float]] = {}
    for name, group in groups.items():
        part = int(group["kept"].sum())
        rows[f"{name}users"] = (part, len(group), *stats.clopper_pearson(part, len(group)))
    for name, group in groups.items():
        kept, edits = group["kept_edits"].to_numpy(), group["edits"].to_numpy()
        rows[f"{name}edits"] = (int(kept.sum()), int(edits.sum()), *stats.bootstrap_ci(kept, edits))
    texts = [plots.format_share(part, whole, (low, high)) for part, whole, low, high in rows.values()]
    columns = ["part", "whole", "low", "high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).assign(text=texts)


def effective_users(edits: pd.Series | np.ndarray) -> float:
    """Return the number of equally busy users whose edits would vary as much as these: Kish's (Σn)² / Σn².

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


def compare_rules(rules: Mapping[str, pd.Series | np.ndarray], edits: pd.Series) -> pd.DataFrame:
    """Compare what sampling rules keep.

    Parameters
    ----------
    rules : mapping of array-like of int, shape (users,)
        Of each rule, how many of each user's edits it keeps.
    edits : Series of int, shape (users,)
        Edits of each user.

    Returns
    -------
    DataFrame
        A row per rule: ``users``, the share of the users with an edit in the sample; ``edits``, the share of the edits;
        ``whole``, the share of those users with two edits or more of whom all edits are there. All from 0 to 1.
    """
    numbers = edits.to_numpy()
    rows = []
    for kept in map(np.asarray, rules.values()):
        several = (kept > 0) & (numbers > 1)
        rows.append(
            {
                "users": float((kept > 0).mean()) if len(kept) else 0.0,
                "edits": float(kept.sum() / max(numbers.sum(), 1)),
                "whole": float((kept == numbers)[several].mean()) if several.any() else 0.0,
            }
        )
    return pd.DataFrame(rows, list(rules))


def early_bots(by_minute: pd.DataFrame) -> pd.DataFrame:
    """Return the bots of the first 60 % of the edits, and what a list of them would stop later.

    Parameters
    ----------
    by_minute : DataFrame
        ``SampleWriter.users``.

    Returns
    -------
    DataFrame
        By user: ``kept``, whether the user is in the sample, and ``stopped``, the user's share of the later bot edits,
        from 0 to 1. A bot here is a user with more than half of the *first* edits flagged.
    """
    frame = by_minute.dropna(subset=["user"])
    minutes = frame.groupby("minute")["edits"].sum()
    before = (minutes.cumsum() - minutes) / minutes.sum()
    split = (before - FIRST_PART).abs().idxmin() if len(minutes) else 0  # as near as minutes allow
    is_first = frame["minute"] < split
    first = frame[is_first].groupby("user")[["edits", "bot_edits", "kept_edits"]].sum()
    later = frame[~is_first].groupby("user")["bot_edits"].sum()
    bots = first[stats.is_bot(first["bot_edits"], first["edits"])]
    stopped = later.reindex(bots.index, fill_value=0) / max(later.sum(), 1)
    return pd.DataFrame({"kept": bots["kept_edits"] > 0, "stopped": stopped})


def coverage(stopped: pd.Series, buckets: pd.Series) -> pd.DataFrame:
    """Return what share of the later bot edits a list of the bots in a sample stops, by the size of the sample.

    Parameters
    ----------
    stopped : Series of float
        Share of the later bot edits of each bot, from :func:`early_bots`.
    buckets : Series of int
        Each bot's bucket, from 0 to 99.

    Returns
    -------
    DataFrame
        Rows 1 to 100 (% of the users); ``low``, ``mean`` and ``high``: 5 % quantile, mean and 95 % quantile over the
        100 samples of so many neighbouring buckets.

    Notes
    -----
    A list here has all bots of its sample and no one else, so it is the bound for any model's list. Each of the 100
    rotations of the buckets is a sample that another hash could have drawn.
    """
    by_bucket = np.bincount(buckets, stopped, BUCKETS)
    sums = np.concatenate([[0.0], np.cumsum(np.tile(by_bucket, 2))])
    sizes = np.arange(1, BUCKETS + 1)
    samples = np.array([sums[size : size + BUCKETS] - sums[:BUCKETS] for size in sizes])
    low, high = np.quantile(samples, [0.05, 0.95], axis=1)
    return pd.DataFrame({"low": low, "mean": samples.mean(axis=1), "high": high}, index=sizes)
