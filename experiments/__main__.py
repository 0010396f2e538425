"""Attempts at a better model, in one table: ``python -m experiments [CAPTURE …]``; README.md has the diary."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from lib import events, paths
from lib.model import edit_features, evaluation, user_features
from lib.model.classifier import (
    FOLDS,
    USER_MODEL,
    USER_MODEL_WITHOUT_NAME,
    CheckpointRows,
    NestedFit,
    assign_folds,
    probabilities,
    round_fitted,
)
from lib.model.dataset import EditDataset, read_csv
from lib.stats import name_contains_bot
from lib.stream import recording, sample_day

SEEDS = 3
DOUBTFUL = 0.005  # share of unflagged users that the positive-unlabelled attempt leaves out


# --- attempts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attempt:
    """One way to train the upper level."""

    name: str
    make: Callable[[int, bool], Any]  #: untrained classifier for a seed, with or without the name
    without: tuple[str, ...] = ()  #: families of features left out
    whole: float = 0.0  #: share of a user's weight on the row of all edits; the rest on prefixes
    names_twice: bool = False  #: every feature a second time for users whose name contains "bot"
    trims: bool = False  #: leave the most bot-like unflagged users out of training
    label: str = "any"  #: train on as bots: users with any flagged edit, or with most edits flagged


def kept(seed: int, with_name: bool) -> Any:
    """What the model is made of."""
    return clone(USER_MODEL if with_name else USER_MODEL_WITHOUT_NAME)


def linear(c: float, furthest: float = np.inf) -> Callable[[int, bool], Any]:
    """Logistic regression on standardised features, which may end at `furthest` standard deviations."""
    return lambda seed, with_name: make_pipeline(
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -furthest, "a_max": furthest}),
        LogisticRegression(C=c, solver="newton-cholesky"),
    )


def boosting(seed: int, with_name: bool) -> Any:
    """Gradient boosting, small trees."""
    return make_pipeline(
        HistGradientBoostingClassifier(
            max_iter=100, learning_rate=0.06, max_leaf_nodes=8, l2_regularization=5, random_state=seed
        )
    )


def trees(seed: int, with_name: bool) -> Any:
    """Extremely randomised trees."""
    return make_pipeline(
        ExtraTreesClassifier(60, min_samples_leaf=3, max_features=0.3, max_depth=12, random_state=seed)
    )


class Blend(ClassifierMixin, BaseEstimator):
    """The mean of several classifiers' log-odds."""

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray) -> Blend:
        """Train every part."""
        for part in self.parts:
            _fit(part, x, y, sample_weight)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Average the parts."""
        odds = [logit(np.clip(part.predict_proba(x)[:, 1], 1e-4, 1 - 1e-4)) for part in self.parts]
        p = expit(np.mean(odds, axis=0))
        return np.column_stack([1 - p, p])


class Calibrated(ClassifierMixin, BaseEstimator):
    """Logistic regression with isotonic calibration trained on the half of the users it was not trained on."""

    def __init__(self, seed: int, with_name: bool) -> None:
        self.seed, self.with_name = seed, with_name

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray, user: np.ndarray) -> Calibrated:
        """Train on one half of the users (`user` is that of each row), calibrate on the other."""
        half = (np.random.default_rng(self.seed).uniform(size=user.max() + 1) < 0.5)[user]
        self.part_ = _fit(kept(self.seed, self.with_name), x[half], y[half], sample_weight[half])
        scores = self.part_.predict_proba(x[~half])[:, 1]
        self.curve_ = IsotonicRegression(out_of_bounds="clip").fit(scores, y[~half], sample_weight[~half])
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Score, then calibrate."""
        p = self.curve_.predict(self.part_.predict_proba(x)[:, 1])
        return np.column_stack([1 - p, p])


#: Features by family, for leaving one out; names are prefixes of ``user_features.FEATURES``.
FAMILIES: dict[str, tuple[str, ...]] = {
    "texts": ("texts:",),
    "longest burst": ("longest burst",),
    "repetition": ("different", "comments repeated", "change"),
    "what edits are": tuple(edit_features.FLAGS),
    "name hints": tuple(edit_features.NAME_FLAGS),
}

KEPT = Attempt("logistic regression (kept)", kept)

