"""The verdicts on disk: one Parquet file per epoch, whole or not there, and what can be counted in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lib.intervals import clopper_pearson, upper_bound
from lib.online.judging import SCHEMA, VERDICTS
from lib.stream.recording import sync_folder

FOLDER = "verdicts"
STOPPED = ("dropped", "flagged")
_SPECIAL = r'["\\\x00-\x1f]'  # what JSON does not take as it is
LAST = 0.25  # the last quarter: the last 25 % of the edits, ordered by event time


def part(folder: Path, epoch: int) -> Path:
    """Give the file of an epoch."""
    return folder / FOLDER / f"part-{epoch:08d}.parquet"


def write(folder: Path, epoch: int, table: pa.Table) -> None:
    """Write an epoch's verdicts; a file that a killed run left for the same epoch is replaced.

    Parameters
    ----------
    folder : Path
        The stage's folder.
    epoch : int
        Names the file.
    table : pyarrow.Table
        :data:`lib.online.judging.SCHEMA`; without rows nothing is written.
    """
    path = part(folder, epoch)
    if table.num_rows == 0:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(
        table, temporary, compression="zstd", compression_level=1, use_dictionary=["wiki", "user", "verdict"]
    )
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def tidy(folder: Path, epochs: Iterable[int]) -> None:
    """Make the folder hold the files of these epochs only: a killed run may have left one that is not in the books."""
    here = folder / FOLDER
    here.mkdir(parents=True, exist_ok=True)
    known = {part(folder, epoch).name for epoch in epochs}
    for path in here.iterdir():
        if path.suffix in (".parquet", ".tmp") and path.name not in known:
            path.unlink()


def as_json(table: pa.Table) -> pa.Array:
    """Write verdicts as JSON objects, for the topic.

    Parameters
    ----------
    table : pyarrow.Table
        :data:`lib.online.judging.SCHEMA`.

    Returns
    -------
    pyarrow.Array of string, shape (n,)

    Examples
    --------
    >>> row = {"meta_id": "a", "timestamp": 0, "user": 'say "hi"', "bot": True, "verdict": "kept"}
    >>> json.loads(as_json(pa.Table.from_pylist([row], SCHEMA))[0].as_py())["user"]
    'say "hi"'
    """
    score = pc.fill_null(_one(table.column("score")).cast(pa.string()), "null")
    return pc.binary_join_element_wise(
        '{"meta_id":',
        _quoted(_one(table.column("meta_id"))),
        _member("timestamp", _iso(table.column("timestamp"))),
        *(_member(name, _quoted(_one(table.column(name)).dictionary_encode())) for name in ("wiki", "user")),
        _member("bot", _one(table.column("bot")).cast(pa.string()).dictionary_encode()),
        _member("verdict", _quoted(_one(table.column("verdict")).dictionary_encode())),
        _member("score", score),
        "}",
        "",
    )


def _member(name: str, values: pa.Array) -> pa.Array:
    """Put the name of a member of an object before its values; of a dictionary before each word once."""
    if not pa.types.is_dictionary(values.type):
        return pc.binary_join_element_wise(f',"{name}":', values, "")
    words = pa.concat_arrays([_member(name, values.dictionary), pa.array([f',"{name}":null'])])
    return words.take(pc.fill_null(values.indices, len(words) - 1))


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _iso(column: pa.ChunkedArray) -> pa.Array:
    """Write times as ISO 8601, UTC, milliseconds; each different second once, as a calendar is slow."""
    seconds, rest = np.divmod(column.cast(pa.int64()).to_numpy(), 1000)
    second, codes = np.unique(seconds, return_inverse=True)
    stamps = pc.strftime(pa.array(second, pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%S")
    return pc.binary_join_element_wise('"', stamps.take(codes), _MILLISECONDS.take(rest), "")


_MILLISECONDS = pa.array([f'.{number:03d}Z"' for number in range(1000)])


def _quoted(words: pa.Array) -> pa.Array:
    """Write texts as JSON strings; of a dictionary each word once."""
    if pa.types.is_dictionary(words.type):
        return pa.DictionaryArray.from_arrays(words.indices, _quoted(words.dictionary))
    if pc.any(pc.match_substring_regex(words, _SPECIAL)).as_py():
        return pa.array([json.dumps(word, ensure_ascii=False) for word in words.to_pylist()], pa.string())
    return pc.binary_join_element_wise('"', words, '"', "")


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read all verdicts of a stage's folder.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.
    columns : list of str, optional
        Only these.

    Returns
    -------
    pyarrow.Table
        In the order in which they were given; empty when there are none.
    """
    files = sorted((folder / FOLDER).glob("part-*.parquet"))
    wanted = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
    if not files:
        return wanted.empty_table()
    return ds.dataset(files, schema=SCHEMA, format="parquet").to_table(columns=columns)


