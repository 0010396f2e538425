"""Who is a bot, edit by edit: the verdicts of an epoch, from what was found in it and what the books remember.

A verdict is a function of the events and the model alone. Each user's edits are judged in the order of their Kafka
offsets (the key is the user, so one partition has them all). The edit whose score reaches the threshold is ``flagged``,
those after it are ``dropped``, all others are ``kept``. Nothing here depends on where an epoch begins or ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.blacklist.ledger import EDIT_COLUMNS, Entry
from lib.model import user_features
from lib.model.edit_features import INPUT_COLUMNS
from lib.model.kernels import njit_cached
from lib.online import seen, sieve
from lib.online.books import Books, Summaries
from lib.online.sieve import SHADOW_SHARE, Findings

KEPT, FLAGGED, DROPPED = range(3)
VERDICTS = ("kept", "flagged", "dropped")
REASON = "online: score at the threshold"
FORGET = 2  # silences after which a user's summary leaves the books
_CACHE = 200_000  # listed users whose ledger rows are remembered

SCHEMA = pa.schema(
    [
        ("meta_id", pa.string()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("wiki", pa.string()),
        ("user", pa.string()),
        ("bot", pa.bool_()),
        ("verdict", pa.string()),
        ("score", pa.float64()),
    ]
)


class Judges(Protocol):
    """What is asked of a model."""

    @property
    def version(self) -> str:
        """Name of the model: another one has another."""

    @property
    def threshold(self) -> float:
        """A score from which on a user is flagged."""

    def edit_features(self, table: pa.Table) -> np.ndarray:
        """Give the evidence of each edit, shape (n, E)."""

    def score(self, x: np.ndarray) -> np.ndarray:
        """Give the score of each row of features, shape (n,): to the last bit the same whatever the other rows are."""

    def explain(self, states: np.ndarray) -> list[list[tuple[str, float]]]:
        """Give for each summary the features that made its score, each with its share, largest first."""


class Outcome(NamedTuple):
    """What an epoch changes; nothing of it is kept before the books are closed with it."""

    verdicts: pa.Table  #: one row per edit, :data:`SCHEMA`, in the order of partitions and offsets
    entries: list[Entry]  #: who is new on the blacklist
    users: list[str]
    summaries: Summaries
    shadow_users: list[str]
    shadow: Summaries
    ids: np.ndarray  #: the hashes of events seen for the first time
    collisions: list[str]  #: whom the filter took for a member
    invalid: pa.Table
    kafka_ms: np.ndarray  #: Kafka's timestamp of each edit
    counts: dict[str, int]
    offsets: dict[int, int]


@njit_cached
def _decide(
    user: np.ndarray,
    opens: np.ndarray,
    allowed: np.ndarray,
    reached: np.ndarray,
    score: np.ndarray,
    last: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give verdict and score of every edit, in order; `last` is each user's score so far, and is changed."""
    n = len(user)
    verdict = np.zeros(n, np.int8)
    crossing = np.full(len(last), -1, np.int64)
    out = np.full(n, np.nan)
    for i in range(n):
        u = user[i]
        if u < 0:
            continue
        if i < opens[u] or crossing[u] >= 0:
            verdict[i] = 2
            continue
        if reached[i] >= 0:
            last[u] = score[reached[i]]
            if last[u] >= threshold and not allowed[u]:
                verdict[i] = 1
                crossing[u] = i
        out[i] = last[u]
    return verdict, out, crossing


