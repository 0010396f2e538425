"""How good the model is: users kept apart, forward in time, with an interval on every share.

Everything here is judged on users that the model in question has not learnt from. A user is a *bot* when more than half
of their edits carry the flag, else *human*. The flag is the only truth there is, and it has noise: :func:`label_noise`
lists where.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lib.model import classifier, user_features
from lib.model.classifier import MAX_HUMAN_FPR, BotClassifier, CrossFit, ThresholdNotAttainable
from lib.model.dataset import EditDataset
from lib.stats import CONFIDENCE, bootstrap_ci, clopper_pearson, upper_bound

FORWARD_AT = 0.6
DECISION = 0.5  # of a score that is a probability


# --- baselines --------------------------------------------------------------------------------------------------------


def by_words(learnt: EditDataset, judged: EditDataset) -> np.ndarray:
    """Score edits as the re-implemented system does: by the words of the comment, learnt from other edits.

    Returns
    -------
    ndarray of float, shape (edits of `judged`,)
        Probability of the flag. Where no comment that is learnt from has a word, that is the share of flagged edits.
    """
    said, asked = (part.table.column("comment").fill_null("").to_pylist() for part in (learnt, judged))
    if not any(comment.split() for comment in said):
        return np.full(len(asked), learnt.flagged.mean() if len(said) else 0.0)
    bag = CountVectorizer(token_pattern=r"(?u)\S+", max_features=10_000)
    linear = LogisticRegression(
        solver="liblinear", dual=True, max_iter=10_000, random_state=0
    )  # calls no BLAS
    return classifier.probabilities(make_pipeline(bag, linear).fit(said, learnt.flagged), asked)


def comment_model(people: EditDataset, fold: np.ndarray) -> np.ndarray:
    """Score users by the words of their comments (:func:`by_words`, the mean over their edits), users kept apart.

    Returns
    -------
    ndarray of float, shape (users,)
    """
    scores = np.zeros(len(people.user))
    for k in range(int(fold.max()) + 1):
        test = fold[people.user] == k
        scores[test] = by_words(people.subset(~test), people.subset(test))
    return classifier.round_scores(np.bincount(people.user, scores, len(people)) / people.edits)


# --- in the stream ----------------------------------------------------------------------------------------------------

KEPT, FLAGGED, DROPPED = 0, 1, 2


def simulate(user: np.ndarray, rows: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Judge edits in order as stage 4 does: a user whose score reaches the threshold is flagged, later edits dropped.

    Parameters
    ----------
    user : ndarray of int, shape (n,)
    rows, scores : ndarray of shape (m,)
        Edits at which a user was judged (:func:`lib.model.user_features.update_states`), and the scores.
    threshold : float

    Returns
    -------
    ndarray of int, shape (n,)
        KEPT, FLAGGED or DROPPED.
    """
    n = len(user)
    falls = np.full(int(user.max(initial=-1)) + 1, n)
    reached = rows[scores >= threshold]
    np.minimum.at(falls, user[reached], reached)
    place = np.arange(n)
    return np.where(place > falls[user], DROPPED, np.where(place == falls[user], FLAGGED, KEPT))


def stopped(people: EditDataset, verdicts: np.ndarray) -> dict[str, Any]:
    """Count what verdicts did: bot edits stopped, also in the last quarter, and humans flagged, with bounds.

    The interval of the share of bot edits is over users.
    """
    stop = verdicts != KEPT
    bot_edits = people.flagged
    last = np.arange(len(stop)) >= len(stop) * 3 // 4
    humans = int((~people.bots).sum())
    hit = np.zeros(len(people), bool)
    hit[people.user[stop]] = True
    wrong = int((hit & ~people.bots).sum())
    return {
        "edits": len(stop),
        "bot_edits": int(bot_edits.sum()),
        "bot_edits_stopped": _share(stop & bot_edits, bot_edits),
        "bot_edits_stopped_interval": bootstrap_ci(
            _of_each(people, stop & bot_edits), _of_each(people, bot_edits)
        ),
        "bot_edits_stopped_last_quarter": _share(stop & bot_edits & last, bot_edits & last),
        "humans": humans,
        "humans_flagged": wrong,
        "human_user_fpr": wrong / humans if humans else 0.0,
        "human_user_fpr_upper95": upper_bound(wrong, humans),
    }


def _of_each(people: EditDataset, edits: np.ndarray) -> np.ndarray:
    """Count each user's edits that are marked."""
    return np.bincount(people.user[edits], minlength=len(people))


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def replay(judge: BotClassifier, people: EditDataset) -> np.ndarray:
    """Judge a population's edits in order with a model that knows nobody yet; give a verdict per edit."""
    seen = judge.edit_features(people.table)
    _, rows, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    return simulate(people.user, rows, judge.score(x), judge.threshold)


@dataclass(frozen=True)
class Forward:
    """A test forward in time with users kept apart: what came later, judged by what was learnt before from others."""

    later: EditDataset
    verdicts: np.ndarray
    at_ms: int
    facts: dict[str, Any]


