"""A grouped split: no user is on both sides."""

import numpy as np
import pyarrow as pa
import pytest

from lib.model import classifier, user_features
from lib.model.classifier import CrossFit, ModelError
from lib.model.dataset import EditDataset
from tests import synthetic


def test_users_are_dealt_evenly_and_by_seed(people):
    fold = classifier.assign_folds(people, 5, seed=3)
    np.testing.assert_array_equal(fold, classifier.assign_folds(people, 5, seed=3))
    assert (fold != classifier.assign_folds(people, 5, seed=4)).any()
    for group in (people.is_bot, ~people.is_bot):
        count = np.bincount(fold[group], minlength=5)
        assert count.max() - count.min() <= 1


def test_the_flags_of_a_fold_cannot_change_its_own_scores(people):
    """Turn the labels of one fold around: what judges that fold has seen none of them, so its scores stay."""
    fold = classifier.assign_folds(people, 5, seed=0)
    mine = fold[people.user] == 2
    turned = people.table.set_column(
        people.table.schema.get_field_index("bot"),
        "bot",
        pa.array(np.where(mine, ~people.flagged, people.flagged)),
    )
    (rows, before), (_, after) = (
        classifier.NestedFit(p, fold).scores({True: classifier.USER_MODEL})
        for p in (people, EditDataset(turned))
    )
    before, after, test = before[True], after[True], fold[rows.user] == 2
    np.testing.assert_array_equal(before[test], after[test])
    assert (before[~test] != after[~test]).any()


def test_rows_of_a_user_weigh_one_together_and_end_with_all_edits(people):
    rows = classifier.NestedFit(people, classifier.assign_folds(people, 5, 0)).rows()
    assert rows.last.sum() == len(people)
    np.testing.assert_array_equal(rows.edits[rows.last], people.edits_per_user[rows.user[rows.last]])
    assert set(rows.edits[~rows.last].tolist()) <= set(user_features.CHECKPOINTS)


def test_bots_have_the_highest_scores(cross, people):
    assert (cross.scores()[people.is_bot].min() > np.quantile(cross.scores()[~people.is_bot], 0.99)).all()


@pytest.mark.parametrize("humans_bots", [(40, 2), (2, 40)])
def test_too_few_to_learn_from_is_said(humans_bots):
    few = synthetic.sample(*humans_bots)
    with pytest.raises(ModelError, match=r"at least 5 bots and 5 humans. Got \d+ bots and \d+ humans"):
        CrossFit(EditDataset(few))
