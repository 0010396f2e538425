"""The model: who is a bot, judged from the sequence of a user's edits.

Two levels. Below, a linear model says what the text of one edit is worth as evidence (hashed pieces, logistic
regression). Above, a classifier judges the features of a user's summary after 1, 2, 3, 5, 8 … edits. The upper level
must see below what it will see later: the evidence of users that the lower level has not learnt from. So the users are
dealt into folds, and the evidence of each fold comes from a lower model trained without it; to judge the whole by
cross-validation, pairs of folds are left out together (:class:`Stack`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import sklearn
import skops
import skops.io
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lib import manifest, paths
from lib.train import evidence, features, text
from lib.train.evidence import Weights

FOLDS = 5
FEWEST_FOLDS = 3  # one tested, one for the evidence of the lower level, one learnt from
DEALS = 3  # how often people are dealt into folds for the threshold
EDITS_PER_USER = 50  # a user's edits that the model of texts learns from: more say the same again
TEXT_C, JUDGE_C = 30.0, 0.02
# Without the name only extremes would be left to tell some bots by, and people with tools have them too: what is
# further out than a few standard deviations says no more. With the name that would spare bots that edit very much.
BLIND_C, BLIND_END = 0.1, 5.0
CONFIDENCE = 0.95
MAX_HUMAN_FPR = 0.01

FORMAT = "wikisieve-model 2"
_DIGEST_BYTES = 64
_SEAL = f"{FORMAT} sha256=".encode()
#: Types in a model's file beyond those that skops trusts by itself. Hard-coded: a file cannot ask for more.
TRUSTED: tuple[str, ...] = ("numpy.clip",)


class ModelError(ValueError):
    """A model's file is missing, damaged or foreign, or there is nothing to learn from; the message says which."""


class NoHonestThreshold(ValueError):
    """No threshold can promise the wanted share of wrongly flagged people with so few people to learn from."""


# --- what is learnt from ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """Edits in order of time with their users: what a model is trained and judged on.

    Parameters
    ----------
    table : pyarrow.Table
        Edits of ``edits.ARROW_SCHEMA``; those without a user are left out, as nobody can be judged by them.
    """

    table: pa.Table
    names: np.ndarray = field(repr=False)  #: user names, in order of first edit
    user: np.ndarray = field(repr=False)  #: row of `names` of each edit
    flagged: np.ndarray = field(repr=False)  #: edits with the flag: the label's source, never a feature

    @classmethod
    def of(cls, table: pa.Table) -> Population:
        """Order edits by time (equal times stay as they are) and number their users."""
        table = table.filter(table.column("user").is_valid())
        times = table.column("timestamp").to_numpy()
        table = table.take(np.argsort(times, kind="stable")).combine_chunks()
        codes = table.column("user").combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        names = np.array(codes.dictionary.to_pylist(), object)
        flagged = table.column("bot").fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        return cls(table, names, codes.indices.to_numpy().astype(np.int64), flagged)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def times(self) -> np.ndarray:
        """Event time of each edit in milliseconds."""
        return self.table.column("timestamp").to_numpy()

    @cached_property
    def edits(self) -> np.ndarray:
        """Number of edits of each user."""
        return np.bincount(self.user, minlength=len(self))

    @cached_property
    def bots(self) -> np.ndarray:
        """Users of whose edits more than half carry the flag."""
        return 2 * np.bincount(self.user, self.flagged, len(self)) > self.edits

    @cached_property
    def taught(self) -> np.ndarray:
        """Users that the model learns as bots: any edit carries the flag, for only accounts with a right can set it."""
        return np.bincount(self.user, self.flagged, len(self)) > 0

    @cached_property
    def texts(self) -> sp.csr_matrix:
        """Pieces of the texts, one row per edit."""
        return evidence.text_matrix(self.table)

    @cached_property
    def bare(self) -> np.ndarray:
        """Evidence without the model of texts: its column is zero."""
        return evidence.of(self.table, Weights(np.zeros(text.BUCKETS, np.float32), 0.0))

    def subset(self, keep: np.ndarray) -> Population:
        """Give the edits that a mask keeps, as a population of their own."""
        return Population.of(self.table.filter(pa.array(keep)))

    @cached_property
    def sample(self) -> np.ndarray:
        """At most :data:`EDITS_PER_USER` edits of each user, evenly spread over theirs."""
        order = np.argsort(self.user, kind="stable")
        first = np.concatenate(([0], np.cumsum(self.edits)[:-1]))
        place = np.arange(len(order)) - first[self.user[order]]
        n = self.edits[self.user[order]]
        wanted = np.minimum(n, EDITS_PER_USER)
        return np.sort(order[(place * wanted) // n != ((place - 1) * wanted) // n])


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


# --- the lower level: texts -------------------------------------------------------------------------------------------


def fit_texts(people: Population, users: np.ndarray, seed: int = 0) -> LogisticRegression:
    """Train the model of texts on some users: on the columns that occur; the weight of all others is zero.

    Parameters
    ----------
    people : Population
    users : ndarray of bool, shape (users,)
        Who is learnt from. Each user weighs the same, however many edits they made.
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
    spread = np.zeros((1, matrix.shape[1]))
    spread[0, used] = model.coef_[0].astype(np.float32)
    model.coef_, model.n_features_in_ = spread, matrix.shape[1]
    return model


