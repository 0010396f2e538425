"""What would be invisible once edits are dropped: the score of a few of them, and whom it speaks for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lib.online.books import Books
from lib.stats import bootstrap_ci

ENOUGH = 3  # shadow edits before a user is proposed for release
PART = 0.5  # of the threshold: a score below it looks human
SHOWN = 15


class Report(NamedTuple):
    """What the shadow edits tell."""

    table: pd.DataFrame
    sentence: str
    release: list[str]  #: users proposed for release


def report(out_dir: Path, data: pd.DataFrame, threshold: float) -> Report:
    """Look at the shadow edits.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    data : DataFrame
        From ``online_figures.frame``.
    threshold : float
        The model's.

    Returns
    -------
    Report
        A user is proposed for release when at least :data:`ENOUGH` of their edits were scored in the shadow and the
        last score is below half the threshold. A person decides: ``Ledger.remove`` or ``Ledger.allow``.
    """
    with Books(out_dir) as books:
        scores = books.shadow_scores()
    seen = data[(data["verdict"] == "dropped") & data["score"].notna()]
    users = seen.groupby("user").agg(
        shadow_edits=("score", "size"), bot_flags=("is_bot", "sum"), first=("timestamp", "min")
    )
    users["last_score"] = [scores.get(user, np.nan) for user in users.index]
    users = users.sort_values(["last_score", "shadow_edits"], ascending=[True, False], kind="stable")
    release = users[
        (users["shadow_edits"] >= ENOUGH) & (users["last_score"] < PART * threshold)
    ].index.tolist()
    shown = users.head(SHOWN).reset_index()
    table = pd.DataFrame(
        {
            "user": shown["user"],
            "shadow edits": shown["shadow_edits"],
            "with the flag": shown["bot_flags"],
            "last shadow score": shown["last_score"].map("{:.3f}".format),
            "release?": ["proposed" if user in release else "" for user in shown["user"]],
        }
    )
    right, all_ = int(seen["is_bot"].sum()), len(seen)
    low, high = bootstrap_ci(users["bot_flags"].to_numpy(), users["shadow_edits"].to_numpy())
    sentence = (
        f"{all_:,} dropped edits of {len(users):,} users were scored in the shadow; {right:,} of them carry the flag: "
        f"the precision of dropping is {100 * right / max(all_, 1):.1f} % "
        f"(95 % interval over users {100 * low:.1f} to {100 * high:.1f} %). "
        f"Proposed for release because they look human there: {len(release)}."
    )
    return Report(table, sentence, release)