ATTEMPTS = (
    KEPT,
    *(Attempt(f"… C = {c:g}, features without end", linear(c)) for c in (0.005, 0.02, 0.1, 0.5)),
    *(Attempt(f"… C = 0.1, features end at {end} standard deviations", linear(0.1, end)) for end in (3, 8)),
    *(Attempt(f"… without {family}", kept, without=(family,)) for family in FAMILIES),
    Attempt("… a bot has most edits flagged, not any", kept, label="most"),
    Attempt("… trained on all edits only, no prefixes", kept, whole=1.0),
    Attempt("… half of a user's weight on the row of all edits", kept, whole=0.5),
    Attempt("… every feature twice: for bot-like names too", kept, names_twice=True),
    Attempt("… positive-unlabelled: doubtful left out", kept, trims=True),
    Attempt("… isotonic calibration", Calibrated),
    Attempt("gradient boosting", boosting),
    Attempt("extremely randomised trees", trees),
    Attempt("logistic regression + trees", lambda *how: Blend((kept(*how), trees(*how)))),
)


def _fit(estimator: Any, x: np.ndarray, y: np.ndarray, weight: np.ndarray, **more: np.ndarray) -> Any:
    last = f"{estimator.steps[-1][0]}__sample_weight" if hasattr(estimator, "steps") else "sample_weight"
    return round_fitted(estimator.fit(x, y, **{last: weight}, **more))


def _columns(without: Iterable[str], with_name: bool) -> np.ndarray:
    prefixes = tuple(prefix for family in without for prefix in FAMILIES[family])
    kept = np.array([not (prefixes and name.startswith(prefixes)) for name in user_features.FEATURES])
    return kept if with_name else kept & ~user_features.OF_THE_NAME


def _matrix(attempt: Attempt, x: np.ndarray, with_name: bool) -> np.ndarray:
    seen = x[:, _columns(attempt.without, with_name)]
    if not attempt.names_twice or not with_name:
        return seen
    hints = [user_features.FEATURES.index(list(edit_features.NAME_FLAGS)[i]) for i in (1, 2, 4)]
    return np.hstack([seen, seen * x[:, hints].max(axis=1, keepdims=True)])


def _train(attempt: Attempt, people: EditDataset, rows: CheckpointRows, with_name: bool, seed: int) -> Any:
    keep = rows.last if attempt.whole == 1.0 else np.ones(len(rows.user), bool)
    user, x = rows.user[keep], _matrix(attempt, rows.x[keep], with_name)
    y = (people.is_bot if attempt.label == "most" else people.train_label)[user]
    even = 1.0 / np.bincount(user, minlength=len(people))[user]
    weight = attempt.whole * rows.last[keep] + (1 - attempt.whole) * even
    untrained = attempt.make(seed, with_name)
    groups = {"user": user} if isinstance(untrained, Calibrated) else {}
    trained = _fit(untrained, x, y, weight, **groups)
    if attempt.trims:
        top = np.zeros(len(people))
        np.maximum.at(top, user, trained.predict_proba(x)[:, 1])
        limit = np.quantile(top[np.unique(user[~y])], 1 - DOUBTFUL)
        sure = y | (top[user] < limit)
        trained = _fit(attempt.make(seed, with_name), x[sure], y[sure], weight[sure])
    return trained


def judge(attempt: Attempt, nested: NestedFit, with_name: bool, seed: int = 0) -> np.ndarray:
    """Score every user from all their edits, by an attempt that was not trained on the user's fold."""
    rows = nested.rows()
    scores = np.zeros(len(nested.dataset))
    for k in nested.folds:
        trained = _train(attempt, nested.dataset, nested.rows(frozenset({k})), with_name, seed)
        test = rows.of(nested.fold == k)
        scores[test.user[test.last]] = probabilities(trained, _matrix(attempt, test.x[test.last], with_name))
    return scores


# --- the simple regression --------------------------------------------------------------------------------------------


