"""Select who of the sample is on the blacklist, count how often that is wrong about humans, and write stage 3's files.

Two kinds of users are listed. Those whom the model scores as bots, by the rule of stage 4 (the score at a checkpoint
reaches the threshold) and with scores of models that were not trained on them: the list is then wrong about humans as
often as it would be about unseen ones. And those whom the wiki itself flags as bots in the sample: the flag is how the
sample was labelled, so nothing is guessed. The row's reason is one of the two.
The flag of a later edit decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import artifacts
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import EDIT_COLUMNS, Entry, Ledger
from lib.model import user_features
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from lib.stats import human_rates, upper_bound

JUDGED = "model: score at the threshold"
FLAGGED = "flagged in the sample"
LEDGER = "ledger.sqlite"
FILTER = "blacklist.bloom"
MODEL, REFERENCE, METRICS = "model.skops", "reference.json", "metrics.json"
OUTPUTS = (MODEL, FILTER, REFERENCE, METRICS, artifacts.NAME)


def select_users(dataset: EditDataset, cross: CrossFit, model: BotClassifier) -> list[Entry]:
    """Return who of the sample is on the list, by time, then by name.

    Parameters
    ----------
    dataset : EditDataset
    cross : CrossFit
        Its scores, by models that were not trained on the user they score.
    model : BotClassifier
        Its threshold decides; it explains the decision.
    """
    rows, scores = cross.rows, cross.row_scores[True]
    reached = np.flatnonzero(model.is_flagged(rows.x, scores) & ~rows.last)
    # Rows at checkpoints are in order of time, so the first of a user is the earliest.
    users, first = np.unique(rows.user[reached], return_index=True)
    flagged = reached[first]
    listed = []
    for row, reasons in zip(flagged.tolist(), model.explain(rows.x[flagged]), strict=True):
        name, edit = str(dataset.names[rows.user[row]]), int(rows.edit[row])
        evidence = {
            "edit": _edit(dataset, edit),
            "threshold": model.required_score(rows.x[row]),
            "edits": int(rows.edits[row]),
            "contributions": [list(share) for share in reasons],
            "features": dict(zip(user_features.FEATURES, rows.x[row].tolist(), strict=True)),
        }
        time, score = int(dataset.times[edit]), float(scores[row])
        listed.append(Entry(name, JUDGED, time, evidence, score, model.version))
    for user in np.setdiff1d(np.flatnonzero(dataset.is_bot), users):
        last = int(np.flatnonzero(dataset.user == user)[-1])
        counts = {"edits": dataset.edits_per_user[user], "flagged_edits": dataset.flagged_per_user[user]}
        evidence = {"edit": _edit(dataset, last), **{name: int(count) for name, count in counts.items()}}
        listed.append(Entry(str(dataset.names[user]), FLAGGED, int(dataset.times[last]), evidence))
    return sorted(listed, key=lambda entry: (entry.since, entry.user))


def _edit(dataset: EditDataset, row: int) -> dict[str, Any]:
    return {name: dataset.table.column(name)[row].as_py() for name in EDIT_COLUMNS}


def false_positives(dataset: EditDataset, listed: Sequence[Entry]) -> pd.DataFrame:
    """Tabulate the listed users who are human by the flag: errors of the model, or of the flag."""
    edits = dict(zip(dataset.names[~dataset.is_bot], dataset.edits_per_user[~dataset.is_bot], strict=True))
    humans = [entry for entry in listed if entry.user in edits]
    return pd.DataFrame(
        {
            "user": entry.user,
            "edits": int(edits[entry.user]),
            "listed after": entry.evidence["edits"],
            "score": f"{entry.score:.2f}",
            "comment of that edit": (entry.evidence["edit"]["comment"] or "")[:80],
        }
        for entry in sorted(humans, key=lambda entry: (-(entry.score or 0), entry.user))
    )


def error_rates(
    cross: CrossFit, listed: Sequence[Entry], threshold: float, hash_errors: int, hash_trials: int
) -> dict[str, Any]:
    """Return the section `blacklist` of stage 3's metrics: how often model and hash are wrong about those not listed.

    Parameters
    ----------
    cross : CrossFit
    listed : sequence of Entry
    threshold : float
        Edits count as stopped from the one at which their user's margin reaches it.
    hash_errors, hash_trials : int
        Of so many names that are not listed the filter took so many for members.
    """
    dataset, edits = cross.dataset, cross.dataset.edits_per_user
    stopped = edits + 1 - cross.flagged_after(threshold, repeats=1)
    rates = human_rates(stopped, edits, dataset.is_bot, dataset.names)
    return {
        "members": len(listed),
        **{name: rate for name, rate in rates.items() if name.startswith(("humans", "human_user"))},
        "human_edit_fpr": rates["human_edits_stopped_unnamed"],  # as it is guaranteed
        "human_edit_fpr_upper95": rates["human_edits_stopped_upper95_unnamed"],
        "human_edit_fpr_with_named": rates["human_edits_stopped"],
        "hash_fpr": hash_errors / max(hash_trials, 1),
        "hash_fpr_upper95": upper_bound(hash_errors, hash_trials),
    }


# --- files ------------------------------------------------------------------------------------------------------------


def clear_outputs(folder: Path) -> None:
    """Remove what an earlier run of stage 3 left, so that a run that fails leaves no model that stage 4 would take.

    The ledger stays: it holds what people decided.
    """
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)


def write_blacklist(folder: Path, listed: Iterable[Entry]) -> None:
    """Write ``ledger.sqlite`` and ``blacklist.bloom``.

    In a ledger that is there already, entries of an earlier run of stage 3 are replaced. What people decided is kept:
    the allow-list, whom they put on the list for a reason of their own, whom they took off it, and the history.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Ledger.open(folder / LEDGER) as ledger:
        ledger.replace(listed, automatic=(JUDGED, FLAGGED))
        members = ledger.members()
    BlacklistFilter.build(members).save(folder / FILTER)


def save_outputs(
    folder: Path,
    model: BotClassifier,
    listed: Iterable[Entry],
    reference: dict[str, Any],
    metrics: dict[str, Any],
    **facts: Any,
) -> None:
    """Write all files of stage 3. The model comes after what stage 4 reads with it: where it is, they are.

    Parameters
    ----------
    folder : Path
    model : BotClassifier
    listed : iterable of Entry
        From :func:`select_users`.
    reference : dict
        How the sample looks to the model (:func:`lib.online.drift.reference`).
    metrics : dict
        The contract's ``metrics.json``.
    **facts
        For the manifest; the outputs' SHA-256 are added.
    """
    write_blacklist(folder, listed)
    artifacts.write_json(folder / REFERENCE, reference)
    artifacts.write_json(folder / METRICS, metrics)
    model.save(folder / MODEL)
    outputs = {name: artifacts.sha256(folder / name) for name in (MODEL, FILTER, METRICS)}
    artifacts.write(folder, **facts, outputs=outputs)
