"""How a model is learnt: two levels, and users kept apart.

Below, a linear model says what the text of one edit is worth as evidence (hashed pieces, logistic regression). Above, a
classifier judges the features of a user's summary after 1, 2, 3, 5, 8 … edits. The upper level must see below what it
will see later: the evidence of users that the lower level has not learnt from. So the users are dealt into folds, and
the evidence of each fold comes from a lower model trained without it; to judge the whole by cross-validation, pairs of
folds are left out together (:class:`Stack`).
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

from lib import artifacts, paths
from lib.model import edit_features, kernels, user_features
from lib.model.dataset import EditDataset
from lib.model.edit_features import Weights
from lib.stats import CONFIDENCE

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
                setattr(
                    estimator, name, np.round(getattr(estimator, name), DECIMALS) + 0.0
                )  # -0.0 is 0.0, too
    return model


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Round scores to :data:`DECIMALS`, as all are that are ranked, compared with a threshold, hashed or printed."""
    return np.round(scores, DECIMALS)


def probabilities(model: Any, x: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Return a classifier's probabilities of the second class, rounded, one per row of `x`."""
    return round_scores(model.predict_proba(x)[:, 1])


# --- the two levels ---------------------------------------------------------------------------------------------------


def fit_texts(people: EditDataset, users: np.ndarray, seed: int = 0) -> LogisticRegression:
    """Train the model of texts on some users: on the columns that occur; the weight of all others is zero.

    Parameters
    ----------
    people : EditDataset
    users : ndarray of bool, shape (users,)
        Who is learnt from. Each user weighs the same, however many edits they made.
    seed : int, default 0

    Returns
    -------
    LogisticRegression
        Its decision on a row of :attr:`EditDataset.texts` is what that edit's texts are worth.
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
    return x if with_name else x[:, ~user_features.OF_THE_NAME]


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


def summarise(people: EditDataset, of_texts: np.ndarray) -> Rows:
    """Fold all edits and give every checkpoint, and every user's last state.

    Parameters
    ----------
    people : EditDataset
    of_texts : ndarray of float, shape (edits,)
        What the texts are worth as evidence.

    Returns
    -------
    Rows
        The checkpoints in order of time, then a row per user.
    """
    seen = people.bare.copy()
    seen[:, edit_features.TEXT_COLUMN] = of_texts
    state, edit, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    last_edit = np.zeros(len(people), np.int64)
    last_edit[people.user] = np.arange(len(people.user))
    user = np.concatenate((people.user[edit], np.arange(len(people))))
    return Rows(
        user,
        np.concatenate((people.place[edit] + 1, people.edits)),
        np.arange(len(user)) >= len(edit),
        np.concatenate((edit, last_edit)),
        np.concatenate((x, user_features.to_features(state))),
    )


def fit_judge(people: EditDataset, rows: Rows, with_name: bool) -> Pipeline:
    """Train the upper level; the rows of a user weigh one together.

    Parameters
    ----------
    people : EditDataset
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


def assign_folds(people: EditDataset, folds: int, seed: int | tuple[int, ...]) -> np.ndarray:
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
    people : EditDataset
    fold : ndarray of int, shape (users,)
        Fold of each user (:func:`deal`).
    seed : int, default 0
    """

    def __init__(self, people: EditDataset, fold: np.ndarray, seed: int = 0) -> None:
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
class CrossFit:
    """Scores of users by models that have learnt from other users only.

    `rows` holds every user's checkpoints and last state; `with_name` and `without_name` are the scores of those rows.
    Both come of one deal of the users into folds; ``again`` has others of the same people.
    """

    people: EditDataset
    fold: np.ndarray
    rows: Rows
    with_name: np.ndarray
    without_name: np.ndarray
    again: tuple[CrossFit, ...] = ()

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


def cross_validate(people: EditDataset, seed: int = 0, folds: int = FOLDS) -> CrossFit:
    """Judge every user by a whole model (both levels) trained on the users of the other folds.

    Parameters
    ----------
    people : EditDataset
    seed : int, default 0
    folds : int, default 5

    Returns
    -------
    CrossFit
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


def _one_deal(people: EditDataset, folds: int, seed: int, number: int) -> CrossFit:
    """Deal the users anew and judge them."""
    nested = Stack(people, assign_folds(people, folds, (seed, number)), seed)
    return CrossFit(
        people,
        nested.fold,
        nested.rows(frozenset()),
        nested.scores(with_name=True),
        nested.scores(with_name=False),
    )


def check(people: EditDataset, folds: int = FOLDS) -> None:
    """Refuse a population in which some fold would have no bot or no person."""
    bots = int(people.bots.sum())
    if min(bots, len(people) - bots) < folds:
        raise ModelError(
            f"To learn and to judge with {folds} folds there must be at least {folds} bots and {folds} people. "
            f"Got {bots} bots and {len(people) - bots} people. "
            "Read more of the stream in 01_stream, or raise PERCENT in 02_sample."
        )


MAX_HUMAN_FPR = 0.01


class ThresholdNotAttainable(ValueError):
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
    ThresholdNotAttainable
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
    lib.model.classifier.ThresholdNotAttainable: MAX_HUMAN_FPR must be at least 0.00299 to be promised with 95 % \
confidence from 1000 people. Got 0.0001, which needs 29956 people. Raise MAX_HUMAN_FPR, or sample more people \
(PERCENT in 02_sample).
    """
    scores = np.sort(np.asarray(human_scores, float))
    n = len(scores)
    above = np.arange(n)  # how many people stay above the threshold
    honest = np.flatnonzero(binom.cdf(above, n, max_human_fpr) <= 1 - CONFIDENCE) if n else np.empty(0, int)
    if len(honest) == 0:
        raise ThresholdNotAttainable(_no_threshold(n, max_human_fpr))
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


FORMAT = "wikisieve-model 2"
_DIGEST_BYTES = 64
_SEAL = f"{FORMAT} sha256=".encode()
#: Types in a model's file beyond those that skops trusts by itself. Hard-coded: a file cannot ask for more.
TRUSTED: tuple[str, ...] = ("numpy.clip",)


@kernels.njit_cached
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
class BotClassifier:
    """A trained model with its threshold.

    The threshold was chosen on scores of cross-validation, by models that learnt from four fifths of the users, and
    holds for this one under the assumption that a model of all users gives unseen people no higher scores than the
    highest of theirs. The forward test of stage 3 checks that on later edits.
    """

    text_model: LogisticRegression
    user_model: Pipeline
    threshold: float
    with_name: bool = True
    facts: dict[str, Any] = field(default_factory=dict)  #: what it was trained on and what it promises
    version: str = ""

    @classmethod
    def fit(
        cls,
        people: EditDataset | pa.Table,
        seed: int = 0,
        max_human_fpr: float = MAX_HUMAN_FPR,
        with_name: bool = True,
        cross: CrossFit | None = None,
    ) -> BotClassifier:
        """Train both levels on all users and choose the threshold.

        Parameters
        ----------
        people : EditDataset or pyarrow.Table
            Edits with the columns of stage 2.
        seed : int, default 0
        max_human_fpr : float, default 0.01
            Share of people that may be flagged, promised with 95 % confidence.
        with_name : bool, default True
            Whether the name may speak.
        cross : CrossFit, optional
            Of the same people, when there is one already.

        Raises
        ------
        ModelError
            When there are too few bots or people.
        ThresholdNotAttainable
            When the promise cannot be made.
        """
        people = people if isinstance(people, EditDataset) else EditDataset.from_table(people)
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

    def edit_features(self, table: pa.Table) -> np.ndarray:
        """Say what each edit shows by itself, shape (n, len(EDIT_FEATURES)); see :func:`lib.model.edit_features.of`."""
        return edit_features.compute(table, self.weights)

    @cached_property
    def weights(self) -> Weights:
        """The model of texts as plain numbers for the compiled loop."""
        return Weights(self.text_model.coef_[0].astype(np.float32), float(self.text_model.intercept_[0]))

    def score(self, x: np.ndarray) -> np.ndarray:
        """Score the features of users (:func:`lib.model.user_features.update_states`).

        Parameters
        ----------
        x : ndarray of float, shape (m, len(FEATURES))

        Returns
        -------
        ndarray of float, shape (m,)
            The probability of a bot, rounded: the judge's, but added up row by row in one fixed order. A product of
            matrices may differ in the last bit with the number of rows, and a verdict must not depend on how edits were
            cut.
        """
        x = np.array(visible(x, self.with_name), np.float64, order="C")
        return round_scores(_probabilities(x, *self._plain))

    @cached_property
    def _plain(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """The judge as plain numbers: mean, standard deviation, weight, constant, and where features end."""
        scaler, linear = self.user_model.steps[0][1], self.user_model.steps[-1][1]
        end = np.inf if self.with_name else BLIND_END
        return (
            scaler.mean_.copy(),
            scaler.scale_.copy(),
            linear.coef_[0].copy(),
            float(linear.intercept_[0]),
            end,
        )

    def explain(self, states: np.ndarray) -> list[list[tuple[str, float]]]:
        """Say what made the scores of users.

        Parameters
        ----------
        states : ndarray of float, shape (n, STATE)
            Their summaries.

        Returns
        -------
        list of list of (str, float)
            For each user, features in words with their share of the score's log-odds against the average training user,
            largest first.
        """
        if not len(states):
            return []
        x = visible(user_features.to_features(states), self.with_name)
        mean, scale, weight, _, end = self._plain
        shares = round_scores(np.clip((x - mean) / scale, -end, end) * weight)
        names = np.array(user_features.FEATURES, object)
        names = names if self.with_name else names[~user_features.OF_THE_NAME]
        orders = np.argsort(-np.abs(shares), axis=1, kind="stable")
        return [
            [(name, share) for name, share in zip(names[order], row[order].tolist(), strict=True) if share]
            for order, row in zip(orders, shares, strict=True)
        ]

    # --- file ---------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "texts": self.text_model,
            "judge": self.user_model,
            "threshold": float(self.threshold),
            "with_name": bool(self.with_name),
            "facts": json.dumps(self.facts, sort_keys=True),
            "features": list(user_features.FEATURES),
        }

    def _named(self) -> BotClassifier:
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
        artifacts.atomic_write(Path(path), body + hashlib.sha256(body).hexdigest().encode())

    @classmethod
    def load(cls, path: str | Path) -> BotClassifier:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            What :meth:`save` wrote.

        Returns
        -------
        Model

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
        if content.get("features") != list(user_features.FEATURES):
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


def _numbers_of(model: BotClassifier) -> list[bytes]:
    """Everything that decides, as bytes, for the version."""
    parts = [
        FORMAT.encode(),
        repr((model.threshold, model.with_name)).encode(),
        "\n".join(user_features.FEATURES).encode(),
    ]
    for estimator in (model.text_model, *(step for _, step in model.user_model.steps)):
        for name in sorted(vars(estimator)):
            if name.endswith("_") and not name.startswith("__"):
                value = vars(estimator)[name]
                if isinstance(value, np.ndarray | float | int):
                    parts.append(name.encode() + np.ascontiguousarray(value).tobytes())
    return parts
