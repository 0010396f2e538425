"""Which events were seen: exact, in memory and on disk, across restarts and failed transactions."""

import random
import sqlite3

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.online import seen


def opened(folder, run=16):
    connection = sqlite3.connect(folder / "books.sqlite", isolation_level=None)
    return connection, seen.Seen(connection, folder / "seen", run=run)


@pytest.mark.parametrize("run", [4, 64, 100_000])
def test_it_answers_like_a_set_whatever_lies_where(tmp_path, run):
    chance, known = random.Random(run), set()
    connection, memory = opened(tmp_path, run)
    for epoch in range(1, 80):
        ids = np.array([chance.randrange(700) for _ in range(chance.randrange(30))], np.uint64)
        fresh = memory.fresh(ids)
        expected, now = [], set()
        for id_ in ids.tolist():
            expected.append(id_ not in known and id_ not in now)
            now.add(id_)
        assert fresh.tolist() == expected
        known |= now
        memory.remember(epoch, ids[fresh])
        if epoch % 13 == 0:
            connection.close()
            connection, memory = opened(tmp_path, run)
    assert len(memory) == len(known)


def test_a_file_of_a_transaction_that_failed_is_no_memory(tmp_path):
    connection, memory = opened(tmp_path, run=4)
    connection.execute("BEGIN")
    memory.remember(1, np.arange(10, dtype=np.uint64))
    connection.execute("ROLLBACK")
    connection.close()
    _, memory = opened(tmp_path, run=4)
    assert memory.fresh(np.arange(10, dtype=np.uint64)).all() and len(memory) == 0
    assert list((tmp_path / "seen").glob("*.ids")) == []


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.text(), unique=True, max_size=50))
def test_different_texts_have_different_hashes(texts):
    assert len(set(seen.hashes(pa.array(texts, pa.string())).tolist())) == len(texts)


def test_a_share_is_chosen_alike_everywhere():
    ids = seen.hashes(pa.array([f"id {n}" for n in range(20_000)]))
    chosen = seen.chosen(ids, 0.02)
    assert 300 < chosen.sum() < 500
    assert (seen.chosen(ids[::-1], 0.02) == chosen[::-1]).all()
    assert not seen.chosen(ids, 0).any()
