"""Counting in the verdicts, by hand and by the module."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import world
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.online import verdicts


@pytest.fixture
def folder(tmp_path):
    verdicts.tidy(tmp_path, [])
    return tmp_path


def test_an_epoch_written_again_replaces_the_first(folder):
    verdicts.write(folder, 1, world.verdict_table(("A", False, "kept"), ("A", False, "kept")))
    verdicts.write(folder, 1, world.verdict_table(("A", False, "kept")))
    assert verdicts.read(folder).num_rows == 1
    verdicts.write(folder, 1, world.verdict_table())
    assert verdicts.read(folder).num_rows == 0


def test_what_is_not_in_the_books_is_tidied_away(folder):
    for epoch in (1, 2, 3):
        verdicts.write(folder, epoch, world.verdict_table(("A", False, "kept")))
    (folder / "verdicts" / ".part-00000004.parquet.tmp").write_bytes(b"half")
    (folder / "verdicts" / "notes.txt").write_text("mine")
    verdicts.tidy(folder, [1, 3])
    assert sorted(path.name for path in (folder / "verdicts").iterdir()) == [
        "notes.txt",
        "part-00000001.parquet",
        "part-00000003.parquet",
    ]


def numbered(first, count):
    """So many rows, with ids from a number on."""
    ids = [f"{n:05d}" for n in range(first, first + count)]
    rows = world.verdict_table(*[("A", False, "kept")] * count)
    return rows.set_column(0, "meta_id", pa.array(ids, pa.string()))


def seen(folder):
    """What a reader finds who lists the folder and reads at once; it must be the same at every moment."""
    found = verdicts.read(folder).column("meta_id").to_pylist()
    assert found == pq.read_table(sorted((folder / "verdicts").glob("*.parquet"))).column(0).to_pylist()
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=14), st.integers(1, 1 << 13))
def test_merging_changes_neither_rows_nor_their_order_however_it_is_cut(epochs, small):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "SMALL", small)  # some parts are small, some are not
        patch.setattr(verdicts, "_GROUP", 7)
        folder, rows = Path(name), 0
        verdicts.tidy(folder, [])
        for epoch, (count, merged) in enumerate(epochs, 1):
            verdicts.write(folder, epoch, numbered(rows, count))
            rows += count
            if merged:
                verdicts.merge(folder)
            assert verdicts.read(folder).column("meta_id").to_pylist() == [f"{n:05d}" for n in range(rows)]
        before = seen(folder) if rows else []
        verdicts.tidy(folder, [epoch for epoch, (count, _) in enumerate(epochs, 1) if count])
        assert verdicts.read(folder).column("meta_id").to_pylist() == before


def test_small_files_of_consecutive_epochs_become_one(folder, monkeypatch):
    for epoch in (3, 4, 7, 8, 9):
        verdicts.write(folder, epoch, numbered(epoch * 1000, 900 if epoch == 7 else 2))
    monkeypatch.setattr(verdicts, "SMALL", verdicts.part(folder, 7).stat().st_size)
    assert verdicts.merge(folder) == 2
    assert [path.name for path in verdicts.files(folder)] == [
        "part-00000003-00000004.parquet",
        "part-00000007.parquet",
        "part-00000008-00000009.parquet",
    ]
    assert verdicts.merge(folder) == 0


STEPS = {
    "the new folder": (Path, "mkdir"),
    "the merged file": (verdicts, "_put"),
    "a link": (os, "link"),
    "the sync": (verdicts, "sync_folder"),
    "the exchange": (verdicts, "_exchange"),
    "a step of an exchange in two": (os, "rename"),
    "the removal": (shutil, "rmtree"),
}


@pytest.mark.parametrize("one_step", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_a_reader_has_everything_once_and_the_next_run_goes_on(
    folder, monkeypatch, step, one_step
):
    for epoch in range(1, 6):
        verdicts.write(folder, epoch, numbered(epoch * 10, 9 if epoch == 3 else 2))
    (folder / "verdicts" / "notes.txt").write_text("mine")
    monkeypatch.setattr(verdicts, "SMALL", verdicts.part(folder, 3).stat().st_size)
    expected, (where, name) = seen(folder), STEPS[step]
    if not one_step:
        monkeypatch.setattr(verdicts.ctypes, "CDLL", lambda _: None)
    calls = 0

    def killed(real, after):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls == number and not after:
                raise InterruptedError
            given = real(*arguments, **more)
            if calls == number:
                raise InterruptedError
            return given

        return call

    for number in range(1, 5):
        for after in (False, True):
            calls = 0
            with monkeypatch.context() as patch:
                patch.setattr(where, name, killed(getattr(where, name), after))
                with contextlib.suppress(InterruptedError):
                    verdicts.merge(folder)
            if one_step or (folder / "verdicts").exists():
                assert seen(folder) == expected
            verdicts.tidy(folder, range(1, 6))
            assert seen(folder) == expected
            assert not [path for path in folder.iterdir() if path.name != "verdicts"]
            assert (folder / "verdicts" / "notes.txt").read_text() == "mine"
            verdicts.write(folder, 6, world.verdict_table())


def test_what_is_merged_is_in_the_books_or_goes(folder):
    for epoch in (1, 2, 3, 4):
        verdicts.write(folder, epoch, numbered(epoch * 10, 2))
    verdicts.merge(folder)
    verdicts.write(folder, 5, numbered(50, 2))
    verdicts.tidy(folder, [1, 2, 3, 4])
    assert len(seen(folder)) == 8
    verdicts.tidy(folder, [])
    assert verdicts.files(folder) == []
