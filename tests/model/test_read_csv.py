"""Any folder of CSV files with the contract's columns can be read, and what cannot be read is named."""

import csv
import gzip

import pytest
from synthetic import HOSTILE

from lib import events
from lib.model import dataset
from lib.model.dataset import ModelError

HEADER = list(events.COLUMNS)
ROW = {
    "meta_id": "a",
    "timestamp": "2015-09-12T00:46:58.771Z",
    "wiki": "enwiki",
    "namespace": "0",
    "type": "edit",
    "title": "Ada",
    "user": "Grace",
    "bot": "false",
    "minor": "true",
    "delta": "-3",
    "comment": 'says "hi", twice\nand <b>leaves</b>',
}


def write(folder, rows, header=HEADER, name="edits-00000.csv", **options):
    """Write rows that are as :data:`ROW` but for what they have themselves; a file's path."""
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore", **options)
        writer.writeheader()
        writer.writerows({**ROW, "meta_id": f"{number}", **row} for number, row in enumerate(rows))
    return folder / name


def read(folder, *rows, **options):
    write(folder, rows, **options)
    return dataset.read_csv(folder)


def without(*names):
    return [name for name in HEADER if name not in names]


def test_row_is_read_as_it_was_written(tmp_path):
    sample = read(tmp_path, ROW)
    typed = {"timestamp": 1442018818771, "namespace": 0, "bot": False, "minor": True, "delta": -3}
    assert sample.edits.schema == events.ARROW_SCHEMA
    assert sample.edits.to_pylist() == [ROW | typed]
    assert sample.warnings == []


def test_files_are_one_sample_in_order_of_time(tmp_path):
    write(tmp_path, [{"meta_id": "second"}], name="edits-00001.csv")
    late = {"meta_id": "late", "timestamp": "2015-09-12T09:00:00.000Z"}
    found = read(tmp_path, late, {"meta_id": "first"}).edits["meta_id"]
    assert found.to_pylist() == ["first", "second", "late"]


@pytest.mark.parametrize(
    ("column", "texts", "values"),
    [
        ("user", ["NA", "null", "nan"], ["NA", "null", "nan"]),
        ("comment", HOSTILE, HOSTILE),
        *(
            ("bot", pair.split(), [True, False])
            for pair in ("True False", "TRUE FALSE", "1 0", "1.0 0.0", "t f", "Yes No")
        ),
        ("delta", ["36.0", "", "-3"], [36, None, -3]),
        *(
            ("timestamp", [text], [ms])
            for text, ms in (
                ("2015-09-12T00:46:58.771Z", 1442018818771),
                ("2015-09-12 00:46:58", 1442018818000),
                ("2015-09-12T02:46:58.771+02:00", 1442018818771),
                ("2015-09-12T00:46:58.771999Z", 1442018818771),
                ("1442018818771", 1442018818771),
                ("9999-12-31T23:59:59.999Z", 253402300799999),
                ("0001-01-01T00:00:00.000Z", -62135596800000),
            )
        ),
    ],
)
def test_cells_as_others_write_them(tmp_path, column, texts, values):
    sample = read(tmp_path, *({column: text} for text in texts), quoting=csv.QUOTE_ALL)
    assert sample.edits[column].to_pylist() == values


def test_an_empty_text_in_quotes_is_not_missing(tmp_path):
    (tmp_path / "edits.csv").write_text(",".join(HEADER) + '\nb,2015-09-12 00:46:59,enwiki,,new,x,,,,,""\n')
    (edit,) = dataset.read_csv(tmp_path).edits.to_pylist()
    assert edit["comment"] == ""
    assert {edit[name] for name in ("user", "bot", "minor", "delta", "namespace")} == {None}


def test_other_order_and_other_columns(tmp_path):
    assert read(tmp_path, {"extra": "x"}, header=[*reversed(HEADER), "extra"]).edits["delta"][0].as_py() == -3


