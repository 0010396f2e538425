"""The blacklist of stage 3: who of the sample is on it, and how often it is wrong about people.

Two kinds of users are listed. Those whom the model takes for bots, by the rule of stage 4 (the score at a checkpoint
reaches the threshold) and with scores of models that have not learnt from them: what the list then says of people is
what it would say of strangers. And those whom the wiki itself flags as bots in the sample: the flag is how the sample
was labelled, so nothing is guessed. The row says so in its reason; the flag of a later edit decides nothing.

The list can wrong people in two ways, and each is measured by itself with an upper bound: the model takes a person for
a bot, or the filter's hash takes a person who is not listed for a member.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pybloom_live import BloomFilter, ScalableBloomFilter

from lib import artifacts, paths
from lib.blacklist.bloom import BlacklistFilter
from lib.blacklist.ledger import EDIT_COLUMNS, BlacklistError, Entry, Ledger
from lib.model import user_features
from lib.model.classifier import BotClassifier, CrossFit
from lib.model.dataset import EditDataset
from lib.model.evaluation import name_contains_bot
from lib.stats import upper_bound

JUDGED = "model: score at the threshold"
FLAGGED = "flagged in the sample"
LEDGER = "ledger.sqlite"
BEFORE = ".ledger.before.sqlite"  # the ledger of an earlier run while a run is under way, or has failed
FILTER = "blacklist.bloom"
MODEL, REFERENCE, METRICS = "model.skops", "reference.json", "metrics.json"
OUTPUTS = (MODEL, FILTER, REFERENCE, METRICS, artifacts.NAME)
_ENDINGS = ("", "-wal", "-shm")
PROBES = 500_000  # made-up names by which the hash error is measured


class Errors(NamedTuple):
    """How often the blacklist is wrong, split by cause; shares with one-sided 95 % upper bounds."""

    members: int
    humans: int  #: users of the sample who are no bots
    humans_listed: int  #: of them, those on the list: the model's part
    human_fpr: float
    human_fpr_upper95: float
    strangers: int  #: names not on the list that the filter was asked about
    collisions: int  #: of them, those it took for members: the hash's part
    hash_fpr: float
    hash_fpr_upper95: float
    hash_exact: float  #: the chance computed from the filter's bits

    def metrics(self) -> dict[str, float | int]:
        """Give the section `blacklist` of stage 3's metrics."""
        return {
            "members": self.members,
            "human_user_fpr": self.human_fpr,
            "human_user_fpr_upper95": self.human_fpr_upper95,
            "hash_fpr": self.hash_fpr,
            "hash_fpr_upper95": self.hash_fpr_upper95,
        }

    def table(self) -> pd.DataFrame:
        """Tabulate the two parts."""
        rows = [
            ("the model lists a human", self.humans_listed, self.humans, self.human_fpr_upper95),
            (
                "the hash takes a stranger for a member",
                self.collisions,
                self.strangers,
                self.hash_fpr_upper95,
            ),
        ]
        return pd.DataFrame(
            [
                {
                    "error": name,
                    "wrong": f"{wrong:,}",
                    "of": f"{of:,}",
                    "share": f"{100 * wrong / max(of, 1):.3g} %",
                    "95 % upper bound": f"{100 * upper:.3g} %",
                }
                for name, wrong, of, upper in rows
            ]
        )

    def require(self, max_human_fpr: float) -> str:
        """Check the promise and say so in a sentence.

        Raises
        ------
        FprBoundExceeded
            The upper bound of the share of humans on the list is above `max_human_fpr`.
        """
        if self.human_fpr_upper95 > max_human_fpr:
            raise FprBoundExceeded(
                f"The share of humans on the blacklist must be at most {max_human_fpr:g} with 95 % confidence. "
                f"Got {self.humans_listed} of {self.humans}, so at most {self.human_fpr_upper95:.3g}. "
                "Raise MAX_HUMAN_FPR, or sample more people (PERCENT in 02_sample)."
            )
        return (
            f"{self.humans_listed} of {self.humans:,} humans are on the list: with 95 % confidence at most "
            f"{100 * self.human_fpr_upper95:.3g} % of all, and {100 * max_human_fpr:g} % were promised. The hash took "
            f"{self.collisions:,} of {self.strangers:,} strangers for members; by its bits the chance is "
            f"{self.hash_exact:.1g}."
        )