# --- the upper level: users -------------------------------------------------------------------------------------------


def new_judge(with_name: bool) -> Pipeline:
    """Make the untrained classifier of users."""
    if with_name:
        return make_pipeline(StandardScaler(), LogisticRegression(C=JUDGE_C, solver="newton-cholesky"))
    ends = FunctionTransformer(np.clip, kw_args={"a_min": -BLIND_END, "a_max": BLIND_END})
    return make_pipeline(StandardScaler(), ends, LogisticRegression(C=BLIND_C, solver="newton-cholesky"))


def visible(x: np.ndarray, with_name: bool) -> np.ndarray:
    """Give the features a classifier may see: all, or those that say nothing of the name."""
    return x if with_name else x[:, ~features.OF_THE_NAME]


@dataclass(frozen=True)
class Rows:
    """Users at their checkpoints and at their last edit: what the upper level learns from and is judged on."""

    user: np.ndarray
    edits: np.ndarray  #: edits seen so far
    last: np.ndarray  #: True for the row of all edits
    edit: np.ndarray  #: the edit that made the row
    x: np.ndarray

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
    """
    seen = people.bare.copy()
    seen[:, evidence.TEXT] = of_texts
    state, edit, x = features.fold(features.empty(len(people)), people.user, people.times, seen)
    number = _running_number(people.user, len(people))
    last_edit = np.zeros(len(people), np.int64)
    last_edit[people.user] = np.arange(len(people.user))
    user = np.concatenate((people.user[edit], np.arange(len(people))))
    return Rows(
        user,
        np.concatenate((number[edit], people.edits)),
        np.arange(len(user)) >= len(edit),
        np.concatenate((edit, last_edit)),
        np.concatenate((x, features.describe(state))),
    )


def _running_number(user: np.ndarray, users: int) -> np.ndarray:
    """Number each user's edits from 1."""
    order = np.argsort(user, kind="stable")
    count = np.bincount(user, minlength=users)
    first = np.concatenate(([0], np.cumsum(count)[:-1]))
    number = np.empty(len(user), np.int64)
    number[order] = np.arange(len(user)) - first[user[order]] + 1
    return number


def fit_judge(people: Population, rows: Rows, with_name: bool) -> Pipeline:
    """Train the upper level; the rows of a user weigh one together."""
    weight = 1.0 / np.bincount(rows.user, minlength=len(people))[rows.user]
    judge = new_judge(with_name)
    with threadpool_limits(1):  # so small a problem is slower on more threads, much slower on a busy machine
        judge.fit(
            visible(rows.x, with_name),
            people.taught[rows.user],
            **{f"{judge.steps[-1][0]}__sample_weight": weight},
        )
    return judge


def decide(judge: Pipeline, x: np.ndarray, with_name: bool) -> np.ndarray:
    """Score rows: the probability of a bot, from 0 to 1."""
    if len(x) == 0:
        return np.empty(0)
    return judge.predict_proba(visible(x, with_name))[:, 1]


# --- users kept apart -------------------------------------------------------------------------------------------------


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
            out[test] = decide(self.judge(frozenset({k}), with_name), rows.x[test], with_name)
        return out


