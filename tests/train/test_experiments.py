"""The table of attempts: one line each, and a capture that is not there is named, not passed over."""

import numpy as np
import pytest

from lib.sample import edits_csv
from lib.train import experiments, features, model
from lib.train.model import Population, Stack
from tests import made_up


def test_the_table_has_the_attempt_its_intervals_and_the_baselines(tmp_path, capsys):
    edits_csv.write(made_up.sample(200, 10), tmp_path / "edits-0.csv")
    experiments.main(
        ["--no-day", "--seeds", "1", "--only", "kept", str(tmp_path), str(tmp_path / "nowhere.jsonl")]
    )
    printed = capsys.readouterr().out
    assert "(kept)" in printed
    assert "name rule" in printed
    assert "SKIPPED" in printed
    assert "nowhere.jsonl: there is no such file" in printed


def test_the_attempt_that_is_kept_is_the_model():
    people = Population.of(made_up.sample(200, 10))
    stack = Stack(people, model.deal(people, model.FOLDS, 0), 0)
    rows = stack.rows(frozenset())
    final = np.zeros(len(people))
    final[rows.user[rows.last]] = stack.scores()[rows.last]
    np.testing.assert_allclose(experiments.judge(experiments.KEPT, stack, with_name=True), final, rtol=1e-9)


@pytest.mark.parametrize("family", experiments.FAMILIES)
def test_every_family_is_some_of_the_features(family):
    left = experiments._columns((family,), with_name=True).sum()
    assert 0 < left < len(features.FEATURES)
