"""How a model is learnt: two levels, and users kept apart.

Below, a linear model says what the text of one edit is worth as evidence (hashed pieces, logistic regression). Above, a
classifier judges the features of a user's summary after 1, 2, 3, 5, 8 … edits. The upper level must see below what it
will see later: the evidence of users that the lower level has not learnt from. So the users are dealt into folds, and
the evidence of each fold comes from a lower model trained without it; to judge the whole by cross-validation, pairs of
folds are left out together (:class:`Stack`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lib.model import evidence, features
from lib.model.population import Population

FOLDS = 5
FEWEST_FOLDS = 3  # one tested, one for the evidence of the lower level, one learnt from
DEALS = 3  # how often people are dealt into folds for the threshold
TEXT_C, JUDGE_C = 30.0, 0.02
# Without the name only extremes would be left to tell some bots by, and people with tools have them too: what is
# further out than a few standard deviations says no more. With the name that would spare bots that edit very much.
BLIND_C, BLIND_END = 0.1, 5.0
TOLERANCE = 1e-8  # Newton's method takes two steps more than by default; then kernels agree to 14 decimals

#: Every fitted number and every score is rounded to so many decimals, so that figures are the same on every machine.
#: What BLAS kernels, threads and SIMD change in a solver that has converged is the 14th decimal of a coefficient, and
#: the 15th of a score (measured on five kernels, 5e-15 and 9e-15 at most). What a figure can depend on is the 3rd.
#: Without rounding, users whose scores are equal are put in an order by that last bit: ties must be ties.
DECIMALS = 6


class ModelError(ValueError):
    """There is nothing to learn from, or a model's file is missing, damaged or foreign; the message says which."""


# --- the same figures on every machine --------------------------------------------------------------------------------


def round_fitted(model: Any) -> Any:
    """Round the fitted numbers of a linear model, or of a pipeline's steps, to :data:`DECIMALS`; return the model."""
    for estimator in [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]:
        for name in ("mean_", "var_", "scale_", "coef_", "intercept_"):
            if hasattr(estimator, name):
                setattr(estimator, name, np.round(getattr(estimator, name), DECIMALS))
    return model


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Round scores to :data:`DECIMALS`, as all are that are ranked, compared with a threshold, hashed or printed."""
    return np.round(scores, DECIMALS)


def probabilities(model: Any, x: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Return a classifier's probabilities of the second class, rounded, one per row of `x`."""
    return round_scores(model.predict_proba(x)[:, 1])


# --- the two levels ---------------------------------------------------------------------------------------------------


def fit_texts(people: Population, users: np.ndarray, seed: int = 0) -> LogisticRegression:
    """Train the model of texts on some users: on the columns that occur; the weight of all others is zero.

    Parameters
    ----------
    people : Population
    users : ndarray of bool, shape (users,)
        Who is learnt from. Each user weighs the same, however many edits they made.
    seed : int, default 0

    Returns
    -------
    LogisticRegression
        Its decision on a row of :attr:`Population.texts` is what that edit's texts are worth.
    """
    rows = people.sample[users[people.user[people.sample]]]
    owner = people.user[rows]
    weight = 1.0 / np.bincount(owner, minlength=len(people))[owner]
    matrix = people.texts[rows]
    used = np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]))
    model = LogisticRegression(
        C=TEXT_C, solver="liblinear", dual=True, tol=0.01, max_iter=1000, random_state=seed
    )
    model.fit(matrix[:, used], people.taught[owner], sample_weight=weight)
    round_fitted(
        model
    )  # the dual solver calls no BLAS: its coefficients are the same on every kernel before that
    spread = np.zeros((1, matrix.shape[1]))
    spread[0, used] = model.coef_[0].astype(np.float32)
    model.coef_, model.n_features_in_ = spread, matrix.shape[1]
    return model


def new_judge(with_name: bool) -> Pipeline:
    """Make the untrained classifier of users."""
    linear = LogisticRegression(C=JUDGE_C if with_name else BLIND_C, solver="newton-cholesky", tol=TOLERANCE)
    if with_name:
        return make_pipeline(StandardScaler(), linear)
    ends = FunctionTransformer(np.clip, kw_args={"a_min": -BLIND_END, "a_max": BLIND_END})
    return make_pipeline(StandardScaler(), ends, linear)


