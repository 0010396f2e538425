"""Verdict cards: why a user is on the blacklist, in words, as a picture and as JSON.

A card says what the ledger knows: the edit that tipped the balance, what the model made of everything up to it, and
which of these things, had they been like an average user's, would have changed the verdict. Every text of the stream is
escaped.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from IPython.display import HTML, display
from matplotlib.figure import Figure

from lib import artifacts, events, plots
from lib.blacklist.ledger import Entry
from lib.online import judging, verdicts
from lib.online.books import Books

FILE = "cards.json"
TOP = 8  # contributions that are shown
SHOWN = 20  # edits that are shown
#: Gives title, comment and change of size of edits by their ids.
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
    edit: dict[str, Any]  #: the one that tipped the balance
    edits: list[dict[str, Any]] = []  #: the last ones up to it, with verdict and score

    def html(self) -> str:
        """Write the card as HTML; whatever the stream wrote is shown as text."""
        say = html.escape
        edit = "".join(
            f"<tr><th>{say(name)}</th><td>{say(plots.truncate(_text(value)))}</td></tr>"
            for name, value in self.edit.items()
        )
        return (
            f"<h4>{say(plots.truncate(self.user))}</h4><p>{say(self.sentence())}</p>"
            f"<table><caption>The edit that tipped the balance</caption>{edit}</table>"
        )

    def sentence(self) -> str:
        """Say the verdict in one sentence."""
        where = f"On the blacklist since {self.since} ({self.reason}), after {plots.pluralize(self.edits_seen, 'edit')}"
        if self.score is None or self.threshold is None:
            return f"{where}."
        return f"{where}: the score {self.score:.3f} reached the threshold {self.threshold:.3f}."

    def figure(self) -> Figure:
        """Draw the contributions, largest first."""
        shown = self.contributions[:TOP][::-1]
        figure, axes = plt.subplots(figsize=(8, 0.6 + 0.35 * max(len(shown), 1)))
        colours = [plots.BOT if item.log_odds > 0 else plots.HUMAN for item in shown]
        axes.barh(
            [plots.safe_label(item.feature) for item in shown],
            [item.log_odds for item in shown],
            color=colours,
        )
        axes.axvline(0, color=plots.GREY, linewidth=1)
        axes.set_xlabel("contribution to the score (log-odds; right: bot, left: human)")
        axes.set_title(f"Why {plots.safe_label(self.user)} was flagged")
        axes.grid(axis="y", visible=False)
        return figure


def card(entry: Entry, seen: Iterable[dict[str, Any]] = ()) -> Card:
    """Make the card of a ledger's entry.

    Parameters
    ----------
    entry : Entry
    seen : iterable of dict
        The user's edits up to the verdict.

    Returns
    -------
    Card
    """
    evidence = entry.evidence
    contributions = [
        Contribution(str(name), float(share)) for name, share in evidence.get("contributions", [])
    ]
    edit = dict(evidence.get("edit", {}))
    if isinstance(edit.get("timestamp"), int):
        edit["timestamp"] = events.iso(edit["timestamp"])
    threshold = evidence.get("threshold")
    return Card(
        entry.user,
        entry.reason,
        events.iso(entry.since),
        entry.score,
        threshold,
        entry.model_version,
        int(evidence.get("edits", 0)),
        contributions[: 2 * TOP],
        what_would_have_changed(contributions, entry.score, threshold),
        edit,
        list(seen),
    )


_INNER = str.maketrans("“”", "‘’")  # quotation marks inside others


def what_would_have_changed(
    contributions: list[Contribution], score: float | None, threshold: float | None
) -> str:
    """Say which of the strongest reasons, taken away one after the other, would have left the user unflagged.

    Examples
    --------
    >>> reasons = [Contribution("name ends in “bot”", 3.0), Contribution("size unchanged", 1.0)]
    >>> what_would_have_changed(reasons, 0.9, 0.5)
    'Had “name ends in ‘bot’” been as with an average user, the score would have been 0.309 and the verdict “kept”.'
    """
    if score is None or threshold is None or not contributions:
        return "The wiki itself flags this user; no score was needed."
    odds, taken = _logit(score), []
    for item in sorted(contributions, key=lambda item: -item.log_odds):
        if item.log_odds <= 0:
            break
        odds -= item.log_odds
        taken.append(f"“{item.feature.translate(_INNER)}”")
        if odds < _logit(threshold):
            reasons = " and ".join([", ".join(taken[:-1]), taken[-1]] if len(taken) > 1 else taken)
            return (
                f"Had {reasons} been as with an average user, the score would have been {_logistic(odds):.3f} "
                "and the verdict “kept”."
            )
    return (
        "Even with an average user's values in all of these the score would have stayed above the threshold."
    )


def read(out_dir: Path, user: str, texts: Texts | None = None) -> Card | None:
    """Make the card of any user on the blacklist.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    user : str
    texts : callable, optional
        Looks up the texts of edits; without it only the deciding edit has its text.

    Returns
    -------
    Card or None
        None for a user who is not on the list.
    """
    with Books(out_dir) as books:
        entry = books.ledger.get(user)
    if entry is None:
        return None
    return card(entry, history(out_dir, [entry], texts)[user])


def write(out_dir: Path, books: Books, texts: Texts | None = None) -> Path:
    """Write the cards of everyone whom this stage flagged, as one JSON file by user."""
    entries = [entry for entry in books.ledger.entries() if entry.reason == judging.REASON]
    seen = history(out_dir, entries, texts)
    content = {entry.user: msgspec.to_builtins(card(entry, seen[entry.user])) for entry in entries}
    return artifacts.write_json(out_dir / FILE, content)


def load(out_dir: Path) -> dict[str, Card]:
    """Read the cards that :func:`write` wrote."""
    path = artifacts.require(out_dir / FILE, "notebooks/04_online.ipynb")
    return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Card])


def history(out_dir: Path, entries: list[Entry], texts: Texts | None) -> dict[str, list[dict[str, Any]]]:
    """Look up what counted: each user's last edits up to the verdict.

    Parameters
    ----------
    out_dir : Path
        OUT_DIR of stage 4.
    entries : list of Entry
        The users.
    texts : callable or None
        Looks up the texts of edits.

    Returns
    -------
    dict of str to list of dict
        By user, in order: id, time, wiki, verdict and score, with what `texts` knows.
    """
    table = verdicts.read(out_dir, ["meta_id", "timestamp", "wiki", "user", "verdict", "score"])
    names = [entry.user for entry in entries]
    mine = table.filter(pc.is_in(table.column("user"), value_set=pa.array(names, pa.string())))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in mine.to_pylist():
        if row["verdict"] != "dropped":
            row["timestamp"] = events.iso(int(row["timestamp"].timestamp() * 1000))
            rows[row.pop("user")].append(row)
    rows = {name: listed[-SHOWN:] for name, listed in rows.items()}
    found = texts(frozenset(row["meta_id"] for listed in rows.values() for row in listed)) if texts else {}
    return {
        name: [{**row, **found.get(row["meta_id"], {})} for row in listed] for name, listed in rows.items()
    }


def exemplary(flagged: dict[str, Card], data: pd.DataFrame) -> list[str]:
    """Choose three cards that show most: the busiest bot, the most doubtful bot, and a human who was wronged.

    Parameters
    ----------
    flagged : dict of str to Card
        From :func:`load`.
    data : DataFrame
        From ``online_figures.frame``.
    """
    mine = (
        data[data["user"].isin(list(flagged))]
        .groupby("user")
        .agg(edits=("is_bot", "size"), bot=("is_bot", "mean"))
    )
    mine["score"] = [flagged[user].score or 0.0 for user in mine.index]
    bots, humans = mine[mine["bot"] > 0.5], mine[mine["bot"] <= 0.5]
    chosen = [
        *bots.sort_values("edits", kind="stable").index[-1:],
        *bots.sort_values("score", kind="stable").index[:1],
        *humans.sort_values("score", kind="stable").index[-1:],
    ]
    return list(dict.fromkeys(chosen))


def show(one: Card) -> None:
    """Show a card in a notebook: its text, its picture and the edits that counted."""
    display(HTML(one.html()))
    if one.contributions:
        plots.show(one.figure(), one.would_have_changed)
    if one.edits:
        columns = ["timestamp", "wiki", "title", "comment", "verdict", "score"]
        table = pd.DataFrame(one.edits).reindex(columns=columns)
        plots.table(
            table.assign(score=table["score"].map("{:.3f}".format)), f"What {one.user} had done up to then"
        )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _logit(share: float) -> float:
    share = min(max(share, 1e-12), 1 - 1e-12)
    return math.log(share / (1 - share))


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds))
