"""Train the bot classifier on two levels, cross-fit it with a grouped split, and choose its threshold.

The *text model* (linear, on hashed n-grams) turns the texts of one edit into log-odds. The *user model* scores the
features of a user's state after 1, 2, 3, 5, 8 … edits, of which those log-odds are a part. The user model must be
trained on what it will see later: log-odds of users that the text model was not trained on. So users are assigned to
folds, and the log-odds of each fold come from a text model trained without it; to score users by cross-validation,
pairs of folds are left out together (:class:`CrossFit`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import skops.io
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from lib import artifacts, paths
from lib.model import edit_features, user_features
from lib.model.dataset import EditDataset, ModelError
from lib.stats import CONFIDENCE

FOLDS = 5
MIN_FOLDS = 3  # one tested, one for the text model's log-odds, one to train on
REPEATS = 3  # assignments to folds that the threshold is chosen by
MAX_HUMAN_FPR = 0.01
FORMAT = "wikisieve-model 2"
#: Types in a model's file beyond those that skops trusts by itself. Hard-coded: a file cannot ask for more.
TRUSTED_TYPES = ["numpy.clip"]

#: The estimators that 03_eda_train shows, for those who ask for no others.
TEXT_MODEL = LogisticRegression(C=30, solver="liblinear", dual=True, tol=0.01, max_iter=1000, random_state=0)
USER_MODEL = make_pipeline(StandardScaler(), LogisticRegression(C=0.02, solver="newton-cholesky", tol=1e-8))
# Without the name only extremes are left to find some bots by, and people with tools have them, too: what is further
# out than five standard deviations counts no more. With the name that would spare bots that edit very much.
USER_MODEL_WITHOUT_NAME = make_pipeline(
    StandardScaler(),
    FunctionTransformer(np.clip, kw_args={"a_min": -5.0, "a_max": 5.0}),
    LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-8),
)


class ThresholdNotAttainable(ModelError):
    """No threshold can guarantee the requested share of flagged humans with so few humans to choose it by."""


# --- the same figures on every machine --------------------------------------------------------------------------------

#: Every fitted number and every score is rounded to so many decimals, so that figures are the same on every machine.
#: What BLAS kernels, threads and SIMD change in a solver that has converged is the 14th decimal of a coefficient, and
#: the 15th of a score (measured on five kernels, 5e-15 and 9e-15 at most). What a figure can depend on is the 3rd.
#: Without rounding, users whose scores are equal are put in an order by that last bit: ties must be ties.
DECIMALS = 6


def round_fitted(model: Any) -> Any:
    """Round the fitted numbers of a linear model, or of a pipeline's steps, to :data:`DECIMALS`; return the model."""
    for estimator in [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]:
        for name in ("mean_", "var_", "scale_", "coef_", "intercept_"):
            if hasattr(estimator, name):  # adding 0.0 makes 0.0 of -0.0, which would be hashed differently
                setattr(estimator, name, np.round(getattr(estimator, name), DECIMALS) + 0.0)
    return model


def round_scores(scores: np.ndarray) -> np.ndarray:
    """Round scores to :data:`DECIMALS`, as all are that are ranked, compared with a threshold, hashed or printed."""
    return np.round(scores, DECIMALS)


def probabilities(model: Any, x: np.ndarray | sp.spmatrix) -> np.ndarray:
    """Return a classifier's probabilities of the second class, rounded, one per row of `x`."""
    return round_scores(model.predict_proba(x)[:, 1])


# --- the two levels ---------------------------------------------------------------------------------------------------


def _fit(model: Any, x: np.ndarray | sp.spmatrix, y: np.ndarray, weight: np.ndarray) -> Any:
    """Train a copy of an estimator, with weights if it takes any."""
    last, prefix = (model[-1], f"{model.steps[-1][0]}__") if isinstance(model, Pipeline) else (model, "")
    weights = {f"{prefix}sample_weight": weight} if has_fit_parameter(last, "sample_weight") else {}
    with threadpool_limits(1):  # so small a problem is slower on more threads, much slower on a busy machine
        return round_fitted(clone(model).fit(x, y, **weights))


