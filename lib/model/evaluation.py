"""How good the model is: grouped by user, forward in time, with an interval on every share.

All figures are about users that the model in question was not trained on. A user is a *bot* when more than half of
their edits carry the flag, else *human*. The flag is the only truth there is, and it has noise.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_curve
from sklearn.pipeline import make_pipeline

from lib import plots
from lib.model import classifier, edit_features, user_features
from lib.model.classifier import BotClassifier, CrossFit, ThresholdNotAttainable
from lib.model.dataset import EditDataset
from lib.stats import CONFIDENCE, bootstrap_ci, clopper_pearson, human_rates, name_contains_bot

# --- names ------------------------------------------------------------------------------------------------------------


def account_type(names: Collection[str]) -> np.ndarray:
    """Return "registered", "IP" or "temporary account" for each name.

    Examples
    --------
    >>> account_type(["Ada", "60.225.66.142", "2001:db8::1", "~2026-12345-67"]).tolist()
    ['registered', 'IP', 'IP', 'temporary account']
    """
    name = pd.Series(list(names), dtype=str)
    patterns = edit_features.IP_ADDRESS, edit_features.TEMPORARY_ACCOUNT
    return np.select([name.str.fullmatch(of) for of in patterns], ["IP", "temporary account"], "registered")


# --- measures of users' scores ----------------------------------------------------------------------------------------


def bootstrap_interval(
    is_bot: np.ndarray, scores: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the average precision by resampling users (percentile bootstrap).

    References
    ----------
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap (1993), chapter 13.
    """
    random, n = np.random.default_rng(seed), len(is_bot)
    levels, level = np.unique(-scores, return_inverse=True)  # equal scores are one step of the curve
    values = []
    for _ in range(resamples):
        users = random.integers(n, size=n)
        flagged = np.cumsum(np.bincount(level[users], minlength=len(levels)))
        found = np.cumsum(np.bincount(level[users], is_bot[users], len(levels)))
        if found[-1]:
            values.append((np.diff(found, prepend=0) * found / np.maximum(flagged, 1)).sum() / found[-1])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if values else (np.nan, np.nan)
    return float(low), float(high)


def recall_at_fpr(is_bot: np.ndarray, scores: np.ndarray, max_fpr: float = 0.005) -> float:
    """Return the highest recall of a threshold at which at most a share `max_fpr` of the humans is flagged.

    Examples
    --------
    >>> recall_at_fpr(np.array([True, True, False, False]), np.array([0.9, 0.4, 0.5, 0.1]), max_fpr=0.0)
    0.5
    """
    fpr, recall, _ = roc_curve(is_bot, scores, drop_intermediate=False)
    return float(recall[fpr <= max_fpr].max())