def select_users(people: EditDataset, cross: CrossFit, model: BotClassifier) -> list[Entry]:
    """Decide who of the sample is on the list.

    Parameters
    ----------
    people : EditDataset
        The sample.
    cross : CrossFit
        Its scores, by models that have not learnt from the user they score.
    model : BotClassifier
        The model that is used, with its threshold; it says what made it decide.

    Returns
    -------
    list of Entry
        By time, then by name.
    """
    rows, scores = cross.rows, cross.scores(model.with_name)
    tipping = np.flatnonzero((scores >= model.threshold) & ~rows.last)
    judged, first = np.unique(
        rows.user[tipping], return_index=True
    )  # rows at checkpoints are in order of time
    at = rows.edit[tipping[first]]
    listed = _judged(people, model, judged, at, scores[tipping[first]])
    flagged = np.setdiff1d(np.flatnonzero(people.bots), judged)
    listed += [_flagged(people, int(user)) for user in flagged]
    return sorted(listed, key=lambda entry: (entry.since, entry.user))


def _judged(
    people: EditDataset, model: BotClassifier, users: np.ndarray, at: np.ndarray, score: np.ndarray
) -> list[Entry]:
    """Write down why the model lists these users: the edit that tipped the balance, and all up to it."""
    if not len(users):
        return []
    place = np.full(len(people), -1, np.int64)
    place[users] = np.arange(len(users))
    until = np.full(len(people), -1, np.int64)
    until[users] = at
    read = np.flatnonzero((place[people.user] >= 0) & (np.arange(len(people.user)) <= until[people.user]))
    table = people.table.take(pa.array(read))
    state = user_features.update_states(
        user_features.new_states(len(users)),
        place[people.user[read]],
        people.times[read],
        model.edit_features(table),
    )[0]
    seen = np.bincount(place[people.user[read]], minlength=len(users))
    x, reasons = user_features.to_features(state), model.explain(state)
    return [
        Entry(
            str(people.names[user]),
            JUDGED,
            int(people.times[at[i]]),
            {
                "edit": _edit(people, int(at[i])),
                "threshold": model.threshold,
                "edits": int(seen[i]),
                "contributions": [list(share) for share in reasons[i]],
                "features": dict(zip(user_features.FEATURES, x[i].tolist(), strict=True)),
            },
            float(score[i]),
            model.version,
        )
        for i, user in enumerate(users)
    ]


def _flagged(people: EditDataset, user: int) -> Entry:
    mine = np.flatnonzero(people.user == user)
    last = int(mine[-1])
    evidence = {
        "edit": _edit(people, last),
        "edits": len(mine),
        "flagged_edits": int(people.flagged[mine].sum()),
    }
    return Entry(str(people.names[user]), FLAGGED, int(people.times[last]), evidence)


def _edit(people: EditDataset, row: int) -> dict[str, Any]:
    return {name: people.table.column(name)[row].as_py() for name in EDIT_COLUMNS}


def false_positives(people: EditDataset, listed: Sequence[Entry]) -> tuple[pd.DataFrame, str]:
    """Tabulate the listed users who are human by the flag: errors of the model, or of the flag."""
    place = {name: user for user, name in enumerate(people.names)}
    humans = [entry for entry in listed if not people.bots[place[entry.user]]]
    humans.sort(key=lambda entry: (-(entry.score or 0), entry.user))
    table = pd.DataFrame(
        [
            {
                "user": entry.user,
                "edits": int(people.edits[place[entry.user]]),
                "listed after": entry.evidence["edits"],
                "score": f"{entry.score:.2f}",
                "comment of that edit": (entry.evidence["edit"]["comment"] or "")[:80],
            }
            for entry in humans
        ]
    )
    named = int(name_contains_bot([entry.user for entry in humans]).sum())
    return table, f"{named} of the {len(humans)} listed users who count as human have “bot” in their name."


