"""Train the bot classifier on two levels, cross-fit it with a grouped split, and choose its threshold.

The *text model* (linear, on hashed n-grams) turns the texts of one edit into log-odds. The *user model* scores the
features of a user's state after 1, 2, 3, 5, 8 … edits, of which those log-odds are a part. The user model must be
trained on what it will see later: log-odds of users that the text model was not trained on. So users are assigned to
folds, and the log-odds of each fold come from a text model trained without it; to score users by cross-validation,
pairs of folds are held out together (:class:`CrossFit`).
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
import skops.io
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from lib import artifacts, paths
from lib.model import edit_features, user_features
from lib.model.dataset import EditDataset, ModelError
from lib.stats import CONFIDENCE, edits_upper_bound, upper_bound

FOLDS = 5
REPEATS = 3  # assignments to folds that the threshold is chosen by
EDITS_PENALTY = 1.0  # c of the margin
_libraries = functools.cache(ThreadpoolController)  # to find them takes as long as a small model's training
CURVE_END = 0.03  # share of humans flagged at the lowest threshold of a curve
FORMAT = "wikisieve-model 3"
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


def _fit(
    model: Any, x: np.ndarray | sp.spmatrix, y: np.ndarray, weight: np.ndarray, attribute: str, rule: str
) -> Any:
    """Train a copy of an estimator, with weights if it takes any; without that attribute it breaks the rule."""
    last, prefix = (model[-1], f"{model.steps[-1][0]}__") if isinstance(model, Pipeline) else (model, "")
    weights = {f"{prefix}sample_weight": weight} if has_fit_parameter(last, "sample_weight") else {}
    # So small a problem is slower on more threads, much slower on a busy machine.
    with _libraries().limit(limits=1):
        fitted = round_fitted(clone(model).fit(x, y, **weights))
    if not hasattr(fitted, attribute):
        raise ModelError(f"{rule}. Got {type(last).__name__}. Choose another one.")
    return fitted


def fit_text_model(dataset: EditDataset, users: np.ndarray, text_model: Any = TEXT_MODEL) -> Any:
    """Train the text model on the edits of some users; each user has the same weight.

    Parameters
    ----------
    dataset : EditDataset
    users : ndarray of bool, shape (users,)
        Whose edits are trained on.
    text_model : estimator
        A linear one that takes sparse input.

    Returns
    -------
    estimator
        Fitted on rows of :attr:`EditDataset.text_matrix`.
    """
    rows = dataset.capped_edits[users[dataset.user[dataset.capped_edits]]]
    owner = dataset.user[rows]
    weight = 1.0 / np.bincount(owner, minlength=len(dataset))[owner]
    rule = "The text model must be linear (have coef_): stage 4 sums its coefficients on the executors"
    fitted = _fit(text_model, dataset.text_matrix[rows], dataset.train_label[owner], weight, "coef_", rule)
    # As the compiled loop of stage 4 takes them.
    fitted.coef_ = np.atleast_2d(fitted.coef_).astype(np.float32)
    return fitted


def select_features(x: np.ndarray, with_name: bool) -> np.ndarray:
    """Return all features, or those that do not come from the user's name."""
    return x if with_name else x[:, ~user_features.OF_THE_NAME]


