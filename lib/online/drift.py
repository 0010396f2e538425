"""Drift: has the stream changed since the model was trained? The stream's users compared with the sample's.

Stage 3 leaves ``reference.json`` beside the model: how the users of the sample whom it does not list look to the model
when they are scored as stage 4 scores, each up to the edit that crosses the threshold. Stage 4, which drops all edits
of those listed, keeps the same of the stream's users.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lib.model import build_blacklist, evaluation, user_features
from lib.model.classifier import BotClassifier
from lib.model.dataset import EditDataset
from lib.online import judge, metrics
from lib.online.state import StateStore
from lib.stats import bootstrap_ci

FILE = build_blacklist.REFERENCE
QUANTILES = 400
# A change is large by its size, and sure by its p-value: among thousands of users small changes are sure, too.
KS_THRESHOLD = 0.15  # distance D of two distributions
RATIO_THRESHOLD = 2.0  # of two shares
ALPHA = 0.001
#: Features that are compared: those that do not grow with the time that a user is watched.
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
_COLUMNS = [user_features.FEATURES.index(name) for name in COMPARED]
#: What is compared, both values, the statistic, its p-value, and whether the change is large and sure.
Comparison = tuple[str, str, str, str, str, bool]


def reference(dataset: EditDataset, model: BotClassifier, listed: Collection[str]) -> dict[str, Any]:
    """Return what a sample looks like to stage 4.

    Parameters
    ----------
    dataset : EditDataset
        The sample.
    model : BotClassifier
        The model that stage 4 will score with.
    listed : collection of str
        The users on the blacklist of stage 3.

    Returns
    -------
    dict
        Quantiles of the features of :data:`COMPARED` over the users who are not listed, the counts behind the shares,
        and the time of the last edit in milliseconds.
    """
    n, evidence = len(dataset), model.edit_features(dataset.table)
    flagged_at = evaluation.flagged_at(model, dataset, evidence)
    judged = np.arange(len(dataset.user)) <= flagged_at[dataset.user]
    seen = (dataset.user[judged], dataset.times[judged], evidence[judged])
    states, *_ = user_features.update_states(user_features.new_states(n), *seen)
    unlisted = ~np.isin(dataset.names, list(listed))
    features = user_features.to_features(states[unlisted])[:, _COLUMNS]
    levels = np.linspace(0, 1, QUANTILES + 1)
    quantiles = np.quantile(features, levels, axis=0, method="inverted_cdf")
    return {
        "model": model.version,
        "users": n,
        "bots": int(dataset.is_bot.sum()),
        "unlisted": int(unlisted.sum()),
        "last_ms": int(dataset.times.max()),
        "features": dict(zip(COMPARED, quantiles.T.tolist(), strict=True)),
    }


def report(out_dir: Path, model_dir: Path, data: pd.DataFrame) -> pd.DataFrame:
    """Compare the stream with the sample.

    Parameters
    ----------
    out_dir, model_dir : Path
        Folders of stages 4 and 3.
    data : DataFrame
        From :func:`lib.online.metrics.load_verdicts`.

    Returns
    -------
    DataFrame
        One comparison per row: ``what``, ``sample``, ``stream``, ``statistic``, ``p-value``, ``large``. Without a
        reference beside the model, or users in the stream, only the list's cover of its own first and last quarter.
    """
    rows, before = [_cover(data)], _read(model_dir)
    bots = metrics.count_by_user(data)["is_bot"] if before else np.zeros(0)
    if len(bots):
        counts = before["bots"], before["users"], int(bots.sum()), len(bots)
        rows = [*_features(out_dir, before), _ratio("bots among the users", *counts), *rows]
    return pd.DataFrame(rows, columns=["what", "sample", "stream", "statistic", "p-value", "large"])


def training_note(model_dir: Path, data: pd.DataFrame) -> str:
    """Return a warning where edits are not later than the sample's last one; else an empty text."""
    last = pd.Timestamp(_read(model_dir).get("last_ms", 0), unit="ms", tz="UTC")
    if not (n := (data["timestamp"] <= last).sum()):
        return ""
    return f" {n:,} of the edits are no later than the sample's last one: what was trained on flatters the figures."


def _read(model_dir: Path) -> dict[str, Any]:
    """Return the reference beside the model; empty if there is none."""
    path = model_dir / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _features(out_dir: Path, before: dict[str, Any]) -> Iterator[Comparison]:
    """Compare distributions over users, by the two-sample Kolmogorov–Smirnov test."""
    with StateStore(out_dir) as store:
        kept = user_features.to_features(store.all_states())[:, _COLUMNS]
        entries = [entry for entry in store.ledger.entries() if entry.reason == judge.REASON]
    flagged = [[entry.evidence["features"][name] for name in COMPARED] for entry in entries]
    now = np.concatenate((kept, np.reshape(flagged, (-1, len(COMPARED)))))
    unlisted = before.get("unlisted", 0)
    n = round(unlisted * len(now) / max(unlisted + len(now), 1))
    for name, stream in zip(COMPARED, now.T, strict=True) if n else ():
        sample = np.array(before["features"][name][1:])
        d = float(stats.ks_2samp(sample, stream, method="asymp").statistic)
        p = float(stats.kstwo.sf(d, n))  # with the number of users, not that of the quantiles
        large = d >= KS_THRESHOLD and p < ALPHA
        yield name, f"{sample.mean():.3g}", f"{stream.mean():.3g}", f"D = {d:.3f}", f"{p:.1g}", large


def _cover(data: pd.DataFrame) -> Comparison:
    """Compare the share of the bot edits that the list covers in their first and their last quarter.

    A few bots make most of these edits, so what counts is a fall beyond the intervals over users.
    """
    dropped = data["verdict"].eq("dropped")[data["is_bot"]]
    n = len(dropped) // 4
    ends = (rows.groupby(data["user"]).agg(["sum", "size"]) for rows in (dropped.head(n), dropped.tail(n)))
    quarters = [rows.to_numpy().T for rows in ends]
    (low, _), (_, high) = (bootstrap_ci(*counts) for counts in quarters)
    first, last = (int(counts[0].sum()) for counts in quarters)
    row = _ratio("bot edits that the list covers: first and last quarter", first, n, last, n)
    return (*row[:4], "", row[5] and high < low)


def _ratio(what: str, before: int, n_before: int, now: int, n_now: int) -> Comparison:
    """Compare two shares, by Fisher's exact test."""
    p = float(stats.fisher_exact(np.array([[before, n_before - before], [now, n_now - now]])).pvalue)
    shares = before / max(n_before, 1), now / max(n_now, 1)
    low, high = sorted(shares)
    ratio = high / low if low else (np.inf if high else 1.0)
    sample, stream = (f"{100 * s:.2f} % of {n:,}" for s, n in zip(shares, (n_before, n_now), strict=True))
    return what, sample, stream, f"ratio {ratio:.2f}", f"{p:.1g}", ratio >= RATIO_THRESHOLD and p < ALPHA