def test_three_columns_can_be_filled_in_with_a_warning(tmp_path):
    sample = read(tmp_path, {}, {}, header=without("meta_id", "namespace", "type"))
    assert sample.edits["meta_id"].to_pylist() == ["row 0", "row 1"]
    assert sample.edits["type"].to_pylist() == ["edit", "edit"]
    assert sample.edits["namespace"].to_pylist() == [0, 0]
    assert [warning.split(":")[0] for warning in sample.warnings] == [
        f"edits-00000.csv has no column {name}" for name in ("meta_id", "namespace", "type")
    ]


@pytest.mark.parametrize(
    ("wiki", "title", "number"),
    [
        ("enwiki", "User talk:Ada", 3),
        ("enwiki", "User_talk:Ada", 3),
        ("dewiki", "Benutzer:Ada", 2),
        ("dewiki", "User:Ada", 2),
        ("enwiki", "Star Trek: Picard", 0),
        ("enwiki", "Ada", 0),
        ("", "Talk:Ada", 1),
        ("enwiki", "", None),
    ],
)
def test_missing_namespace_is_read_from_the_title(tmp_path, wiki, title, number):
    sample = read(tmp_path, {"wiki": wiki, "title": title}, header=without("namespace"))
    assert sample.edits["namespace"].to_pylist() == [number]


def test_any_other_missing_column_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="without user, bot"):
        read(tmp_path, {}, header=without("user", "bot", "type"))


def test_edits_without_time_and_repetitions_are_left_out_with_a_warning(tmp_path):
    sample = read(tmp_path, ROW, ROW, {"timestamp": ""})
    assert sample.edits["meta_id"].to_pylist() == ["a"]
    assert sample.warnings == [
        "1 edits have no time and are skipped.",
        "1 edits repeat a meta_id and are skipped.",
    ]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"bot": "maybe"}, r"column bot of .* must be true or false .*yes, no.* or empty"),
        ({"timestamp": "yesterday"}, "column timestamp of .* must be ISO 8601"),
        ({"timestamp": "1442018818"}, "ISO 8601 or milliseconds .* Got: 1442018818, which is no time"),
        ({"timestamp": "1442018818771000000"}, "no time in milliseconds of the years 1973 to 9999"),
        ({"delta": "x"}, "column delta of .* must be integers"),
    ],
)
def test_cell_that_cannot_be_read_is_named(tmp_path, cells, message):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, cells)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", ",".join(HEADER).encode() + b"\n", b'a,b\n"c'])
def test_files_without_edits_are_refused(tmp_path, content):
    (tmp_path / "edits.csv").write_bytes(content)
    with pytest.raises(ModelError, match=r"must|cannot"):
        dataset.read_csv(tmp_path)


def test_a_compressed_file_that_was_cut_off_is_named(tmp_path):
    plain = write(tmp_path, [{}] * 5000)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(plain.read_bytes())[:-500])
    with pytest.raises(ModelError, match="cut.csv.gz must be CSV .* Write or fetch the file again"):
        dataset.read_csv(tmp_path)
    plain.write_bytes(plain.read_bytes() + b"a,b\n")
    with pytest.raises(ModelError, match=r"edits.* must be CSV .* Row #5002: Expected 11 columns, got 2"):
        dataset.read_csv(plain)


def test_parts_in_a_folder_named_like_a_file_are_read_as_spark_writes_them(tmp_path):
    (tmp_path / "edits.csv").mkdir()
    for name in ("part-00000.csv", ".part-00000.csv", "_temporary.csv"):
        write(tmp_path / "edits.csv", [ROW], name=name)
    assert dataset.read_csv(tmp_path).edits["meta_id"].to_pylist() == ["a"]


def test_empty_folder_names_the_notebook_that_fills_it(tmp_path):
    with pytest.raises(ModelError, match=r"Got none. Run notebooks/02_sample.ipynb"):
        dataset.read_csv(tmp_path)


def test_compressed_file_is_read_alike_alone_or_in_its_folder(tmp_path):
    plain = write(tmp_path, [ROW])
    expected = dataset.read_csv(plain).edits
    (tmp_path / "edits-00000.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert dataset.read_csv(tmp_path).edits.equals(expected)
    assert dataset.read_csv(tmp_path / "edits-00000.csv.gz").edits.equals(expected)