def visible(x: np.ndarray, with_name: bool) -> np.ndarray:
    """Give the features a classifier may see: all, or those that say nothing of the name."""
    return x if with_name else x[:, ~features.OF_THE_NAME]


@dataclass(frozen=True)
class Rows:
    """Users at their checkpoints and at their last edit: what the upper level learns from and is judged on."""

    user: np.ndarray  #: shape (rows,), as the next three
    edits: np.ndarray  #: edits seen so far
    last: np.ndarray  #: True for the row of all edits
    edit: np.ndarray  #: the edit that made the row
    x: np.ndarray  #: shape (rows, len(FEATURES))

    def of(self, users: np.ndarray) -> Rows:
        """Keep the rows of some users (a mask)."""
        keep = users[self.user]
        return Rows(*(getattr(self, name)[keep] for name in ("user", "edits", "last", "edit", "x")))


def summarise(people: Population, of_texts: np.ndarray) -> Rows:
    """Fold all edits and give every checkpoint, and every user's last state.

    Parameters
    ----------
    people : Population
    of_texts : ndarray of float, shape (edits,)
        What the texts are worth as evidence.

    Returns
    -------
    Rows
        The checkpoints in order of time, then a row per user.
    """
    seen = people.bare.copy()
    seen[:, evidence.TEXT] = of_texts
    state, edit, x = features.fold(features.empty(len(people)), people.user, people.times, seen)
    last_edit = np.zeros(len(people), np.int64)
    last_edit[people.user] = np.arange(len(people.user))
    user = np.concatenate((people.user[edit], np.arange(len(people))))
    return Rows(
        user,
        np.concatenate((people.place[edit] + 1, people.edits)),
        np.arange(len(user)) >= len(edit),
        np.concatenate((edit, last_edit)),
        np.concatenate((x, features.describe(state))),
    )


def fit_judge(people: Population, rows: Rows, with_name: bool) -> Pipeline:
    """Train the upper level; the rows of a user weigh one together.

    Parameters
    ----------
    people : Population
    rows : Rows
        What is learnt from.
    with_name : bool
        Whether the name may speak.

    Returns
    -------
    Pipeline
        Judges rows of :func:`visible` features.
    """
    weight = 1.0 / np.bincount(rows.user, minlength=len(people))[rows.user]
    judge = new_judge(with_name)
    with threadpool_limits(1):  # so small a problem is slower on more threads, much slower on a busy machine
        judge.fit(
            visible(rows.x, with_name),
            people.taught[rows.user],
            **{f"{judge.steps[-1][0]}__sample_weight": weight},
        )
    return round_fitted(judge)


# --- users kept apart -------------------------------------------------------------------------------------------------