def highest(rows: Rows, scores: np.ndarray, users: int) -> np.ndarray:
    """Give each user's highest score over their checkpoints: what a threshold is compared with in the stream."""
    out = np.zeros(users)
    np.maximum.at(out, rows.user[~rows.last], scores[~rows.last])
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
        """Highest score of every user over their checkpoints."""
        return highest(self.rows, self.scores(with_name), len(self.people))

    def highest_of_all_deals(self, with_name: bool = True) -> np.ndarray:
        """Highest score of every user over their checkpoints and over all deals: what the threshold is chosen by."""
        return np.max([deal.highest(with_name) for deal in (self, *self.again)], axis=0)


def cross_validate(
    people: Population, seed: int = 0, folds: int = FOLDS, deals: int = DEALS
) -> CrossValidation:
    """Judge every user by a whole model (both levels) trained on the users of the other folds.

    Parameters
    ----------
    people : Population
    seed : int, default 0
    folds : int, default 5
    deals : int, default 3
        How often the users are dealt into folds. The first deal is the one that is reported; the threshold is chosen
        by all.

    Raises
    ------
    ModelError
        When there are fewer bots or people than folds.
    """
    check(people, folds)
    first, *others = (_one_deal(people, folds, seed, number) for number in range(deals))
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


# --- the threshold ----------------------------------------------------------------------------------------------------


def choose_threshold(
    human_scores: np.ndarray, max_human_fpr: float = MAX_HUMAN_FPR, confidence: float = CONFIDENCE
) -> float:
    """Choose the lowest threshold that promises that few people are flagged.

    The order-statistic rule of Neyman-Pearson classification: with the threshold at the k-th smallest of n scores of
    people who were not learnt from, the true share of people above it is more than `max_human_fpr` with a probability
    of at most ``P(Binomial(n, max_human_fpr) <= n - k)``. The smallest k for which that is at most ``1 - confidence``
    is taken.

    Parameters
    ----------
    human_scores : ndarray of float, shape (n,)
        One score per person, by models that have not learnt from them: for judging in the stream, their highest.
    max_human_fpr : float, default 0.01
        Largest share of people that may be flagged.
    confidence : float, default 0.95
        How sure the promise must be.

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
    lib.train.model.NoHonestThreshold: MAX_HUMAN_FPR must be at least 0.00299 to be promised with 95 % confidence \
from 1000 people. Got 0.0001, which needs 29956 people. Raise MAX_HUMAN_FPR, or sample more people (PERCENT in \
02_sample).
    """
    scores = np.sort(np.asarray(human_scores, float))
    n = len(scores)
    above = np.arange(n)  # how many people stay above the threshold
    honest = np.flatnonzero(binom.cdf(above, n, max_human_fpr) <= 1 - confidence) if n else np.empty(0, int)
    if len(honest) == 0:
        raise NoHonestThreshold(_no_threshold(n, max_human_fpr, confidence))
    return float(np.nextafter(scores[n - 1 - honest[-1]], np.inf))


def _no_threshold(n: int, max_human_fpr: float, confidence: float) -> str:
    floor = 1 - (1 - confidence) ** (1 / n) if n else 1.0
    needed = (
        int(np.ceil(np.log(1 - confidence) / np.log1p(-max_human_fpr))) if 0 < max_human_fpr < 1 else None
    )
    needs = f"which needs {needed} people" if needed else "which no number of people can prove"
    return (
        f"MAX_HUMAN_FPR must be at least {floor:.3g} to be promised with {100 * confidence:g} % confidence from "
        f"{n} people. Got {max_human_fpr:g}, {needs}. "
        "Raise MAX_HUMAN_FPR, or sample more people (PERCENT in 02_sample)."
    )


# --- the model that is used -------------------------------------------------------------------------------------------


@text.compiled
def _probabilities(
    x: np.ndarray, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, constant: float, end: float
) -> np.ndarray:
    out = np.empty(len(x))
    for i in range(len(x)):
        odds = constant
        for j in range(len(mean)):
            odds += min(max((x[i, j] - mean[j]) / scale[j], -end), end) * weight[j]
        out[i] = 1.0 / (1.0 + np.exp(-odds))
    return out


