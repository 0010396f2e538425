"""A population: edits with their users and labels, as a model is trained and judged on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from pyarrow import compute as pc
from pyarrow import csv as pa_csv

from lib import events, paths
from lib.model import edit_features, kernels
from lib.stream.sample_day import namespace_number

EDITS_PER_USER = 50  # a user's edits that the model of texts learns from: more say the same again


@dataclass(frozen=True)
class EditDataset:
    """Edits in order of time with their users: what a model is trained and judged on.

    Parameters
    ----------
    table : pyarrow.Table
        Edits of ``edits.ARROW_SCHEMA``; those without a user are left out, as nobody can be judged by them.
    """

    table: pa.Table
    names: np.ndarray = field(repr=False)  #: user names, in order of first edit
    user: np.ndarray = field(repr=False)  #: row of `names` of each edit
    flagged: np.ndarray = field(repr=False)  #: edits with the flag: the label's source, never a feature

    @classmethod
    def from_table(cls, table: pa.Table) -> EditDataset:
        """Order edits by time (equal times stay as they are) and number their users."""
        table = table.filter(table.column("user").is_valid())
        times = table.column("timestamp").to_numpy()
        table = table.take(np.argsort(times, kind="stable")).combine_chunks()
        codes = table.column("user").combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        names = np.array(codes.dictionary.to_pylist(), object)
        flagged = table.column("bot").fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
        return cls(table, names, codes.indices.to_numpy().astype(np.int64), flagged)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def times(self) -> np.ndarray:
        """Event time of each edit in milliseconds."""
        return self.table.column("timestamp").to_numpy()

    @cached_property
    def edits(self) -> np.ndarray:
        """Number of edits of each user."""
        return np.bincount(self.user, minlength=len(self))

    @cached_property
    def bots(self) -> np.ndarray:
        """Users of whose edits more than half carry the flag."""
        return 2 * np.bincount(self.user, self.flagged, len(self)) > self.edits

    @cached_property
    def taught(self) -> np.ndarray:
        """Users that the model learns as bots: any edit carries the flag, for only accounts with a right can set it."""
        return np.bincount(self.user, self.flagged, len(self)) > 0

    @cached_property
    def texts(self) -> sp.csr_matrix:
        """Pieces of the texts, one row per edit."""
        return edit_features.text_matrix(self.table)

    @cached_property
    def bare(self) -> np.ndarray:
        """Evidence without the model of texts: its column is zero."""
        return edit_features.compute(
            self.table, edit_features.Weights(np.zeros(kernels.BUCKETS, np.float32), 0.0)
        )

    def subset(self, keep: np.ndarray) -> EditDataset:
        """Give the edits that a mask keeps, as a population of their own."""
        return EditDataset.from_table(self.table.filter(pa.array(keep)))

    @cached_property
    def place(self) -> np.ndarray:
        """How many edits of the same user came before each edit."""
        order = np.argsort(self.user, kind="stable")
        first = np.cumsum(self.edits) - self.edits
        place = np.empty_like(order)
        place[order] = np.arange(len(order)) - first[self.user[order]]
        return place

    @cached_property
    def sample(self) -> np.ndarray:
        """At most :data:`EDITS_PER_USER` edits of each user, evenly spread over theirs."""
        n = self.edits[self.user]
        wanted = np.minimum(n, EDITS_PER_USER)
        return np.flatnonzero((self.place * wanted) // n != ((self.place - 1) * wanted) // n)


_BLOCK_BYTES = 64 << 20
_FILLED_IN = {
    "meta_id": "numbered from 0",
    "namespace": "read from the titles",
    "type": "taken for edit",
}
_RULES = {
    "timestamp": "ISO 8601 or milliseconds since the epoch",
    "bot": "true, false, 1, 0 or empty",
    "minor": "true, false, 1, 0 or empty",
    "namespace": "whole numbers",
    "delta": "whole numbers",
}
_ZONE = r"(Z|[+-]\d\d(:?\d\d)?)$"
#: The newest time of a column: in seconds it is of 1973 or later, in milliseconds of 1970 to 1973.
_SECONDS = 10**8, 10**11
_LAST_MS = 253_402_300_799_999
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "": None}


class SampleError(ValueError):
    """The folder holds no sample that can be read; the message names the rule, what was found, and the way out."""


class Sample(NamedTuple):
    """A sample as it was read."""

    edits: pa.Table  #: :data:`lib.events.ARROW_SCHEMA`, by time; equal times keep the files' order
    files: list[Path]  #: the files, by name
    warnings: list[str]  #: what was filled in or left out


def read_csv(folder: Path, made_by: str = "notebooks/02_sample.ipynb") -> Sample:
    """Read every ``*.csv`` and ``*.csv.gz`` of a folder.

    Parameters
    ----------
    folder : Path
        A folder, or one such file: CSV in UTF-8 with a header and RFC 4180 quoting. The columns of the contract may
        come in any order; other columns are passed over.
    made_by : str
        The notebook that makes the folder, for the error.

    Returns
    -------
    Sample
        Edits without a time are left out, and so are repetitions of a `meta_id`; both with a warning.

    Raises
    ------
    SampleError
        No CSV file, a missing column that cannot be filled in, or a cell that cannot be read.
    """
    folder = Path(folder)
    files = [folder] if folder.is_file() else sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")])
    if not files:
        raise SampleError(
            f"{paths.show(folder)} must hold CSV files of edits. Got none. Run {made_by} first, or set IN_DIR."
        )
    warnings: dict[str, None] = {}
    table = pa.concat_tables([_read_file(file, warnings) for file in files])
    table = _number(table)
    table = _without(table, pc.is_valid(table["timestamp"]), "have no time", warnings)
    table = _without(table, _first_of_each(table["meta_id"]), "repeat a meta_id", warnings)
    if not table.num_rows:
        raise SampleError(f"{paths.show(folder)} must hold edits. Got none in {len(files)} files.")
    return Sample(
        table.take(np.argsort(table["timestamp"].to_numpy(), kind="stable")),
        files,
        list(warnings),
    )


def _read_file(path: Path, warnings: dict[str, None]) -> pa.Table:
    text = _read_text(path)
    missing = [column for column in events.COLUMNS if column not in text.column_names]
    lost = [column for column in missing if column not in _FILLED_IN]
    if lost:
        raise SampleError(
            f"A sample must have the columns {', '.join(events.COLUMNS)}. "
            f"Got {path.name} without {', '.join(lost)}. Only {', '.join(_FILLED_IN)} can be filled in."
        )
    for column in missing:
        warnings[f"{path.name} has no column {column}: {_FILLED_IN[column]}."] = None
    columns = {name: _typed(path, name, text) for name in events.COLUMNS}
    return pa.table(columns, schema=events.ARROW_SCHEMA)


def _read_text(path: Path) -> pa.Table:
    """Every cell as text; an empty unquoted cell is null."""
    if not path.stat().st_size:
        raise SampleError(f"A sample's file must begin with a header. Got {path.name}, which is empty.")
    convert = pa_csv.ConvertOptions(
        column_types={column: pa.string() for column in events.COLUMNS},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    try:
        return pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            pa_csv.ParseOptions(newlines_in_values=True),
            convert,
        )
    except pa.ArrowInvalid as error:
        raise SampleError(f"{path.name} must be CSV in UTF-8 with a header. Got: {error}.") from None


def _typed(path: Path, name: str, text: pa.Table) -> pa.Array:
    if name not in text.column_names:
        return _filled_in(name, text)
    try:
        column = text[name]
        if name == "timestamp":
            return _milliseconds(column)
        if name in ("bot", "minor"):
            return _truths(column)
        if name in ("namespace", "delta"):
            return _numbers(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise SampleError(
            f"The column {name} of {path.name} must be {_RULES.get(name, 'there once')}. Got: {error}. Mend the file."
        ) from None
    return column.combine_chunks()


def _filled_in(name: str, text: pa.Table) -> pa.Array:
    if name == "namespace":
        pairs = zip(text["wiki"].to_pylist(), text["title"].to_pylist(), strict=True)
        return pa.array([_namespace(wiki, title) for wiki, title in pairs], pa.int64())
    return pa.array(["edit" if name == "type" else None] * text.num_rows, pa.string())


def _namespace(wiki: str | None, title: str | None) -> int | None:
    """Read the namespace from a title: what is before the colon, where the wiki has such a namespace; else 0."""
    if title is None:
        return None
    name, colon, _ = title.replace("_", " ").partition(":")
    number = namespace_number((wiki or "").removesuffix("wiki"), name) if colon else 0
    return number or 0


def _milliseconds(column: pa.ChunkedArray) -> pa.Array:
    """ISO 8601 (UTC where no zone is given) or milliseconds since the epoch."""
    column = _blank_is_null(column)
    if pc.all(pc.match_substring_regex(column, r"^-?\d+$")).as_py():
        return _plausible(column.cast(pa.int64()).combine_chunks())
    zoned = pc.if_else(
        pc.match_substring_regex(column, _ZONE),
        column,
        pc.binary_join_element_wise(column, "Z", ""),
    )
    return (
        zoned.cast(pa.timestamp("us", "UTC"))
        .cast(pa.timestamp("ms", "UTC"), safe=False)
        .cast(pa.int64())
        .combine_chunks()
    )


def _plausible(times: pa.Array) -> pa.Array:
    """Refuse seconds, which would be days of 1970, and times that no calendar has."""
    newest = pc.max(times).as_py()
    if newest is not None and _SECONDS[0] <= newest < _SECONDS[1]:
        raise pa.ArrowInvalid(f"{newest}, which looks like seconds: multiply by 1000")
    if newest is not None and newest > _LAST_MS:
        raise pa.ArrowInvalid(f"{newest}, which is after the year 9999: divide nanoseconds by 1,000,000")
    return times


def _truths(column: pa.ChunkedArray) -> pa.Array:
    distinct = pc.dictionary_encode(pc.utf8_lower(column)).combine_chunks()
    truths = pa.array([_TRUTH[text] for text in distinct.dictionary.to_pylist()], pa.bool_())
    return truths.take(distinct.indices)


def _numbers(column: pa.ChunkedArray) -> pa.Array:
    column = _blank_is_null(column)
    try:
        return column.cast(pa.int64()).combine_chunks()
    except pa.ArrowInvalid:  # pandas writes 36.0 where some cells of the column are empty
        return column.cast(pa.float64()).cast(pa.int64()).combine_chunks()


def _blank_is_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(column, ""), None, column)


def _number(table: pa.Table) -> pa.Table:
    """Give an edit without a `meta_id` its number."""
    numbers = pa.array([f"row {number}" for number in range(table.num_rows)], pa.string())
    place = table.schema.get_field_index("meta_id")
    return table.set_column(place, "meta_id", pc.coalesce(table["meta_id"], numbers))


def _first_of_each(column: pa.ChunkedArray) -> np.ndarray:
    codes = pc.dictionary_encode(column).combine_chunks().indices.to_numpy()
    first = np.zeros(len(codes), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _without(table: pa.Table, keep: pa.Array | np.ndarray, why: str, warnings: dict[str, None]) -> pa.Table:
    kept = table.filter(pa.array(keep) if isinstance(keep, np.ndarray) else keep)
    left_out = table.num_rows - kept.num_rows
    if left_out:
        warnings[f"{left_out} edits {why} and are left out."] = None
    return kept