def fit_text_model(dataset: EditDataset, users: np.ndarray, text_model: Any = TEXT_MODEL) -> Any:
    """Train the text model on the edits of some users; each user has the same weight.

    Parameters
    ----------
    dataset : EditDataset
    users : ndarray of bool, shape (users,)
        Whose edits are trained on.
    text_model : estimator
        Any that takes sparse input. A linear one is trained on the columns that occur; the others weigh 0.

    Returns
    -------
    estimator
        Fitted on rows of :attr:`EditDataset.text_matrix`.
    """
    rows = dataset.capped_edits[users[dataset.user[dataset.capped_edits]]]
    owner = dataset.user[rows]
    weight = 1.0 / np.bincount(owner, minlength=len(dataset))[owner]
    matrix = dataset.text_matrix[rows]
    used = np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]))
    fitted = _fit(text_model, matrix[:, used], dataset.train_label[owner], weight)
    if not hasattr(fitted, "coef_"):
        return _fit(text_model, matrix, dataset.train_label[owner], weight)
    coef = np.zeros((1, matrix.shape[1]))
    coef[0, used] = fitted.coef_[0].astype(np.float32)
    fitted.coef_, fitted.n_features_in_ = coef, matrix.shape[1]
    return fitted


def log_odds(text_model: Any, matrix: sp.csr_matrix) -> np.ndarray:
    """Return what a text model makes of edits: its decision function, or the log-odds of its probabilities."""
    if hasattr(text_model, "decision_function"):
        return text_model.decision_function(matrix)
    return logit(np.clip(probabilities(text_model, matrix), 1e-6, 1 - 1e-6))


def select_features(x: np.ndarray, with_name: bool) -> np.ndarray:
    """Return all features, or those that do not come from the user's name."""
    return x if with_name else x[:, ~user_features.OF_THE_NAME]


@dataclass(frozen=True)
class CheckpointRows:
    """Users at their checkpoints, in order of time, then every user after all edits."""

    user: np.ndarray  #: shape (rows,), as the next three
    edits: np.ndarray  #: edits so far
    last: np.ndarray  #: True for the row after all edits
    edit: np.ndarray  #: the edit that made the row
    x: np.ndarray  #: features, shape (rows, len(FEATURES))

    def of(self, users: np.ndarray) -> CheckpointRows:
        """Return the rows of some users (a mask)."""
        keep = users[self.user]
        return CheckpointRows(
            self.user[keep], self.edits[keep], self.last[keep], self.edit[keep], self.x[keep]
        )


def build_rows(dataset: EditDataset, text_log_odds: np.ndarray) -> CheckpointRows:
    """Return the rows of all users from the text model's log-odds of every edit."""
    features = dataset.features_without_text.copy()
    features[:, edit_features.TEXT_COLUMN] = text_log_odds
    states = user_features.new_states(len(dataset))
    states, edit, x = user_features.update_states(states, dataset.user, dataset.times, features)
    last_edit = np.zeros(len(dataset), np.int64)
    last_edit[dataset.user] = np.arange(len(dataset.user))
    user = np.concatenate((dataset.user[edit], np.arange(len(dataset))))
    return CheckpointRows(
        user,
        np.concatenate((dataset.edit_index[edit] + 1, dataset.edits_per_user)),
        np.arange(len(user)) >= len(edit),
        np.concatenate((edit, last_edit)),
        np.concatenate((x, user_features.to_features(states))),
    )


def fit_user_model(
    dataset: EditDataset, rows: CheckpointRows, with_name: bool = True, user_model: Any = None
) -> Any:
    """Train the user model on rows; the rows of one user weigh 1 together."""
    if user_model is None:
        user_model = USER_MODEL if with_name else USER_MODEL_WITHOUT_NAME
    if not isinstance(user_model, Pipeline):
        user_model = make_pipeline(FunctionTransformer(), user_model)
    weight = 1.0 / np.bincount(rows.user, minlength=len(dataset))[rows.user]
    return _fit(user_model, select_features(rows.x, with_name), dataset.train_label[rows.user], weight)


# --- cross-fitting ----------------------------------------------------------------------------------------------------


def assign_folds(dataset: EditDataset, folds: int, seed: int | tuple[int, ...]) -> np.ndarray:
    """Assign users to folds, bots and humans each evenly: a grouped and stratified split.

    Returns
    -------
    ndarray of int, shape (users,)
        Fold of each user, so that no user is on both sides.
    """
    fold = np.empty(len(dataset), np.int64)
    random = np.random.default_rng(seed)
    for group in (dataset.is_bot, ~dataset.is_bot):
        members = random.permutation(np.flatnonzero(group))
        fold[members] = (np.arange(len(members)) + random.integers(folds)) % folds
    return fold