def user_metrics(is_bot: np.ndarray, scores: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Return the two measures of users' scores that the contract asks for, the first with its interval."""
    return {
        "average_precision": float(average_precision_score(is_bot, scores)),
        "interval": list(bootstrap_interval(is_bot, scores, seed=seed)),
        "recall_at_half_percent_fpr": recall_at_fpr(is_bot, scores),
    }


def edit_f1(dataset: EditDataset, user_scores: np.ndarray) -> float:
    """Return F1 over edits when every edit is called what its user is called."""
    return float(f1_score(dataset.flagged, (user_scores >= 0.5)[dataset.user], zero_division=0))


def errors_by(group: np.ndarray, is_bot: np.ndarray, flagged: np.ndarray) -> pd.DataFrame:
    """Count users and errors in each group of users, the largest first; `share` of humans flagged with its interval."""
    users = pd.DataFrame(
        {
            "group": group,
            "humans": ~is_bot,
            "humans flagged": ~is_bot & flagged,
            "bots": is_bot,
            "bots missed": is_bot & ~flagged,
        }
    )
    table = users.groupby("group", as_index=False).sum()
    pairs = zip(table["humans flagged"], table["humans"], strict=True)
    table["share"] = [plots.format_share(wrong, humans) for wrong, humans in pairs]
    return table.sort_values(["humans", "group"], ascending=[False, True], ignore_index=True)


# --- what is simpler --------------------------------------------------------------------------------------------------


def comment_baseline(train: EditDataset, test: EditDataset) -> np.ndarray:
    """Score edits by the words of their comments alone: the baseline.

    Returns
    -------
    ndarray of float, shape (edits of `test`,)
        Probability of the flag. Where no comment that is trained on has a word, that is the share of flagged edits.
    """
    known, asked = (part.table.column("comment").fill_null("").to_pylist() for part in (train, test))
    if not any(comment.split() for comment in known):
        return np.full(len(asked), train.flagged.mean() if len(known) else 0.0)
    words = CountVectorizer(token_pattern=r"(?u)\S+", max_features=10_000)
    linear = LogisticRegression(solver="liblinear", dual=True, max_iter=10_000, random_state=0)  # no BLAS
    return classifier.probabilities(make_pipeline(words, linear).fit(known, train.flagged), asked)


def comment_scores(dataset: EditDataset, fold: np.ndarray) -> np.ndarray:
    """Score users by :func:`comment_baseline`, the mean over their edits, each trained on the users of other folds."""
    scores = np.zeros(len(dataset.user))
    for k in range(int(fold.max()) + 1):
        test = fold[dataset.user] == k
        scores[test] = comment_baseline(dataset.subset(~test), dataset.subset(test))
    return classifier.round_scores(np.bincount(dataset.user, scores, len(dataset)) / dataset.edits_per_user)


# --- in the stream ----------------------------------------------------------------------------------------------------


def flagged_at(model: BotClassifier, dataset: EditDataset, features: np.ndarray) -> np.ndarray:
    """Return the edit at which each user is flagged by a model that starts with no states, as stage 4 does.

    Parameters
    ----------
    model : BotClassifier
    dataset : EditDataset
    features : ndarray of float, shape (edits, len(EDIT_FEATURES))
        Of the model for the dataset's edits.

    Returns
    -------
    ndarray of int, shape (users,)
        Row of the edit; the number of edits for a user who is not flagged.
    """
    states = user_features.new_states(len(dataset))
    _, rows, x = user_features.update_states(states, dataset.user, dataset.times, features)
    reached = rows[model.is_flagged(x, model.score(x))]
    at = np.full(len(dataset), len(dataset.user))
    np.minimum.at(at, dataset.user[reached], reached)
    return at


def stopped_edits(model: BotClassifier, dataset: EditDataset) -> np.ndarray:
    """Return which edits are stopped: that at which their user is flagged, and all later ones."""
    at = flagged_at(model, dataset, model.edit_features(dataset.table))
    return np.arange(len(dataset.user)) >= at[dataset.user]


def stop_rates(dataset: EditDataset, stopped: np.ndarray) -> dict[str, Any]:
    """Count what was stopped (a mask of edits): bot edits, with an interval over users, and humans, with a bound."""
    masks, n = (stopped, stopped & dataset.flagged), len(dataset)
    edits, caught = (np.bincount(dataset.user[mask], minlength=n) for mask in masks)
    rates = {
        "edits": len(stopped),
        "bot_edits": int(dataset.flagged.sum()),
        "bot_edits_caught": int(caught.sum()),
        "bot_edits_stopped": float(caught.sum() / max(dataset.flagged.sum(), 1)),
        "bot_edits_stopped_interval": bootstrap_ci(caught, dataset.flagged_per_user),
    }
    return rates | human_rates(edits, dataset.edits_per_user, dataset.is_bot, dataset.names)


class Forward(NamedTuple):
    """A test forward in time, grouped by user."""

    earlier: EditDataset
    later: EditDataset
    stopped: np.ndarray  #: mask of the later edits
    rates: dict[str, Any]  #: :func:`stop_rates` of them


def forward_test(
    cross: CrossFit, max_human_fpr: float, max_human_edit_fpr: float, at: float = 0.6
) -> Forward:
    """Train on the edits before a moment, score those after it, by models that were not trained on the user.

    For each fold (fewer where there are fewer bots), the whole model with its threshold is trained on the earlier edits
    of the others; then the later edits of the fold's users are scored one by one, starting with no states. Where too
    few humans came before for a guarantee, the threshold is the lowest that flags none of them.

    Parameters
    ----------
    cross : CrossFit
        Its dataset, its estimators and its seed are used.
    max_human_fpr, max_human_edit_fpr : float
        As :func:`lib.model.classifier.choose_threshold` takes them.
    at : float, default 0.6
        The moment, as a share of the time between first and last edit.
    """
    dataset, seed = cross.dataset, cross.seed
    first, last = int(dataset.times[0]), int(dataset.times[-1])
    moment = first + int(at * (last - first))
    earlier, later = dataset.subset(dataset.times < moment), dataset.subset(dataset.times >= moment)
    folds = min(classifier.FOLDS, max(4, int(earlier.is_bot.sum())))
    classifier.check_size(earlier, folds)
    fold = classifier.assign_folds(earlier, folds, seed)
    fold_of = dict(zip(earlier.names, fold, strict=True))
    random = np.random.default_rng(seed)
    fold_later = np.array([fold_of.get(name, random.integers(folds)) for name in later.names])
    stopped = np.zeros(len(later.user), bool)
    for k in range(folds):
        before = earlier.subset((fold != k)[earlier.user])
        models = cross.text_model, cross.user_models[True], cross.user_models[False]
        few = min(classifier.FOLDS, int(before.is_bot.sum()))
        again = CrossFit(before, *models, folds=few, repeats=len(cross.fits), seed=seed)
        curve = classifier.threshold_curve(again)
        try:
            threshold = classifier.choose_threshold(curve, max_human_fpr, max_human_edit_fpr)
        except ThresholdNotAttainable:
            threshold = float(curve["threshold"].iloc[0])
        test = fold_later[later.user] == k
        stopped[test] = stopped_edits(BotClassifier.fit(again, threshold), later.subset(test))
    return Forward(earlier, later, stopped, stop_rates(later, stopped))


# --- tables -----------------------------------------------------------------------------------------------------------


def report(cross: CrossFit, forward: Forward) -> dict[str, Any]:
    """Return the sections `users`, `edits` and `forward` of stage 3's metrics.

    The edits' F1 calls an edit "bot" where its user, scored from all their edits by a model that was not trained on
    them, reaches 0.5; the truth is the edit's own flag.
    """
    dataset, is_bot = cross.dataset, cross.dataset.is_bot
    rule = name_contains_bot(dataset.names)
    variants = {"with_name": cross.scores(True), "without_name": cross.scores(False)}
    return {
        "users": {
            "n": len(dataset),
            "bots": int(is_bot.sum()),
            **{name: user_metrics(is_bot, scores, cross.seed) for name, scores in variants.items()},
            "name_rule": {
                "average_precision": float(average_precision_score(is_bot, rule)),
                "precision": float(precision_score(is_bot, rule, zero_division=0)),
                "recall": float(recall_score(is_bot, rule, zero_division=0)),
            },
        },
        "edits": {name: {"f1": edit_f1(dataset, scores)} for name, scores in variants.items()},
        "forward": {
            key: forward.rates[key]
            for key in forward.rates
            if key.startswith(("bot_edits_stopped", "human_"))
        },
    }


def recall_by_edits(cross: CrossFit, threshold: float) -> pd.DataFrame:
    """Return how many bots were flagged after so many edits, of those that made as many; with exact 95 % intervals."""
    dataset = cross.dataset
    first = cross.flagged_after(threshold, repeats=1)
    first = np.where(first > dataset.edits_per_user, np.iinfo(np.int64).max, first)
    table = []
    for n in user_features.CHECKPOINTS:
        bots = dataset.is_bot & (dataset.edits_per_user >= n)
        if not bots.any():
            break
        found = int((bots & (first <= n)).sum())
        humans_by_then = float((first[~dataset.is_bot] <= n).mean())
        interval = clopper_pearson(found, int(bots.sum()))
        table.append((n, int(bots.sum()), found, found / bots.sum(), *interval, humans_by_then))
    return pd.DataFrame(table, columns=["edits", "bots", "found", "recall", "low", "high", "humans flagged"])


def reasons(model: BotClassifier, dataset: EditDataset, users: np.ndarray) -> list[str]:
    """Return the four features that speak most for a bot in users (numbers of rows of `dataset.names`)."""
    states = user_features.new_states(len(dataset))
    features = model.edit_features(dataset.table)
    states, _, _ = user_features.update_states(states, dataset.user, dataset.times, features)
    found = model.explain(user_features.to_features(states[users]))
    return ["; ".join([name for name, share in shares if share > 0][:4]) for shares in found]
