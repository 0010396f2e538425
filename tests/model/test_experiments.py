"""The table of attempts: one line each, and a capture that is not there is named, not skipped."""

import numpy as np
import pytest

from experiments import __main__ as experiments
from lib.model import user_features
from lib.model.classifier import FOLDS, NestedFit, assign_folds
from lib.model.dataset import EditDataset
from tests import synthetic


def test_the_table_has_the_attempt_its_intervals_and_the_baselines(tmp_path, capsys):
    synthetic.write_csv(synthetic.sample(200, 10), tmp_path / "edits-0.csv")
    experiments.main(
        ["--no-day", "--seeds", "1", "--only", "kept", str(tmp_path), str(tmp_path / "nowhere.jsonl")]
    )
    printed = capsys.readouterr().out
    for words in ("(kept)", "name rule", "simple regression", "of the 20 highest-scored unflagged users"):
        assert words in printed
    assert "nowhere.jsonl: there is no such file" in printed


@pytest.fixture(scope="module")
def nested():
    people = EditDataset(synthetic.sample(200, 10))
    return NestedFit(people, assign_folds(people, FOLDS, 0))


def test_the_attempt_that_is_kept_is_the_model(nested):
    rows, scores = nested.scores({True: experiments.kept(0, True)})
    final = np.zeros(len(nested.dataset))
    final[rows.user[rows.last]] = scores[True][rows.last]
    np.testing.assert_allclose(experiments.judge(experiments.KEPT, nested, with_name=True), final, rtol=1e-9)


@pytest.mark.parametrize("family", experiments.FAMILIES)
def test_every_family_is_some_of_the_features(family):
    left = experiments._columns((family,), with_name=True).sum()
    assert 0 < left < len(user_features.FEATURES)