def deal(people: Population, folds: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Deal users into folds, bots and people each evenly.

    Returns
    -------
    ndarray of int, shape (users,)
        Fold of each user. No user is in two.
    """
    fold = np.empty(len(people), np.int64)
    random = np.random.default_rng(seed)
    for group in (people.bots, ~people.bots):
        members = random.permutation(np.flatnonzero(group))
        fold[members] = (np.arange(len(members)) + random.integers(folds)) % folds
    return fold


class Stack:
    """Both levels, trained with any folds of the users left out; what was trained once is kept.

    Whoever is left out is unknown to everything that comes of it. ``judge(left_out)`` learns from the users of the
    other folds, and sees each fold `j` of them through a lower level trained without `left_out` and `j`.

    Parameters
    ----------
    people : Population
    fold : ndarray of int, shape (users,)
        Fold of each user (:func:`deal`).
    seed : int, default 0
    """

    def __init__(self, people: Population, fold: np.ndarray, seed: int = 0) -> None:
        self.people, self.fold, self.seed = people, fold, seed
        self.folds = range(int(fold.max()) + 1)
        self._evidence: dict[frozenset[int], np.ndarray] = {}
        self._rows: dict[frozenset[int], Rows] = {}

    def evidence(self, left_out: frozenset[int]) -> np.ndarray:
        """Say what all texts are worth by a lower level that learnt from the users of the other folds."""
        if left_out not in self._evidence:
            texts = fit_texts(self.people, ~np.isin(self.fold, list(left_out)), self.seed)
            self._evidence[left_out] = texts.decision_function(self.people.texts)
        return self._evidence[left_out]

    def rows(self, left_out: frozenset[int]) -> Rows:
        """Give the rows of all users outside `left_out`, each fold seen by a lower level that does not know it."""
        if left_out not in self._rows:
            of_texts = np.zeros(len(self.people.user))
            for k in self.folds:
                if k not in left_out:
                    edits_of_k = self.fold[self.people.user] == k
                    of_texts[edits_of_k] = self.evidence(left_out | {k})[edits_of_k]
            rows = summarise(self.people, of_texts)
            self._rows[left_out] = rows.of(~np.isin(self.fold, list(left_out)))
        return self._rows[left_out]

    def judge(self, left_out: frozenset[int], with_name: bool = True) -> Pipeline:
        """Train the upper level on the users of the other folds."""
        return fit_judge(self.people, self.rows(left_out), with_name)

    def scores(self, with_name: bool = True) -> np.ndarray:
        """Score the rows of everybody, every user by a judge that does not know the user's fold."""
        rows = self.rows(frozenset())
        out = np.zeros(len(rows.user))
        for k in self.folds:
            test = self.fold[rows.user] == k
            if test.any():
                x = visible(rows.x[test], with_name)
                out[test] = probabilities(self.judge(frozenset({k}), with_name), x)
        return out


@dataclass(frozen=True)
class CrossValidation:
    """Scores of users by models that have learnt from other users only.

    `rows` holds every user's checkpoints and last state; `with_name` and `without_name` are the scores of those rows.
    Both come of one deal of the users into folds; ``again`` has others of the same people.
    """

    people: Population
    fold: np.ndarray
    rows: Rows
    with_name: np.ndarray
    without_name: np.ndarray
    again: tuple[CrossValidation, ...] = ()

    def scores(self, with_name: bool = True) -> np.ndarray:
        """Score of every row."""
        return self.with_name if with_name else self.without_name

    def final(self, with_name: bool = True) -> np.ndarray:
        """Score of every user judged from all their edits."""
        out = np.empty(len(self.people))
        out[self.rows.user[self.rows.last]] = self.scores(with_name)[self.rows.last]
        return out

    def highest(self, with_name: bool = True) -> np.ndarray:
        """Highest score of every user over their checkpoints: what a threshold is compared with in the stream."""
        out, seen = np.zeros(len(self.people)), ~self.rows.last
        np.maximum.at(out, self.rows.user[seen], self.scores(with_name)[seen])
        return out

    def highest_of_all_deals(self, with_name: bool = True) -> np.ndarray:
        """Highest score of every user over their checkpoints and over all deals: what the threshold is chosen by."""
        return np.max([deal.highest(with_name) for deal in (self, *self.again)], axis=0)


def cross_validate(people: Population, seed: int = 0, folds: int = FOLDS) -> CrossValidation:
    """Judge every user by a whole model (both levels) trained on the users of the other folds.

    Parameters
    ----------
    people : Population
    seed : int, default 0
    folds : int, default 5

    Returns
    -------
    CrossValidation
        The users are dealt into folds :data:`DEALS` times. The first deal is the one that is reported; the threshold is
        chosen by all.

    Raises
    ------
    ModelError
        When there are fewer bots or people than folds.
    """
    check(people, folds)
    first, *others = (_one_deal(people, folds, seed, number) for number in range(DEALS))
    return dataclasses.replace(first, again=tuple(others))


def _one_deal(people: Population, folds: int, seed: int, number: int) -> CrossValidation:
    """Deal the users anew and judge them."""
    stack = Stack(people, deal(people, folds, (seed, number)), seed)
    return CrossValidation(
        people,
        stack.fold,
        stack.rows(frozenset()),
        stack.scores(with_name=True),
        stack.scores(with_name=False),
    )


def check(people: Population, folds: int = FOLDS) -> None:
    """Refuse a population in which some fold would have no bot or no person."""
    bots = int(people.bots.sum())
    if min(bots, len(people) - bots) < folds:
        raise ModelError(
            f"To learn and to judge with {folds} folds there must be at least {folds} bots and {folds} people. "
            f"Got {bots} bots and {len(people) - bots} people. "
            "Read more of the stream in 01_stream, or raise PERCENT in 02_sample."
        )
