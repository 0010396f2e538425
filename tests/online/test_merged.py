"""A run of many epochs merges their files, and the verdicts are the same, also when it is resumed."""

import pytest
import world

from lib.online import verdicts

pytestmark = pytest.mark.slow


def test_a_run_that_merges_its_files_gives_the_same_verdicts(kafka, spark, tmp_path, monkeypatch):
    model_dir = world.train(tmp_path / "model")
    recording = world.record(tmp_path / "day.jsonl", world.events()[:400])
    here = {"kafka": kafka.bootstrap, "session": spark}
    world.judge(tmp_path / "whole", model_dir, recording, **here)
    monkeypatch.setattr(verdicts, "MANY", 2)
    world.judge(tmp_path / "merged", model_dir, recording, (150, 0), most=60, **here)
    assert world.rows(tmp_path / "merged") == world.rows(tmp_path / "whole")
    assert [path for path in verdicts.files(tmp_path / "merged") if path.stem.count("-") == 2]
