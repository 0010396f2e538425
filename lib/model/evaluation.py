"""How good the model is: users kept apart, forward in time, with an interval on every share.

Everything here is judged on users that the model in question has not learnt from. A user is a *bot* when more than half
of their edits carry the flag, else *human*. The flag is the only truth there is, and it has noise: :func:`label_noise`
lists where.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lib.model import features, measures, stack
from lib.model.model import Model
from lib.model.names import says_bot
from lib.model.population import Population
from lib.model.stack import CrossValidation
from lib.model.threshold import MAX_HUMAN_FPR, NoHonestThreshold
from lib.stats import bootstrap_ci, clopper_pearson, upper_bound

FORWARD_AT = 0.6
DECISION = 0.5  # of a score that is a probability


# --- baselines --------------------------------------------------------------------------------------------------------


def by_words(learnt: Population, judged: Population) -> np.ndarray:
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
    return stack.probabilities(make_pipeline(bag, linear).fit(said, learnt.flagged), asked)


def comment_model(people: Population, fold: np.ndarray) -> np.ndarray:
    """Score users by the words of their comments (:func:`by_words`, the mean over their edits), users kept apart.

    Returns
    -------
    ndarray of float, shape (users,)
    """
    scores = np.zeros(len(people.user))
    for k in range(int(fold.max()) + 1):
        test = fold[people.user] == k
        scores[test] = by_words(people.subset(~test), people.subset(test))
    return stack.round_scores(np.bincount(people.user, scores, len(people)) / people.edits)


# --- in the stream ----------------------------------------------------------------------------------------------------

KEPT, FLAGGED, DROPPED = 0, 1, 2


def simulate(user: np.ndarray, rows: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Judge edits in order as stage 4 does: a user whose score reaches the threshold is flagged, later edits dropped.

    Parameters
    ----------
    user : ndarray of int, shape (n,)
    rows, scores : ndarray of shape (m,)
        Edits at which a user was judged (:func:`lib.model.features.fold`), and the scores.
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


def stopped(people: Population, verdicts: np.ndarray) -> dict[str, Any]:
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


def _of_each(people: Population, edits: np.ndarray) -> np.ndarray:
    """Count each user's edits that are marked."""
    return np.bincount(people.user[edits], minlength=len(people))


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.any() else 0.0


def replay(judge: Model, people: Population) -> np.ndarray:
    """Judge a population's edits in order with a model that knows nobody yet; give a verdict per edit."""
    seen = judge.evidence(people.table)
    _, rows, x = features.fold(features.empty(len(people)), people.user, people.times, seen)
    return simulate(people.user, rows, judge.score(x), judge.threshold)


@dataclass(frozen=True)
class Forward:
    """A test forward in time with users kept apart: what came later, judged by what was learnt before from others."""

    later: Population
    verdicts: np.ndarray
    at_ms: int
    facts: dict[str, Any]


