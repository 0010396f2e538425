"""Every share has its count and an interval: exact binomial intervals and bounds."""

from scipy.stats import beta


def clopper_pearson(part: int, whole: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided exact interval of a share.

    Parameters
    ----------
    part, whole : int
        ``part`` of ``whole`` trials succeeded.
    confidence : float, default 0.95
        How often, at the least, such an interval covers the true share.

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
    tail = (1 - confidence) / 2
    return _lower(part, whole, tail), _upper(part, whole, tail)


def upper_bound(part: int, whole: int, confidence: float = 0.95) -> float:
    """One-sided exact upper bound of a share: the true one is below it with the given confidence.

    Parameters and reference as in :func:`clopper_pearson`; 1 when nothing was tried.

    Examples
    --------
    >>> upper_bound(0, 300) < 0.01 < upper_bound(0, 298)
    True
    """
    return _upper(part, whole, 1 - confidence)


def _lower(part: int, whole: int, tail: float) -> float:
    return float(beta.ppf(tail, part, whole - part + 1)) if part > 0 else 0.0


def _upper(part: int, whole: int, tail: float) -> float:
    return float(beta.ppf(1 - tail, part + 1, whole - part)) if part < whole else 1.0
