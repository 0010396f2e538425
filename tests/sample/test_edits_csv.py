"""Whatever stands in an edit's text comes back from the CSV unchanged, through every reader."""

import os

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import events
from lib.model import dataset
from lib.sample import edits_csv

HOSTILE = [
    "plain",
    "a, b",
    'say "no"',
    '"',
    '""',
    '","',
    '"\n"',
    "two\nlines",
    "old\rMac",
    "DOS\r\nends",
    "\r\n",
    "nul\0inside",
    "\0",
    " leading",
    "trailing ",
    "\t",
    "\\",
    'back\\slash\\"',
    "=HYPERLINK(1)",
    "@SUM(A1)",
    "# no comment",
    "🦊 é e\u0301",
    "\u200fعربي\u200e",
    "\u2028\u2029\x85",
    "\ufeffBOM",
    "NA",
    "null",
    "x" * 200_000,
    "",
    None,
]
TEXTS = st.none() | st.text(
    st.sampled_from("\",\n\r\0 \t\\=#'é🦊\u200f\ufeff\u2028") | st.characters(exclude_categories=["Cs"])
)
NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-62_135_596_800_000, 253_402_300_799_999)  # the years 1 to 9999
FLAGS = st.none() | st.booleans()
ROWS = st.tuples(TEXTS, TIMES, TEXTS, NUMBERS, TEXTS, TEXTS, TEXTS, FLAGS, FLAGS, NUMBERS, TEXTS)


def edit(user, comment):
    return ("id", 1442018818771, "enwiki", 0, "edit", "A, title", user, True, False, -5, comment)


def columns(rows):
    """Put rows into the columns of edits."""
    return pa.table(list(zip(*rows, strict=True)) or [[] for _ in events.COLUMNS], schema=events.ARROW_SCHEMA)


def without_null(rows):
    return [tuple(cell or "" for cell in row) for row in rows]


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_any_edits_come_back_from_every_reader(tmp_path_factory, rows):
    table = columns(rows)
    path = edits_csv.write(table, tmp_path_factory.mktemp("csv") / "edits-00000.csv")
    cells = list(edits_csv.rows(table))
    assert edits_csv.rows_by_python(path) == without_null(cells)
    assert edits_csv.rows_by_pandas(path) == without_null(cells)


def test_spark_reads_hostile_text_and_tells_null_from_empty(spark, tmp_path):
    table = columns([edit(text, other) for text, other in zip(HOSTILE, reversed(HOSTILE), strict=True)])
    path = edits_csv.write(table, tmp_path / "edits-00000.csv")
    assert edits_csv.rows_by_spark(spark, path) == list(edits_csv.rows(table))


def test_stage_3_reads_the_same_edits(tmp_path):
    rows = [edit(text, other) for text, other in zip(HOSTILE, reversed(HOSTILE), strict=True)]
    table = columns([(f"id {number}", *row[1:]) for number, row in enumerate(rows)])
    edits_csv.write(table, tmp_path / "edits-00000.csv")
    assert dataset.read_csv(tmp_path).edits.equals(table)


def test_the_header_is_the_contract(tmp_path):
    path = edits_csv.write(columns([]), tmp_path / "edits-00000.csv")
    header = "meta_id,timestamp,wiki,namespace,type,title,user,bot,minor,delta,comment\n"
    assert path.read_text(encoding="utf-8") == header


def test_null_is_an_empty_field_and_an_empty_text_is_quoted(tmp_path):
    path = edits_csv.write(columns([edit(None, ""), edit("", None)]), tmp_path / "edits-00000.csv")
    assert path.read_text(encoding="utf-8").splitlines()[1:] == [
        '"id","2015-09-12T00:46:58.771Z","enwiki",0,"edit","A, title",,true,false,-5,""',
        '"id","2015-09-12T00:46:58.771Z","enwiki",0,"edit","A, title","",true,false,-5,',
    ]


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 0, 4]])
def test_files_do_not_depend_on_how_the_edits_were_handed_over(tmp_path, sizes):
    table = columns([edit(str(number), "") for number in range(7)])
    writer = edits_csv.Writer(tmp_path, rows_per_file=3)
    start = 0
    for size in sizes:
        writer.add(table.slice(start, size))
        start += size
    files = writer.close()
    assert [path.name for path in files] == ["edits-00000.csv", "edits-00001.csv", "edits-00002.csv"]
    rows = [edits_csv.rows_by_python(path) for path in files]
    assert [len(part) for part in rows] == [3, 3, 1]
    assert [row for part in rows for row in part] == without_null(edits_csv.rows(table))


def test_a_sample_of_nobody_is_one_file_with_a_header(tmp_path):
    (path,) = edits_csv.Writer(tmp_path).close()
    assert edits_csv.rows_by_python(path) == []


def test_no_file_is_ever_half_written(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        edits_csv.write(columns([edit("a", "b")]), tmp_path / "edits-00000.csv")
    assert list(tmp_path.iterdir()) == []