def forward(
    people: Population,
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
    people : Population
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
    folds = min(stack.FOLDS, max(stack.FEWEST_FOLDS + 1, int(before.bots.sum())))
    stack.check(before, folds)
    fold = stack.deal(before, folds, seed)
    fold_of = dict(zip(before.names, fold, strict=True))
    random = np.random.default_rng(seed)
    fold_later = np.array([fold_of.get(name, random.integers(folds)) for name in later.names])
    verdicts = np.zeros(len(later.user), int)
    for k in range(folds):
        judge = _learnt(before.subset((fold != k)[before.user]), seed, max_human_fpr)
        mine = fold_later[later.user] == k
        verdicts[mine] = replay(judge, later.subset(mine))
    return Forward(later, verdicts, moment, stopped(later, verdicts))


def _learnt(people: Population, seed: int, max_human_fpr: float) -> Model:
    """Learn a model; where too few humans are there to promise anything, flag nobody below the highest of them."""
    cross = stack.cross_validate(people, seed, min(stack.FOLDS, int(people.bots.sum())))
    try:
        return Model.fit(people, seed, max_human_fpr, cross=cross)
    except NoHonestThreshold:
        highest = float(cross.highest_of_all_deals()[~people.bots].max())
        sure = Model.fit(people, seed, 1.0, cross=cross)
        return dataclasses.replace(sure, threshold=float(np.nextafter(highest, np.inf)))


# --- the report -------------------------------------------------------------------------------------------------------


def report(
    people: Population,
    seed: int = 0,
    max_human_fpr: float = MAX_HUMAN_FPR,
    cross: CrossValidation | None = None,
    ahead: Forward | None = None,
) -> dict[str, Any]:
    """Give the parts `users`, `edits` and `forward` of stage 3's metrics.

    Parameters
    ----------
    people : Population
    seed : int, default 0
    max_human_fpr : float, default 0.01
    cross, ahead
        Results of :func:`lib.model.stack.cross_validate` and :func:`forward` of the same people, if any.

    Returns
    -------
    dict
        As in the contract. The edits' F1 says "bot" where the edit's user, judged from all their edits by a model that
        has not learnt from them, scores at least 0.5; the truth is the edit's own flag.
    """
    cross = cross or stack.cross_validate(people, seed)
    ahead = ahead or forward(people, seed, max_human_fpr)
    bots = people.bots
    rule = says_bot(people.names)
    return {
        "users": {
            "n": len(people),
            "bots": int(bots.sum()),
            "with_name": measures.measure(bots, cross.final(True), seed),
            "without_name": measures.measure(bots, cross.final(False), seed),
            "name_rule": {
                "average_precision": measures.average_precision(bots, rule.astype(float)),
                **{key: measures.rates(bots, rule)[key] for key in ("precision", "recall")},
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


def edit_f1(people: Population, user_scores: np.ndarray) -> float:
    """F1 over edits when every edit is called what its user is called."""
    return measures.rates(people.flagged, (user_scores >= DECISION)[people.user])["f1"]


# --- looks at the result, one table each ------------------------------------------------------------------------------


def recall_by_edits(cross: CrossValidation, threshold: float, with_name: bool = True) -> pd.DataFrame:
    """How many bots have been found after so many edits, of those that made as many; with exact 95 % intervals.

    Found means that one of the user's scores so far reached the threshold.
    """
    rows, scores = cross.rows, cross.scores(with_name)
    first = np.full(len(cross.people), np.iinfo(np.int64).max)
    reached = (scores >= threshold) & ~rows.last
    np.minimum.at(first, rows.user[reached], rows.edits[reached])
    bots, edits = cross.people.bots, cross.people.edits
    table = []
    for n in features.CHECKPOINTS:
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


def main_wiki(people: Population) -> np.ndarray:
    """Give the wiki of each user's first edit."""
    wikis = np.array(people.table.column("wiki").fill_null("unknown").to_pylist(), object)
    out = np.empty(len(people), object)
    out[people.user[::-1]] = wikis[::-1]
    return out


def baselines(cross: CrossValidation, seed: int = 0) -> pd.DataFrame:
    """Compare the model with what is simpler: users, users kept apart, average precision with its interval.

    The list of known bots knows none of the users that it is asked about, as these are kept apart: it is worth the
    majority here, and something only forward in time.
    """
    people = cross.people
    bots = people.bots
    candidates = {
        "model, with the name": cross.final(True),
        "model, without the name": cross.final(False),
        "name rule: “bot” in the name": says_bot(people.names).astype(float),
        "words of the comment (the re-implemented system)": comment_model(people, cross.fold),
        "list of known bots, majority": np.zeros(len(people)),
    }
    table = []
    for name, scores in candidates.items():
        precision, interval = (
            measures.average_precision(bots, scores),
            measures.interval(bots, scores, seed=seed),
        )
        recall = measures.recall_at_fpr(bots, scores)
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


def label_noise(cross: CrossValidation, judge: Model) -> LabelNoise:
    """Audit the labels: accounts with both flags, unflagged names in "bot", the most bot-like unflagged users.

    Parameters
    ----------
    cross : CrossValidation
        Its scores come from models that have not learnt from the user.
    judge : Model
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
    seen = judge.evidence(people.table)
    state, _, _ = features.fold(features.empty(len(people)), people.user, people.times, seen)
    reasons = [
        "; ".join(word for word, share in told if share > 0)[:200]
        for told in judge.explain_all(state[likely.index])
    ]
    return LabelNoise(
        both.reset_index(drop=True),
        named.reset_index(drop=True),
        likely.assign(reasons=reasons).reset_index(drop=True),
    )