def _ten(people: EditDataset) -> np.ndarray:
    """Ten numbers of each user: edits, minor share, sizes, comment lengths, pauses, different comments and pages."""
    table = people.table
    edit = pd.DataFrame({"user": people.user, "minor": table.column("minor").fill_null(False).to_numpy()})
    delta = table.column("delta").fill_null(0).to_numpy()
    edit["amount"] = np.log1p(np.abs(delta.astype(float)))
    edit["size"] = np.sign(delta) * edit["amount"]
    edit["comment"], edit["page"] = (
        table.column(name).fill_null("").to_pylist() for name in ("comment", "title")
    )
    edit["length"] = np.log1p(edit["comment"].str.len())
    edit["pause"] = np.log1p(pd.Series(people.times / 1000).groupby(people.user).diff().clip(lower=0))
    by_user = edit.groupby("user")
    means = by_user[["minor", "size", "amount", "length", "pause"]].mean()
    spreads = by_user[["size", "length"]].std(ddof=0)
    different = by_user[["comment", "page"]].nunique().div(people.edits_per_user, axis=0)
    return np.nan_to_num(
        np.column_stack([np.log(people.edits_per_user), means, spreads, different]).astype(float)
    )


def _pieces(texts: list[str], known: np.ndarray) -> sp.csr_matrix:
    """Character n-grams by tf-idf, fitted on some of the texts."""
    bag = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True)
    bag.fit([text for text, inside in zip(texts, known, strict=True) if inside])
    return bag.transform(texts)


def simple(nested: NestedFit) -> tuple[np.ndarray, np.ndarray]:
    """One regression on the words of a user's comments as one document, ten numbers and, for the first, the name."""
    people = nested.dataset
    comments: list[list[str]] = [[] for _ in range(len(people))]
    texts = people.table.column("comment").fill_null("").to_pylist()
    for edit in people.capped_edits:
        comments[people.user[edit]].append(texts[edit])
    documents = ["\n".join(comment) for comment in comments]
    numbers = _ten(people)
    scores = np.zeros(len(people)), np.zeros(len(people))
    for k in nested.folds:
        known = nested.fold != k
        scaled = sp.csr_matrix(0.3 * StandardScaler().fit(numbers[known]).transform(numbers))
        without_name = sp.hstack([_pieces(documents, known), scaled]).tocsr()
        with_name = sp.hstack([without_name, _pieces(list(people.names), known)]).tocsr()
        for score, x in zip(scores, (with_name, without_name), strict=True):
            regression = LogisticRegression(C=10, solver="liblinear", dual=True, tol=0.01, random_state=0)
            regression.fit(x[known], people.is_bot[known])
            score[~known] = probabilities(regression, x[~known])
    return scores


# --- what the labels allow --------------------------------------------------------------------------------------------


def noise(people: EditDataset, scores: np.ndarray) -> dict[str, float]:
    """Return how good a model can be with these labels.

    Parameters
    ----------
    people : EditDataset
    scores : ndarray of float, shape (users,)
        Of models that were not trained on the user.

    Returns
    -------
    dict
        ``named``, unflagged users with "bot" in their names, and ``named_on_top``, those among the 20 unflagged users
        of highest score; ``without_them`` and ``recall_without_them``, average precision and recall at 0.5 % of the
        people when they are left out; ``perfect`` and ``perfect_recall``, those of a model that puts all bots and these
        users above everybody else, in an order that knows nothing of flags (means over 200 draws).
    """
    bots = people.is_bot
    named = ~bots & name_contains_bot(people.names)
    highest = np.flatnonzero(~bots)[np.argsort(-scores[~bots], kind="stable")[:20]]
    random = np.random.default_rng(0)
    perfect = [np.where(bots | named, 1 + random.uniform(size=len(bots)), 0) for _ in range(200)]
    return {
        "named": int(named.sum()),
        "named_on_top": int(named[highest].sum()),
        "without_them": average_precision_score(bots[~named], scores[~named]),
        "recall_without_them": evaluation.recall_at_fpr(bots[~named], scores[~named]),
        "perfect": float(np.mean([average_precision_score(bots, order) for order in perfect])),
        "perfect_recall": float(np.mean([evaluation.recall_at_fpr(bots, order) for order in perfect])),
    }


def _noise_lines(nested: NestedFit) -> Iterator[str]:
    for words, with_name in (("with the name", True), ("without the name", False)):
        found = noise(nested.dataset, judge(KEPT, nested, with_name))
        yield (
            f"{words}: {found['named_on_top']} of the 20 highest-scored unflagged users have “bot” in their names. "
            f"Without the {found['named']} such users: AP {found['without_them']:.3f}, "
            f"recall {found['recall_without_them']:.3f}. Bots separated perfectly from people, the flag unknown: "
            f"AP {found['perfect']:.3f}, recall {found['perfect_recall']:.3f}"
        )


