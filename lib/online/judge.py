"""Who is a bot, edit by edit: the verdicts of a batch, from the scored edits and what is known of their users.

A verdict is a function of the events and the model alone. Each user's edits are judged in the order of their Kafka
offsets (the key is the user, so one partition has them all). The edit whose margin reaches the threshold is
``flagged``, those after it are ``dropped``, all others are ``kept``. Nothing here depends on where a batch ends.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.blacklist.ledger import EDIT_COLUMNS, Entry
from lib.model import user_features
from lib.model.classifier import BotClassifier
from lib.model.edit_features import EDIT_FEATURES, INPUT_COLUMNS
from lib.model.kernels import njit_cached
from lib.online.state import VERDICT_SCHEMA, BatchResult, StateStore, UserStates

KEPT, FLAGGED, DROPPED = range(3)
VERDICTS = ("kept", "flagged", "dropped")
REASON = "online: score at the threshold"
MAX_CONTRIBUTIONS = 20  # that are kept as evidence


@njit_cached
def _decide(
    user: np.ndarray,
    listed: np.ndarray,
    allowed: np.ndarray,
    scored_at: np.ndarray,
    score: np.ndarray,
    reached: np.ndarray,
    last: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return verdict and score of every edit, and at which edit each user is flagged (-1: at none).

    `scored_at` is each edit's place in `score` (-1: no score) and in `reached`, whether its margin reaches the
    threshold; `last` is each user's score so far, and is changed.
    """
    verdict = np.zeros(len(user), np.int8)
    shown = np.full(len(user), np.nan)
    flagged_at = np.full(len(last), -1, np.int64)
    for i in range(len(user)):
        u = user[i]
        if u < 0:
            continue
        if listed[u] or flagged_at[u] >= 0:
            verdict[i] = DROPPED
            continue
        if scored_at[i] >= 0:
            last[u] = score[scored_at[i]]
            if reached[scored_at[i]] and not allowed[u]:
                verdict[i] = FLAGGED
                flagged_at[u] = i
        shown[i] = last[u]
    return verdict, shown, flagged_at


class _Edits(NamedTuple):
    """Edits in the order of their offsets."""

    user: np.ndarray  #: int64: number of the user; -1 where it is hidden
    times: np.ndarray  #: event time in milliseconds
    features: np.ndarray  #: shape (n, E)

    def where(self, rows: np.ndarray) -> _Edits:
        """Return some of the edits."""
        return _Edits(self.user[rows], self.times[rows], self.features[rows])


