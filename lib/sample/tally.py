"""The tally of stage 2: what one reading of the relay has brought so far, and the files that it fills."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute as pc

from lib import events
from lib.sample import edits_csv
from lib.sample.valve import word

DEAD_LETTERS = "dead_letters.jsonl"
EDIT, INVALID, CANARY, OTHER, CONTROL = "edit", "invalid", "canary", "other", "control"

MINUTE_MS = 60_000
_KEYS = ["user", "bucket", "minute"]
_NUMBERS = [(name, pa.int64()) for name in ("bucket", "minute", "edits", "bot_edits")]
_USERS = pa.schema([("user", pa.string()), *_NUMBERS])


class Tally:
    """Counts what comes in and writes what is kept.

    Parameters
    ----------
    folder : Path
        Where the files go; must exist.
    percent : int
        Share of the users to keep.

    Attributes
    ----------
    over : bool
        Whether the relay said that it is over.
    relay_sent : int or None
        How many events it says that it sent.
    users : pyarrow.Table
        ``user, bucket, minute, edits, bot_edits`` of all users that were read; whole after :meth:`close`.
    """

    def __init__(self, folder: Path, percent: int) -> None:
        self.percent = percent
        self.over = False
        self.relay_sent: int | None = None
        self.users: pa.Table = _USERS.empty_table()
        self._read: Counter[str] = Counter()
        self._kept: Counter[str] = Counter()
        self._recent: list[pa.Table] = []
        self._csv = edits_csv.Writer(folder)
        self._letters = folder / DEAD_LETTERS
        self._letters.touch()

    def add(self, batch: pa.Table) -> None:
        """Take the rows that ``sampling.select`` makes of one batch of the stream."""
        batch = batch.sort_by("place")
        sums = batch.group_by("kind").aggregate([("count", "sum")])
        self._read.update(dict(zip(sums["kind"].to_pylist(), sums["count_sum"].to_pylist(), strict=True)))
        self._take_edits(_of_kind(batch, EDIT))
        self._take_letters(_of_kind(batch, INVALID))
        for line in _of_kind(batch, CONTROL)["raw"].to_pylist():
            self._obey(word(line.encode()))

    def close(self) -> list[Path]:
        """Finish the files and return all of them."""
        self._settle()
        return [*self._csv.close(), self._letters]

    @property
    def events(self) -> int:
        """Events that Spark has read: edits, others, canaries and invalid ones, but no control lines."""
        return sum(self._read[kind] for kind in (EDIT, OTHER, CANARY, INVALID))

    @property
    def lines(self) -> int:
        """Lines that Spark has read: events and control lines."""
        return self.events + self._read[CONTROL]

    def counts(self) -> dict[str, int]:
        """Return the counts in the manifest's words, after :meth:`close`; users are those with a name."""
        named = self.users.filter(pc.is_valid(self.users["user"]))
        kept = named.filter(pc.less(named["bucket"], self.percent))
        return {
            "events_read": self.events,
            "edits_read": self._read[EDIT],
            "edits_kept": self._kept[EDIT],
            "edits_left_out": self._read[EDIT] - self._kept[EDIT],
            "not_edits": self._read[OTHER],
            "canaries": self._read[CANARY],
            "invalid": self._read[INVALID],
            "users_read": pc.count_distinct(named["user"]).as_py(),
            "users_kept": pc.count_distinct(kept["user"]).as_py(),
            "edits_without_user_read": self._read["without user"],
            "edits_without_user_kept": self._kept["without user"],
        }

    def _take_edits(self, batch: pa.Table) -> None:
        kept = batch.filter(batch["kept"])
        self._csv.add(kept.select(list(events.COLUMNS)))
        self._kept.update({EDIT: kept.num_rows, "without user": kept["user"].null_count})
        self._read.update({"without user": batch["user"].null_count})
        self._recent.append(_by_user(batch))
        # Summed up only once as much waits as is there: many small batches cost no more than a few large ones.
        if sum(table.num_rows for table in self._recent) > self.users.num_rows:
            self._settle()

    def _settle(self) -> None:
        together = pa.concat_tables([self.users, *self._recent])
        sums = together.group_by(_KEYS).aggregate([("edits", "sum"), ("bot_edits", "sum")])
        self.users = sums.rename_columns(_USERS.names)
        self._recent = []

    def _take_letters(self, batch: pa.Table) -> None:
        letters = batch.select(["raw", "reason"]).to_pylist()
        with open(self._letters, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(letter, ensure_ascii=False) + "\n" for letter in letters)

    def _obey(self, said: Mapping[str, Any]) -> None:
        if said.get("end"):
            self.over = True
            self.relay_sent = said.get("events")


def _of_kind(batch: pa.Table, kind: str) -> pa.Table:
    return batch.filter(pc.equal(batch["kind"], kind))


def _by_user(batch: pa.Table) -> pa.Table:
    minutes = pc.floor(pc.divide(batch["timestamp"].cast(pa.float64()), MINUTE_MS)).cast(pa.int64())
    bots = pc.fill_null(batch["bot"], False).cast(pa.int64())
    table = pa.table({"user": batch["user"], "bucket": batch["bucket"], "minute": minutes, "bot": bots})
    counts = table.group_by(_KEYS).aggregate([("bot", "count"), ("bot", "sum")])
    return counts.rename_columns(_USERS.names)