class CheckpointRows(NamedTuple):
    """Users at their checkpoints, in order of time, then every user after all edits."""

    user: np.ndarray  #: shape (rows,), as the next three
    edits: np.ndarray  #: edits so far
    last: np.ndarray  #: True for the row after all edits
    edit: np.ndarray  #: the edit that made the row
    x: np.ndarray  #: features, shape (rows, len(FEATURES))

    def of(self, users: np.ndarray) -> CheckpointRows:
        """Return the rows of some users (a mask)."""
        keep = users[self.user]
        return CheckpointRows(*(column[keep] for column in self))


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
    dataset: EditDataset, rows: CheckpointRows, user_model: Any = USER_MODEL, with_name: bool = True
) -> Any:
    """Train the user model on rows; the rows of one user weigh 1 together."""
    weight = 1.0 / np.bincount(rows.user, minlength=len(dataset))[rows.user]
    rule = "The user model must give probabilities (have predict_proba): they are the scores"
    x = select_features(rows.x, with_name)
    return _fit(user_model, x, dataset.train_label[rows.user], weight, "predict_proba", rule)


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
    """Both levels, trained with any folds held out.

    ``rows(left_out)`` has the users of the other folds, each fold `j` of them with log-odds by a text model trained
    without `left_out` and `j`.
    """

    def __init__(self, dataset: EditDataset, fold: np.ndarray, text_model: Any = TEXT_MODEL) -> None:
        self.dataset, self.fold, self.text_model = dataset, fold, text_model
        self.folds = range(int(fold.max()) + 1)
        self._log_odds: dict[frozenset[int], np.ndarray] = {}

    def log_odds(self, left_out: frozenset[int]) -> np.ndarray:
        """Return the log-odds of all edits by a text model that was trained, once, on the users of the other folds."""
        if left_out not in self._log_odds:
            fitted = fit_text_model(self.dataset, ~np.isin(self.fold, list(left_out)), self.text_model)
            self._log_odds[left_out] = fitted.decision_function(self.dataset.text_matrix)
        return self._log_odds[left_out]

    def rows(self, left_out: frozenset[int] = frozenset()) -> CheckpointRows:
        """Return the rows of the users outside `left_out`."""
        fold_of_edit = self.fold[self.dataset.user]
        text_log_odds = np.zeros(len(fold_of_edit))
        for k in set(self.folds) - left_out:
            text_log_odds[fold_of_edit == k] = self.log_odds(left_out | {k})[fold_of_edit == k]
        return build_rows(self.dataset, text_log_odds).of(~np.isin(self.fold, list(left_out)))

    def scores(self, user_models: dict[bool, Any]) -> tuple[CheckpointRows, dict[bool, np.ndarray]]:
        """Return all rows, and their scores with the name and without it: by models trained without the user's fold."""
        rows = self.rows()
        out = {with_name: np.zeros(len(rows.user)) for with_name in user_models}
        for k in self.folds:
            known, test = self.rows(frozenset({k})), self.fold[rows.user] == k
            for with_name, user_model in user_models.items():
                fitted = fit_user_model(self.dataset, known, user_model, with_name)
                out[with_name][test] = probabilities(fitted, select_features(rows.x[test], with_name))
        return rows, out


class CrossFit:
    """Scores of users by models (both levels) that were trained on the users of other folds.

    Parameters
    ----------
    dataset : EditDataset
    text_model, user_model, user_model_without_name : estimator
        Not trained yet; copies are. The text model is linear and takes sparse input; the others are pipelines of at
        least one transformer and a classifier, and the last one sees no feature of the name.
    folds : int, default 5
    repeats : int, default 3
        Assignments to folds. The first is the one that is reported; a threshold is chosen by all.
    seed : int, default 0

    Attributes
    ----------
    fold : ndarray of int, shape (users,)
        Fold of each user in the first repeat.
    rows : CheckpointRows
        Of all users, in the first repeat.
    row_scores : dict of bool to ndarray
        Their scores, by whether the name is seen.

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
        self.fits: list[tuple[CheckpointRows, np.ndarray]] = []
        for number in range(repeats):
            nested = NestedFit(dataset, assign_folds(dataset, folds, (seed, number)), text_model)
            rows, scores = nested.scores(self.user_models if number == 0 else {True: user_model})
            self.fits.append((rows, scores[True]))
            if number == 0:
                self.fold, self.rows, self.row_scores = nested.fold, rows, scores
        self._margins = functools.cache(self._compute_margins)

    def scores(self, with_name: bool = True) -> np.ndarray:
        """Return the score of every user after all edits."""
        out = np.empty(len(self.dataset))
        out[self.rows.user[self.rows.last]] = self.row_scores[with_name][self.rows.last]
        return out

    def _compute_margins(self, c: float, repeats: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return user, number of edits and margin of all rows at checkpoints."""
        parts = []
        for rows, scores in self.fits[:repeats]:
            margins = margin(scores, rows.x[:, user_features.LOG_EDITS], c)
            parts.append([values[~rows.last] for values in (rows.user, rows.edits, margins)])
        user, edits, margins = (np.concatenate(values) for values in zip(*parts, strict=True))
        return user, edits, margins

    def highest_margins(self, c: float = EDITS_PENALTY, repeats: int | None = None) -> np.ndarray:
        """Return the highest :func:`margin` of every user at checkpoints of the first `repeats` repeats (all)."""
        user, _, margins = self._margins(c, repeats)
        out = np.full(len(self.dataset), -np.inf)
        np.maximum.at(out, user, margins)
        return out

    def flagged_after(
        self, threshold: float, c: float = EDITS_PENALTY, repeats: int | None = None
    ) -> np.ndarray:
        """Return after how many edits every user is flagged in some repeat; one more than theirs where never."""
        user, edits, margins = self._margins(c, repeats)
        out = self.dataset.edits_per_user + 1
        reached = margins >= threshold
        np.minimum.at(out, user[reached], edits[reached])
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


