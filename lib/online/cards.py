"""Verdict cards: why a user is on the blacklist, in words, as a picture and as JSON.

A card holds what the ledger knows: the edit that crossed the threshold, what the model made of everything up to it, and
which of these things, had they been like an average user's, would have changed the verdict. Every text of the stream is
escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from IPython.display import display
from matplotlib.figure import Figure
from scipy.special import expit, logit

from lib import artifacts, events, paths, plots
from lib.blacklist.ledger import Entry, Ledger
from lib.online import judge, metrics, state

FILE = "cards.json"
MADE_BY = "notebooks/04_online.ipynb"
MAX_CONTRIBUTIONS = 8  # in the picture; the JSON holds twice as many
MAX_EDITS = 20
#: Returns title, comment and change of size of edits by their ids.
Texts = Callable[[frozenset[str]], dict[str, dict[str, Any]]]


class Contribution(msgspec.Struct, frozen=True):
    """What one feature did to the score, in log-odds; above zero speaks for a bot."""

    feature: str
    log_odds: float


class Card(msgspec.Struct, frozen=True):
    """Why one user is on the blacklist."""

    user: str
    reason: str
    since: str  #: event time, ISO 8601
    score: float | None
    threshold: float | None
    model: str
    edits_seen: int
    contributions: list[Contribution]
    would_have_changed: str
    edit: dict[str, Any]  #: the one that crossed the threshold
    edits: list[dict[str, Any]] = []  #: the last ones up to it, with verdict and score

    def _repr_html_(self) -> str:
        """Return the card as HTML, as Jupyter shows it; all texts of the stream are escaped."""
        where = f"On the blacklist since {self.since} ({self.reason}), after {plots.pluralize(self.edits_seen, 'edit')}"
        scored = self.score is not None and self.threshold is not None
        why = f": the score {self.score:.3f} reached the {self.threshold:.3f} asked by then" if scored else ""
        fields = pd.DataFrame(self.edit.items(), columns=["field", "value"], dtype="object")
        edit = plots.html_table(fields, "The edit that crossed the threshold")
        return f"<h4>{html.escape(plots.truncate(self.user))}</h4><p>{html.escape(where + why)}.</p>{edit}"

    def figure(self) -> Figure:
        """Draw the contributions, largest first."""
        shown = self.contributions[:MAX_CONTRIBUTIONS][::-1]
        figure, axes = plt.subplots(figsize=(8, 0.6 + 0.35 * max(len(shown), 1)))
        colours = [plots.BOT if item.log_odds > 0 else plots.HUMAN for item in shown]
        axes.barh([item.feature for item in shown], [item.log_odds for item in shown], color=colours)
        axes.axvline(0, color=plots.GREY, linewidth=1)
        axes.set(title="What each feature added", xlabel="log-odds against the average user (right: bot)")
        axes.grid(axis="y", visible=False)
        return figure


def from_entry(entry: Entry, edits: Iterable[dict[str, Any]] = ()) -> Card:
    """Return the card of a ledger's entry.

    Parameters
    ----------
    entry : Entry
    edits : iterable of dict
        The user's edits up to the verdict.
    """
    evidence = entry.evidence
    contributions = [Contribution(*pair) for pair in evidence.get("contributions", [])]
    edit, threshold = evidence.get("edit", {}), evidence.get("threshold")
    time = {"timestamp": events.iso(edit["timestamp"])} if "timestamp" in edit else {}
    return Card(
        user=entry.user,
        reason=entry.reason,
        since=events.iso(entry.since),
        score=entry.score,
        threshold=threshold,
        model=entry.model_version,
        edits_seen=evidence.get("edits", 0),
        contributions=contributions[: 2 * MAX_CONTRIBUTIONS],
        would_have_changed=counterfactual(contributions, entry.score, threshold),
        edit=edit | time,
        edits=list(edits),
    )


def counterfactual(contributions: list[Contribution], score: float | None, threshold: float | None) -> str:
    """Return which of the strongest reasons, taken away one after the other, would have left the user unflagged.

    Examples
    --------
    >>> reasons = [Contribution("name ends in “bot”", 3.0), Contribution("size unchanged", 1.0)]
    >>> counterfactual(reasons, 0.9, 0.5)
    'Had “name ends in ‘bot’” been as with an average user, the score would have been 0.309 and the verdict “kept”.'
    """
    if score is None or threshold is None or not contributions:
        return "No score was needed." if score is None else "This model gives no reasons."
    odds, names = logit(min(score, 1 - 1e-12)), []  # log-odds of 1 are infinite
    # The threshold rises with the number of edits: with fewer, less would have been asked.
    reasons = [item for item in contributions if item.log_odds > 0 and item.feature != "number of edits"]
    for item in sorted(reasons, key=lambda item: -item.log_odds):
        odds -= item.log_odds
        names.append("“" + item.feature.replace("“", "‘").replace("”", "’") + "”")
        if odds < logit(threshold):
            listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            after = f"the score would have been {expit(odds):.3f} and the verdict “kept”"
            return f"Had {listed} been as with an average user, {after}."
    return (
        "Even with an average user's values in all of these the score would have stayed above the threshold."
    )


def read(out_dir: str | Path, user: str) -> Card | None:
    """Return the card of any user on the blacklist, with the text of the deciding edit alone; None for other users.

    Parameters
    ----------
    out_dir : str or Path
        OUT_DIR of stage 4.
    user : str
    """
    folder = paths.resolve(out_dir)
    with Ledger.open(artifacts.require(folder / "ledger.sqlite", MADE_BY)) as ledger:
        entry = ledger.get(user)
    return None if entry is None else from_entry(entry, _edits_before(folder, [user])[user])


def write(out_dir: Path, ledger: Ledger, texts: Texts) -> Path:
    """Write the cards of everyone whom this stage flagged, as one JSON file by user.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    ledger : Ledger
        Of the stage.
    texts : callable
        Looks up the texts of edits.
    """
    entries = [entry for entry in ledger.entries() if entry.reason == judge.REASON]
    edits = _edits_before(out_dir, [entry.user for entry in entries])
    found = texts(frozenset(edit["meta_id"] for listed in edits.values() for edit in listed))
    cards = {}
    for entry in entries:
        with_texts = [edit | found.get(edit["meta_id"], {}) for edit in edits[entry.user]]
        cards[entry.user] = from_entry(entry, with_texts)
    return artifacts.write_json(out_dir / FILE, msgspec.to_builtins(cards))


def load(out_dir: Path) -> dict[str, Card]:
    """Return the cards that :func:`write` wrote, by user."""
    return msgspec.json.decode(artifacts.require(out_dir / FILE, MADE_BY).read_bytes(), type=dict[str, Card])


def pick_examples(cards: dict[str, Card], data: pd.DataFrame) -> list[Card]:
    """Return three cards that show most: the busiest bot, the most doubtful bot, and a false positive.

    Parameters
    ----------
    cards : dict of str to Card
        From :func:`load`.
    data : DataFrame
        From :func:`lib.online.metrics.load_verdicts`.
    """
    users = metrics.count_by_user(data[data["user"].isin(list(cards))])
    users["score"] = [cards[user].score or 0.0 for user in users.index]
    bots, humans = users[users["is_bot"]], users[~users["is_bot"]]
    examples = [
        bots.sort_values("edits", kind="stable").tail(1),
        bots.sort_values("score", kind="stable").head(1),
        humans.sort_values("score", kind="stable").tail(1),
    ]
    return [cards[name] for name in pd.concat(examples).index.unique()]


def show(card: Card) -> None:
    """Show a card in a notebook: its text, its picture and the edits that counted."""
    display(card)
    if card.contributions:
        plots.show(card.figure(), card.would_have_changed)
    if card.edits:
        columns = ["timestamp", "wiki", "title", "comment", "verdict", "score"]
        edits = pd.DataFrame(card.edits).reindex(columns=columns)
        plots.table(edits.round({"score": 3}), f"What {card.user} had done up to then")


def _edits_before(out_dir: Path, users: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return each user's last edits up to the verdict, in order: id, time, wiki, verdict and score."""
    columns = ["meta_id", "timestamp", "wiki", "user", "verdict", "score"]
    judged = pc.field("user").isin(pa.array(users, pa.string())) & (pc.field("verdict") != "dropped")
    rows: dict[str, list[dict[str, Any]]] = {user: [] for user in users}
    for row in state.verdicts(out_dir).to_table(columns, judged).to_pylist():
        row["timestamp"] = events.iso(int(row["timestamp"].timestamp() * 1000))
        rows[row.pop("user")].append(row)
    return {user: listed[-MAX_EDITS:] for user, listed in rows.items()}