class NestedFit:
    """Both levels, trained with any folds left out; what was trained once is kept.

    ``rows(left_out)`` has the users of the other folds, each fold `j` of them with log-odds by a text model trained
    without `left_out` and `j`.
    """

    def __init__(self, dataset: EditDataset, fold: np.ndarray, text_model: Any = TEXT_MODEL) -> None:
        self.dataset, self.fold, self.text_model = dataset, fold, text_model
        self.folds = range(int(fold.max()) + 1)
        self._log_odds: dict[frozenset[int], np.ndarray] = {}
        self._rows: dict[frozenset[int], CheckpointRows] = {}

    def log_odds(self, left_out: frozenset[int]) -> np.ndarray:
        """Return the log-odds of all edits by a text model trained on the users of the other folds."""
        if left_out not in self._log_odds:
            users = ~np.isin(self.fold, list(left_out))
            fitted = fit_text_model(self.dataset, users, self.text_model)
            self._log_odds[left_out] = log_odds(fitted, self.dataset.text_matrix)
        return self._log_odds[left_out]

    def rows(self, left_out: frozenset[int] = frozenset()) -> CheckpointRows:
        """Return the rows of the users outside `left_out`."""
        if left_out not in self._rows:
            fold_of_edit = self.fold[self.dataset.user]
            text_log_odds = np.zeros(len(fold_of_edit))
            for k in set(self.folds) - left_out:
                text_log_odds[fold_of_edit == k] = self.log_odds(left_out | {k})[fold_of_edit == k]
            rows = build_rows(self.dataset, text_log_odds)
            self._rows[left_out] = rows.of(~np.isin(self.fold, list(left_out)))
        return self._rows[left_out]

    def scores(self, with_name: bool, user_model: Any = None) -> np.ndarray:
        """Return the scores of all rows, each by models trained without the user's fold."""
        rows = self.rows()
        out = np.zeros(len(rows.user))
        for k in self.folds:
            test = self.fold[rows.user] == k
            if test.any():
                fitted = fit_user_model(self.dataset, self.rows(frozenset({k})), with_name, user_model)
                out[test] = probabilities(fitted, select_features(rows.x[test], with_name))
        return out


class CrossFit:
    """Scores of users by models (both levels) that were trained on the users of other folds.

    Parameters
    ----------
    dataset : EditDataset
    text_model, user_model, user_model_without_name : estimator
        Not trained yet; copies are. The text model takes sparse input; the last one sees no feature of the name.
    folds : int, default 5
    repeats : int, default 3
        Assignments to folds. The first is the one that is reported; a threshold is chosen by the highest of all.
    seed : int, default 0

    Raises
    ------
    ModelError
        Fewer bots or humans than folds.
    """

    def __init__(
        self,
        dataset: EditDataset,
        text_model: Any = TEXT_MODEL,
        user_model: Any = USER_MODEL,
        user_model_without_name: Any = USER_MODEL_WITHOUT_NAME,
        *,
        folds: int = FOLDS,
        repeats: int = REPEATS,
        seed: int = 0,
    ) -> None:
        check_size(dataset, folds)
        self.dataset, self.seed = dataset, seed
        self.text_model, self.user_models = text_model, {True: user_model, False: user_model_without_name}
        self.fits: list[tuple[np.ndarray, CheckpointRows, dict[bool, np.ndarray]]] = []
        for number in range(repeats):
            nested = NestedFit(dataset, assign_folds(dataset, folds, (seed, number)), text_model)
            scores = {
                with_name: nested.scores(with_name, self.user_models[with_name])
                for with_name in (True, False)
            }
            self.fits.append((nested.fold, nested.rows(), scores))
        self.fold, self.rows, self._scores = self.fits[0]

    def row_scores(self, with_name: bool = True) -> np.ndarray:
        """Return the score of every row."""
        return self._scores[with_name]

    def scores(self, with_name: bool = True) -> np.ndarray:
        """Return the score of every user after all edits."""
        out = np.empty(len(self.dataset))
        out[self.rows.user[self.rows.last]] = self._scores[with_name][self.rows.last]
        return out

    def max_scores(self, with_name: bool = True, repeats: int | None = None) -> np.ndarray:
        """Return the highest score of every user over their checkpoints and the first `repeats` repeats (all)."""
        out = np.zeros(len(self.dataset))
        for _, rows, scores in self.fits[:repeats]:
            np.maximum.at(out, rows.user[~rows.last], scores[with_name][~rows.last])
        return out


def check_size(dataset: EditDataset, folds: int = FOLDS) -> None:
    """Raise :class:`ModelError` where some fold would have no bot or no human."""
    bots = int(dataset.is_bot.sum())
    if min(bots, len(dataset) - bots) < folds:
        raise ModelError(
            f"For {folds} folds there must be at least {folds} bots and {folds} humans. "
            f"Got {bots} bots and {len(dataset) - bots} humans. "
            "Read more of the stream in 01_stream, or raise PERCENT in 02_sample."
        )