def forward(
    people: EditDataset,
    seed: int = 0,
    max_human_fpr: float = MAX_HUMAN_FPR,
    at: float = FORWARD_AT,
) -> Forward:
    """Learn from the edits before a moment, judge those after it, by models that have not learnt from the user.

    The users are dealt into folds, fewer where there are fewer bots. For each fold, the whole model with its threshold
    is learnt from the earlier edits of the others; then the later edits of the fold's users are judged one by one,
    beginning with nothing known of anybody. Where too few humans came before to promise `max_human_fpr`, the threshold
    lies above all of their scores.

    Parameters
    ----------
    people : EditDataset
    seed : int, default 0
    max_human_fpr : float, default 0.01
    at : float, default 0.6
        The moment, as a share of the time between first and last edit.

    Returns
    -------
    Forward
        ``facts`` has ``bot_edits_stopped``, ``human_user_fpr`` and its 95 % upper bound, and the counts behind them.
    """
    first, last = int(people.times[0]), int(people.times[-1])
    moment = first + int(at * (last - first))
    before, later = people.subset(people.times < moment), people.subset(people.times >= moment)
    folds = min(classifier.FOLDS, max(classifier.FEWEST_FOLDS + 1, int(before.bots.sum())))
    classifier.check(before, folds)
    fold = classifier.assign_folds(before, folds, seed)
    fold_of = dict(zip(before.names, fold, strict=True))
    random = np.random.default_rng(seed)
    fold_later = np.array([fold_of.get(name, random.integers(folds)) for name in later.names])
    verdicts = np.zeros(len(later.user), int)
    for k in range(folds):
        judge = _learnt(before.subset((fold != k)[before.user]), seed, max_human_fpr)
        mine = fold_later[later.user] == k
        verdicts[mine] = replay(judge, later.subset(mine))
    return Forward(later, verdicts, moment, stopped(later, verdicts))


def _learnt(people: EditDataset, seed: int, max_human_fpr: float) -> BotClassifier:
    """Learn a model; where too few humans are there to promise anything, flag nobody below the highest of them."""
    cross = classifier.cross_validate(people, seed, min(classifier.FOLDS, int(people.bots.sum())))
    try:
        return BotClassifier.fit(people, seed, max_human_fpr, cross=cross)
    except ThresholdNotAttainable:
        highest = float(cross.highest_of_all_deals()[~people.bots].max())
        sure = BotClassifier.fit(people, seed, 1.0, cross=cross)
        return dataclasses.replace(sure, threshold=float(np.nextafter(highest, np.inf)))


# --- the report -------------------------------------------------------------------------------------------------------


def report(
    people: EditDataset,
    seed: int = 0,
    max_human_fpr: float = MAX_HUMAN_FPR,
    cross: CrossFit | None = None,
    ahead: Forward | None = None,
) -> dict[str, Any]:
    """Give the parts `users`, `edits` and `forward` of stage 3's metrics.

    Parameters
    ----------
    people : EditDataset
    seed : int, default 0
    max_human_fpr : float, default 0.01
    cross, ahead
        Results of :func:`lib.model.classifier.cross_validate` and :func:`forward` of the same people, if any.

    Returns
    -------
    dict
        As in the contract. The edits' F1 says "bot" where the edit's user, judged from all their edits by a model that
        has not learnt from them, scores at least 0.5; the truth is the edit's own flag.
    """
    cross = cross or classifier.cross_validate(people, seed)
    ahead = ahead or forward(people, seed, max_human_fpr)
    bots = people.bots
    rule = name_contains_bot(people.names)
    return {
        "users": {
            "n": len(people),
            "bots": int(bots.sum()),
            "with_name": measure(bots, cross.final(True), seed),
            "without_name": measure(bots, cross.final(False), seed),
            "name_rule": {
                "average_precision": average_precision(bots, rule.astype(float)),
                **{key: rates(bots, rule)[key] for key in ("precision", "recall")},
            },
        },
        "edits": {
            "with_name": {"f1": edit_f1(people, cross.final(True))},
            "without_name": {"f1": edit_f1(people, cross.final(False))},
        },
        "forward": {
            key: ahead.facts[key] for key in ("bot_edits_stopped", "human_user_fpr", "human_user_fpr_upper95")
        },
    }


def edit_f1(people: EditDataset, user_scores: np.ndarray) -> float:
    """F1 over edits when every edit is called what its user is called."""
    return rates(people.flagged, (user_scores >= DECISION)[people.user])["f1"]


# --- looks at the result, one table each ------------------------------------------------------------------------------


