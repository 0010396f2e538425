"""Measures of scores against the truth: arrays in; numbers, intervals and small tables out.

A score says how much a user is like a bot; ``bots`` says who is one. Nothing here knows where the scores come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lib.stats import CONFIDENCE, clopper_pearson

RESAMPLES = 1000
FPR_OF_RECALL = 0.005
_CHUNK = 50


def _counts(bots: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the bots found and the humans flagged at each different score, from the highest down.

    `weights` says how often each user counts in each resample, shape (resamples, n); one row of it gives one of each.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    found, wrong = (
        np.cumsum(np.add.reduceat((weights * who)[:, order], starts, axis=1), axis=1) for who in (bots, ~bots)
    )
    return found, wrong


def _average_precisions(bots: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    found, wrong = _counts(bots, scores, weights)
    steps = np.diff(found, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(found + wrong > 0, found / (found + wrong), 0.0)
        return (steps * precision).sum(axis=1) / found[:, -1]


def average_precision(bots: np.ndarray, scores: np.ndarray) -> float:
    """Average precision.

    Parameters
    ----------
    bots : ndarray of bool, shape (n,)
    scores : ndarray of float, shape (n,)

    Returns
    -------
    float
        ``sum over thresholds of (step in recall) * precision``, equal scores taken together, as scikit-learn does it;
        NaN where there is no bot.

    Examples
    --------
    >>> average_precision(np.array([True, False, True]), np.array([0.9, 0.8, 0.1]))
    0.8333333333333333
    """
    return float(_average_precisions(bots, scores, np.ones((1, len(bots))))[0])


def interval(
    bots: np.ndarray, scores: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Give the 95 % interval of the average precision by resampling users (percentile bootstrap).

    Parameters
    ----------
    bots, scores : ndarray of shape (n,)
    resamples : int, default 1000
    seed : int, default 0

    Returns
    -------
    tuple of float
        Lower and upper end.

    References
    ----------
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap (1993), chapter 13.
    """
    random = np.random.default_rng(seed)
    n, values = len(bots), []
    for start in range(0, resamples, _CHUNK):
        picks = random.integers(n, size=(min(_CHUNK, resamples - start), n))
        weights = np.stack([np.bincount(pick, minlength=n) for pick in picks]).astype(float)
        values.append(_average_precisions(bots, scores, weights))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(np.concatenate(values), [tail, 1 - tail])
    return float(low), float(high)


def recall_at_fpr(bots: np.ndarray, scores: np.ndarray, fpr: float = FPR_OF_RECALL) -> float:
    """Give the highest recall of a threshold at which at most a share `fpr` of the humans is flagged.

    Examples
    --------
    >>> recall_at_fpr(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.5, 0.1]), fpr=0.0)
    0.5
    """
    (found,), (wrong,) = _counts(bots, scores, np.ones((1, len(bots))))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((found * (wrong <= fpr * wrong[-1])).max() / found[-1])


def measure(bots: np.ndarray, scores: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Give the two measures of user scores that the contract asks for, the first with its interval."""
    return {
        "average_precision": average_precision(bots, scores),
        "interval": list(interval(bots, scores, seed=seed)),
        "recall_at_half_percent_fpr": recall_at_fpr(bots, scores),
    }


def rates(truth: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of a yes-or-no answer; each 0 where it has no meaning."""
    hit, told, there = int((truth & said).sum()), int(said.sum()), int(truth.sum())
    return {
        "precision": hit / told if told else 0.0,
        "recall": hit / there if there else 0.0,
        "f1": 2 * hit / (told + there) if told + there else 0.0,
    }


def precision_recall(bots: np.ndarray, scores: np.ndarray) -> pd.DataFrame:
    """Precision and recall at every threshold, from the highest down: columns threshold, precision, recall, flagged."""
    (found,), (wrong,) = _counts(bots, scores, np.ones((1, len(bots)), int))
    flagged = found + wrong
    return pd.DataFrame(
        {
            "threshold": np.unique(scores)[::-1],
            "precision": found / flagged,
            "recall": found / max(int(bots.sum()), 1),
            "flagged": flagged,
        }
    )


def confusion(bots: np.ndarray, scores: np.ndarray, threshold: float) -> pd.DataFrame:
    """Count users by what they are (rows) and what they are called (columns)."""
    said = scores >= threshold
    cells = [[int((~truth & ~said).sum()), int((~truth & said).sum())] for truth in (bots, ~bots)]
    return pd.DataFrame(cells, ["human", "bot"], ["kept", "flagged"])


def calibration(bots: np.ndarray, scores: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Compare scores with how often they came true, in bins of equal width, with exact 95 % intervals."""
    bin_ = np.minimum((scores * bins).astype(int), bins - 1)
    rows = []
    for b in range(bins):
        inside = bin_ == b
        n, true = int(inside.sum()), int(bots[inside].sum())
        if n:
            low, high = clopper_pearson(true, n)
            rows.append((b / bins, (b + 1) / bins, n, float(scores[inside].mean()), true / n, low, high))
    return pd.DataFrame(rows, columns=["from", "to", "users", "score", "share of bots", "low", "high"])


def errors_by(group: np.ndarray, bots: np.ndarray, scores: np.ndarray, threshold: float) -> pd.DataFrame:
    """Count users and errors in each group, the largest first, with exact 95 % intervals of the humans flagged.

    Parameters
    ----------
    group : ndarray of str, shape (users,)
        For example from :func:`lib.model.names.kind_of`.
    """
    said = scores >= threshold
    table = []
    for name in pd.unique(group):
        inside = group == name
        humans, there = int((inside & ~bots).sum()), int((inside & bots).sum())
        wrong, missed = int((inside & ~bots & said).sum()), int((inside & bots & ~said).sum())
        low, high = clopper_pearson(wrong, humans)
        table.append((name, humans, wrong, wrong / humans if humans else 0.0, low, high, there, missed))
    frame = pd.DataFrame(
        table, columns=["group", "humans", "humans flagged", "share", "low", "high", "bots", "bots missed"]
    )
    return frame.sort_values(["humans", "group"], ascending=[False, True], ignore_index=True)