def choose_threshold(human_scores: np.ndarray, max_human_fpr: float = MAX_HUMAN_FPR) -> float:
    """Return the lowest threshold that guarantees with 95 % confidence that few humans are flagged.

    The order-statistic rule of Neyman-Pearson classification: with the threshold at the k-th smallest of n scores of
    humans, the true share of humans above it is more than `max_human_fpr` with a probability of at most
    ``P(Binomial(n, max_human_fpr) <= n - k)``. The smallest k for which that is at most ``1 - CONFIDENCE`` is taken.

    Parameters
    ----------
    human_scores : ndarray of float, shape (n,)
        One score per human, by models that were not trained on them: for the stream, their highest.
    max_human_fpr : float, default 0.01
        Largest share of humans that may be flagged.

    Returns
    -------
    float
        Flag a user whose score is at least this. It lies just above the k-th smallest score.

    Raises
    ------
    ThresholdNotAttainable
        Even a threshold above all scores would not be proof enough.

    References
    ----------
    X. Tong, Y. Feng, J. J. Li: Neyman-Pearson classification algorithms and NP receiver operating characteristics,
    Science Advances 4 (2018), proposition 1.

    Examples
    --------
    >>> scores = np.arange(1000) / 1000
    >>> int((scores >= choose_threshold(scores, 0.01)).sum())
    4
    >>> choose_threshold(scores, 0.0001)
    Traceback (most recent call last):
    lib.model.classifier.ThresholdNotAttainable: MAX_HUMAN_FPR must be at least 0.00299 to be guaranteed with 95 % \
confidence from 1000 humans. Got 0.0001, which takes 29956 humans. Raise MAX_HUMAN_FPR, or sample more users \
(PERCENT in 02_sample).
    """
    scores, alpha = np.sort(np.asarray(human_scores, float)), 1 - CONFIDENCE
    n = len(scores)
    above = np.flatnonzero(binom.cdf(np.arange(n), n, max_human_fpr) <= alpha)  # humans above the threshold
    if not len(above):
        floor = 1 - alpha ** (1 / max(n, 1)) if n else 1.0
        takes = np.ceil(np.log(alpha) / np.log1p(-max_human_fpr)) if 0 < max_human_fpr < 1 else np.inf
        raise ThresholdNotAttainable(
            f"MAX_HUMAN_FPR must be at least {floor:.3g} to be guaranteed with {100 * CONFIDENCE:g} % confidence from "
            f"{n} humans. Got {max_human_fpr:g}, which takes {takes:.0f} humans. "
            "Raise MAX_HUMAN_FPR, or sample more users (PERCENT in 02_sample)."
        )
    return float(np.nextafter(scores[n - 1 - above[-1]], np.inf))


