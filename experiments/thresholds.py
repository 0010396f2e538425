"""What the threshold costs, and what *c* would change: ``python -m experiments.thresholds [CAPTURE …]``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.__main__ import read
from lib import paths
from lib.model import classifier, evaluation, user_features
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from lib.stats import name_contains_bot
from lib.stream import sample_day

LIMIT = 0.01  # both promises
PENALTIES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
SHARES = {"a fifth": 0.2, "a half": 0.5}  # of the users to train on
SPLITS = 40, 10  # of each share
HEADER = f"| | name rule | {' | '.join(f'c = {c:g}' for c in PENALTIES)} |\n{'|---' * (len(PENALTIES) + 2)}|"


@dataclass(frozen=True)
class Penalised(BotClassifier):
    """The model with any *c* in its margin."""

    c: float = classifier.EDITS_PENALTY

    def is_flagged(self, x: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return for which features of users, with their scores, the margin reaches the threshold."""
        return classifier.margin(scores, x[:, user_features.LOG_EDITS], self.c) >= self.threshold


def choose(cross: CrossFit, c: float) -> tuple[float, bool]:
    """Return the threshold, as the forward test of stage 3 chooses it, and whether it has its guarantee."""
    curve = classifier.threshold_curve(cross, c)
    try:
        return classifier.choose_threshold(curve, LIMIT, LIMIT), True
    except classifier.ThresholdNotAttainable:
        return float(curve["threshold"].iloc[0]), False


def draw(people: EditDataset, share: float, number: int) -> np.ndarray:
    """Return which users are trained on in a split: each with the probability `share`."""
    return np.random.default_rng((round(1 / share), number)).uniform(size=len(people)) < share


def judge(people: EditDataset, known: np.ndarray) -> Iterator[dict[str, Any]]:
    """Train once on some users (a mask), and judge the others edit by edit with every *c*.

    Yields
    ------
    dict
        For each ``c`` whether a threshold is ``attainable``, the shares of the others' ``bot`` and ``human`` edits that
        are stopped, the share of the humans who are ``listed``, and the share of the bot edits that the name ``rule``
        stops. *Human* is as in :attr:`EditDataset.is_human`.
    """
    before, others = people.subset(known[people.user]), people.subset(~known[people.user])
    cross = CrossFit(before, folds=min(classifier.FOLDS, int(before.is_bot.sum())))
    model = BotClassifier.fit(cross, np.inf)
    features = model.edit_features(others.table)
    rule = name_contains_bot(others.names)[others.user][others.flagged].mean()
    for c in PENALTIES:
        threshold, attainable = choose(cross, c)
        asking = Penalised(model.text_model, model.user_model, threshold, c)
        at = evaluation.flagged_at(asking, others, features)
        rates = evaluation.stop_rates(others, np.arange(len(others.user)) >= at[others.user])
        bot, human = rates["bot_edits_stopped"], rates["human_edits_stopped_unnamed"]
        listed = rates["human_user_fpr_unnamed"]
        yield {"c": c, "attainable": attainable, "bot": bot, "human": human, "listed": listed, "rule": rule}


def lines(people: EditDataset, name: str, share: float, splits: int) -> Iterator[str]:
    """Yield the table's line for one share of a capture's users, then what does not fit into its cells."""
    table = pd.DataFrame([row for n in range(splits) for row in judge(people, draw(people, share, n))])
    cells, more = [f"{table['rule'].mean():.3f}"], []
    for c, of in table.groupby("c"):
        cells.append(f"{of['bot'].mean():.3f} / {of['human'].mean():.2%} / {(of['human'] > LIMIT).sum()}")
        more.append(
            f"c = {c:g}: at most {of['human'].max():.2%} of the human edits stopped, {of['listed'].max():.2%} of the "
            f"humans listed; no threshold attainable in {(~of['attainable']).sum()} of {splits} splits"
        )
    yield from (f"| {name} | {' | '.join(cells)} |", *more)


def main(arguments: list[str] | None = None) -> None:
    """Print in each cell: bot edits stopped / human edits stopped / splits with more than 1 % of the human edits."""
    parser = argparse.ArgumentParser(prog="python -m experiments.thresholds", description=main.__doc__)
    parser.add_argument(
        "captures", nargs="*", type=Path, help="as for experiments; without any, the default day"
    )
    parser.add_argument("--splits", nargs=2, type=int, default=SPLITS, help=f"with {' and '.join(SHARES)}")
    options = parser.parse_args(arguments)
    for path in options.captures or [sample_day.ensure()]:
        if not path.exists():
            print(f"\nSKIPPED {paths.show(path)}: there is no such file.", flush=True)
            continue
        people = read(path)
        print(f"\n{path.name}: {len(people.user)} edits, {len(people)} users\n{HEADER}", flush=True)
        for (name, share), splits in zip(SHARES.items(), options.splits, strict=True):
            for line in lines(people, name, share, splits) if splits else ():
                print(line, flush=True)


if __name__ == "__main__":
    main()
