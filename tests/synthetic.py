"""Synthetic samples: people who edit when they like, bots that repeat themselves, and hostile text."""

import numpy as np
import pyarrow as pa

from lib import events
from lib.model.classifier import BotClassifier, choose_threshold, threshold_curve
from lib.sample import csv_files

START = 1_442_016_000_000
WORDS = ["fixed", "typo", "date", "link", "added", "source", "moved"]
WORDS += ["old", "text", "see", "talk", "thanks", "list"]
HOSTILE = [
    "<script>alert(1)</script>",
    "$\\frac{a}{b}$ 50% {x}",
    "[[Ada]] | **bold** | `code`",
    "\u202eabc\u0000\u2028\r\n",
    "机器人 🤖 " * 40,
    "",
    "=cmd|' /C calc'!A0",
]


def row(number, time, user, **more):
    """Return one edit, with defaults for the fields that are not in `more`."""
    return {
        "meta_id": f"id {number}",
        "timestamp": int(time),
        "wiki": "enwiki",
        "namespace": 0,
        "type": "edit",
        "title": f"Page {number}",
        "user": user,
        "bot": False,
        "minor": False,
        "delta": 7,
        "comment": "",
    } | more


def table(rows):
    """Return rows as a table of edits."""
    return pa.Table.from_pylist(rows, schema=events.ARROW_SCHEMA)


def write_csv(edits, path):
    """Write a table of edits as stage 2 does, and return the path."""
    with open(path, "wb") as file:
        file.write(csv_files.HEADER)
        csv_files.write_rows(edits, file)
    return path


def columns(**given):
    """Return edits with some columns; the others are null."""
    return table([dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)])


def sample(humans=400, bots=15, seed=0):
    """Return the edits of a small Wikipedia in which bots are easy, but not trivial, to find."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(humans):
        name = f"192.0.2.{person}" if person % 5 == 0 else f"Person {person}"
        for _ in range(min(int(rng.zipf(2.2)), 60)):
            comment = " ".join(rng.choice(WORDS, size=int(rng.integers(0, 8))))
            rows.append((rng.integers(0, 14 * 3_600_000), name, False, comment, int(rng.normal(0, 300))))
    for bot in range(bots):
        name = f"Robot{bot}Bot" if bot % 3 else f"Archiver {bot}"
        begin = int(rng.integers(0, 7 * 3_600_000))
        for step in range(int(rng.integers(3, 60))):
            rows.append((begin + 9_000 * step, name, True, f"Bot: archiving page {step}", 40))
    rows.sort()
    return table(
        [
            row(i, START + time, user, bot=bot, comment=comment, delta=delta, namespace=3 if bot else 0)
            for i, (time, user, bot, comment, delta) in enumerate(rows)
        ]
    )


def hostile():
    """Return edits whose texts, numbers and times are the extremes of what is valid."""
    rows = []
    times = [START, START + 1, 253_402_300_799_999, -62_135_596_800_000, 0, START, START + 10**9]
    for i, (text, time) in enumerate(zip(HOSTILE, times, strict=True)):
        rows.append(
            row(f"a {i}", time, text, comment=text, wiki=text, title=text, namespace=-5 + i, delta=2**62)
        )
        rows.append(row(f"b {i}", START, None, comment=None, wiki=None, namespace=None, delta=None, bot=None))
        rows.append(
            row(f"c {i}", START + i, text, comment=text, bot=i % 2 == 0, minor=None, type=None, title=None)
        )
    return table(rows)


def train(cross, limit=0.02):
    """Return the model of a cross-fit, with the threshold that keeps both shares of humans below a limit."""
    return BotClassifier.fit(cross, choose_threshold(threshold_curve(cross), limit, limit))