# --- captures and the table -------------------------------------------------------------------------------------------


def read(path: Path) -> EditDataset:
    """Read a capture: CSV of stage 2, or JSON lines of events, also compressed."""
    if ".jsonl" not in path.name:
        return EditDataset(read_csv(path).edits)
    valid = []
    for raw in recording.lines(path):
        with contextlib.suppress(events.InvalidEvent):
            valid.append(events.decode(raw))
    return EditDataset(events.table([event for event in valid if event.is_edit and not event.is_canary]))


HEADER = f"{'attempt':52} {'AP with name':>22} {'AP without':>22} {'recall with':>12} {'without':>8} {'s':>5}"


def lines(people: EditDataset, attempts: Iterable[Attempt], seeds: int) -> Iterator[str]:
    """Yield the lines of one capture's table: means over the seeds, the first seed's 95 % interval."""
    nested_fits = [NestedFit(people, assign_folds(people, FOLDS, seed)) for seed in range(seeds)]
    for attempt in attempts:
        begin = time.monotonic()
        both = [
            [judge(attempt, nested, with_name, seed) for seed, nested in enumerate(nested_fits)]
            for with_name in (True, False)
        ]
        yield _line(attempt.name, people.is_bot, both, time.monotonic() - begin)
    begin = time.monotonic()
    both = [list(scores) for scores in zip(*(simple(nested) for nested in nested_fits), strict=True)]
    yield _line(
        "simple regression on a user's words and ten numbers", people.is_bot, both, time.monotonic() - begin
    )
    simpler = {
        "name rule": name_contains_bot(people.names).astype(float),
        "words of the comment": evaluation.comment_scores(people, nested_fits[0].fold),
        "list of known bots, majority": np.zeros(len(people)),
    }
    for name, scores in simpler.items():
        metrics = evaluation.user_metrics(people.is_bot, scores)
        low, high = metrics["interval"]
        cell = f"{metrics['average_precision']:.3f} [{low:.3f}, {high:.3f}]"
        yield f"{name:52} {cell:>22} {'':>22} {metrics['recall_at_half_percent_fpr']:12.3f}"
    yield from _noise_lines(nested_fits[0])


def _line(name: str, bots: np.ndarray, both: list[list[np.ndarray]], took: float) -> str:
    """Write a line of the table: `both` has the scores with and without the name, one array per seed."""
    cells, recalls = [], []
    for scores in both:
        precision = np.mean([average_precision_score(bots, s) for s in scores])
        low, high = evaluation.bootstrap_interval(bots, scores[0])
        cells.append(f"{precision:.3f} [{low:.3f}, {high:.3f}]")
        recalls.append(np.mean([evaluation.recall_at_fpr(bots, s) for s in scores]))
    return f"{name:52} {cells[0]:>22} {cells[1]:>22} {recalls[0]:12.3f} {recalls[1]:8.3f} {took:5.0f}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table for the default day and every capture named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=main.__doc__)
    parser.add_argument(
        "captures", nargs="*", type=Path, help="CSV folder or file, or JSON lines, also compressed"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how often users are assigned to folds")
    parser.add_argument("--only", default="", help="attempts whose name holds this text")
    parser.add_argument("--no-day", action="store_true", help="leave the default day out")
    options = parser.parse_args(arguments)
    attempts = [attempt for attempt in ATTEMPTS if options.only in attempt.name]
    day = [] if options.no_day else [sample_day.ensure()]
    for path in [*day, *options.captures]:
        if not path.exists():
            print(f"\nSKIPPED {paths.show(path)}: there is no such file.", flush=True)
            continue
        people = read(path)
        print(
            f"\n{path.name}: {len(people.user)} edits, {len(people)} users, {people.is_bot.sum()} bots",
            flush=True,
        )
        print(HEADER)
        for line in lines(people, attempts, options.seeds):
            print(line, flush=True)
    if not options.captures:
        print("\nSKIPPED other captures: none was named. Name CSV or JSON lines as arguments.")


if __name__ == "__main__":
    main()