# --- the threshold ----------------------------------------------------------------------------------------------------


def margin(scores: np.ndarray, log_edits: np.ndarray, c: float = EDITS_PENALTY) -> np.ndarray:
    """Return how bot-like users are for the number of their edits: ``logit(score) - c * log(edits)``, rounded.

    Every further look at a user is another chance to reach a fixed threshold, so that the busiest people would reach it
    sooner or later. With ``c = 1`` the odds that are asked for grow as the number of edits does: more strictly
    than Bonferroni's correction for the looks would, which are 13 in 1,000 edits.

    Examples
    --------
    >>> margin(np.array([0.9, 0.9, 0.999]), np.log([1, 100, 100])).round(2).tolist()
    [2.2, -2.41, 2.3]
    """
    return np.round(logit(np.clip(scores, 1e-6, 1 - 1e-6)) - c * log_edits, DECIMALS)


def threshold_curve(cross: CrossFit, c: float = EDITS_PENALTY) -> pd.DataFrame:
    """Return what thresholds on the margin stop, by models that were not trained on the user.

    Parameters
    ----------
    cross : CrossFit
    c : float, default 1
        Of :func:`margin`.

    Returns
    -------
    DataFrame
        One row per threshold: the lowest that flags no human, the lowest that flags one, and so on. `bots` and
        `bot_edits` are the shares flagged and stopped in the first repeat. Of the humans whose names do not call them
        bots, `humans` are flagged in some repeat, at most the share `humans_upper95` (exact) of all such; the share
        `human_edits` of their edits is stopped, at most `human_edits_upper95` (bootstrap over users).
    """
    dataset = cross.dataset
    human, bot = dataset.is_human, dataset.is_bot
    highest = np.sort(cross.highest_margins(c)[human])[::-1]
    levels = np.unique(highest[: int(CURVE_END * len(highest)) + 1])[::-1]
    rows = []
    for level in levels:
        threshold = round(float(level) + 10.0**-DECIMALS, DECIMALS)
        stopped = dataset.edits_per_user + 1 - cross.flagged_after(threshold, c)
        first = cross.flagged_after(threshold, c, repeats=1)
        flagged = int((stopped[human] > 0).sum())
        row = {
            "threshold": threshold,
            "bots": (first <= dataset.edits_per_user)[bot].mean(),
            "bot_edits": (dataset.edit_index + 1 >= first[dataset.user])[dataset.flagged].mean(),
            "humans": flagged,
            "humans_upper95": upper_bound(flagged, int(human.sum())),
            "human_edits": stopped[human].sum() / dataset.edits_per_user[human].sum(),
            "human_edits_upper95": edits_upper_bound(stopped[human], dataset.edits_per_user[human]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def choose_threshold(curve: pd.DataFrame, max_human_fpr: float, max_human_edit_fpr: float) -> float:
    """Return the lowest threshold at which both upper bounds are at most half of what is allowed.

    The other half is kept for what cross-validation does not see: people who are busier than all of the sample. Where
    no threshold has such bounds, it is the lowest that flags no human, if its bounds are at most what is allowed.

    Parameters
    ----------
    curve : DataFrame
        From :func:`threshold_curve`.
    max_human_fpr, max_human_edit_fpr : float
        Largest share of the human users that may be flagged, and of their edits that may be stopped.

    Raises
    ------
    ThresholdNotAttainable
        Even a threshold that flags no human would not be proof enough.

    References
    ----------
    X. Tong, Y. Feng, J. J. Li: Neyman-Pearson classification algorithms and NP receiver operating characteristics,
    Science Advances 4 (2018), of which this is the idea: the error that matters is bounded, with confidence.
    """
    limits = {"MAX_HUMAN_FPR": max_human_fpr, "MAX_HUMAN_EDIT_FPR": max_human_edit_fpr}
    bounds = curve[["humans_upper95", "human_edits_upper95"]].set_axis(list(limits), axis=1)
    for name, limit in limits.items():
        if bounds[name].iloc[0] > limit:
            takes = np.ceil(np.log(1 - CONFIDENCE) / np.log1p(-limit)) if 0 < limit < 1 else np.inf
            counted = "humans" if name == "MAX_HUMAN_FPR" else "edits of humans"
            lowest = np.ceil(1e4 * bounds[name].iloc[0]) / 1e4
            raise ThresholdNotAttainable(
                f"{name} must be at least {lowest:g} to be guaranteed with {100 * CONFIDENCE:g} % "
                f"confidence from this sample. Got {limit:g}, which takes {takes:.0f} {counted}. "
                f"Raise {name}, or sample more users (PERCENT in 02_sample)."
            )
    within = (bounds <= [limit / 2 for limit in limits.values()]).all(axis=1)
    return float(curve["threshold"][within.cummin()].min() if within.iloc[0] else curve["threshold"].iloc[0])


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

    @classmethod
    def fit(cls, cross: CrossFit, threshold: float) -> BotClassifier:
        """Train the estimators of a cross-fit on all of its users."""
        dataset = cross.dataset
        user_model = fit_user_model(dataset, cross.rows, cross.user_models[True])
        text_model = fit_text_model(dataset, np.ones(len(dataset), bool), cross.text_model)
        return cls(text_model, user_model, threshold)

    @functools.cached_property
    def version(self) -> str:
        """Short hash of everything that the model decides by."""
        parts = [FORMAT, repr(self.threshold), *user_features.FEATURES]
        digest = hashlib.sha256("\n".join(parts).encode())
        for estimator in (self.text_model, *(step for _, step in self.user_model.steps)):
            for name, value in sorted(vars(estimator).items()):
                if name.endswith("_") and isinstance(value, np.ndarray | float | int):
                    digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()[:12]

    @functools.cached_property
    def weights(self) -> edit_features.Weights:
        """The text model's coefficients, for the compiled loop."""
        return edit_features.Weights(self.text_model.coef_[0], float(np.ravel(self.text_model.intercept_)[0]))

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
        if not len(x):
            return np.zeros(0)
        if not hasattr(self.user_model[-1], "coef_"):
            return probabilities(self.user_model, x)
        return round_scores(expit(self._contributions(x).sum(axis=1) + self.user_model[-1].intercept_[0]))

    def is_flagged(self, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return for which features of users, with their scores, the margin reaches the threshold."""
        return margin(scores, x[:, user_features.LOG_EDITS]) >= self.threshold

    def required_score(self, x: np.ndarray) -> float:
        """Return the lowest score at which a user with these features, shape (len(FEATURES),), is flagged."""
        return float(round_scores(expit(self.threshold + EDITS_PENALTY * x[user_features.LOG_EDITS])))

    def _contributions(self, x: np.ndarray) -> np.ndarray:
        """Return each feature's part of the log-odds, against the average training user."""
        return self.user_model[:-1].transform(x) * self.user_model[-1].coef_[0]

    def explain(self, x: np.ndarray) -> list[list[tuple[str, float]]]:
        """Return what made the scores of users.

        Parameters
        ----------
        x : ndarray of float, shape (n, len(FEATURES))

        Returns
        -------
        list of list of (str, float)
            For each user, features with their part of the score's log-odds, largest first; empty where the user model
            is not linear.
        """
        if not len(x) or not hasattr(self.user_model[-1], "coef_"):
            return [[] for _ in x]
        shares = round_scores(self._contributions(x))
        orders = np.argsort(-np.abs(shares), axis=1, kind="stable")
        return [
            [(user_features.FEATURES[i], float(row[i])) for i in order if row[i]]
            for order, row in zip(orders, shares, strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Write the model with skops: no pickle, and no code is run on loading it."""
        content = {name: getattr(self, name) for name in ("text_model", "user_model", "threshold")}
        content |= {"format": FORMAT, "features": list(user_features.FEATURES)}
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
            if (content["format"], content["features"]) != (FORMAT, list(user_features.FEATURES)):
                raise ValueError("its format or its features differ")
            return cls(content["text_model"], content["user_model"], content["threshold"])
        except Exception as error:
            # skops and zipfile raise whatever a damaged or hostile file leads them to
            got = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{paths.show(path)} must be a model that this version of wikisieve wrote, of estimators that skops "
                f"loads without running code (no trees). Got {type(error).__name__}: {got}. Run 03_eda_train again."
            ) from error
