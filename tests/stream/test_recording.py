import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import make_events

from lib import artifacts
from lib.stream import recording
from lib.stream.recording import RecordingError, lines, segment_name, write_segment

TEXTS = st.lists(st.binary(min_size=1).filter(lambda text: not set(text) & set(b"\r\n")), max_size=20)


@given(TEXTS)
def test_a_segment_gives_back_the_bytes(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("segment") / segment_name(1)
    write_segment(path, texts)
    assert list(lines(path)) == texts


def test_segments_are_read_in_the_order_of_their_numbers(tmp_path):
    for number in (100_000, 2, 10, 1):
        write_segment(tmp_path / segment_name(number), [b"%d" % number])
    (tmp_path / "events-x.jsonl.gz").write_bytes(b"no")
    (tmp_path / ".events-00003.jsonl.gz.tmp").write_bytes(b"no")
    assert list(lines(tmp_path)) == [b"1", b"2", b"10", b"100000"]


@pytest.mark.parametrize("packed", [False, True])
def test_line_ends_blank_lines_and_a_missing_last_end(tmp_path, packed):
    text = b'{"a": 1}\r\n\n{"b": "\xe2\x80\xa8"}\n\r\nlast'
    path = tmp_path / "day.txt"  # gzip is recognised by its content
    path.write_bytes(gzip.compress(text) if packed else text)
    assert list(lines(path)) == [b'{"a": 1}', b'{"b": "\xe2\x80\xa8"}', b"last"]


def cut_off(content):
    return content[: len(content) // 2]


def flip_a_bit(content):
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


@pytest.mark.parametrize(
    "damage", [cut_off, flip_a_bit, lambda content: content[:-1], lambda content: content[:3]]
)
def test_a_damaged_file_is_an_error(tmp_path, damage):
    path = tmp_path / "day.jsonl.gz"
    write_segment(path, make_events(300))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordingError, match=r"day.jsonl.gz, which breaks off after [\d,]+ lines"):
        list(lines(path))


@pytest.mark.parametrize("name", ["none.jsonl", ""])
def test_what_is_no_recording_is_one_sentence(tmp_path, name):
    with pytest.raises(RecordingError, match=r"which is neither\. Check the path"):
        list(lines(tmp_path / name))


def test_a_finished_recording_may_be_empty(tmp_path):
    artifacts.write(tmp_path, events=0)
    assert list(lines(tmp_path)) == []


def test_the_sum_of_a_folder_is_that_of_its_segments(tmp_path):
    for number in (1, 2):
        write_segment(tmp_path / segment_name(number), make_events(number))
    before = recording.sha256(tmp_path)
    (tmp_path / "state.json").write_text("anything")
    assert recording.sha256(tmp_path) == before
    write_segment(tmp_path / segment_name(2), make_events(3))
    assert recording.sha256(tmp_path) != before