# --- the classifier ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BotClassifier:
    """Both levels trained on all users, with the threshold.

    The threshold was chosen on scores of cross-validation, by models of four fifths of the users, and holds for this
    one under the assumption that a model of all users scores unseen humans no higher than the highest of theirs. The
    forward test of stage 3 checks that on later edits.
    """

    text_model: Any
    user_model: Any
    threshold: float
    with_name: bool = True
    facts: dict[str, Any] = field(default_factory=dict)  #: what it was trained on
    version: str = ""  #: short hash of everything that it decides by

    @classmethod
    def fit(
        cls,
        dataset: EditDataset,
        seed: int = 0,
        max_human_fpr: float = MAX_HUMAN_FPR,
        with_name: bool = True,
        cross: CrossFit | None = None,
        threshold: float | None = None,
    ) -> BotClassifier:
        """Train both levels on all users.

        Parameters
        ----------
        dataset : EditDataset
        seed : int, default 0
        max_human_fpr : float, default 0.01
            Share of humans that may be flagged, guaranteed with 95 % confidence.
        with_name : bool, default True
            Whether features of the name are used.
        cross : CrossFit, optional
            Of the same dataset; its estimators are trained.
        threshold : float, optional
            By default :func:`choose_threshold` of the humans' highest scores.

        Raises
        ------
        ModelError
            Too few bots or humans; a text model that is not linear; or (ThresholdNotAttainable) no threshold can
            guarantee `max_human_fpr`.
        """
        cross = cross or CrossFit(dataset, seed=seed)
        if threshold is None:
            threshold = choose_threshold(cross.max_scores(with_name)[~dataset.is_bot], max_human_fpr)
        user_model = fit_user_model(dataset, cross.rows, with_name, cross.user_models[with_name])
        text_model = fit_text_model(dataset, np.ones(len(dataset), bool), cross.text_model)
        if not hasattr(text_model, "coef_"):
            raise ModelError(
                f"The text model must be linear (have coef_): stage 4 sums its coefficients on the executors. "
                f"Got {type(text_model).__name__}. Cross-validation works with any; choose a linear one to go on."
            )
        facts = {
            "edits": len(dataset.user),
            "users": len(dataset),
            "bots": int(dataset.is_bot.sum()),
            "seed": seed,
            "max_human_fpr": max_human_fpr,
            "confidence": CONFIDENCE,
        }
        return cls(text_model, user_model, threshold, with_name, facts)._with_version()

    @cached_property
    def weights(self) -> edit_features.Weights:
        """The text model's coefficients, for the compiled loop."""
        coef = self.text_model.coef_[0].astype(np.float32)
        return edit_features.Weights(coef, float(self.text_model.intercept_[0]))

    def edit_features(self, table: pa.Table) -> np.ndarray:
        """Return what each edit shows by itself, shape (n, len(EDIT_FEATURES))."""
        return edit_features.compute(table, self.weights)

    def score(self, x: np.ndarray) -> np.ndarray:
        """Return the probability of a bot, rounded, from features of users.

        Parameters
        ----------
        x : ndarray of float, shape (m, len(FEATURES))

        Returns
        -------
        ndarray of float, shape (m,)
            Of a linear model, each row is added up by itself: a product of matrices may differ in the last bit with
            the number of rows, and a verdict must not depend on how edits were cut into batches.
        """
        x = select_features(np.asarray(x, np.float64), self.with_name)
        if not len(x):
            return np.zeros(0)
        if not hasattr(self.user_model[-1], "coef_"):
            return probabilities(self.user_model, x)
        return round_scores(expit(self._contributions(x).sum(axis=1) + self.user_model[-1].intercept_[0]))

    def _contributions(self, x: np.ndarray) -> np.ndarray:
        """Return each feature's part of the log-odds, against the average training user."""
        return self.user_model[:-1].transform(x) * self.user_model[-1].coef_[0]

    def explain(self, states: np.ndarray) -> list[list[tuple[str, float]]]:
        """Return what made the scores of users.

        Parameters
        ----------
        states : ndarray of float, shape (n, STATE_SIZE)

        Returns
        -------
        list of list of (str, float)
            For each user, features with their part of the score's log-odds, largest first; empty where the user model
            is not linear.
        """
        if not len(states) or not hasattr(self.user_model[-1], "coef_"):
            return [[] for _ in states]
        shares = round_scores(
            self._contributions(select_features(user_features.to_features(states), self.with_name))
        )
        names = select_features(np.array([user_features.FEATURES], object), self.with_name)[0]
        orders = np.argsort(-np.abs(shares), axis=1, kind="stable")
        return [
            [(name, share) for name, share in zip(names[order], row[order].tolist(), strict=True) if share]
            for order, row in zip(orders, shares, strict=True)
        ]

    def _with_version(self) -> BotClassifier:
        parts = [FORMAT, repr((self.threshold, self.with_name)), "\n".join(user_features.FEATURES)]
        digest = hashlib.sha256("".join(parts).encode())
        for estimator in (self.text_model, *(step for _, step in self.user_model.steps)):
            for name, value in sorted(vars(estimator).items()):
                if name.endswith("_") and isinstance(value, np.ndarray | float | int):
                    digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return dataclasses.replace(self, version=digest.hexdigest()[:12])

    def save(self, path: str | Path) -> None:
        """Write the model with skops: no pickle, and no code is run on loading it."""
        content = {**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, "format": FORMAT}
        content |= {"features": list(user_features.FEATURES), "facts": json.dumps(self.facts, sort_keys=True)}
        artifacts.atomic_write(Path(path), skops.io.dumps(content, compression=zipfile.ZIP_DEFLATED))

    @classmethod
    def load(cls, path: str | Path) -> BotClassifier:
        """Return the model of a file.

        Raises
        ------
        ModelError
            The file is missing, damaged, or not of this version of wikisieve.
        """
        path = Path(path)
        try:
            content = skops.io.loads(path.read_bytes(), trusted=TRUSTED_TYPES)
            if (content.pop("format"), content.pop("features")) != (FORMAT, list(user_features.FEATURES)):
                raise ValueError("its format or its features differ")
            model = cls(**{**content, "facts": json.loads(content["facts"])})
            if model._with_version().version != model.version:
                raise ValueError("its numbers are not those of its version")
        except Exception as error:
            # skops, zipfile and json raise whatever a damaged or hostile file leads them to
            raise ModelError(
                f"{paths.show(path)} must be a model that this version of wikisieve wrote. "
                f"Got {type(error).__name__}: {error}. Run 03_eda_train again."
            ) from error
        return model
