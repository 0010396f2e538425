"""Intervals of shares: exact for independent trials, by bootstrap over users for edits."""

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

CONFIDENCE = 0.95  # of every interval and bound
DRAWS = 2000
STRATA = (0, 1, 4, 19, 99, np.inf)  # ends of the groups of users by their number of edits
STRATA_NAMES = ("1", "2 to 4", "5 to 19", "20 to 99", "100 and more")
_TAIL = (1 - CONFIDENCE) / 2


def clopper_pearson(part: int, whole: int) -> tuple[float, float]:
    """Return the two-sided exact 95 % interval of a share.

    Parameters
    ----------
    part, whole : int
        ``part`` of ``whole`` trials succeeded.

    Returns
    -------
    tuple of float
        Lower and upper bound, from 0 to 1; (0, 1) when nothing was tried.

    References
    ----------
    C. J. Clopper, E. S. Pearson: The use of confidence or fiducial limits illustrated in the case of the binomial,
    Biometrika 26 (1934).

    Examples
    --------
    >>> low, high = clopper_pearson(0, 10)
    >>> low, round(high, 3)
    (0.0, 0.308)
    """
    low = float(beta.ppf(_TAIL, part, whole - part + 1)) if part > 0 else 0.0
    return low, upper_bound(part, whole, _TAIL)


def upper_bound(part: int, whole: int, tail: float = 1 - CONFIDENCE) -> float:
    """Return the one-sided exact upper bound of a share: the true one is below it with 95 % confidence.

    Parameters and reference as in :func:`clopper_pearson`; 1 when nothing was tried. The true share is above the bound
    with probability `tail`.

    Examples
    --------
    >>> upper_bound(0, 300) < 0.01 < upper_bound(0, 298)
    True
    """
    return float(beta.ppf(1 - tail, part + 1, whole - part)) if part < whole else 1.0


def bootstrap_users(parts: np.ndarray, wholes: np.ndarray, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Return the share of edits that succeeded in many bootstrap samples of the users.

    Parameters
    ----------
    parts, wholes : ndarray of int, shape (users,)
        Of each user `parts` of `wholes` edits succeeded; users without edits are skipped.
    seed : int, default 0
        Of the random numbers.
    draws : int, default 2000
        Number of samples.

    Returns
    -------
    ndarray of float, shape (draws,)
        Shares from 0 to 1; empty when there is no user.

    Notes
    -----
    Users with equal numbers are interchangeable, so the number of each kind is drawn (multinomially): the
    same distribution, and a million users cost no more than a thousand.

    References
    ----------
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap (1993), chapter 13.
    """
    kinds, users = np.unique(np.column_stack([wholes, parts])[wholes > 0], axis=0, return_counts=True)
    if not len(kinds):
        return np.empty(0)
    drawn = np.random.default_rng(seed).multinomial(users.sum(), users / users.sum(), draws) @ kinds
    return drawn[:, 1] / drawn[:, 0]


def bootstrap_ci(parts: np.ndarray, wholes: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a share of edits; the edits of one user are alike, so users are drawn, not edits.

    Parameters
    ----------
    parts, wholes : ndarray of int, shape (users,)
        Of each user `parts` of `wholes` edits succeeded.

    Returns
    -------
    tuple of float
        Percentiles of :data:`DRAWS` draws with a fixed seed, but never narrower than if edits were independent
        (:func:`clopper_pearson`): where all users of a sample are alike, the bootstrap has no variance.

    Examples
    --------
    >>> one_busy_user = bootstrap_ci(np.array([90, 1, 0]), np.array([90, 5, 5]))
    >>> [round(bound, 2) for bound in one_busy_user], [round(bound, 2) for bound in clopper_pearson(91, 100)]
    ([0.0, 1.0], [0.84, 0.96])
    """
    low, high = clopper_pearson(int(np.sum(parts)), int(np.sum(wholes)))
    drawn = bootstrap_users(parts, wholes)
    if not len(drawn):
        return low, high
    first, last = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return min(low, float(first)), max(high, float(last))


def edits_upper_bound(parts: np.ndarray, wholes: np.ndarray) -> float:
    """Return the one-sided 95 % upper bound of a share of edits; users are drawn, as in :func:`bootstrap_ci`."""
    bound = upper_bound(int(np.sum(parts)), int(np.sum(wholes)))
    drawn = bootstrap_users(parts, wholes)
    return max(bound, float(np.quantile(drawn, CONFIDENCE))) if len(drawn) else bound


def human_rates(
    stopped: np.ndarray, edits: np.ndarray, is_bot: np.ndarray, names: Collection[str]
) -> dict[str, float | int]:
    """Return how many humans are flagged and how many of their edits are stopped, as shares with upper bounds.

    Parameters
    ----------
    stopped, edits : ndarray of int, shape (users,)
        Edits of each user that are stopped, and all.
    is_bot : ndarray of bool, shape (users,)
        By the flag.
    names : collection of str
        Of the users. Keys that end in ``_unnamed`` are without those who have "bot" in theirs.
    """
    rates: dict[str, float | int] = {}
    for ending, who in (("", ~is_bot), ("_unnamed", ~is_bot & ~name_contains_bot(names))):
        humans, wrong = int(who.sum()), int((stopped[who] > 0).sum())
        rates |= {
            f"humans{ending}": humans,
            f"humans_flagged{ending}": wrong,
            f"human_user_fpr{ending}": wrong / max(humans, 1),
            f"human_user_fpr_upper95{ending}": upper_bound(wrong, humans),
            f"human_edits_stopped{ending}": float(stopped[who].sum() / max(edits[who].sum(), 1)),
            f"human_edits_stopped_upper95{ending}": edits_upper_bound(stopped[who], edits[who]),
        }
    return rates


def rates_by_activity(edits: Any, stopped: Any) -> pd.DataFrame:
    """Return how many users are flagged and how many of their edits are stopped, by how many edits they made.

    Parameters
    ----------
    edits, stopped : array or Series of int, shape (users,)
        All edits of each user, and those that are stopped.
    """
    users = pd.DataFrame({"users": 1, "edits": np.asarray(edits), "stopped": np.asarray(stopped)})
    users["flagged"] = users["stopped"] > 0
    users["edits of a user"] = pd.cut(users["edits"], STRATA, labels=STRATA_NAMES)
    grouped = users.groupby("edits of a user", observed=False)
    return grouped[["users", "flagged", "edits", "stopped"]].sum().reset_index()


def is_bot(flagged_edits: Any, edits: Any) -> Any:
    """Return whether a user is a bot: more than half of their edits carry the flag; the project's one definition.

    Parameters
    ----------
    flagged_edits, edits : int, or array or Series of int
        Edits with the flag, and all edits, of each user.

    Examples
    --------
    >>> is_bot(np.array([1, 2, 0]), np.array([2, 3, 0])).tolist()
    [False, True, False]
    """
    return 2 * flagged_edits > edits


def name_contains_bot(names: Collection[str]) -> np.ndarray:
    """Return which names contain "bot", upper case or lower case: the name rule.

    Examples
    --------
    >>> name_contains_bot(["ClueBot NG", "Abbott", "Ada"]).tolist()
    [True, True, False]
    """
    return np.array(["bot" in name.lower() for name in names], bool)
