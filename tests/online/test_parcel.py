"""What the executors found arrives at the driver whole, by either way, and leaves nothing behind."""

import pyarrow as pa
import pytest

from lib.online import parcel

FOUND = [b"one", b"", b"three" * 100_000]


def carried(folder, found=FOUND):
    """Send as a task does and receive as the driver does."""
    batches = parcel.sending(lambda _: iter(found), folder)(iter([]))
    return parcel.received(pa.Table.from_batches(list(batches), parcel._SCHEMA))


def test_both_ways_carry_the_same_bytes(tmp_path):
    by_file, by_spark = (b"".join(map(bytes, map(memoryview, carried(way)))) for way in (tmp_path, None))
    assert by_file == by_spark == b"".join(FOUND)


@pytest.mark.parametrize("found", [FOUND, [b""], []])
def test_no_file_stays(tmp_path, found):
    here = carried(tmp_path, found)
    assert list(tmp_path.iterdir()) == []
    assert sum(part.size for part in here) == sum(map(len, found))


def test_a_failed_task_tries_again_in_a_file_of_its_own(tmp_path):
    def breaks(_):
        yield b"half"
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        carried(tmp_path, breaks(None))
    assert b"".join(map(bytes, map(memoryview, carried(tmp_path)))) == b"".join(FOUND)