class OnlineClassifier:
    """Classify batches, one after the other.

    Parameters
    ----------
    model : BotClassifier
        From stage 3.
    store : StateStore
        What is known of users. Only read here; the :class:`BatchResult` has what is to be written.
    """

    def __init__(self, model: BotClassifier, store: StateStore):
        self.model = model
        self.store = store
        self.allowed = frozenset(store.ledger.allowed())

    def classify(self, scored: pa.Table) -> BatchResult:
        """Return the verdicts of one batch, and all that they change.

        Parameters
        ----------
        scored : pyarrow.Table
            Rows of :data:`lib.online.scoring.SCHEMA`, each partition in the order of its offsets.
        """
        new = self._first_seen(scored)
        fresh = scored.filter(pa.array(new))
        table = fresh.filter(pc.equal(fresh["kind"], "edit"))
        user, names = pd.factorize(table["user"].to_pandas())  # -1: hidden
        listed = _are_in(names, self.store.ledger)
        judged = (user >= 0) & ~np.append(listed, True)[user]
        edits = _Edits(user, table["timestamp"].to_numpy(), self._features(table, judged))

        before = self.store.user_states(names)
        last = before.score.copy()
        state, features, scored_at, score, reached = self._update(before.state, edits, judged)
        allowed = _are_in(names, self.allowed)
        verdict, shown, flagged_at = _decide(user, listed, allowed, scored_at, score, reached, last)

        flags = flagged_at[flagged_at >= 0]  # the edits that crossed the threshold, each at a scoring point
        sampled = (verdict == DROPPED) & table["sampled"].to_numpy(zero_copy_only=False)
        shadow_states, shown[sampled] = self._shadow(names, edits.where(sampled))
        entries = self._entries(table.take(flags), features[scored_at[flags]], shown[flags])
        hit = np.zeros(len(names), bool)
        hit[user[table["filter_hit"].to_numpy(zero_copy_only=False) & (user >= 0)]] = True
        known = np.flatnonzero(~listed & (flagged_at < 0))
        return BatchResult(
            verdicts=_verdicts(table, verdict, shown),
            entries=entries,
            states=UserStates(names[known].tolist(), state[known], last[known]),
            shadow_states=shadow_states,
            ids=fresh["id"].drop_null().to_numpy(),
            collisions=names[hit & ~listed].tolist(),
            dead_letters=_dead_letters(fresh),
            kafka_ms=table["kafka_ms"].to_numpy(),
            counts=_counts(scored, fresh, verdict, user, sampled),
            offsets=_next_offsets(scored),
        )

    # --- steps ---

    def _first_seen(self, scored: pa.Table) -> np.ndarray:
        """Return which messages are no repetitions; one without an id is none."""
        named = scored["id"].is_valid().to_numpy()
        new = ~named
        new[named] = self.store.first_seen(scored["id"].drop_null().to_numpy())
        return new

    def _features(self, table: pa.Table, judged: np.ndarray) -> np.ndarray:
        """Return the features of each edit: the executors', and of those whom the filter took for members our own."""
        column = table["features"].combine_chunks()
        there = column.is_valid().to_numpy(zero_copy_only=False)
        found = np.full((table.num_rows, len(EDIT_FEATURES)), np.nan)
        found[there] = np.frombuffer(b"".join(column.drop_null().to_pylist())).reshape(-1, len(EDIT_FEATURES))
        missing = judged & ~there
        if missing.any():
            found[missing] = self.model.edit_features(table.filter(pa.array(missing)).select(INPUT_COLUMNS))
        return found

    def _update(self, state: np.ndarray, edits: _Edits, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return states after some of the edits; the features at scoring points; three arguments of :func:`_decide`."""
        state, scored, x = user_features.update_states(state, *edits.where(rows))
        scored_at = np.full(len(edits.user), -1, np.int64)
        scored_at[np.flatnonzero(rows)[scored]] = np.arange(len(scored))
        score = self.model.score(x)
        return state, x, scored_at, score, self.model.is_flagged(x, score)

    def _shadow(self, names: Sequence[str], edits: _Edits) -> tuple[UserStates, np.ndarray]:
        """Return the states of the shadow edits' users and the edits' scores, as if they had made only these."""
        codes, user = np.unique(edits.user, return_inverse=True)
        who, n = [names[u] for u in codes], len(edits.user)
        before, edits = self.store.user_states(who, shadow=True), edits._replace(user=user)
        state, _, *scores = self._update(before.state, edits, np.ones(n, bool))
        last, nobody, everybody = before.score.copy(), np.zeros(len(who), bool), np.ones(len(who), bool)
        _, shown, _ = _decide(user, nobody, everybody, *scores, last)
        return UserStates(who, state, last), shown

    def _entries(self, table: pa.Table, x: np.ndarray, scores: np.ndarray) -> list[Entry]:
        """Return the ledger's entries of users flagged at these edits, with their features then, and why."""
        reasons = self.model.explain(x)
        entries = []
        for row, edit in enumerate(table.to_pylist()):
            evidence = {
                "edit": {name: edit[name] for name in EDIT_COLUMNS},
                "threshold": self.model.required_score(x[row]),
                "edits": round(float(np.exp(x[row, user_features.LOG_EDITS]))),
                "contributions": reasons[row][:MAX_CONTRIBUTIONS],
                "features": dict(zip(user_features.FEATURES, x[row].tolist(), strict=True)),
            }
            score, version = float(scores[row]), self.model.version
            entries.append(Entry(edit["user"], REASON, edit["timestamp"], evidence, score, version))
        return entries


def _are_in(names: Sequence[str], users: Container[str]) -> np.ndarray:
    return np.fromiter((name in users for name in names), bool, len(names))


def _verdicts(table: pa.Table, verdict: np.ndarray, score: np.ndarray) -> pa.Table:
    shown = table.select(VERDICT_SCHEMA.names[:-2])
    shown = shown.append_column("verdict", pa.array(VERDICTS).take(pa.array(verdict)))
    return shown.append_column("score", pa.array(score, from_pandas=True)).cast(VERDICT_SCHEMA)


def _next_offsets(scored: pa.Table) -> dict[int, int]:
    last = scored.group_by("partition").aggregate([("offset", "max")])
    return {row["partition"]: row["offset_max"] + 1 for row in last.to_pylist()}


def _dead_letters(table: pa.Table) -> list[tuple[int, int, bytes, str]]:
    invalid = table.filter(pc.equal(table["kind"], "invalid"))
    columns = (invalid[name].to_pylist() for name in ("partition", "offset", "raw", "reason"))
    return list(zip(*columns, strict=True))


def _counts(
    scored: pa.Table, fresh: pa.Table, verdict: np.ndarray, user: np.ndarray, sampled: np.ndarray
) -> dict[str, float]:
    kinds = {row["values"]: row["counts"] for row in fresh["kind"].value_counts().to_pylist()}
    return {
        "events": kinds.get("edit", 0) + kinds.get("event", 0),
        "edits": len(verdict),
        "invalid": kinds.get("invalid", 0),
        "duplicates": scored.num_rows - fresh.num_rows,
        "canaries": kinds.get("canary", 0),
        "read": scored.num_rows,
        **{word: int((verdict == code).sum()) for code, word in enumerate(VERDICTS)},
        "shadow_scored": int(sampled.sum()),
        "without_user": int((user < 0).sum()),
    }