def recall_by_edits(cross: CrossFit, threshold: float, with_name: bool = True) -> pd.DataFrame:
    """How many bots have been found after so many edits, of those that made as many; with exact 95 % intervals.

    Found means that one of the user's scores so far reached the threshold.
    """
    rows, scores = cross.rows, cross.scores(with_name)
    first = np.full(len(cross.people), np.iinfo(np.int64).max)
    reached = (scores >= threshold) & ~rows.last
    np.minimum.at(first, rows.user[reached], rows.edits[reached])
    bots, edits = cross.people.bots, cross.people.edits
    table = []
    for n in user_features.CHECKPOINTS:
        there, people_there = bots & (edits >= n), ~bots & (edits >= n)
        if not there.any():
            break
        found, wrong = int((there & (first <= n)).sum()), int((people_there & (first <= n)).sum())
        low, high = clopper_pearson(found, int(there.sum()))
        table.append(
            (n, int(there.sum()), found, found / int(there.sum()), low, high, int(people_there.sum()), wrong)
        )
    return pd.DataFrame(
        table, columns=["edits seen", "bots", "found", "recall", "low", "high", "humans", "humans flagged"]
    )


def main_wiki(people: EditDataset) -> np.ndarray:
    """Give the wiki of each user's first edit."""
    wikis = np.array(people.table.column("wiki").fill_null("unknown").to_pylist(), object)
    out = np.empty(len(people), object)
    out[people.user[::-1]] = wikis[::-1]
    return out


def baselines(cross: CrossFit, seed: int = 0) -> pd.DataFrame:
    """Compare the model with what is simpler: users, users kept apart, average precision with its interval.

    The list of known bots knows none of the users that it is asked about, as these are kept apart: it is worth the
    majority here, and something only forward in time.
    """
    people = cross.people
    bots = people.bots
    candidates = {
        "model, with the name": cross.final(True),
        "model, without the name": cross.final(False),
        "name rule: “bot” in the name": name_contains_bot(people.names).astype(float),
        "words of the comment (the re-implemented system)": comment_model(people, cross.fold),
        "list of known bots, majority": np.zeros(len(people)),
    }
    table = []
    for name, scores in candidates.items():
        precision, interval = (
            average_precision(bots, scores),
            bootstrap_interval(bots, scores, seed=seed),
        )
        recall = recall_at_fpr(bots, scores)
        table.append((name, precision, *interval, recall, edit_f1(people, scores)))
    return pd.DataFrame(
        table,
        columns=[
            "who says it",
            "average precision",
            "low",
            "high",
            "recall at 0.5 % humans flagged",
            "F1 of edits",
        ],
    )


@dataclass(frozen=True)
class LabelNoise:
    """Where the flag is doubtful."""

    both: pd.DataFrame  #: accounts with flagged and unflagged edits
    named: pd.DataFrame  #: never flagged, but the name ends in "bot"
    likely: pd.DataFrame  #: the most bot-like unflagged users, with reasons


def label_noise(cross: CrossFit, judge: BotClassifier) -> LabelNoise:
    """Audit the labels: accounts with both flags, unflagged names in "bot", the most bot-like unflagged users.

    Parameters
    ----------
    cross : CrossFit
        Its scores come from models that have not learnt from the user.
    judge : BotClassifier
        Words the reasons.
    """
    people = cross.people
    flagged = np.bincount(people.user, people.flagged, len(people)).astype(int)
    frame = pd.DataFrame(
        {"user": people.names, "edits": people.edits, "flagged edits": flagged, "score": cross.final(True)}
    )
    both = frame[(flagged > 0) & (flagged < people.edits)].sort_values(
        ["edits", "user"], ascending=[False, True]
    )
    ends = np.array([name.lower().rstrip("0123456789 ").endswith("bot") for name in people.names], bool)
    named = frame[(flagged == 0) & ends].sort_values(["edits", "user"], ascending=[False, True])
    likely = frame[flagged == 0].sort_values(["score", "user"], ascending=[False, True]).head(20)
    seen = judge.edit_features(people.table)
    state, _, _ = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, seen
    )
    reasons = [
        "; ".join(word for word, share in told if share > 0)[:200]
        for told in judge.explain(state[likely.index])
    ]
    return LabelNoise(
        both.reset_index(drop=True),
        named.reset_index(drop=True),
        likely.assign(reasons=reasons).reset_index(drop=True),
    )


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


def bootstrap_interval(
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
        "interval": list(bootstrap_interval(bots, scores, seed=seed)),
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
        For example from :func:`lib.model.names.account_type`.
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


def name_contains_bot(names: Collection[str]) -> np.ndarray:
    """The name rule: "bot" somewhere in the name, capitals or not.

    Examples
    --------
    >>> name_contains_bot(["ClueBot NG", "Abbott", "Ada"]).tolist()
    [True, True, False]
    """
    return np.array(["bot" in name.lower() for name in names], bool)


def account_type(names: Collection[str]) -> np.ndarray:
    """Tell registered users, IP addresses and temporary accounts by their names.

    Examples
    --------
    >>> account_type(["Ada", "60.225.66.142", "2001:db8::1", "~2026-12345-67"]).tolist()
    ['registered', 'IP', 'IP', 'temporary account']
    """
    return np.array([_account(name) for name in names], str)


def _account(name: str) -> str:
    if re.fullmatch(r"~\d{4}-[\d-]+", name):
        return "temporary account"
    try:
        ip_address(name)
    except ValueError:
        return "registered"
    return "IP"