def clear_outputs(folder: Path) -> None:
    """Remove what an earlier run of stage 3 left, so that a run that fails leaves nothing to go on with.

    The ledger is set aside: :func:`write_blacklist` takes over from it what people decided.
    """
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    if (folder / LEDGER).exists():
        _remove(folder / BEFORE)
        for ending in _ENDINGS[::-1]:  # the database last: as long as it is there, this can be done again
            with contextlib.suppress(FileNotFoundError):
                (folder / (LEDGER + ending)).rename(folder / (BEFORE + ending))


def write_blacklist(folder: Path, listed: Iterable[Entry]) -> None:
    """Write the ledger and its filter anew; both appear whole, and what the folder held before is replaced.

    What people decided in the ledger before is taken over: the allow-list, whom they put on the list for a reason of
    their own, whom they took off it, and the history.

    Parameters
    ----------
    folder : Path
        Gets ``ledger.sqlite`` and ``blacklist.bloom``.
    listed : iterable of Entry
        From :func:`select_users`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{LEDGER}.new"
    _remove(new)
    with Ledger.open(new) as ledger:
        released = _import_decisions(folder, ledger)
        ledger.add(entry for entry in listed if entry.user not in released)
        members = ledger.members()
    _remove(folder / LEDGER)
    new.rename(folder / LEDGER)
    _remove(folder / BEFORE)
    BlacklistFilter.build(members).save(folder / FILTER)


def save_outputs(
    folder: Path,
    model: BotClassifier,
    listed: Iterable[Entry],
    reference: dict[str, Any],
    metrics: dict[str, Any],
    **facts: Any,
) -> None:
    """Leave what stage 3 made: all files or, when something fails, none. The model comes last: where it is, all are.

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
    new = folder / f".{MODEL}.new"
    try:
        write_blacklist(folder, listed)
        artifacts.write_json(folder / REFERENCE, reference)
        artifacts.write_json(folder / METRICS, metrics)
        model.save(new)
        outputs = {name: artifacts.sha256(folder / name) for name in (FILTER, METRICS)}
        artifacts.write(folder, **facts, outputs={MODEL: artifacts.sha256(new), **outputs})
        new.rename(folder / MODEL)
    except BaseException:
        new.unlink(missing_ok=True)
        clear_outputs(folder)
        raise


def _import_decisions(folder: Path, ledger: Ledger) -> set[str]:
    """Take over what people decided in the ledger that lies here or was set aside; say who stays off the list."""
    found = [folder / name for name in (LEDGER, BEFORE) if (folder / name).exists()]
    if not found:
        return set()
    try:
        with Ledger.open(found[0], read_only=True) as earlier:
            return ledger.import_decisions(earlier, (JUDGED, FLAGGED))
    except BlacklistError as error:
        kept = found[0].replace(folder / "ledger.damaged.sqlite")
        warnings.warn(
            f"{error} Its allow-list is not taken over. The file is kept: {paths.show(kept)}.", stacklevel=3
        )
        return set()


def _remove(database: Path) -> None:
    """Remove a SQLite file with its write-ahead log, which would otherwise be read into the next one."""
    for ending in _ENDINGS:
        database.with_name(database.name + ending).unlink(missing_ok=True)


def measure(people: EditDataset, listed: Sequence[Entry], seed: int, probes: int = PROBES) -> Errors:
    """Count the errors of the list and of its filter.

    Parameters
    ----------
    people : EditDataset
        The sample; its humans are those the list can wrong.
    listed : sequence of Entry
        From :func:`select_users`.
    seed : int
        For the made-up names.
    probes : int
        How many names to make up; the users of the sample who are not listed are asked about too.

    Returns
    -------
    Errors
    """
    members = {entry.user for entry in listed}
    bloom = BlacklistFilter.build(sorted(members))
    on_list = np.fromiter((name in members for name in people.names), bool, len(people))
    humans, wronged = int((~people.bots).sum()), int((on_list & ~people.bots).sum())
    strangers = people.names[~on_list].tolist() + [
        name for name in names(probes, seed) if name not in members
    ]
    collisions = int(bloom.contains(strangers).sum())
    return Errors(
        len(members),
        humans,
        wronged,
        wronged / max(humans, 1),
        upper_bound(wronged, humans),
        len(strangers),
        collisions,
        collisions / max(len(strangers), 1),
        upper_bound(collisions, len(strangers)),
        bloom.error(),
    )


