"""Has the world changed since the model learnt? The stream against the sample: a statistic and a plain sentence.

Stage 3 leaves ``reference.json`` beside the model: how the users of the sample look to the model when they are judged
as stage 4 judges, each up to the edit that tips the balance. Stage 4's books hold the same of the stream's users.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact
from scipy.stats.distributions import kstwo

from lib.model import build_blacklist, user_features
from lib.model.classifier import BotClassifier
from lib.model.dataset import EditDataset
from lib.online import judging
from lib.online.books import Books

FILE = build_blacklist.REFERENCE
QUANTILES = 400
LARGE = 0.15  # distance of two distributions from which on it counts as large
RATIO = 2.0  # of two shares
SURE = 0.001  # p-value at which a difference counts as no accident
#: Compared: what does not grow with the time that a user is watched.
COMPARED = (
    "texts: mean evidence",
    "marked as minor",
    "new page",
    "edit of one section",
    "link in the comment",
    "empty comment",
    "comment speaks of a bot",
    "in the main namespace",
    "on a talk page",
    "size reduced",
)


class Report(NamedTuple):
    """What changed."""

    table: pd.DataFrame
    sentence: str
    train_again: bool


class _Line(NamedTuple):
    what: str
    before: str
    now: str
    statistic: str
    p: float
    large: bool


def reference(people: EditDataset, model: BotClassifier) -> dict[str, Any]:
    """Describe a sample as stage 4 will see the stream.

    Parameters
    ----------
    people : EditDataset
        The sample.
    model : BotClassifier
        The model that stage 4 will judge by.

    Returns
    -------
    dict
        Quantiles of the features of :data:`COMPARED` over users, and the counts behind the shares.
    """
    evidence = model.edit_features(people.table)
    _, rows, x = user_features.update_states(
        user_features.new_states(len(people)), people.user, people.times, evidence
    )
    tips = np.full(len(people), len(people.user))
    over = rows[model.score(x) >= model.threshold]
    np.minimum.at(tips, people.user[over], over)
    seen = np.arange(len(people.user)) <= tips[people.user]
    state = user_features.update_states(
        user_features.new_states(len(people)), people.user[seen], people.times[seen], evidence[seen]
    )[0]
    described = user_features.to_features(state)
    grid = np.linspace(0, 1, QUANTILES + 1)
    return {
        "model": model.version,
        "users": len(people),
        "bots": int(people.bots.sum()),
        "edits_judged": int(seen.sum()),
        "flagged": int((tips < len(people.user)).sum()),
        "features": {
            name: np.quantile(
                described[:, user_features.FEATURES.index(name)], grid, method="inverted_cdf"
            ).tolist()
            for name in COMPARED
        },
    }


def report(out_dir: Path, model_dir: Path, data: pd.DataFrame) -> Report:
    """Compare the stream with the sample.

    Parameters
    ----------
    out_dir, model_dir : Path
        Folders of stages 4 and 3.
    data : DataFrame
        From ``online_figures.frame``.

    Returns
    -------
    Report
    """
    lines = [_coverage(data)]
    path = model_dir / FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        lines = [*_features(out_dir, before), _bots(data, before), _news(data, before), *lines]
    large = [line.what for line in lines if line.large]
    table = pd.DataFrame(
        [
            {
                "what": line.what,
                "sample": line.before,
                "stream": line.now,
                "statistic": line.statistic,
                "p-value": f"{line.p:.1g}",
                "large": "yes" if line.large else "",
            }
            for line in lines
        ]
    )
    return Report(table, _sentence(large, len(lines), path.exists()), bool(large))


def distance(quantiles: np.ndarray, values: np.ndarray) -> float:
    """Give the largest distance of two cumulative distributions (Smirnov's statistic).

    Parameters
    ----------
    quantiles : ndarray, shape (q,)
        Of the one, evenly spaced in probability.
    values : ndarray, shape (n,)
        Of the other.

    Examples
    --------
    >>> distance(np.arange(101) / 100, np.arange(1000) / 1000) < 0.02
    True
    >>> distance(np.zeros(101), np.ones(50))
    1.0
    """
    places = np.unique(np.concatenate((quantiles, values)))
    ours = np.searchsorted(np.sort(values), places, side="right") / len(values)
    theirs = np.searchsorted(quantiles[1:], places, side="right") / (len(quantiles) - 1)
    return float(np.abs(ours - theirs).max())


def _features(out_dir: Path, before: dict[str, Any]) -> list[_Line]:
    with Books(out_dir) as books:
        described = user_features.to_features(books.states(user_features.STATE_SIZE))
        flagged = [
            [entry.evidence["features"][name] for name in COMPARED]
            for entry in books.ledger.entries()
            if entry.reason == judging.REASON
        ]
    columns = [user_features.FEATURES.index(name) for name in COMPARED]
    now = np.concatenate((described[:, columns], np.array(flagged).reshape(-1, len(COMPARED))))
    lines = []
    for place, name in enumerate(COMPARED):
        quantiles = np.array(before["features"][name])
        if not len(now):
            continue
        d = distance(quantiles, now[:, place])
        n = before["users"] * len(now) / (before["users"] + len(now))
        p = float(kstwo.sf(d, max(round(n), 1)))
        mean = float(quantiles[1:].mean())
        lines.append(
            _Line(
                name, f"{mean:.3g}", f"{now[:, place].mean():.3g}", f"D = {d:.3f}", p, d >= LARGE and p < SURE
            )
        )
    return lines


def _bots(data: pd.DataFrame, before: dict[str, Any]) -> _Line:
    people = data[data["user"].notna()].groupby("user")["is_bot"].mean()
    bots = int((people > 0.5).sum())
    return _shares("bots among the users", before["bots"], before["users"], bots, len(people))


def _news(data: pd.DataFrame, before: dict[str, Any]) -> _Line:
    judged = data["verdict"].isin(("kept", "flagged")) & data["user"].notna()
    flagged = int((data["verdict"] == "flagged").sum())
    return _shares(
        "new bots per edit that is judged",
        before["flagged"],
        before["edits_judged"],
        flagged,
        int(judged.sum()),
    )


def _coverage(data: pd.DataFrame) -> _Line:
    """Compare what the growing list covered of the bot edits in the first and in the last quarter of them."""
    bots = data[data["is_bot"]]
    quarter = len(bots) // 4
    hit = (bots["verdict"] == "dropped").to_numpy()
    first, last = int(hit[:quarter].sum()), int(hit[len(hit) - quarter :].sum())
    line = _shares("bot edits that the list covers: first and last quarter", first, quarter, last, quarter)
    return line._replace(large=line.p < SURE and last < first)


def _shares(what: str, before: int, before_of: int, now: int, now_of: int) -> _Line:
    table = [[before, before_of - before], [now, now_of - now]]
    p = float(fisher_exact(np.array(table)).pvalue) if before_of and now_of else 1.0
    shares = [part / whole if whole else 0.0 for part, whole in ((before, before_of), (now, now_of))]
    low, high = sorted(shares)
    ratio = high / low if low else (np.inf if high else 1.0)
    shown = [
        f"{100 * share:.2f} % of {whole:,}" for share, whole in zip(shares, (before_of, now_of), strict=True)
    ]
    return _Line(what, shown[0], shown[1], f"ratio {ratio:.2f}", p, bool(ratio >= RATIO and p < SURE))


def _sentence(large: list[str], n: int, known: bool) -> str:
    missing = "" if known else f" ({FILE} is missing beside the model, so features could not be compared.)"
    if not large:
        return f"None of {n} comparisons shows a large change: the model can stay.{missing}"
    return f"{len(large)} of {n} comparisons show a large change ({'; '.join(large)}): train again.{missing}"
