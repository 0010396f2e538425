"""The threshold: the lowest that keeps a promise to people."""

import numpy as np
from scipy.stats import binom

from lib.stats import CONFIDENCE

MAX_HUMAN_FPR = 0.01


class NoHonestThreshold(ValueError):
    """No threshold can promise the wanted share of wrongly flagged people with so few people to learn from."""


def choose_threshold(human_scores: np.ndarray, max_human_fpr: float = MAX_HUMAN_FPR) -> float:
    """Choose the lowest threshold that promises that few people are flagged, with 95 % confidence.

    The order-statistic rule of Neyman-Pearson classification: with the threshold at the k-th smallest of n scores of
    people who were not learnt from, the true share of people above it is more than `max_human_fpr` with a probability
    of at most ``P(Binomial(n, max_human_fpr) <= n - k)``. The smallest k for which that is at most ``1 - CONFIDENCE``
    is taken.

    Parameters
    ----------
    human_scores : ndarray of float, shape (n,)
        One score per person, by models that have not learnt from them: for judging in the stream, their highest.
    max_human_fpr : float, default 0.01
        Largest share of people that may be flagged.

    Returns
    -------
    float
        Flag a user whose score is at least this. It lies just above the k-th smallest score.

    Raises
    ------
    NoHonestThreshold
        When even a threshold above all scores would not be proof enough.

    References
    ----------
    X. Tong, Y. Feng, J. J. Li: Neyman-Pearson classification algorithms and NP receiver operating characteristics,
    Science Advances 4 (2018), proposition 1.

    Examples
    --------
    >>> scores = np.arange(1000) / 1000
    >>> threshold = choose_threshold(scores, 0.01)
    >>> int((scores >= threshold).sum())
    4
    >>> choose_threshold(scores, 0.0001)
    Traceback (most recent call last):
    lib.model.threshold.NoHonestThreshold: MAX_HUMAN_FPR must be at least 0.00299 to be promised with 95 % confidence \
from 1000 people. Got 0.0001, which needs 29956 people. Raise MAX_HUMAN_FPR, or sample more people (PERCENT in \
02_sample).
    """
    scores = np.sort(np.asarray(human_scores, float))
    n = len(scores)
    above = np.arange(n)  # how many people stay above the threshold
    honest = np.flatnonzero(binom.cdf(above, n, max_human_fpr) <= 1 - CONFIDENCE) if n else np.empty(0, int)
    if len(honest) == 0:
        raise NoHonestThreshold(_no_threshold(n, max_human_fpr))
    return float(np.nextafter(scores[n - 1 - honest[-1]], np.inf))


def _no_threshold(n: int, max_human_fpr: float) -> str:
    floor = 1 - (1 - CONFIDENCE) ** (1 / n) if n else 1.0
    needed = (
        int(np.ceil(np.log(1 - CONFIDENCE) / np.log1p(-max_human_fpr))) if 0 < max_human_fpr < 1 else None
    )
    needs = f"which needs {needed} people" if needed else "which no number of people can prove"
    return (
        f"MAX_HUMAN_FPR must be at least {floor:.3g} to be promised with {100 * CONFIDENCE:g} % confidence from "
        f"{n} people. Got {max_human_fpr:g}, {needs}. "
        "Raise MAX_HUMAN_FPR, or sample more people (PERCENT in 02_sample)."
    )