@njit_cached
def _carry(user: np.ndarray, reached: np.ndarray, score: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Give each edit the last score of its user; `last` is changed."""
    out = np.empty(len(user))
    for i in range(len(user)):
        if reached[i] >= 0:
            last[user[i]] = score[reached[i]]
        out[i] = last[user[i]]
    return out


class Judge:
    """Judge epochs, one after the other.

    Parameters
    ----------
    model : Judges
        From stage 3.
    books : Books
        What is remembered. Only read here; :meth:`Outcome` says what is to be written.
    shadow_share : float
        Share of the dropped edits that are scored all the same.
    """

    def __init__(self, model: Judges, books: Books, shadow_share: float = SHADOW_SHARE):
        self.model = model
        self.books = books
        self.shadow_share = shadow_share
        self.allowed = frozenset(books.ledger.allowed())
        self._since_filter: set[str] = set()  # who came on the list after the executors' filter was made
        self._listed: set[str] = set()

    def filter_sent(self) -> None:
        """Say that from now on the executors are given a filter that knows every member of the ledger."""
        self._since_filter.clear()

    @property
    def unknown_to_filter(self) -> int:
        """How many members the executors' filter does not know yet."""
        return len(self._since_filter)

    def judge(self, found: Findings) -> Outcome:
        """Judge one epoch.

        Parameters
        ----------
        found : Findings
            What :func:`lib.online.sieve.unpack` gave.

        Returns
        -------
        Outcome
        """
        ids = found.events.column("id").to_numpy()
        named = found.events.column("named").to_numpy(zero_copy_only=False)
        fresh = ~named
        fresh[named] = self.books.seen.fresh(ids[named])
        event = found.edits.column("event").to_numpy()
        table, looked_at, evidence = _only(found, fresh[event])
        event = table.column("event").to_numpy()
        user, names = _codes(table.column("user"))
        times = table.column("timestamp").to_numpy()

        maybe = _any(user, table.column("maybe_listed").to_numpy(zero_copy_only=False), len(names))
        listed, collisions = self._ask_ledger(names, maybe)
        opens = _opens(names, listed, len(user))
        is_open = _is_open(user, opens)
        evidence = self._look_at_rest(table, is_open, looked_at, evidence)

        before = self._before(names, opens, len(user))
        state, reached, score = self._score(before.state, user, times, evidence, is_open)
        last = before.score.copy()
        allowed = np.fromiter((name in self.allowed for name in names), bool, len(names))
        verdict, shown, crossing = _decide(user, opens, allowed, reached, score, last, self.model.threshold)

        chosen = (verdict == DROPPED) & seen.chosen(ids[event], self.shadow_share)
        shadow_users, shadow, shadow_score = self._shadow(names, user, times, evidence, chosen)
        shown[chosen] = shadow_score

        flagged = np.flatnonzero(crossing >= 0)
        states = self._at_crossing(flagged, crossing, before.state, user, times, evidence, is_open)
        entries = self._entries(names, flagged, crossing, states, shown, table)
        kept = np.flatnonzero((opens < len(user)) & (crossing < 0) & _any(user, is_open, len(names)))
        summaries = Summaries(state[kept], last[kept], _latest(user, times, before.last_ms)[kept])
        self._remember_listed(entries)
        return Outcome(
            _verdicts(table, verdict, shown),
            entries,
            [names[u] for u in kept],
            summaries,
            shadow_users,
            shadow,
            ids[fresh & named],
            collisions,
            found.invalid,
            found.events.column("kafka_ms").to_numpy()[event],
            _counts(found, fresh, verdict, user, chosen),
            sieve.next_offsets(found.ends, self.books.offsets()),
        )

    def write(self, outcome: Outcome) -> None:
        """Write an outcome to the books, inside the caller's transaction (all but the closing of the epoch)."""
        books = self.books
        books.ledger.add(outcome.entries)
        books.write_summaries(outcome.users, outcome.summaries)
        books.write_summaries(outcome.shadow_users, outcome.shadow, shadow=True)
        books.drop_summaries(entry.user for entry in outcome.entries)
        books.write_collisions(outcome.collisions)
        columns = (
            outcome.invalid.column(name).to_pylist() for name in ("partition", "offset", "raw", "reason")
        )
        books.write_dead_letters(zip(*columns, strict=True))

    # --- steps ---

    def _ask_ledger(self, names: Sequence[str], maybe: np.ndarray) -> tuple[set[str], list[str]]:
        """Find who is on the blacklist; a yes of the filter that the ledger denies is a collision."""
        new = self._since_filter
        asked = [name for name, yes in zip(names, maybe.tolist(), strict=True) if yes or name in new]
        unknown = [name for name in asked if name not in self._listed]
        answers = set(self.books.ledger.look_up(unknown))
        if len(self._listed) + len(answers) > _CACHE:
            self._listed.clear()
            answers |= set(self.books.ledger.look_up([name for name in asked if name not in answers]))
        self._listed |= answers
        listed = self._listed.intersection(asked)
        return listed, [name for name in asked if name not in listed]

    def _remember_listed(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._listed.add(entry.user)
            self._since_filter.add(entry.user)

    def _look_at_rest(
        self, table: pa.Table, is_open: np.ndarray, looked_at: np.ndarray, evidence: np.ndarray
    ) -> np.ndarray:
        """Spread the evidence over all edits, and look at those that the executors took for a member's."""
        rest = np.flatnonzero(is_open & ~looked_at)
        more = (
            self.model.edit_features(table.take(pa.array(rest)).select(INPUT_COLUMNS)) if len(rest) else None
        )
        width = evidence.shape[1] if more is None else more.shape[1]
        whole = np.full((table.num_rows, width), np.nan)
        whole[looked_at] = evidence
        if more is not None:
            whole[rest] = more
        return whole

    def _before(self, names: Sequence[str], opens: np.ndarray, n: int) -> Summaries:
        """Look up the summaries of those who are judged in this epoch."""
        whole = Summaries(
            user_features.new_states(len(names)),
            np.full(len(names), np.nan),
            np.full(len(names), np.iinfo(np.int64).min),
        )
        wanted = np.flatnonzero(opens < n).tolist()
        known = self.books.summaries([names[u] for u in wanted], user_features.STATE_SIZE)
        for target, source in zip(whole, known, strict=True):
            target[wanted] = source
        return whole

    def _score(
        self, state: np.ndarray, user: np.ndarray, times: np.ndarray, evidence: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Fold some of the edits into the summaries and score them where a checkpoint is reached.

        Gives the summaries, for each edit the place of its score (-1: no checkpoint), and the scores.
        """
        at = np.flatnonzero(rows)
        state, checkpoints, x = user_features.update_states(state, user[at], times[at], evidence[at])
        reached = np.full(len(user), -1, np.int64)
        reached[at[checkpoints]] = np.arange(len(checkpoints))
        return state, reached, self.model.score(x)

    def _shadow(
        self,
        names: Sequence[str],
        user: np.ndarray,
        times: np.ndarray,
        evidence: np.ndarray,
        chosen: np.ndarray,
    ) -> tuple[list[str], Summaries, np.ndarray]:
        """Score the shadow edits as if their users were strangers who had made only these."""
        codes, of = np.unique(user[chosen], return_inverse=True)
        who = [names[u] for u in codes]
        before = self.books.summaries(who, user_features.STATE_SIZE, shadow=True)
        every = np.ones(len(of), bool)
        state, reached, score = self._score(before.state, of, times[chosen], evidence[chosen], every)
        last = before.score.copy()
        shown = _carry(of, reached, score, last)
        return who, Summaries(state, last, _latest(of, times[chosen], before.last_ms)), shown

    def _at_crossing(
        self,
        flagged: np.ndarray,
        crossing: np.ndarray,
        state: np.ndarray,
        user: np.ndarray,
        times: np.ndarray,
        evidence: np.ndarray,
        is_open: np.ndarray,
    ) -> np.ndarray:
        """Give the summaries of the flagged users as they were at the edit that tipped the balance."""
        place = np.full(len(state) + 1, -1, np.int64)
        place[flagged] = np.arange(len(flagged))
        until = np.append(crossing, -1)[user]
        at = np.flatnonzero(is_open & (place[user] >= 0) & (np.arange(len(user)) <= until))
        return user_features.update_states(state[flagged], place[user[at]], times[at], evidence[at])[0]

    def _entries(
        self,
        names: Sequence[str],
        flagged: np.ndarray,
        crossing: np.ndarray,
        states: np.ndarray,
        shown: np.ndarray,
        table: pa.Table,
    ) -> list[Entry]:
        """Write down why: the edit, and what the model made of everything up to it."""
        if not len(flagged):
            return []
        rows = crossing[flagged]
        edits = table.select(EDIT_COLUMNS).take(pa.array(rows)).to_pylist()
        x = user_features.to_features(states)
        entries = []
        for u, edit, numbers, score, reasons in zip(
            flagged.tolist(), edits, x, shown[rows].tolist(), self.model.explain(states), strict=True
        ):
            evidence: dict[str, Any] = {
                "edit": edit,
                "threshold": self.model.threshold,
                "edits": round(float(np.exp(numbers[_EDITS]))),
                "contributions": reasons[:_REASONS],
                "features": dict(zip(user_features.FEATURES, numbers.tolist(), strict=True)),
            }
            entries.append(Entry(names[u], REASON, edit["timestamp"], evidence, score, self.model.version))
        return entries


_REASONS = 20  # contributions that are kept
_EDITS = user_features.FEATURES.index("number of edits")


def _only(found: Findings, rows: np.ndarray) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Leave out the edits that were judged before; give the others, which were looked at, and their evidence."""
    looked_at = found.edits.column("looked_at").to_numpy(zero_copy_only=False)
    if rows.all():
        return found.edits, looked_at, found.evidence
    return found.edits.filter(pa.array(rows)), looked_at[rows], found.evidence[rows[looked_at]]


def _codes(users: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Number the users who are there; a null is -1."""
    column = users.combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    present, user = np.unique(codes, return_inverse=True)
    nulls = len(present) > 0 and present[0] < 0
    names = column.dictionary.take(pa.array(present[1:] if nulls else present)).to_pylist()
    return user.astype(np.int64) - int(nulls), names


def _any(user: np.ndarray, mask: np.ndarray, n: int) -> np.ndarray:
    """Tell which users have an edit that is marked."""
    answer = np.zeros(n, bool)
    answer[user[mask & (user >= 0)]] = True
    return answer


def _opens(names: Sequence[str], listed: Collection[str], n: int) -> np.ndarray:
    """Find from which edit on each user is judged: the first, or none (`n`) of a user on the list."""
    return np.fromiter((n if name in listed else 0 for name in names), np.int64, len(names))


def _is_open(user: np.ndarray, opens: np.ndarray) -> np.ndarray:
    return (user >= 0) & (np.arange(len(user)) >= np.append(opens, len(user))[user])


def _latest(user: np.ndarray, times: np.ndarray, before: np.ndarray) -> np.ndarray:
    latest = before.copy()
    known = user >= 0
    np.maximum.at(latest, user[known], times[known])
    return latest


def _verdicts(table: pa.Table, verdict: np.ndarray, score: np.ndarray) -> pa.Table:
    words = pa.DictionaryArray.from_arrays(pa.array(verdict), pa.array(VERDICTS))
    columns = [
        table.column("meta_id"),
        table.column("timestamp").cast(pa.timestamp("ms", tz="UTC")),
        table.column("wiki").cast(pa.string()),
        table.column("user").cast(pa.string()),
        table.column("bot"),
        words.cast(pa.string()),
        pa.array(score, from_pandas=True),
    ]
    return pa.table(columns, schema=SCHEMA)


def _counts(
    found: Findings, fresh: np.ndarray, verdict: np.ndarray, user: np.ndarray, chosen: np.ndarray
) -> dict[str, int]:
    return {
        "events": int(fresh.sum()),
        "edits": len(verdict),
        "invalid": found.invalid.num_rows,
        "duplicates": int((~fresh).sum()),
        "canaries": pc.sum(found.ends.column("canaries")).as_py(),
        "read": pc.sum(found.ends.column("read")).as_py(),
        **{word: int((verdict == code).sum()) for code, word in enumerate(VERDICTS)},
        "shadow_scored": int(chosen.sum()),
        "without_user": int((user < 0).sum()),
    }