def names(n: int, seed: int) -> list[str]:
    """Make up different user names.

    Examples
    --------
    >>> names(2, seed=0) == names(2, seed=0) != names(2, seed=1)
    True
    """
    salt = np.random.default_rng(seed).bytes(6).hex()
    return [f"Nobody {salt} {number}" for number in range(n)]


def bloom_error_study(
    sizes: Sequence[int] = (100, 300, 1000, 2000, 3000, 10_000, 30_000),
    error_rate: float = 0.01,
    probes: int = 50_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure what filters of several sizes promise: ours, and both of pybloom-live's.

    Parameters
    ----------
    sizes : sequence of int
        Members; every filter is full, which is where its promise is hardest to keep.
    error_rate : float
        What is promised.
    probes : int
        Strangers to ask each filter about.

    Returns
    -------
    DataFrame
        Columns `filter`, `members`, `wrong`, `probes`, `error`, `upper95`, `bytes`.
    """
    strangers = names(probes, seed)
    rows = []
    for size in sizes:
        members = [f"Member {number}" for number in range(size)]
        for name, filter_ in _filters(members, error_rate).items():
            answers = (
                filter_.contains(strangers)
                if isinstance(filter_, BlacklistFilter)
                else [s in filter_ for s in strangers]
            )
            wrong = int(np.sum(answers))
            rows.append(
                (name, size, wrong, probes, wrong / probes, upper_bound(wrong, probes), _bytes(filter_))
            )
    return pd.DataFrame(rows, columns=["filter", "members", "wrong", "probes", "error", "upper95", "bytes"])


def _filters(
    members: list[str], error_rate: float
) -> dict[str, BlacklistFilter | BloomFilter | ScalableBloomFilter]:
    plain = BloomFilter(len(members), error_rate)
    small = ScalableBloomFilter(100, error_rate, ScalableBloomFilter.SMALL_SET_GROWTH)
    large = ScalableBloomFilter(100, error_rate, ScalableBloomFilter.LARGE_SET_GROWTH)
    for filter_ in (plain, small, large):
        for member in members:
            filter_.add(member)
    return {
        "ours": BlacklistFilter.build(members, len(members), error_rate),
        "BloomFilter": plain,
        "ScalableBloomFilter, small growth": small,
        "ScalableBloomFilter, large growth": large,
    }


def _bytes(filter_: BlacklistFilter | BloomFilter | ScalableBloomFilter) -> int:
    if isinstance(filter_, BlacklistFilter):
        return filter_.nbytes
    parts = filter_.filters if isinstance(filter_, ScalableBloomFilter) else [filter_]
    return sum(len(part.bitarray) // 8 for part in parts)


class FprBoundExceeded(ValueError):
    """The blacklist would wrong more people than was promised."""


def overview(people: EditDataset, listed: Sequence[Entry]) -> pd.DataFrame:
    """Count who is listed, by reason, and the edits that they made in the sample."""
    place = {name: user for user, name in enumerate(people.names)}
    rows = []
    for reason in (JUDGED, FLAGGED):
        users = np.array([place[entry.user] for entry in listed if entry.reason == reason], dtype=np.int64)
        bots = int(people.bots[users].sum())
        rows.append(
            {
                "reason": reason,
                "users": f"{len(users):,}",
                "bots by the flag": f"{bots:,}",
                "humans by the flag": f"{len(users) - bots:,}",
                "their edits in the sample": f"{int(people.edits[users].sum()):,}",
            }
        )
    return pd.DataFrame(rows)
