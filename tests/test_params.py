"""Parameters: each has a rule, and what breaks it gets one sentence."""

import ast
from datetime import UTC, datetime, timedelta, timezone

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib import params, paths

SAMPLE = {
    "IN_DIR": "data/01_stream",
    "SOCKET": "",
    "PERCENT": 20,
    "SPARK_MASTER": "local[*]",
    "OUT_DIR": "x",
    "SEED": 0,
}
STREAM = dict.fromkeys(["STREAM_URL", "RECORDING", "SINCE", "UNTIL", "WIKIS", "RELAY"], "")
STREAM |= {"MAX_EVENTS": 0, "MAX_SECONDS": 0, "OUT_DIR": "data/01_stream", "SEED": 0}


def test_values_are_read():
    given_ = STREAM | {"SINCE": 20241025, "UNTIL": "2024-10-25T02:00+02:00", "WIKIS": "enwiki, dewiki"}
    settings = params.check("01_stream", given_)
    assert settings.since == settings.until == 1729814400000
    assert settings.wikis == {"enwiki", "dewiki"}
    assert settings.recording is None
    assert settings.out_dir == paths.DATA / "01_stream"


def test_what_a_notebook_has_besides_is_no_parameter():
    names = SAMPLE | {
        "In": ["", "PERCENT: int = 20  # share", "PERCENT = 20", "total = 7"],
        "DATA_DIR": "of a start-up file",
        "Out": {},
        "_i": "x",
        "__name__": "__main__",
        "params": params,
        "exit": exit,
        "total": 7,  # of a later cell, when all are run again
        "PAPERMILL_OUTPUT_PATH": "x.ipynb",
    }
    assert params.check("02_sample", names).percent == 20


@pytest.mark.parametrize(
    ("notebook", "wrong", "words"),
    [
        ("02_sample", {"PERCENT": 0}, ["PERCENT", "an integer from 1 to 100", "Got 0"]),
        ("02_sample", {"PERCENT": "20"}, ["PERCENT", "int", "'20'"]),
        ("02_sample", {"PERCENT": True}, ["PERCENT", "int", "True"]),
        ("02_sample", {"PERCENTAGE": 20}, ["PERCENTAGE", "PERCENT"]),
        ("02_sample", {"PERCENTAGE": 20, "In": ["", "# Parameters\nPERCENTAGE = 20"]}, ["PERCENTAGE"]),
        ("02_sample", {"SOCKET": "localhost"}, ["SOCKET", "host:port", "localhost"]),
        ("02_sample", {"SOCKET": "localhost:99999"}, ["SOCKET", "host:port"]),
        ("02_sample", {"SPARK_MASTER": "remote"}, ["SPARK_MASTER", "remote"]),
        ("02_sample", {"SEED": -1}, ["SEED", "-1"]),
        ("02_sample", {"SEED": 2**32}, ["SEED", "to 4294967295", "Got 4294967296"]),
        ("02_sample", {"OUT_DIR": ""}, ["OUT_DIR", "folder"]),
        ("02_sample", {"OUT_DIR": SAMPLE["IN_DIR"]}, ["OUT_DIR must differ from IN_DIR", SAMPLE["IN_DIR"]]),
        ("01_stream", {"OUT_DIR": "data/../x", "RECORDING": "x"}, ["OUT_DIR must differ from RECORDING"]),
        ("01_stream", {"SINCE": "yesterday"}, ["SINCE", "ISO 8601", "yesterday"]),
        ("01_stream", {"SINCE": 1442018818}, ["SINCE", "seconds", "1000"]),
        ("01_stream", {"STREAM_URL": "stream.example"}, ["STREAM_URL", "http"]),
        ("01_stream", {"STREAM_URL": "http://me:secret@x/"}, ["STREAM_URL", "without a password"]),
        ("01_stream", {"MAX_EVENTS": -1}, ["MAX_EVENTS", "-1"]),
        ("01_stream", {"WIKIS": "enwiki;dewiki"}, ["WIKIS", "enwiki;dewiki"]),
        ("01_stream", {"RELAY": "localhost:1,localhost:2"}, ["RELAY", "host:port"]),
    ],
)
def test_what_breaks_a_rule_is_named(notebook, wrong, words):
    valid = SAMPLE if notebook == "02_sample" else STREAM
    with pytest.raises(params.ParameterError) as caught:
        params.check(notebook, valid | wrong)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("below", ["", "/a/b"])
def test_a_folder_to_write_to_must_be_writable(tmp_path, monkeypatch, below):
    (tmp_path / "file").touch()
    with pytest.raises(params.ParameterError, match="^OUT_DIR must be a folder that can be written to"):
        params.check("02_sample", SAMPLE | {"OUT_DIR": f"{tmp_path}/file{below}"})
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(params.ParameterError, match="^OUT_DIR must be a folder that can be written to"):
        params.check("02_sample", SAMPLE | {"OUT_DIR": f"{tmp_path}{below}"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.datetimes(min_value=datetime(2001, 9, 9, 1, 46, 40)), st.integers(-12, 14))
def test_a_time_means_the_same_in_every_form(moment, hours):
    zone = timezone(timedelta(hours=hours))
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=zone)
    milliseconds = params.parse_time(moment.isoformat())
    if moment.utcoffset() == timedelta(0):
        assert milliseconds == params.parse_time(moment.replace(tzinfo=None).isoformat())
        assert milliseconds == params.parse_time(moment.astimezone(UTC).isoformat().replace("+00:00", "Z"))


@pytest.mark.parametrize("name", params.RULES)
def test_every_default_of_the_notebooks_has_a_rule(name):
    notebook = nbformat.read(paths.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    lines = ast.parse(cell.source).body
    params.check(name, {line.target.id: ast.literal_eval(line.value) for line in lines})