@dataclass(frozen=True)
class Model:
    """A trained model with its threshold.

    The threshold was chosen on scores of cross-validation, by models that learnt from four fifths of the users, and
    holds for this one under the assumption that a model of all users gives unseen people no higher scores than the
    highest of theirs. The forward test of stage 3 checks that on later edits.
    """

    texts: LogisticRegression
    judge: Pipeline
    threshold: float
    with_name: bool = True
    facts: dict[str, Any] = field(default_factory=dict)  #: what it was trained on and what it promises
    version: str = ""

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Edit counts at which a user is judged; above the last, every doubling."""
        return features.CHECKPOINTS

    @classmethod
    def fit(
        cls,
        people: Population | pa.Table,
        seed: int = 0,
        max_human_fpr: float = MAX_HUMAN_FPR,
        with_name: bool = True,
        cross: CrossValidation | None = None,
    ) -> Model:
        """Train both levels on all users and choose the threshold.

        Parameters
        ----------
        people : Population or pyarrow.Table
            Edits with the columns of stage 2.
        seed : int, default 0
        max_human_fpr : float, default 0.01
            Share of people that may be flagged, promised with 95 % confidence.
        with_name : bool, default True
            Whether the name may speak.
        cross : CrossValidation, optional
            Of the same people, when there is one already.

        Raises
        ------
        ModelError
            When there are too few bots or people.
        NoHonestThreshold
            When the promise cannot be made.
        """
        people = people if isinstance(people, Population) else Population.of(people)
        cross = cross or cross_validate(people, seed)
        threshold = choose_threshold(cross.highest_of_all_deals(with_name)[~people.bots], max_human_fpr)
        judge = fit_judge(people, cross.rows, with_name)
        texts = fit_texts(people, np.ones(len(people), bool), seed)
        facts = {
            "edits": len(people.user),
            "users": len(people),
            "bots": int(people.bots.sum()),
            "seed": seed,
            "max_human_fpr": max_human_fpr,
            "confidence": CONFIDENCE,
        }
        return cls(texts, judge, threshold, with_name, facts)._named()

    def evidence(self, table: pa.Table) -> np.ndarray:
        """Say what each edit shows by itself (:func:`lib.train.evidence.of`)."""
        return evidence.of(table, self.weights)

    @cached_property
    def weights(self) -> Weights:
        """The model of texts as plain numbers for the compiled loop."""
        return Weights(self.texts.coef_[0].astype(np.float32), float(self.texts.intercept_[0]))

    def score(self, x: np.ndarray) -> np.ndarray:
        """Score the features of users (:func:`lib.train.features.fold`).

        Parameters
        ----------
        x : ndarray of float, shape (m, len(FEATURES))

        Returns
        -------
        ndarray of float, shape (m,)
            The probability of a bot: the judge's, but added up row by row in one fixed order. A product of matrices
            may differ in the last bit with the number of rows, and a verdict must not hang on how edits were cut.
        """
        return _probabilities(np.array(visible(x, self.with_name), np.float64, order="C"), *self._plain)

    @cached_property
    def _plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """The judge as plain numbers: mean, standard deviation, weight, constant, and where features end."""
        scaler, linear = self.judge.steps[0][1], self.judge.steps[-1][1]
        end = np.inf if self.with_name else BLIND_END
        return (
            scaler.mean_.copy(),
            scaler.scale_.copy(),
            linear.coef_[0].copy(),
            float(linear.intercept_[0]),
            end,
        )

    def explain(self, state: np.ndarray) -> list[tuple[str, float]]:
        """Say what made the score of one user.

        Parameters
        ----------
        state : ndarray of float, shape (STATE,) or (1, STATE)
            The user's summary.

        Returns
        -------
        list of (str, float)
            Features in words with their share of the score's log-odds against the average training user, largest first.
        """
        return self.explain_all(np.atleast_2d(state))[0]

    def explain_all(self, states: np.ndarray) -> list[list[tuple[str, float]]]:
        """Say it of many users at once; see :meth:`explain`.

        Parameters
        ----------
        states : ndarray of float, shape (n, STATE)

        Returns
        -------
        list of list of (str, float)
            One list per user.
        """
        if not len(states):
            return []
        x = visible(features.describe(states), self.with_name)
        mean, scale, weight, _, end = self._plain
        shares = np.clip((x - mean) / scale, -end, end) * weight
        names = np.array(features.FEATURES, object)
        names = names if self.with_name else names[~features.OF_THE_NAME]
        orders = np.argsort(-np.abs(shares), axis=1, kind="stable")
        return [
            [(name, share) for name, share in zip(names[order], row[order].tolist(), strict=True) if share]
            for order, row in zip(orders, shares, strict=True)
        ]

    # --- file ---------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "texts": self.texts,
            "judge": self.judge,
            "threshold": float(self.threshold),
            "with_name": bool(self.with_name),
            "facts": json.dumps(self.facts, sort_keys=True),
            "features": list(features.FEATURES),
        }

    def _named(self) -> Model:
        """Give the model its name: a short hash of everything that it decides by."""
        digest = hashlib.sha256()
        for part in _numbers_of(self):
            digest.update(part)
        return dataclasses.replace(self, version=digest.hexdigest()[:12])

    def save(self, path: str | Path) -> None:
        """Write the model with skops; the archive's comment ends in the SHA-256 of all that is before it."""
        content = {**self._content(), "version": self.version, "made_with": _libraries()}
        buffer = io.BytesIO()
        skops.io.dump(content, buffer, compression=zipfile.ZIP_DEFLATED)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.comment = _SEAL + b"0" * _DIGEST_BYTES
        body = buffer.getvalue()[:-_DIGEST_BYTES]
        manifest.atomic_write(Path(path), body + hashlib.sha256(body).hexdigest().encode())

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model.

        Raises
        ------
        ModelError
            When the file is missing, was changed, is of another format or version, or holds other types than ours.
        """
        path = Path(path)
        data = _unsealed(path)
        try:
            content = skops.io.loads(data, trusted=list(TRUSTED))
        except _UNREADABLE as error:
            raise ModelError(f"{_whose(path)} Got {type(error).__name__}: {error}. {_WAY_OUT}") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ModelError(f"{_whose(path)} Got another content. {_WAY_OUT}")
        if content.get("features") != list(features.FEATURES):
            raise ModelError(f"{_whose(path)} Got one of another version: its features differ. {_WAY_OUT}")
        facts = json.loads(content["facts"])
        model = cls(
            content["texts"], content["judge"], content["threshold"], content["with_name"], facts
        )._named()
        if model.version != content["version"]:
            raise ModelError(
                f"{_whose(path)} Got version {model.version}, it says {content['version']}. {_WAY_OUT}"
            )
        return model


_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, zipfile.BadZipFile)
_WAY_OUT = "Run 03_eda_train again to make it."


def _whose(path: Path) -> str:
    return f"{paths.show(path)} must be a model that this version of wikisieve wrote ({FORMAT})."


def _unsealed(path: Path) -> bytes:
    """Read a model's file and check its seal."""
    if not path.is_file():
        raise ModelError(f"There must be a model at {paths.show(path)}. Got no file. {_WAY_OUT}")
    data = path.read_bytes()
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not body.endswith(_SEAL):
        raise ModelError(
            f"{_whose(path)} Got a file without its seal: cut, or made by something else. {_WAY_OUT}"
        )
    actual = hashlib.sha256(body).hexdigest()
    if actual.encode() != digest:
        raise ModelError(
            f"{_whose(path)} Got a changed file: its SHA-256 begins with {actual[:12]}. {_WAY_OUT}"
        )
    return data


def _libraries() -> str:
    return f"scikit-learn {sklearn.__version__}, skops {skops.__version__}, numpy {np.__version__}"


def _numbers_of(model: Model) -> list[bytes]:
    """Everything that decides, as bytes, for the version."""
    parts = [
        FORMAT.encode(),
        repr((model.threshold, model.with_name)).encode(),
        "\n".join(features.FEATURES).encode(),
    ]
    for estimator in (model.texts, *(step for _, step in model.judge.steps)):
        for name in sorted(vars(estimator)):
            if name.endswith("_") and not name.startswith("__"):
                value = vars(estimator)[name]
                if isinstance(value, np.ndarray | float | int):
                    parts.append(name.encode() + np.ascontiguousarray(value).tobytes())
    return parts
