"""Shadow scoring: a share of the dropped edits is scored all the same, so that errors of the list stay visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.online import metrics
from lib.online.state import StateStore

MIN_EDITS = 3  # shadow edits before a user is proposed for release
RELEASE_BELOW = 0.5  # of the threshold: a score below it looks human


def report(out_dir: Path, data: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return the users whose dropped edits were scored, the most human first.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    data : DataFrame
        From :func:`lib.online.metrics.load_verdicts`.
    threshold : float
        The model's.

    Returns
    -------
    DataFrame
        ``user``, ``shadow edits``, ``with the flag``, ``last score`` and ``release``: whether release is proposed,
        because at least :data:`MIN_EDITS` edits were scored and the last score is below half the threshold. A person
        decides, with ``Ledger.remove`` or ``Ledger.allow``.
    """
    with StateStore(out_dir) as store:
        last_scores = store.shadow_scores()
    scored = data[(data["verdict"] == "dropped") & data["score"].notna()]
    counts = metrics.count_by_user(scored)[["edits", "bot_edits"]].reset_index()
    users = counts.set_axis(["user", "shadow edits", "with the flag"], axis="columns")
    users["last score"] = [last_scores.get(user, np.nan) for user in users["user"]]
    users["release"] = (users["shadow edits"] >= MIN_EDITS) & (
        users["last score"] < RELEASE_BELOW * threshold
    )
    return users.sort_values(
        ["last score", "shadow edits"], ascending=[True, False], kind="stable", ignore_index=True
    )
