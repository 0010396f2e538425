"""Read edits from CSV files, whoever wrote them, and turn them into the dataset that models are trained on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from pyarrow import compute as pc
from pyarrow import csv as pa_csv

from lib import events, paths
from lib.model import edit_features, kernels
from lib.sample import csv_files
from lib.stats import is_bot, name_contains_bot
from lib.stream.sample_day import namespace_number

MAX_EDITS_PER_USER = 50  # edits of a user that the text model is trained on: more repeat them
_FILLED_IN = {"meta_id": "numbered from 0", "namespace": "read from the titles", "type": "set to edit"}
_RULES = {
    "timestamp": "ISO 8601 or milliseconds since the epoch",
    "bot": "true or false (t, f, yes, no, 1, 0, 1.0, 0.0) or empty",
    "minor": "true or false (t, f, yes, no, 1, 0, 1.0, 0.0) or empty",
    "namespace": "integers",
    "delta": "integers",
}
_ZONE = r"(Z|[+-]\d\d(:?\d\d)?)$"
#: The newest time of a column in milliseconds is after 1973 (in seconds it would be of 1970) and before the year 10000.
_NEWEST_MS = (10**11, 253_402_300_799_999)
_TRUE, _FALSE = ("true", "t", "yes", "1", "1.0"), ("false", "f", "no", "0", "0.0")
_TRUTH = {"": None} | dict.fromkeys(_TRUE, True) | dict.fromkeys(_FALSE, False)


class ModelError(ValueError):
    """There is too little to train on, a file is missing, damaged or foreign, or a bound does not hold."""


class Sample(NamedTuple):
    """Edits as they were read."""

    edits: pa.Table  #: :data:`lib.events.ARROW_SCHEMA`, by time; equal times keep the files' order
    files: list[Path]  #: the files, by name
    warnings: list[str]  #: what was filled in or skipped


def read_csv(folder: Path, made_by: str = "notebooks/02_sample.ipynb") -> Sample:
    """Return the edits of every ``*.csv`` and ``*.csv.gz`` of a folder and of its folders, as Spark writes them.

    Parameters
    ----------
    folder : Path
        A folder, or one such file: CSV in UTF-8 with a header and RFC 4180 quoting. The columns of the contract may
        come in any order; other columns are skipped.
    made_by : str
        The notebook that makes the folder, for the error.

    Returns
    -------
    Sample
        Edits without a time and repetitions of a `meta_id` are skipped with a warning.

    Raises
    ------
    ModelError
        No CSV file, a missing column that cannot be filled in, or a cell that cannot be read.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else _csv_files(folder)
    if not files:
        raise ModelError(
            f"{paths.show(folder)} must hold CSV files of edits. Got none. Run {made_by} first, or set IN_DIR."
        )
    warnings: list[str] = []
    table = pa.concat_tables([_read_file(file, warnings) for file in files])
    numbers = pa.array([f"row {number}" for number in range(table.num_rows)], pa.string())
    table = table.set_column(0, "meta_id", pc.coalesce(table["meta_id"], numbers))
    timed = table.filter(pc.is_valid(table["timestamp"]))
    unique = timed.filter(pa.array(~pd.Series(timed["meta_id"].to_pandas()).duplicated().to_numpy()))
    for n, why in (
        (table.num_rows - timed.num_rows, "have no time"),
        (timed.num_rows - unique.num_rows, "repeat a meta_id"),
    ):
        if n:
            warnings.append(f"{n} edits {why} and are skipped.")
    if not unique.num_rows:
        raise ModelError(f"{paths.show(folder)} must hold edits. Got none in {len(files)} files.")
    order = np.argsort(unique["timestamp"].to_numpy(), kind="stable")
    return Sample(unique.take(order), files, list(dict.fromkeys(warnings)))


def _csv_files(folder: Path) -> list[Path]:
    found = sorted([*folder.rglob("*.csv"), *folder.rglob("*.csv.gz")])
    return [path for path in found if path.is_file() and not path.name.startswith((".", "_"))]


def _read_file(path: Path, warnings: list[str]) -> pa.Table:
    """Read every cell as text (an empty unquoted one is null), then convert column by column."""
    options = pa_csv.ReadOptions(
        block_size=64 << 20, use_threads=False
    )  # one thread knows a bad row's number
    try:
        text = pa_csv.read_csv(path, options, **csv_files.ARROW)
    except (pa.ArrowInvalid, OSError) as error:
        raise ModelError(
            f"{path.name} must be CSV in UTF-8 with a header. Got: {error}. Write or fetch the file again."
        ) from None
    missing = [column for column in events.COLUMNS if column not in text.column_names]
    if not set(missing) <= set(_FILLED_IN):
        raise ModelError(
            f"Edits must have the columns {', '.join(events.COLUMNS)}. Got {path.name} without "
            f"{', '.join(column for column in missing if column not in _FILLED_IN)}. "
            f"Only {', '.join(_FILLED_IN)} can be filled in."
        )
    warnings += [f"{path.name} has no column {column}: {_FILLED_IN[column]}." for column in missing]
    columns = {name: _convert(path, name, text) for name in events.COLUMNS}
    return pa.table(columns, schema=events.ARROW_SCHEMA)


