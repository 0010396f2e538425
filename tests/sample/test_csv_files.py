"""Whatever stands in an edit's text comes back from the CSV unchanged, through every reader."""

import csv
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as pa_csv

from lib import events
from lib.model import dataset
from lib.sample import csv_files

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
]
HOSTILE += [
    "nul\0inside",
    "\0",
    " leading",
    "trailing ",
    "\t",
    "\\",
    'back\\slash\\"',
    "=HYPERLINK(1)",
    "@SUM(A1)",
]
HOSTILE += ["# no comment", "🦊 é e\u0301", "\u200fعربي\u200e", "\u2028\u2029\x85", "\ufeffBOM", "NA", "null"]
HOSTILE += ["x" * 200_000, "", None]
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


def cells(rows, null=None):
    """Return rows as the texts that stand in their CSV."""
    table = columns(rows)
    texts = {name: table[name].cast(pa.string()).to_pylist() for name in events.COLUMNS}
    texts["timestamp"] = [events.iso(ms) for ms in table["timestamp"].to_pylist()]
    return [tuple(null if s is None else s for s in row) for row in zip(*texts.values(), strict=True)]


def tuples(frame):
    return list(frame.itertuples(index=False, name=None))


def read_python(path):
    csv.field_size_limit(2**31 - 1)
    with open(path, encoding="utf-8", newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def read_arrow(path):
    return [tuple(row.values()) for row in pa_csv.read_csv(path, **csv_files.ARROW).to_pylist()]


def write(rows, path):
    return synthetic.write_csv(columns(rows), path)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=4))
def test_any_edits_come_back_from_every_reader(tmp_path_factory, rows):
    path = write(rows, tmp_path_factory.mktemp("csv") / "edits-00000.csv")
    assert read_arrow(path) == cells(rows)
    assert read_python(path) == cells(rows, "")
    assert tuples(pd.read_csv(path, **csv_files.PANDAS)) == cells(rows, "")


def test_hostile_text_is_read_by_spark_and_by_stage_3_which_find_null_where_it_was(spark, tmp_path):
    folder = tmp_path / r"try[1] é %41 #b\{*}?"
    folder.mkdir()
    rows = [edit(text, other) for text, other in zip(HOSTILE, reversed(HOSTILE), strict=True)]
    rows = [(f"id {number}", *row[1:]) for number, row in enumerate(rows)]
    path = write(rows, folder / "edits-00000.csv")
    read = spark.read.schema(csv_files.SCHEMA).options(**csv_files.SPARK).csv(csv_files.spark_path(path))
    assert [tuple(row) for row in read.collect()] == cells(rows)
    assert dataset.read_csv(folder).edits.equals(columns(rows))


def test_null_is_an_empty_field_and_an_empty_text_is_quoted(tmp_path):
    path = write([edit(None, ""), edit("", None)], tmp_path / "edits-00000.csv")
    assert path.read_text(encoding="utf-8").splitlines() == [
        "meta_id,timestamp,wiki,namespace,type,title,user,bot,minor,delta,comment",
        '"id","2015-09-12T00:46:58.771Z","enwiki",0,"edit","A, title",,true,false,-5,""',
        '"id","2015-09-12T00:46:58.771Z","enwiki",0,"edit","A, title","",true,false,-5,',
    ]


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [0, 3, 0, 4, 0]])
def test_a_file_does_not_depend_on_the_batches(sizes):
    rows = columns([edit(str(number), "") for number in range(7)])
    whole, parts = io.BytesIO(), io.BytesIO()
    csv_files.write_rows(rows, whole)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        csv_files.write_rows(rows.slice(end - size, size), parts)
    assert parts.getvalue() == whole.getvalue()
    assert whole.getvalue().count(b"\n") == 7