def users(table: pa.Table) -> pa.Table:
    """Per user: ``edits``, ``bot_edits``, ``flagged`` (0 or 1), ``stopped``; edits without a user are left out."""
    return _count(table.filter(pc.is_valid(table.column("user"))), "user")


def _count(table: pa.Table, by: str) -> pa.Table:
    verdict = table.column("verdict")
    numbers = pa.table(
        {
            by: table.column(by),
            "edits": pa.array(np.ones(table.num_rows, np.int64)),
            "bot_edits": pc.fill_null(table.column("bot"), False).cast(pa.int64()),
            "flagged": pc.equal(verdict, "flagged").cast(pa.int64()),
            "stopped": pc.is_in(verdict, pa.array(STOPPED)).cast(pa.int64()),
        }
    )
    names = numbers.column_names[1:]
    grouped = numbers.group_by(by).aggregate([(name, "sum") for name in names])
    return grouped.select([by, *(f"{name}_sum" for name in names)]).rename_columns([by, *names])


def is_bot(counts: pa.Table) -> np.ndarray:
    """Tell the bots among the users of :func:`users`: more than half of their edits carry the flag."""
    return 2 * counts.column("bot_edits").to_numpy() > counts.column("edits").to_numpy()


def last_quarter(table: pa.Table) -> np.ndarray:
    """Mark the last quarter of the edits: by event time, and by ``meta_id`` where times are equal."""
    order = pc.sort_indices(table, [("timestamp", "ascending"), ("meta_id", "ascending")]).to_numpy()
    mark = np.zeros(len(order), bool)
    mark[order[len(order) - int(len(order) * LAST) :]] = True
    return mark


def metrics(folder: Path) -> dict:
    """Recount everything that the verdicts tell.

    Parameters
    ----------
    folder : Path
        OUT_DIR of stage 4.

    Returns
    -------
    dict
        ``edits``, one count per verdict, ``bot_edits_stopped`` (share of the edits with the flag that were dropped or
        flagged, from all and from the last quarter) and ``human_users_flagged`` (share of the users who are no bots
        that had an edit flagged or dropped, whether they came on the list in this stage or before it) with its
        one-sided exact 95 % upper bound, the counts behind each, and exact 95 % intervals.
    """
    table = read(folder)
    bot = pc.fill_null(table.column("bot"), False).to_numpy(zero_copy_only=False).astype(bool)
    stopped = pc.is_in(table.column("verdict"), pa.array(STOPPED)).to_numpy(zero_copy_only=False).astype(bool)
    late = last_quarter(table)
    counts = users(table)
    human = ~is_bot(counts)
    flagged = int((human & (counts.column("stopped").to_numpy() > 0)).sum())
    flagged_here = int((human & (counts.column("flagged").to_numpy() > 0)).sum())
    humans = int(human.sum())
    here, here_all = int((bot & stopped).sum()), int(bot.sum())
    then, then_all = int((bot & stopped & late).sum()), int((bot & late).sum())
    verdict = table.column("verdict")
    return {
        "edits": table.num_rows,
        **{word: pc.sum(pc.equal(verdict, word)).as_py() or 0 for word in VERDICTS},
        "bot_edits": here_all,
        "bot_edits_stopped": _share(here, here_all),
        "bot_edits_stopped_interval": list(clopper_pearson(here, here_all)),
        "bot_edits_last_quarter": then_all,
        "bot_edits_stopped_last_quarter": _share(then, then_all),
        "bot_edits_stopped_last_quarter_interval": list(clopper_pearson(then, then_all)),
        "human_edits": len(bot) - here_all,
        "human_edits_stopped": _share(int((~bot & stopped).sum()), len(bot) - here_all),
        "human_users": humans,
        "human_users_flagged": _share(flagged, humans),
        "human_users_flagged_count": flagged,
        "human_users_flagged_in_this_stage": flagged_here,
        "human_users_flagged_upper95": upper_bound(flagged, humans),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def sentence(metrics: dict) -> str:
    """Say what :func:`metrics` counted."""
    low, high = (100 * bound for bound in metrics["bot_edits_stopped_interval"])
    return (
        f"{100 * metrics['bot_edits_stopped']:.1f} % of {metrics['bot_edits']:,} bot edits were stopped (95 % interval "
        f"{low:.1f} to {high:.1f} %), in the last quarter {100 * metrics['bot_edits_stopped_last_quarter']:.1f} % of "
        f"{metrics['bot_edits_last_quarter']:,}. {metrics['human_users_flagged_count']:,} of "
        f"{metrics['human_users']:,} human users came to be on the list: {100 * metrics['human_users_flagged']:.2f} %, "
        f"with 95 % confidence at most {100 * metrics['human_users_flagged_upper95']:.2f} %."
    )