def _convert(path: Path, name: str, text: pa.Table) -> pa.Array | pa.ChunkedArray:
    if name not in text.column_names and name == "namespace":
        pairs = zip(text["wiki"].to_pylist(), text["title"].to_pylist(), strict=True)
        return pa.array([_namespace(wiki, title) for wiki, title in pairs], pa.int64())
    if name not in text.column_names:
        return pa.array(["edit" if name == "type" else None] * text.num_rows, pa.string())
    column = text[name]
    try:
        if name in ("bot", "minor"):
            distinct = pc.dictionary_encode(pc.utf8_lower(column)).combine_chunks()
            truths = pa.array([_TRUTH[value] for value in distinct.dictionary.to_pylist()], pa.bool_())
            return truths.take(distinct.indices)
        if name not in _RULES:
            return column
        column = pc.if_else(pc.equal(column, ""), None, column)
        # By way of floats: pandas writes 36.0 where some cells of the column are empty.
        return _milliseconds(column) if name == "timestamp" else column.cast(pa.float64()).cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise ModelError(
            f"The column {name} of {path.name} must be {_RULES.get(name, 'there once')}. Got: {error}. Mend the file."
        ) from None


def _namespace(wiki: str | None, title: str | None) -> int | None:
    """Read the namespace from a title: what is before the colon, where the wiki has such a namespace; else 0."""
    if title is None:
        return None
    name, colon, _ = title.replace("_", " ").partition(":")
    return (namespace_number((wiki or "").removesuffix("wiki"), name) if colon else 0) or 0


def _milliseconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read ISO 8601 (UTC where no zone is named) or milliseconds; refuse seconds and times that no calendar has."""
    if not pc.all(pc.match_substring_regex(column, r"^-?\d+$")).as_py():
        utc = pc.binary_join_element_wise(column, "Z", "")
        zoned = pc.if_else(pc.match_substring_regex(column, _ZONE), column, utc)
        times = zoned.cast(pa.timestamp("us", "UTC"))
        return times.cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
    times = column.cast(pa.int64())
    newest = pc.max(times).as_py()
    if newest is not None and not _NEWEST_MS[0] <= newest <= _NEWEST_MS[1]:
        raise pa.ArrowInvalid(f"{newest}, which is no time in milliseconds of the years 1973 to 9999")
    return times


class EditDataset:
    """Edits in order of time (equal times stay as they are) with their users and labels.

    Parameters
    ----------
    table : pyarrow.Table
        Edits of ``events.ARROW_SCHEMA``; those without a user are skipped.

    Attributes
    ----------
    table : pyarrow.Table
    names : ndarray of str, shape (users,)
        In order of first edit.
    user : ndarray of int, shape (edits,)
        Row of `names` of each edit.
    flagged : ndarray of bool, shape (edits,)
        Edits with the flag: the label's source, never a feature.
    """

    def __init__(self, table: pa.Table) -> None:
        table = table.filter(table.column("user").is_valid())
        self.table = table.take(np.argsort(table["timestamp"].to_numpy(), kind="stable")).combine_chunks()
        self.user, self.names = pd.factorize(self.table["user"].to_pandas().to_numpy(object))
        self.flagged = self.table["bot"].fill_null(False).to_numpy().astype(bool)

    def subset(self, keep: np.ndarray) -> EditDataset:
        """Return the edits that a mask keeps, as a dataset of their own."""
        return EditDataset(self.table.filter(pa.array(keep)))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def times(self) -> np.ndarray:
        """Event time of each edit in milliseconds."""
        return self.table.column("timestamp").to_numpy()

    @cached_property
    def edits_per_user(self) -> np.ndarray:
        """Number of edits of each user."""
        return np.bincount(self.user, minlength=len(self))

    @cached_property
    def flagged_per_user(self) -> np.ndarray:
        """Number of edits with the flag of each user."""
        return np.bincount(self.user[self.flagged], minlength=len(self))

    @cached_property
    def is_bot(self) -> np.ndarray:
        """Users of whose edits more than half carry the flag."""
        return is_bot(self.flagged_per_user, self.edits_per_user)

    @cached_property
    def is_human(self) -> np.ndarray:
        """Users who are no bots, and whose names do not call them one: those whom the guarantees are about."""
        return ~self.is_bot & ~name_contains_bot(self.names)

    @cached_property
    def train_label(self) -> np.ndarray:
        """Users trained on as bots: any edit carries the flag, for only accounts with a right can set it."""
        return self.flagged_per_user > 0

    @cached_property
    def text_matrix(self) -> sp.csr_matrix:
        """Hashed n-grams of the texts, one row per edit."""
        return edit_features.text_matrix(self.table)

    @cached_property
    def features_without_text(self) -> np.ndarray:
        """Edit features without the text model: its column is zero."""
        weights = edit_features.Weights(np.zeros(kernels.BUCKETS, np.float32), 0.0)
        return edit_features.compute(self.table, weights)

    @cached_property
    def edit_index(self) -> np.ndarray:
        """How many edits of the same user came before each edit."""
        return pd.Series(self.user).groupby(self.user).cumcount().to_numpy()

    @cached_property
    def capped_edits(self) -> np.ndarray:
        """At most :data:`MAX_EDITS_PER_USER` edits of each user, evenly spread over theirs."""
        n, index = self.edits_per_user[self.user], self.edit_index
        wanted = np.minimum(n, MAX_EDITS_PER_USER)
        return np.flatnonzero((index * wanted) // n != ((index - 1) * wanted) // n)
