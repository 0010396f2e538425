"""Heavy tails: fit a power law to counts, say how well it fits, and whether another law fits better.

The method is that of Clauset, Shalizi and Newman; the fits are made by the package ``powerlaw``.

References
----------
A. Clauset, C. R. Shalizi, M. E. J. Newman: Power-law distributions in empirical data, SIAM Review 51 (2009).
J. Alstott, E. Bullmore, D. Plenz: powerlaw, a Python package for analysis of heavy-tailed distributions,
PLOS ONE 9 (2014).
Q. H. Vuong: Likelihood ratio tests for model selection and non-nested hypotheses, Econometrica 57 (1989).
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import powerlaw
from scipy.optimize import minimize_scalar
from scipy.special import zeta

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
